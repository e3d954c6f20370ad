//! What a customer does to a key is felt by the next call: proven by ministack, which refuses keys by their state as AWS
//! does. It is no proof of integrity: ministack opens what was tampered with, and by another key; that is what
//! integrity is for, on moto, which in turn ignores states.

use cofferdam_crypto::{KeyId, WrappedKey};
use cofferdam_vault::{
    KeyState, KeyVault, VaultErrorKind as Kind, aws::AwsVault, testing::servers::Ministack,
};

use crate::aws_support::{Admin, aek, context, id, options};

/// The account that all of ministack's keys are in, for an access key that is no account's number.
const ACCOUNT: &str = "000000000000";

struct World {
    admin: Admin,
    vault: AwsVault,
    key: KeyId,
    server: Ministack,
}

async fn world() -> Option<World> {
    let server = Ministack::start()?;
    let admin = Admin::new(server.url());
    let key = admin.create_key().await;
    let vault = AwsVault::new(options(server.url(), ACCOUNT)).unwrap();
    Some(World { admin, vault, key, server })
}

impl World {
    /// What a use of the key comes to: none where it works.
    async fn kinds(&self, wrapped: &WrappedKey) -> [Option<Kind>; 2] {
        let wrap = self.vault.wrap_key(&self.key, &aek(8), &context(1)).await;
        let unwrap = self.vault.unwrap_key(wrapped, &context(1)).await;
        [wrap.err().map(|failed| failed.kind()), unwrap.err().map(|failed| failed.kind())]
    }

    async fn state(&self) -> KeyState {
        self.vault.key_properties(&self.key).await.unwrap().state
    }

    async fn on_key(&self, action: &str) {
        self.admin.call(action, "KeyId", self.key.as_str(), &[]).await;
    }
}

#[tokio::test]
async fn a_disabled_key_is_a_denial_until_it_is_enabled() {
    let Some(world) = world().await else { return };
    let wrapped = world.vault.wrap_key(&world.key, &aek(7), &context(1)).await.unwrap();
    world
        .admin
        .call("CreateAlias", "AliasName", "alias/payroll", &[("TargetKeyId", world.key.as_str())])
        .await;
    let alias = id(&format!("arn:aws:kms:eu-west-1:{ACCOUNT}:alias/payroll"));
    world.on_key("DisableKey").await;
    assert_eq!(world.kinds(&wrapped).await, [Some(Kind::KeyDisabled); 2]);
    let by_alias = world.vault.wrap_key(&alias, &aek(8), &context(1)).await.unwrap_err();
    assert_eq!(by_alias.kind(), Kind::KeyDisabled);
    assert_eq!(world.state().await, KeyState::Disabled);
    world.on_key("EnableKey").await;
    assert_eq!(world.kinds(&wrapped).await, [None; 2]);
    assert_eq!(world.vault.unwrap_key(&wrapped, &context(1)).await.unwrap().expose(), aek(7).expose());
}

#[tokio::test]
async fn a_key_whose_deletion_is_pending_is_not_there_until_that_is_cancelled() {
    let Some(world) = world().await else { return };
    let wrapped = world.vault.wrap_key(&world.key, &aek(7), &context(1)).await.unwrap();
    world.on_key("ScheduleKeyDeletion").await;
    assert_eq!(world.kinds(&wrapped).await, [Some(Kind::KeyNotFound); 2]);
    assert_eq!(world.state().await, KeyState::Deleted);
    world.on_key("CancelKeyDeletion").await;
    assert_eq!(world.kinds(&wrapped).await, [Some(Kind::KeyDisabled); 2], "as AWS leaves it");
    world.on_key("EnableKey").await;
    assert_eq!(world.vault.unwrap_key(&wrapped, &context(1)).await.unwrap().expose(), aek(7).expose());
}

#[tokio::test]
async fn a_key_that_waits_for_its_material_is_not_there_and_not_recoverable() {
    let Some(world) = world().await else { return };
    let answer = world.admin.call("CreateKey", "Origin", "EXTERNAL", &[]).await;
    let key = id(answer["KeyMetadata"]["Arn"].as_str().unwrap());
    let failed = world.vault.wrap_key(&key, &aek(7), &context(1)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::KeyNotFound, "{failed}");
    let properties = world.vault.key_properties(&key).await.unwrap();
    assert_eq!((properties.state, properties.recoverable()), (KeyState::Deleted, false));
}

#[tokio::test]
async fn keys_of_other_kinds_are_refused() {
    let Some(world) = world().await else { return };
    for (spec, usage) in [
        ("RSA_2048", "ENCRYPT_DECRYPT"),
        ("RSA_2048", "SIGN_VERIFY"),
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
    ] {
        let answer = world.admin.call("CreateKey", "KeySpec", spec, &[("KeyUsage", usage)]).await;
        let key = id(answer["KeyMetadata"]["Arn"].as_str().unwrap());
        let failed = world.vault.wrap_key(&key, &aek(7), &context(1)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Other, "{spec}: {failed}");
        let failed = world.vault.key_properties(&key).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Other, "{spec}: {failed}");
        assert_eq!(world.vault.public_key(&key).await.unwrap_err().kind(), Kind::Other);
    }
}

#[tokio::test]
async fn what_a_multi_region_key_wraps_in_one_region_opens_in_another() {
    let Some(world) = world().await else { return };
    let answer = world.admin.call("CreateKey", "Description", "shared", &[("MultiRegion", "true")]).await;
    let key = id(answer["KeyMetadata"]["Arn"].as_str().unwrap());
    world.admin.call("ReplicateKey", "KeyId", key.as_str(), &[("ReplicaRegion", "us-east-1")]).await;
    let url = world.server.url();
    let home = AwsVault::new(options(url, ACCOUNT).multi_region("eu-west-1", ["us-east-1"])).unwrap();
    let mut there = options(url, ACCOUNT).multi_region("eu-west-1", ["us-east-1"]);
    there.region = "us-east-1".into();
    let there = AwsVault::new(there).unwrap();

    let wrapped = home.wrap_key(&key, &aek(7), &context(1)).await.unwrap();
    assert_eq!(there.unwrap_key(&wrapped, &context(1)).await.unwrap().expose(), aek(7).expose());
    let replica = id(&key.as_str().replace("eu-west-1", "us-east-1"));
    let wrapped = there.wrap_key(&replica, &aek(8), &context(1)).await.unwrap();
    assert_eq!(wrapped.key_id, key, "spelled as at home");
    assert_eq!(home.unwrap_key(&wrapped, &context(1)).await.unwrap().expose(), aek(8).expose());
    let properties = there.key_properties(&key).await.unwrap();
    assert_eq!((&properties.key_id, properties.recoverable()), (&key, true));

    // Each region's key has its own state.
    world.admin.call("DisableKey", "KeyId", key.as_str(), &[]).await;
    assert_eq!(home.unwrap_key(&wrapped, &context(1)).await.unwrap_err().kind(), Kind::KeyDisabled);
    assert!(there.unwrap_key(&wrapped, &context(1)).await.is_ok());
}
