//! Who may ask the server what: challenges, tokens, tenants, permissions, throttling.

use std::{
    io::{Read, Write},
    time::Duration,
};

use cofferdam_vault::serve::Permission;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{HOUR, Said, World, blocking, raw, said};

const GET_KEYS: &str = "/keys?api-version=7.4";

async fn token(world: &World, tenant: &str, form: &str) -> Said {
    let request = world.client.post(format!("{}/{tenant}/oauth2/v2.0/token", world.server.url()));
    let form = form.to_owned();
    said(request.header("content-type", "application/x-www-form-urlencoded").body(form).send().await.unwrap())
        .await
}

fn form(client: &str, secret: &str) -> String {
    format!(
        "grant_type=client_credentials&client_id={client}&client_secret={secret}\
         &scope=https%3A%2F%2Fvault.azure.net%2F.default"
    )
}

#[tokio::test]
async fn a_challenge_leads_to_a_token_and_that_to_an_answer() {
    let world = World::new().await;
    let secret = world.server.add_client("app", &[Permission::List]).unwrap();
    let challenged = world.ask_as(None, Method::GET, GET_KEYS, None).await;
    let message = challenged.refused(401, "Unauthorized", None);
    assert_eq!(message, "AKV10000: Request is missing a Bearer or PoP token.");
    let (url, tenant) = (world.server.url(), world.server.tenant());
    assert_eq!(
        challenged.headers["www-authenticate"],
        format!(r#"Bearer authorization="{url}/{tenant}", resource="https://vault.azure.net""#)
    );
    let path = format!("/{tenant}/v2.0/.well-known/openid-configuration");
    let found = world.ask_as(None, Method::GET, &path, None).await.ok();
    assert_eq!(found["token_endpoint"], world.server.token_url());

    let answer = token(&world, tenant, &form("app", &secret)).await.ok();
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3600)));
    let bearer = answer["access_token"].as_str().unwrap();
    world.ask_as(Some(bearer), Method::GET, GET_KEYS, None).await.ok();
}

#[tokio::test]
async fn the_token_endpoint_gives_nothing_to_who_is_not_the_client() {
    let world = World::new().await;
    let secret = world.server.add_client("app", &[]).unwrap();
    let tenant = world.server.tenant();
    let right = form("app", &secret);
    for (tenant, form, status, error) in [
        (tenant, form("app", "guess"), 401, "invalid_client"),
        (tenant, form("app", ""), 401, "invalid_client"),
        (tenant, form("nobody", &secret), 400, "unauthorized_client"),
        ("elsewhere", right.clone(), 400, "invalid_request"),
        (tenant, right.replace("client_credentials", "password"), 400, "unsupported_grant_type"),
        (tenant, right.replace("vault.azure", "graph.microsoft"), 400, "invalid_scope"),
        (tenant, "grant_type=client_credentials".into(), 400, "invalid_client"),
        (tenant, String::new(), 400, "invalid_request"),
        (tenant, "%ff%00&&==".into(), 400, "invalid_request"),
    ] {
        let refused = token(&world, tenant, &form).await;
        assert_eq!(
            (refused.status.as_u16(), refused.body["error"].as_str()),
            (status, Some(error)),
            "{refused:?}"
        );
        assert!(!refused.body.to_string().contains(&*secret));
    }
    let found =
        world.ask_as(None, Method::GET, "/elsewhere/v2.0/.well-known/openid-configuration", None).await;
    assert_eq!(found.status, 400);
}

#[tokio::test]
async fn a_token_ends_and_the_answer_says_so() {
    let world = World::new().await;
    world.get("/keys").await.ok();
    world.clock.advance(HOUR);
    let expired = world.get("/keys").await;
    let message = expired.refused(401, "Unauthorized", None);
    assert!(message.starts_with("[TokenExpired]"), "{message}");
    assert!(expired.headers["www-authenticate"].to_str().unwrap().ends_with(r#"error="invalid_token""#));
    let fresh = world.server.issue_token("admin", HOUR).unwrap();
    world.ask_as(Some(&fresh), Method::GET, GET_KEYS, None).await.ok();
    world.server.expire_tokens();
    world.ask_as(Some(&fresh), Method::GET, GET_KEYS, None).await.refused(401, "Unauthorized", None);
}

#[tokio::test]
async fn a_token_that_ends_while_its_request_arrives_is_not_taken() {
    let world = World::new().await;
    let mut connection = raw(&world.server);
    let body = r#"{"kty":"oct-HSM"}"#;
    let head = format!(
        "POST /keys/k/create?api-version=7.4 HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        world.token,
        body.len()
    );
    // Asked to go on: the token was good when the head came.
    let (mut connection, told) = blocking(move || {
        connection.write_all(head.as_bytes()).unwrap();
        let mut told = [0; 25];
        connection.read_exact(&mut told).unwrap();
        (connection, told)
    })
    .await;
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    world.server.expire_tokens();
    let answer = blocking(move || {
        connection.write_all(body.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Whether the end is announced is TLS's affair.
        let _ = connection.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(world.vault.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_token_of_another_tenant_is_refused() {
    let world = World::new().await;
    let secret = world.server.add_client_of("abroad", "stranger", &Permission::ALL).unwrap();
    let answer = token(&world, "abroad", &form("stranger", &secret)).await.ok();
    let bearer = answer["access_token"].as_str().unwrap();
    let refused = world.ask_as(Some(bearer), Method::GET, GET_KEYS, None).await;
    let message = refused.refused(401, "Unauthorized", None);
    assert!(message.starts_with("AKV10032: Invalid issuer."), "{message}");
    for bearer in ["", "x", &"x".repeat(10_000), "a.b.c"] {
        let refused = world.ask_as(Some(bearer), Method::GET, GET_KEYS, None).await;
        assert_eq!(refused.status, 401, "{refused:?}");
    }
}

#[tokio::test]
async fn each_permission_opens_its_own_operations_and_no_other() {
    let world = World::new().await;
    let key = world.rsa("k").await;
    world.rsa("gone").await;
    world.delete("/keys/gone").await.ok();
    let operation = json!({ "alg": "RSA-OAEP-256", "value": "AAECAwQFBgcICQoLDA0ODw" });
    let rsa = json!({ "kty": "RSA" });
    let requests: [(Method, String, Option<Value>, Permission); 13] = [
        (Method::GET, "/keys".into(), None, Permission::List),
        (Method::GET, "/keys/k/versions".into(), None, Permission::List),
        (Method::GET, "/deletedkeys".into(), None, Permission::List),
        (Method::GET, key.clone(), None, Permission::Get),
        (Method::GET, "/deletedkeys/gone".into(), None, Permission::Get),
        (Method::POST, "/keys/new/create".into(), Some(rsa), Permission::Create),
        (Method::PUT, "/keys/brought".into(), Some(json!({})), Permission::Import),
        (Method::PATCH, key.clone(), Some(json!({})), Permission::Update),
        (Method::POST, format!("{key}/wrapkey"), Some(operation.clone()), Permission::WrapKey),
        (Method::POST, format!("{key}/unwrapkey"), Some(operation), Permission::UnwrapKey),
        (Method::DELETE, "/keys/k".into(), None, Permission::Delete),
        (Method::POST, "/deletedkeys/gone/recover".into(), None, Permission::Recover),
        (Method::DELETE, "/deletedkeys/gone".into(), None, Permission::Purge),
    ];
    for (method, path, body, needed) in &requests {
        let others: Vec<_> = Permission::ALL.into_iter().filter(|p| p != needed).collect();
        world.server.permit("admin", &others).unwrap();
        let refused = world.ask(method.clone(), path, body.clone()).await;
        let message = refused.refused(403, "Forbidden", Some("AccessDenied"));
        let says = format!("does not have keys {} permission on key vault 'acme;", needed.name());
        assert!(message.contains(&says), "{message}");
    }
    for (method, path, body, needed) in requests {
        world.server.permit("admin", &[needed]).unwrap();
        let answer = world.ask(method.clone(), &path, body).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn throttled_requests_are_told_when_to_come_again() {
    let world = World::new().await;
    world.server.throttle(Duration::from_secs(7), Some(2));
    for _ in 0..2 {
        let refused = world.get("/keys").await;
        refused.refused(429, "Throttled", None);
        assert_eq!(refused.headers["retry-after"], "7");
    }
    world.get("/keys").await.ok();
    world.server.throttle(Duration::from_secs(1), None);
    for _ in 0..5 {
        world.get("/keys").await.refused(429, "Throttled", None);
    }
    world.server.unthrottle();
    world.get("/keys").await.ok();
}

#[tokio::test]
async fn a_server_that_was_stopped_answers_what_it_had_begun_and_nothing_more() {
    let world = World::new().await;
    let key = world.rsa("k").await;
    let World { server, client, token, .. } = world;
    let url = format!("{}{key}?api-version=7.4", server.url());
    let answer = client.get(&url).bearer_auth(&token).send().await.unwrap();
    server.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(said(answer).await.status, 200);
    assert!(client.get(&url).bearer_auth(&token).send().await.unwrap_err().is_connect());
}
