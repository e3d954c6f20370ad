//! An account under an RSA KEK lives as one under AES does, and its record pins the KEK's public half: that of the version
//! which wrapped, proved to be the vault's own.

#![cfg(feature = "aws-lc")]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::{
    crypto::{
        Aek, KeyId, WrapAlgorithm, WrappedKey,
        rsa::{RsaPublicKey, RsaSize},
    },
    store::{AccountKey, Catalog, Engine, EngineError},
    vault::{
        KeyKind, KeyProperties, KeyVault, LocalVault, Principal, PublicKeyAnswer, Recovery, VaultError,
        VaultRegistry, WrapContext,
    },
};
use tokio::time::sleep;

use crate::world::{NOTICED, POLL, World, buffered, id, is_revoked, name, stored};

const RECORD: &str = "account/contoso";
const RSA: KeyKind = KeyKind::Rsa(RsaSize::Rsa2048);

async fn rsa_key(vault: &LocalVault, name: &str) -> KeyId {
    vault.create_key_of(name, RSA, Recovery::default()).await.unwrap()
}

/// A world whose customer's KEK is RSA.
async fn world(seed: u64) -> World {
    let mut world = World::new(seed).await;
    rsa_key(&world.customer, "rsa").await;
    world.kek = world.customer.key_id("rsa").unwrap();
    world
}

async fn record(world: &World) -> Bytes {
    world.store.load(RECORD).await.unwrap().unwrap().bytes
}

fn json(record: &[u8]) -> serde_json::Value {
    serde_json::from_slice(&record[33..]).unwrap()
}

fn edited(record: &[u8], edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut value = json(record);
    edit(&mut value);
    [&record[..33], &serde_json::to_vec(&value).unwrap()].concat()
}

#[tokio::test(start_paused = true)]
async fn an_account_under_an_rsa_kek_outlives_outage_revocation_and_restart() {
    let mut world = world(301).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "content".into()).await);
    world.lose_key(&account).await;
    buffered(account.put(&id("later"), "waited".into()).await);
    world.regain_key(&account).await;
    assert_eq!(account.get(&id("later")).await.unwrap(), "waited");
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    assert!(is_revoked(&account.get(&id("block")).await));
    world.customer.enable(&world.kek).await.unwrap();
    sleep(POLL).await;
    drop(account);
    world.restart().await;
    assert_eq!(world.contoso_again().await.get(&id("block")).await.unwrap(), "content");
}

#[tokio::test(start_paused = true)]
async fn the_public_half_of_the_version_that_wrapped_is_pinned() {
    let world = world(302).await;
    let second = world.customer.new_version("rsa").await.unwrap();
    world.contoso().await;
    let customer = json(&record(&world).await)["customer"].clone();
    let wrap = &customer["epochs"][0]["wraps"][0];
    assert_eq!((&wrap["algorithm"], &wrap["key_id"]), (&"RSA-OAEP-256".into(), &second.as_str().into()));
    let pinned = &customer["keks"][0]["public_key"];
    assert_eq!(pinned["key_id"], second.as_str());
    let key: RsaPublicKey = serde_json::from_value(pinned["key"].clone()).unwrap();
    assert_eq!(key, world.customer.public_key(&second).await.unwrap().key);
}

#[tokio::test(start_paused = true)]
async fn an_account_under_an_aes_kek_pins_nothing() {
    let world = World::new(303).await;
    world.contoso().await;
    assert_eq!(json(&record(&world).await)["customer"]["keks"][0].get("public_key"), None);
}

/// A vault that gives another public half than that of the key which wraps.
#[derive(Debug)]
struct Lying {
    vault: LocalVault,
    /// Whose public half it gives.
    other: KeyId,
    /// Whether it says so.
    admits: bool,
}

#[async_trait]
impl KeyVault for Lying {
    async fn wrap_key(&self, key: &KeyId, aek: &Aek, of: &WrapContext) -> Result<WrappedKey, VaultError> {
        self.vault.wrap_key(key, aek, of).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, of: &WrapContext) -> Result<Aek, VaultError> {
        self.vault.unwrap_key(wrapped, of).await
    }

    async fn key_properties(&self, key: &KeyId) -> Result<KeyProperties, VaultError> {
        self.vault.key_properties(key).await
    }

    async fn public_key(&self, key: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        let answer = self.vault.public_key(&self.other).await?;
        Ok(if self.admits { answer } else { PublicKeyAnswer { key_id: key.clone(), ..answer } })
    }
}

/// What becomes of an account whose KEK's vault gives the public half of another version, of another key, or of one of
/// another size.
async fn created_where_it_lies(seed: u64, other: &str, admits: bool) -> Result<(), EngineError> {
    let world = world(seed).await;
    let first = world.customer.list().await.unwrap().pop().unwrap().versions[0].key_id.clone();
    world.customer.new_version("rsa").await.unwrap();
    rsa_key(&world.customer, "another").await;
    let large = KeyKind::Rsa(RsaSize::Rsa4096);
    world.customer.create_key_of("large", large, Recovery::default()).await.unwrap();
    let other = if other == "first" { first } else { world.customer.key_id(other).unwrap() };
    let lying = Lying { vault: world.customer.clone(), other, admits };
    let vaults = VaultRegistry::new(Arc::new(world.service.clone()))
        .with_customer(Principal::new("customer"), Arc::new(lying));
    let service = world.service.key_id("service").unwrap();
    let engine =
        Engine::builder(Arc::new(world.store.clone()), vaults, service).clock(world.clock.clone()).open();
    engine.await.unwrap().create_account(&name("contoso"), world.customer_key()).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_public_half_of_another_version_key_or_size_is_refused() {
    for (at, (other, admits)) in [
        ("first", true),
        ("first", false),
        ("another", true),
        ("another", false),
        ("large", true),
        ("large", false),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = created_where_it_lies(310 + at as u64, other, admits).await;
        let refused = matches!(
            answer,
            Err(EngineError::UnfitKek { .. }
                | EngineError::Vault { action: "unwrap the key that was wrapped", .. })
        );
        assert!(refused, "{other}, {admits}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_pin_does_not_fit_its_wrap_is_refused() {
    let mut world = world(320).await;
    world.contoso().await;
    let good = record(&world).await;
    let large = KeyKind::Rsa(RsaSize::Rsa3072);
    let large = world.customer.create_key_of("large", large, Recovery::default()).await.unwrap();
    let large = serde_json::to_value(world.customer.public_key(&large).await.unwrap().key).unwrap();
    type Edit<'a> = (&'a str, &'a dyn Fn(&mut serde_json::Value));
    let edits: [Edit<'_>; 5] = [
        ("no pin", &|json| drop(json["customer"]["keks"][0].as_object_mut().unwrap().remove("public_key"))),
        ("a null pin", &|json| json["customer"]["keks"][0]["public_key"] = serde_json::Value::Null),
        ("another version", &|json| {
            json["customer"]["keks"][0]["public_key"]["key_id"] = "local://customer/keys/x".into()
        }),
        ("another size", &|json| json["customer"]["keks"][0]["public_key"]["key"] = large.clone()),
        ("no key", &|json| json["customer"]["keks"][0]["public_key"]["key"] = "00".into()),
    ];
    for (what, edit) in edits {
        let at = world.store.load(RECORD).await.unwrap().unwrap().revision;
        let forged = edited(&good, edit);
        world.store.swap(RECORD, Some(&at), Some(forged.into())).await.unwrap();
        world.restart().await;
        let answer = world.engine.account(&name("contoso")).await;
        assert!(matches!(answer, Err(EngineError::BadRecord { .. })), "{what}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_services_kek_is_not_rsa() {
    let world = World::new(330).await;
    rsa_key(&world.service, "rsa").await;
    let vaults = VaultRegistry::new(Arc::new(world.service.clone()))
        .with_customer(Principal::new("customer"), world.way.clone());
    let service = world.service.key_id("rsa").unwrap();
    let builder = Engine::builder(Arc::new(world.store.clone()), vaults, service);
    let engine = builder.clock(world.clock.clone()).open().await.unwrap();
    for key in [AccountKey::Service, world.customer_key()] {
        let answer = engine.create_account(&name("contoso"), key).await;
        assert!(matches!(answer, Err(EngineError::UnfitKek { .. })), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_key_that_was_wrapped_by_a_public_half_is_not_believed() {
    let mut world = World::new(331).await;
    world.contoso().await;
    let good = record(&world).await;
    let rsa = rsa_key(&world.service, "rsa").await;
    let public = world.service.public_key(&rsa).await.unwrap();
    // Who may write to the catalog makes a service AEK of its own: the service's vault would unwrap it.
    let aek = Aek::try_from_fn(|bytes| {
        bytes.fill(0x66);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap();
    let wrap = WrappedKey {
        key_id: public.key_id,
        algorithm: WrapAlgorithm::RsaOaep256,
        bytes: public.key.wrap(&aek).unwrap(),
    };
    let mut value = json(&good);
    let scope: cofferdam::crypto::KeyScope =
        serde_json::from_value(value["service"][0]["scope"].clone()).unwrap();
    let context = WrapContext { scope };
    assert_eq!(world.service.unwrap_key(&wrap, &context).await.unwrap().expose(), aek.expose());
    let wrapped = cofferdam::crypto::WrappedAek::new(&aek, scope, vec![wrap]);
    value["service"] = serde_json::json!([wrapped]);
    value["customer"] = serde_json::Value::Null;
    value["linked"] = false.into();
    let body = serde_json::to_vec(&value).unwrap();
    let tag = cofferdam::crypto::RecordKey::derive(&aek, &scope).tag(&body);
    let forged = [&[3][..], &tag, &body].concat();
    let at = world.store.load(RECORD).await.unwrap().unwrap().revision;
    world.store.swap(RECORD, Some(&at), Some(forged.into())).await.unwrap();
    world.restart().await;
    let answer = world.engine.account(&name("contoso")).await;
    let refused = matches!(&answer, Err(EngineError::BadRecord { reason, .. }) if reason.contains("RSA"));
    assert!(refused, "{answer:?}");
}

#[cfg(cofferdam_planted)]
#[tokio::test(start_paused = true)]
async fn planted_defects_of_the_pin_show() {
    use cofferdam::crypto::planted::{Bug, plant};
    plant(Some(Bug::PublicKeyOfAnotherVersion));
    let answer = created_where_it_lies(340, "first", false).await;
    plant(None);
    answer.unwrap();
    let mut world = world(341).await;
    plant(Some(Bug::PublicKeyNotPinned));
    world.contoso().await;
    plant(None);
    world.restart().await;
    let answer = world.engine.account(&name("contoso")).await;
    assert!(matches!(answer, Err(EngineError::BadRecord { .. })), "{answer:?}");
}
