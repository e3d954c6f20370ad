//! An exchange with the server, recorded and compared field by field with what is published of the API: the names that are
//! there and no others, their types, the status. `fixtures/keyvault` has it, written from Microsoft's documentation.

use std::{collections::BTreeMap, fs};

use data_encoding::BASE64URL_NOPAD;
use reqwest::{Method, header::HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::World;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    method: String,
    path: String,
    #[serde(default)]
    request: Option<Value>,
    status: u16,
    #[serde(default)]
    response: Value,
}

fn published(name: &str) -> Published {
    let path = format!("{}/tests/fixtures/keyvault/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Puts values in the place of `{name}`, in texts of any depth.
fn filled(text: &str, values: &BTreeMap<&str, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// How what was answered differs from what is published, and how many fields were looked at.
fn compare(at: &str, published: &Value, answered: &Value, wrong: &mut Vec<String>) -> usize {
    match (published, answered) {
        (Value::Object(published), Value::Object(answered)) if published.contains_key("*") => answered
            .iter()
            .map(|(name, value)| compare(&format!("{at}.{name}"), &published["*"], value, wrong))
            .sum(),
        (Value::Object(published), Value::Object(answered)) => {
            let mut fields = 0;
            for (name, of) in published {
                let (bare, may_miss) = match name.strip_suffix('?') {
                    Some(bare) => (bare, true),
                    None => (&**name, false),
                };
                match answered.get(bare) {
                    Some(value) => fields += compare(&format!("{at}.{bare}"), of, value, wrong),
                    None if may_miss => {}
                    None => wrong.push(format!("{at}.{bare} is missing")),
                }
            }
            for name in answered.keys() {
                if !published.contains_key(name) && !published.contains_key(&format!("{name}?")) {
                    wrong.push(format!("{at}.{name} is not published"));
                }
            }
            fields
        }
        (Value::Array(published), Value::Array(answered)) => {
            if answered.is_empty() {
                wrong.push(format!("{at} is empty"));
            }
            answered.iter().map(|value| compare(&format!("{at}[]"), &published[0], value, wrong)).sum()
        }
        (Value::String(types), answered) => {
            if !types.split('|').any(|one| is(one, answered)) {
                wrong.push(format!("{at} is not {types}: {answered}"));
            }
            1
        }
        (Value::Null, Value::Null) => 0,
        _ => {
            wrong.push(format!("{at} is of another shape: {answered}"));
            0
        }
    }
}

fn is(one: &str, value: &Value) -> bool {
    match one {
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "base64url" => value.as_str().is_some_and(|text| BASE64URL_NOPAD.decode(text.as_bytes()).is_ok()),
        "url" => value.as_str().is_some_and(|text| text.starts_with("https://127.0.0.1:")),
        _ => panic!("the fixture has a type {one:?}"),
    }
}

/// The headers that every answer of the real service has, of those that mean something here.
fn check_headers(headers: &HeaderMap, empty: bool, wrong: &mut Vec<String>) {
    let expected = [
        ("cache-control", "no-cache"),
        ("pragma", "no-cache"),
        ("expires", "-1"),
        ("x-content-type-options", "nosniff"),
        ("x-ms-keyvault-region", ""),
        ("x-ms-keyvault-service-version", ""),
        ("x-ms-request-id", ""),
        ("content-type", if empty { "-" } else { "application/json; charset=utf-8" }),
    ];
    for (name, value) in expected {
        match headers.get(name).map(|value| value.to_str().unwrap()) {
            None if value == "-" => {}
            Some(found) if value.is_empty() && !found.is_empty() || found == value => {}
            found => wrong.push(format!("header {name} is {found:?}")),
        }
    }
}

/// A key pair that was made for this test, as a JSON Web Key. Published: it protects nothing.
fn brought() -> Value {
    let path = format!("{}/tests/fixtures/keyvault/rsa.jwk", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn every_answer_has_the_published_fields_and_no_others() {
    let world = World::new().await;
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    values.insert("name", "published".into());
    values.insert("key", BASE64URL_NOPAD.encode(&[7; 32]));
    let jwk = brought();
    for part in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
        values.insert(part, jwk[part].as_str().unwrap().to_owned());
    }
    // So that lists have more than a page.
    world.rsa("another").await;
    world.rsa("published").await;
    for name in ["gone-1", "gone-2"] {
        world.rsa(name).await;
        world.delete(&format!("/keys/{name}")).await.ok();
    }
    let (mut wrong, mut fields, mut exchanges) = (Vec::new(), 0, 0);
    for (name, key) in [
        ("create-key", "published"),
        ("get-key", "published"),
        ("get-keys", "published"),
        ("get-key-versions", "published"),
        ("update-key", "published"),
        ("wrap-key", "published"),
        ("unwrap-key", "published"),
        ("delete-key", "published"),
        ("get-deleted-key", "published"),
        ("get-deleted-keys", "published"),
        ("recover-deleted-key", "published"),
        ("delete-key", "published"),
        ("purge-deleted-key", "published"),
        ("import-key", "brought"),
        ("key-not-found", "published"),
    ] {
        values.insert("name", key.into());
        let published = published(name);
        let path = filled(&published.path, &values);
        let request = published.request.map(|body| {
            let body = filled(&body.to_string(), &values);
            serde_json::from_str(&body).unwrap()
        });
        let method = Method::from_bytes(published.method.as_bytes()).unwrap();
        let said = world.ask(method.clone(), &path, request).await;
        let before = wrong.len();
        if said.status.as_u16() != published.status {
            wrong.push(format!("{name}: {} instead of {}: {}", said.status, published.status, said.body));
        }
        let compared = compare(name, &published.response, &said.body, &mut wrong);
        check_headers(&said.headers, said.status == 204, &mut wrong);
        println!(
            "{name:22} {method:6} {} {compared:3} fields, {} differ",
            said.status.as_u16(),
            wrong.len() - before
        );
        fields += compared;
        exchanges += 1;
        if let Some(kid) = said.body["key"]["kid"].as_str() {
            values.insert("version", kid.rsplit('/').next().unwrap().into());
        }
        if name == "wrap-key" {
            values.insert("wrapped", said.body["value"].as_str().unwrap().into());
        }
        if name == "unwrap-key" {
            assert_eq!(said.body["value"], json!(values["key"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{exchanges} exchanges, {fields} fields, none differs");
    assert!((exchanges, fields) >= (15, 100), "{exchanges} exchanges, {fields} fields");
}

#[tokio::test]
async fn a_clients_request_id_comes_back_and_ours_is_new_each_time() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request = world.client.get(format!("{}/keys?api-version=7.4", world.server.url()));
        let request = request.bearer_auth(&world.token).header("x-ms-client-request-id", "mine");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["x-ms-client-request-id"], "mine");
        let id = answer.headers()["x-ms-request-id"].to_str().unwrap().to_owned();
        assert_eq!((id.len(), id.matches('-').count(), &id[14..15]), (36, 4, "4"), "{id}");
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
}
