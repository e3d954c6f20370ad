//! KEKs of a real Transit engine: what they wrap and for whom, and what each of their states means.

use cofferdam_crypto::{AccountId, Epoch, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedKey};
use cofferdam_vault::{
    KeyKind, KeyState, KeyVault, Meaning, VaultErrorKind as Kind, WrapContext,
    transit::{TransitLogin, TransitVault},
};

use crate::transit_support::{World, aek, context, id, kind, payroll, value};

#[tokio::test]
async fn what_a_key_wraps_it_unwraps_for_the_same_account_epoch_and_provider_alone() {
    let Some(world) = World::dev() else { return };
    world.grant_all();
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    assert_eq!(wrapped.key_id, id("transit/keys/payroll/1"));
    assert_eq!(wrapped.algorithm, WrapAlgorithm::Transit);
    assert!(wrapped.algorithm.accepts_len(wrapped.bytes.len()) && wrapped.bytes.starts_with(b"vault:v1:"));
    assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek().expose());

    let scope = context().scope;
    for moved in [
        KeyScope { account: AccountId::from_bytes([4; 16]), ..scope },
        KeyScope { epoch: Epoch::new(2), ..scope },
        KeyScope { provider: Provider::Service, ..scope },
    ] {
        let answer = vault.unwrap_key(&wrapped, &WrapContext { scope: moved }).await;
        assert_eq!(kind(answer), Some(Kind::Corrupt), "moved to {moved}");
    }

    world.create("other");
    let of_another = WrappedKey { key_id: id("transit/keys/other/1"), ..wrapped.clone() };
    assert_eq!(kind(vault.unwrap_key(&of_another, &context()).await), Some(Kind::Corrupt));
    let again = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    assert_ne!(again.bytes, wrapped.bytes, "each wrap has its own nonce");
    assert_eq!(kind(vault.public_key(&payroll()).await), Some(Kind::Other));
}

#[tokio::test]
async fn a_changed_wrap_is_corrupt_wherever_it_was_changed() {
    let Some(world) = World::dev() else { return };
    world.rotate("payroll");
    let vault = world.vault();
    let wrapped = vault.wrap_key(&id("transit/keys/payroll/1"), &aek(), &context()).await.unwrap();
    for at in 0..wrapped.bytes.len() {
        let mut bytes = wrapped.bytes.clone();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = WrappedKey { bytes, ..wrapped.clone() };
        assert_eq!(kind(vault.unwrap_key(&changed, &context()).await), Some(Kind::Corrupt), "byte {at}");
    }
    let text = String::from_utf8(wrapped.bytes.clone()).unwrap();
    for other in [
        "",
        "vault:v1:",
        &text[..text.len() - 4],
        &format!("{text}AAAA"),
        &text.replace(":v1:", ":v01:"),
        &text.replace(":v1:", ":v0:"),
        &text.replace(":v1:", ":v2:"),
        &text.replace(":v1:", ":v-1:"),
        &"A".repeat(6145),
    ] {
        let changed = WrappedKey { bytes: other.as_bytes().to_vec(), ..wrapped.clone() };
        assert_eq!(kind(vault.unwrap_key(&changed, &context()).await), Some(Kind::Corrupt), "{other}");
    }
    for changed in [
        WrappedKey { algorithm: WrapAlgorithm::Aes256Kw, ..wrapped.clone() },
        WrappedKey { key_id: payroll(), ..wrapped.clone() },
        WrappedKey { key_id: id("transit/keys/payroll/2"), ..wrapped.clone() },
    ] {
        assert_eq!(kind(vault.unwrap_key(&changed, &context()).await), Some(Kind::Corrupt), "{changed:?}");
    }
}

#[tokio::test]
async fn a_rotated_key_wraps_by_its_latest_version_and_unwraps_by_all() {
    let Some(world) = World::dev() else { return };
    world.grant_all();
    let vault = world.vault();
    let first = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    world.rotate("payroll");
    let second = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    assert_eq!(second.key_id, id("transit/keys/payroll/2"));
    let old = vault.wrap_key(&first.key_id, &aek(), &context()).await.unwrap();
    assert_eq!(old.key_id, first.key_id, "a version that is named");
    for wrapped in [&first, &second, &old] {
        assert_eq!(vault.unwrap_key(wrapped, &context()).await.unwrap().expose(), aek().expose());
    }
    let properties = vault.key_properties(&first.key_id).await.unwrap();
    assert_eq!((properties.key_id, properties.latest), (first.key_id, second.key_id.clone()));
    assert_eq!(vault.key_properties(&payroll()).await.unwrap().key_id, second.key_id);
    for unknown in ["transit/keys/payroll/3", "transit/keys/nobody", "transit/keys/nobody/1"] {
        assert_eq!(kind(vault.key_properties(&id(unknown)).await), Some(Kind::KeyNotFound), "{unknown}");
        assert_eq!(kind(vault.wrap_key(&id(unknown), &aek(), &context()).await), Some(Kind::KeyNotFound));
    }
    let text = String::from_utf8(second.bytes).unwrap();
    for (unknown, text) in
        [("transit/keys/payroll/3", text.replace(":v2:", ":v3:")), ("transit/keys/nobody/2", text)]
    {
        let wrapped =
            WrappedKey { key_id: id(unknown), bytes: text.into_bytes(), algorithm: WrapAlgorithm::Transit };
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyNotFound), "{unknown}");
    }
}

#[tokio::test]
async fn a_wrap_makes_no_key_even_with_a_token_that_may() {
    let Some(world) = World::dev() else { return };
    let login = TransitLogin::Token(value(world.bao.root_token()));
    let vault = TransitVault::connect(world.options(), login).unwrap();
    let unknown = id("transit/keys/nobody");
    assert_eq!(kind(vault.wrap_key(&unknown, &aek(), &context()).await), Some(Kind::KeyNotFound));
    assert!(world.bao.try_run(&["read", "transit/keys/nobody"]).is_err());
}

#[tokio::test]
async fn a_version_below_the_minimum_is_disabled_and_back_when_the_minimum_is() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let first = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    world.rotate("payroll");
    world.configure("payroll", "min_decryption_version=2");
    assert_eq!(kind(vault.unwrap_key(&first, &context()).await), Some(Kind::KeyDisabled));
    assert_eq!(kind(vault.wrap_key(&first.key_id, &aek(), &context()).await), Some(Kind::KeyDisabled));
    assert_eq!(vault.key_properties(&first.key_id).await.unwrap().state, KeyState::Disabled);
    assert_eq!(vault.key_properties(&payroll()).await.unwrap().state, KeyState::Enabled);
    world.configure("payroll", "min_decryption_version=1");
    assert_eq!(vault.unwrap_key(&first, &context()).await.unwrap().expose(), aek().expose());

    world.configure("payroll", "min_encryption_version=2");
    assert_eq!(kind(vault.wrap_key(&first.key_id, &aek(), &context()).await), Some(Kind::KeyDisabled));
    assert_eq!(kind(vault.unwrap_key(&first, &context()).await), None, "it unwraps still");
    assert_eq!(vault.key_properties(&first.key_id).await.unwrap().state, KeyState::Enabled);

    world.configure("payroll", "min_decryption_version=2");
    world.bao.run(&["write", "transit/keys/payroll/trim", "min_available_version=2"]);
    assert_eq!(kind(vault.unwrap_key(&first, &context()).await), Some(Kind::KeyDisabled));
    assert_eq!(
        kind(vault.key_properties(&first.key_id).await),
        Some(Kind::KeyNotFound),
        "it is gone for good"
    );
}

#[tokio::test]
async fn a_soft_deleted_key_is_not_found_and_back_when_it_is_restored() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    let properties = vault.key_properties(&payroll()).await.unwrap();
    assert_eq!((properties.kind, properties.state), (KeyKind::Transit, KeyState::Enabled));
    assert!(properties.recoverable() && !properties.exportable);
    world.soft_delete("payroll");
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyNotFound));
    assert_eq!(kind(vault.wrap_key(&payroll(), &aek(), &context()).await), Some(Kind::KeyNotFound));
    assert_eq!(vault.key_properties(&payroll()).await.unwrap().state, KeyState::Deleted);
    world.restore("payroll");
    assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek().expose());

    world.configure("payroll", "deletion_allowed=true");
    let properties = vault.key_properties(&payroll()).await.unwrap();
    assert!(properties.soft_delete && !properties.purge_protection && !properties.recoverable());
    world.bao.run(&["delete", "transit/keys/payroll"]);
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyNotFound));
    assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::KeyNotFound));
    world.create("payroll");
    assert_eq!(
        kind(vault.unwrap_key(&wrapped, &context()).await),
        Some(Kind::Corrupt),
        "another of its name"
    );
}

#[tokio::test]
async fn a_mount_that_is_gone_took_its_keys_along() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    world.bao.run(&["secrets", "disable", "transit"]);
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyNotFound));
    assert_eq!(kind(vault.wrap_key(&payroll(), &aek(), &context()).await), Some(Kind::KeyNotFound));
    assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::KeyNotFound));
    // Another engine in its place says nothing of the key.
    world.bao.run(&["secrets", "enable", "-path=transit", "-version=2", "kv"]);
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::Other));
}

#[tokio::test]
async fn a_key_of_another_kind_is_no_kek() {
    let Some(world) = World::dev() else { return };
    world.grant_all();
    let vault = world.vault();
    for settings in [
        &["type=aes128-gcm96"][..],
        &["type=chacha20-poly1305"],
        &["type=xchacha20-poly1305"],
        &["type=rsa-2048"],
        &["type=ed25519"],
        &["derived=true"],
        &["derived=true", "convergent_encryption=true"],
    ] {
        let name = settings.concat().replace(['=', '_'], "-");
        let path = format!("transit/keys/{name}");
        world.bao.run(&[&["write", &path][..], settings].concat());
        let key_id = id(&path);
        for answer in [
            kind(vault.wrap_key(&key_id, &aek(), &context()).await),
            kind(vault.key_properties(&key_id).await),
        ] {
            assert_eq!(answer, Some(Kind::Other), "{name}");
        }
        let mut wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
        wrapped.key_id = id(&format!("{path}/1"));
        let failed = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
        assert_eq!(failed.kind().meaning(), Meaning::Outage, "{name}: {failed}");
    }
}

#[tokio::test]
async fn a_key_that_can_be_exported_is_reported_and_serves() {
    let Some(world) = World::dev() else { return };
    world.grant_all();
    let vault = world.vault();
    for (name, setting) in [("exported", "exportable=true"), ("backed-up", "allow_plaintext_backup=true")] {
        let path = format!("transit/keys/{name}");
        world.bao.run(&["write", &path, setting]);
        assert!(vault.key_properties(&id(&path)).await.unwrap().exportable, "{name}");
        let wrapped = vault.wrap_key(&id(&path), &aek(), &context()).await.unwrap();
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), None);
    }
}

#[tokio::test]
async fn a_key_of_another_server_is_refused_before_anything_is_sent() {
    let Some(world) = World::dev() else { return };
    let vault = world.vault();
    let mut wrapped = vault.wrap_key(&payroll(), &aek(), &context()).await.unwrap();
    world.bao.kill();
    for elsewhere in ["transit://globex/transit/keys/payroll/1", "local://acme/keys/payroll"] {
        let key_id = KeyId::new(elsewhere).unwrap();
        assert!(!vault.inner().owns(&key_id) && vault.inner().owns(&payroll()));
        assert_eq!(kind(vault.wrap_key(&key_id, &aek(), &context()).await), Some(Kind::Other));
        assert_eq!(kind(vault.key_properties(&key_id).await), Some(Kind::Other));
        wrapped.key_id = key_id;
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::Other));
    }
    assert_eq!(kind(vault.key_properties(&payroll()).await), Some(Kind::Unavailable), "its own is asked");
}
