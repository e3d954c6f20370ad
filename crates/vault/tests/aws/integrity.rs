//! What was wrapped opens as it was wrapped and no other way: proven by moto, which authenticates a ciphertext and its
//! encryption context as AWS does. It is no proof of key states: moto goes on decrypting by a disabled key; that is what
//! key_states is for, on ministack, which in turn would open what was tampered with.

use cofferdam_crypto::{AccountId, Epoch, KeyId, KeyScope, Provider, SegmentId, WrapAlgorithm, WrappedKey};
use cofferdam_vault::{
    KeyKind, KeyState, KeyVault, VaultErrorKind as Kind, WrapContext, aws::AwsVault, testing::servers::Moto,
};

use crate::aws_support::{Admin, aek, context, id, options};

/// The account that all of moto's keys are in.
const ACCOUNT: &str = "123456789012";

struct World {
    admin: Admin,
    vault: AwsVault,
    key: KeyId,
    _server: Moto,
}

async fn world() -> Option<World> {
    let server = Moto::start()?;
    let admin = Admin::new(server.url());
    let key = admin.create_key().await;
    let vault = AwsVault::new(options(server.url(), ACCOUNT)).unwrap();
    Some(World { admin, vault, key, _server: server })
}

#[tokio::test]
async fn a_key_that_was_wrapped_opens_again_and_its_wrap_names_its_key() {
    let Some(world) = world().await else { return };
    let wrapped = world.vault.wrap_key(&world.key, &aek(7), &context(1)).await.unwrap();
    assert_eq!((&wrapped.key_id, wrapped.algorithm), (&world.key, WrapAlgorithm::AwsKms));
    let unwrapped = world.vault.unwrap_key(&wrapped, &context(1)).await.unwrap();
    assert_eq!(unwrapped.expose(), aek(7).expose());
    let again = world.vault.wrap_key(&world.key, &aek(7), &context(1)).await.unwrap();
    assert_ne!(again.bytes, wrapped.bytes, "no two wraps are alike");
}

#[tokio::test]
async fn a_wrap_opens_as_no_other_account_epoch_or_provider() {
    let Some(world) = world().await else { return };
    let wrapped = world.vault.wrap_key(&world.key, &aek(7), &context(1)).await.unwrap();
    let scope = context(1).scope;
    for scope in [
        KeyScope { account: AccountId::from_bytes([2; 16]), ..scope },
        KeyScope { epoch: Epoch::new(2), ..scope },
        KeyScope { provider: Provider::Service, ..scope },
        KeyScope { provider: Provider::Buffer(SegmentId::from_bytes([1; 16])), ..scope },
    ] {
        let failed = world.vault.unwrap_key(&wrapped, &WrapContext { scope }).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Corrupt, "{scope}: {failed}");
    }
}

#[tokio::test]
async fn a_wrap_that_was_tampered_with_does_not_open() {
    let Some(world) = world().await else { return };
    let wrapped = world.vault.wrap_key(&world.key, &aek(7), &context(1)).await.unwrap();
    // Behind the key's id, which is in front and in the clear.
    for at in (36..wrapped.bytes.len()).step_by(5) {
        let mut bad = wrapped.clone();
        bad.bytes[at] ^= 1;
        let failed = world.vault.unwrap_key(&bad, &context(1)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Corrupt, "byte {at}: {failed}");
    }
    for bytes in [wrapped.bytes[..wrapped.bytes.len() - 1].to_vec(), [&wrapped.bytes[..], &[0]].concat()] {
        let failed = world.vault.unwrap_key(&WrappedKey { bytes, ..wrapped.clone() }, &context(1)).await;
        assert_eq!(failed.unwrap_err().kind(), Kind::Corrupt);
    }
}

#[tokio::test]
async fn a_wrap_opens_under_no_other_key() {
    let Some(world) = world().await else { return };
    let wrapped = world.vault.wrap_key(&world.key, &aek(7), &context(1)).await.unwrap();
    let other = world.admin.create_key().await;
    let moved = WrappedKey { key_id: other, ..wrapped };
    // AWS says IncorrectKeyException, which is `corrupt` (answers has it); moto only that there is no access.
    let failed = world.vault.unwrap_key(&moved, &context(1)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::AccessDenied, "{failed}");
}

#[tokio::test]
async fn an_alias_wraps_by_the_key_that_it_stands_for() {
    let Some(world) = world().await else { return };
    let alias = id(&format!("arn:aws:kms:eu-west-1:{ACCOUNT}:alias/payroll"));
    world
        .admin
        .call("CreateAlias", "AliasName", "alias/payroll", &[("TargetKeyId", world.key.as_str())])
        .await;
    let wrapped = world.vault.wrap_key(&alias, &aek(7), &context(1)).await.unwrap();
    assert_eq!(wrapped.key_id, world.key);
    let properties = world.vault.key_properties(&alias).await.unwrap();
    assert_eq!((&properties.key_id, &properties.latest), (&world.key, &world.key));
    assert_eq!((properties.kind, properties.state), (KeyKind::AwsKms, KeyState::Enabled));
    assert!(properties.recoverable());
    // The alias moves on: the old wrap opens by its own key.
    let next = world.admin.create_key().await;
    world.admin.call("UpdateAlias", "AliasName", "alias/payroll", &[("TargetKeyId", next.as_str())]).await;
    assert_eq!(world.vault.unwrap_key(&wrapped, &context(1)).await.unwrap().expose(), aek(7).expose());
    assert_eq!(world.vault.key_properties(&alias).await.unwrap().latest, next);
}

#[tokio::test]
async fn a_key_that_is_not_there_is_not_found() {
    let Some(world) = world().await else { return };
    let none = id(&format!("arn:aws:kms:eu-west-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"));
    let failed = world.vault.key_properties(&none).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::KeyNotFound, "{failed}");
    let failed = world.vault.wrap_key(&none, &aek(7), &context(1)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::KeyNotFound, "{failed}");
}
