//! The life of keys through the server: made, changed, used, deleted, recovered, destroyed.

use cofferdam_vault::{Recovery, serve::Permission};
use serde_json::json;

use crate::world::{DAY, World, bytes};

#[tokio::test]
async fn a_key_wraps_what_it_unwraps_and_nothing_else_does() {
    let world = World::new().await;
    let (rsa, other) = (world.rsa("k").await, world.rsa("other").await);
    // Other lengths than an AEK's too, up to what OAEP takes.
    for len in [1, 16, 32, 190] {
        let key = vec![7; len];
        let wrapped = world.wrap(&rsa, "RSA-OAEP-256", &key).await.ok();
        assert_eq!(world.path(&wrapped), rsa);
        assert_eq!(bytes(&wrapped["value"]).len(), 256);
        let unwrapped = world.unwrap(&rsa, "RSA-OAEP-256", &wrapped["value"]).await.ok();
        assert_eq!((bytes(&unwrapped["value"]), world.path(&unwrapped)), (key, rsa.clone()));
        let foreign = world.unwrap(&other, "RSA-OAEP-256", &wrapped["value"]).await;
        foreign.refused(400, "BadParameter", None);
    }
    world.wrap(&rsa, "RSA-OAEP-256", &[7; 191]).await.refused(400, "BadParameter", None);

    let made = json!({ "kty": "oct-HSM", "key_size": 256 });
    let aes = world.path(&world.post("/keys/aes/create", made).await.ok());
    for len in [16, 32, 64] {
        let wrapped = world.wrap(&aes, "A256KW", &vec![7; len]).await.ok();
        assert_eq!(bytes(&wrapped["value"]).len(), len + 8);
        let unwrapped = world.unwrap(&aes, "A256KW", &wrapped["value"]).await.ok();
        assert_eq!(bytes(&unwrapped["value"]), vec![7; len]);
    }
    world.wrap(&aes, "A256KW", &[7; 31]).await.refused(400, "BadParameter", None);
}

#[tokio::test]
async fn a_new_version_is_the_latest_and_older_ones_go_on() {
    let world = World::new().await;
    let first = world.rsa("k").await;
    let wrapped = world.wrap("/keys/k/", "RSA-OAEP-256", &[1; 32]).await.ok();
    assert_eq!(world.path(&wrapped), first);
    let second = world.rsa("k").await;
    assert_ne!(first, second);
    assert_eq!(world.path(&world.get("/keys/k").await.ok()), second);
    assert_eq!(world.path(&world.get(&first).await.ok()), first);
    let latest = world.wrap("/keys/k/", "RSA-OAEP-256", &[1; 32]).await.ok();
    assert_eq!(world.path(&latest), second);
    world.unwrap(&first, "RSA-OAEP-256", &wrapped["value"]).await.ok();
    let versions = world.get("/keys/k/versions").await.ok();
    let mut listed: Vec<_> = versions["value"].as_array().unwrap().iter().map(|v| world.path(v)).collect();
    listed.sort();
    let mut made = [first, second];
    made.sort();
    assert_eq!(listed, made);
}

#[tokio::test]
async fn a_disabled_key_is_told_of_and_wraps_and_unwraps_nothing() {
    let world = World::new().await;
    let key = world.rsa("k").await;
    let wrapped = world.wrap(&key, "RSA-OAEP-256", &[1; 32]).await.ok();
    let disabled = world.patch(&key, json!({ "attributes": { "enabled": false } })).await.ok();
    assert_eq!(disabled["attributes"]["enabled"], false);
    let refused = world.wrap(&key, "RSA-OAEP-256", &[1; 32]).await;
    let message = refused.refused(403, "Forbidden", Some("KeyDisabled"));
    assert_eq!(message, "Operation wrapKey is not allowed on a disabled key.");
    let refused = world.unwrap(&key, "RSA-OAEP-256", &wrapped["value"]).await;
    refused.refused(403, "Forbidden", Some("KeyDisabled"));
    assert_eq!(world.get(&key).await.ok()["attributes"]["enabled"], false);
    world.patch(&key, json!({ "attributes": { "enabled": true } })).await.ok();
    world.unwrap(&key, "RSA-OAEP-256", &wrapped["value"]).await.ok();
}

#[tokio::test]
async fn dates_stop_wraps_and_no_unwrap() {
    let mut world = World::new().await;
    let key = world.rsa("k").await;
    let created = world.get(&key).await.ok()["attributes"]["created"].as_u64().unwrap();
    let wrapped = world.wrap(&key, "RSA-OAEP-256", &[1; 32]).await.ok();
    let (nbf, exp) = (created + 86_400, created + 3 * 86_400);
    let dated = world.patch(&key, json!({ "attributes": { "nbf": nbf, "exp": exp } })).await.ok();
    assert_eq!(
        (dated["attributes"]["nbf"].as_u64(), dated["attributes"]["exp"].as_u64()),
        (Some(nbf), Some(exp))
    );
    for (days, refused) in [(0, Some("KeyNotYetValid")), (2, None), (2, Some("KeyExpired"))] {
        world.clock.advance(days * DAY);
        world.token = world.server.issue_token("admin", DAY).unwrap().to_string();
        let again = world.wrap(&key, "RSA-OAEP-256", &[1; 32]).await;
        match refused {
            None => assert_eq!(again.status, 200, "{again:?}"),
            Some(_) => drop(again.refused(403, "Forbidden", refused).to_owned()),
        }
        world.unwrap(&key, "RSA-OAEP-256", &wrapped["value"]).await.ok();
    }
}

#[tokio::test]
async fn a_key_does_what_its_operations_say() {
    let world = World::new().await;
    let made = json!({ "kty": "RSA", "key_ops": ["unwrapKey"] });
    let key = world.path(&world.post("/keys/k/create", made).await.ok());
    let refused = world.wrap(&key, "RSA-OAEP-256", &[1; 32]).await;
    refused.refused(403, "Forbidden", Some("KeyOperationForbidden"));
    let changed = world.patch(&key, json!({ "key_ops": ["wrapKey", "unwrapKey"] })).await.ok();
    assert_eq!(changed["key"]["key_ops"], json!(["wrapKey", "unwrapKey"]));
    world.wrap(&key, "RSA-OAEP-256", &[1; 32]).await.ok();
}

#[tokio::test]
async fn tags_and_dates_are_kept_and_change_when_they_are_said_again() {
    let world = World::new().await;
    let made = json!({ "kty": "RSA-HSM", "key_size": 3072, "tags": { "a": "1" }, "attributes": { "exp": 2_000_000_000 } });
    let key = world.post("/keys/k/create", made).await.ok();
    assert_eq!((&key["key"]["kty"], bytes(&key["key"]["n"]).len()), (&json!("RSA-HSM"), 384));
    world.clock.advance(std::time::Duration::from_secs(60));
    let path = world.path(&key);
    let changed = world.patch(&path, json!({ "tags": { "b": "2" } })).await.ok();
    assert_eq!(changed["tags"], json!({ "b": "2" }));
    assert_eq!(changed["attributes"]["exp"], 2_000_000_000);
    let times = |key: &serde_json::Value| {
        let attributes = &key["attributes"];
        (attributes["created"].as_u64().unwrap(), attributes["updated"].as_u64().unwrap())
    };
    let (created, updated) = times(&key);
    assert_eq!((created, updated), (created, created));
    assert_eq!(times(&changed), (created, created + 60));
    assert_eq!(world.get(&path).await.ok(), changed);
    // Neither a later version's nor lost with the process: it is in the vault's file.
    let second =
        world.path(&world.post("/keys/k/create", json!({ "kty": "RSA-HSM", "key_size": 3072 })).await.ok());
    assert!(world.get(&second).await.ok().get("tags").is_none());
}

#[tokio::test]
async fn a_deleted_key_is_gone_until_it_is_recovered_and_for_good_when_it_is_purged() {
    let world = World::new().await;
    let key = world.rsa("k").await;
    let wrapped = world.wrap(&key, "RSA-OAEP-256", &[1; 32]).await.ok();
    let deleted = world.delete("/keys/k").await.ok();
    assert_eq!(deleted["recoveryId"], format!("{}/deletedkeys/k", world.server.url()));
    let at = |name: &str| deleted[name].as_u64().unwrap();
    assert_eq!(at("scheduledPurgeDate") - at("deletedDate"), 90 * 86_400);
    assert_eq!(deleted["attributes"]["recoveryLevel"], "Recoverable+Purgeable");
    assert_eq!(world.get("/deletedkeys/k").await.ok(), deleted);

    for gone in [
        world.get("/keys/k").await,
        world.get(&key).await,
        world.delete("/keys/k").await,
        world.patch(&key, json!({})).await,
        world.unwrap(&key, "RSA-OAEP-256", &wrapped["value"]).await,
    ] {
        let message = gone.refused(404, "KeyNotFound", None);
        assert!(message.starts_with("A key with (name/id) k"), "{message}");
    }
    let taken = world.post("/keys/k/create", json!({ "kty": "RSA" })).await;
    taken.refused(409, "Conflict", Some("ObjectIsDeletedButRecoverable"));
    assert_eq!(world.get("/keys").await.ok()["value"], json!([]));
    let listed = world.get("/deletedkeys").await.ok();
    assert_eq!(listed["value"][0]["kid"], format!("{}/keys/k", world.server.url()));

    let recovered = world.post("/deletedkeys/k/recover", json!({})).await.ok();
    assert_eq!(world.path(&recovered), key);
    world.unwrap(&key, "RSA-OAEP-256", &wrapped["value"]).await.ok();
    let message = world.delete("/deletedkeys/k").await;
    assert_eq!(message.refused(404, "KeyNotFound", None), "Deleted Key not found: k");

    world.delete("/keys/k").await.ok();
    assert_eq!(world.delete("/deletedkeys/k").await.status, 204);
    world.post("/deletedkeys/k/recover", json!({})).await.refused(404, "KeyNotFound", None);
    assert_ne!(world.rsa("k").await, key);
    world.unwrap(&key, "RSA-OAEP-256", &wrapped["value"]).await.refused(404, "KeyNotFound", None);
}

#[tokio::test]
async fn purge_protection_holds_until_the_window_is_over() {
    let mut world = World::with(|options| options.recovery = Recovery::Protected { window: 7 * DAY }).await;
    let key = world.rsa("k").await;
    let attributes = world.get(&key).await.ok()["attributes"].clone();
    assert_eq!(attributes["recoveryLevel"], "CustomizedRecoverable");
    assert_eq!(attributes["recoverableDays"], 7);
    world.delete("/keys/k").await.ok();
    world.delete("/deletedkeys/k").await.refused(403, "Forbidden", None);
    world.clock.advance(7 * DAY);
    world.token = world.server.issue_token("admin", DAY).unwrap().to_string();
    assert_eq!(world.delete("/deletedkeys/k").await.status, 204);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = World::new().await;
    for n in 0..7 {
        world.post(&format!("/keys/k{n}/create"), json!({ "kty": "oct-HSM" })).await.ok();
    }
    let (mut names, mut page, mut pages) = (Vec::new(), world.get("/keys?maxresults=3").await.ok(), 1);
    loop {
        names.extend(page["value"].as_array().unwrap().iter().map(|key| world.path(key)));
        let Some(next) = page["nextLink"].as_str() else { break };
        page = world.ask_as(Some(&world.token), reqwest::Method::GET, next, None).await.ok();
        pages += 1;
    }
    assert_eq!((names.len(), pages), (7, 3));
    assert!(names.iter().enumerate().all(|(n, name)| *name == format!("/keys/k{n}")), "{names:?}");
    let whole = world.get("/keys").await.ok();
    assert_eq!((whole["value"].as_array().unwrap().len(), &whole["nextLink"]), (7, &json!(null)));
    assert_eq!(world.get("/keys/nobody/versions").await.ok()["value"], json!([]));
}

#[tokio::test]
async fn a_key_that_is_brought_unwraps_what_was_wrapped_elsewhere() {
    let world = World::new().await;
    // RFC 3394, 4.6.
    let kek: Vec<u8> = (0..32).collect();
    let hex = |text: &str| data_encoding::HEXUPPER.decode(text.as_bytes()).unwrap();
    let data = hex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
    let wrapped = hex("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21");
    let base64 = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let brought =
        json!({ "key": { "kty": "oct-HSM", "k": base64(&kek), "key_ops": ["wrapKey", "unwrapKey"] } });
    let key = world.ask(reqwest::Method::PUT, "/keys/brought", Some(brought)).await.ok();
    assert!(key["key"].get("k").is_none(), "{key}");
    let unwrapped = world.unwrap(&world.path(&key), "A256KW", &json!(base64(&wrapped))).await.ok();
    assert_eq!(bytes(&unwrapped["value"]), data);

    for bad in [
        json!({ "kty": "oct-HSM", "k": base64(&kek[..16]) }),
        json!({ "kty": "oct-HSM" }),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }),
        json!({ "kty": "EC", "crv": "P-256" }),
        json!({ "kty": "RSA", "n": "AQ", "e": "AQAB", "d": "AQ", "p": "AQ", "q": "AQ", "dp": "AQ", "dq": "AQ", "qi": "AQ" }),
    ] {
        let refused = world.ask(reqwest::Method::PUT, "/keys/bad", Some(json!({ "key": bad }))).await;
        refused.refused(400, "BadParameter", None);
    }
    world.get("/keys/bad").await.refused(404, "KeyNotFound", None);
}

#[tokio::test]
async fn what_the_program_does_to_the_vault_is_felt_at_once() {
    let world = World::new().await;
    world.vault.create_key_of("local", "rsa-2048".parse().unwrap(), Recovery::default()).await.unwrap();
    let key = world.get("/keys/local").await.ok();
    assert_eq!(key["attributes"]["recoveryLevel"], "Recoverable");
    let path = world.path(&key);
    world.wrap(&path, "RSA-OAEP-256", &[1; 32]).await.ok();
    let id = world.vault.key_id("local").unwrap();
    world.vault.disable(&id).await.unwrap();
    world.wrap(&path, "RSA-OAEP-256", &[1; 32]).await.refused(403, "Forbidden", Some("KeyDisabled"));
    world.vault.enable(&id).await.unwrap();
    world.vault.set_offline(true).await.unwrap();
    for refused in [
        world.wrap(&path, "RSA-OAEP-256", &[1; 32]).await,
        world.get(&path).await,
        world.get("/keys").await,
        world.post("/keys/new/create", json!({ "kty": "RSA" })).await,
    ] {
        refused.refused(503, "ServiceUnavailable", None);
    }
    world.vault.set_offline(false).await.unwrap();
    world.wrap(&path, "RSA-OAEP-256", &[1; 32]).await.ok();
    world.server.permit("admin", &Permission::WRAPPING).unwrap();
    world.delete("/keys/local").await.refused(403, "Forbidden", Some("AccessDenied"));
}
