//! What no client should send: the server refuses it, says why, and goes on.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use reqwest::Method;
use serde_json::json;

use crate::world::{Raw, World, blocking, raw, said};

/// What comes back on a connection until it is closed.
fn rest(connection: &mut impl Read) -> String {
    let mut answer = Vec::new();
    // Whether the end is announced is TLS's affair.
    let _ = connection.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(world: &World, len: usize) -> String {
    let token = &world.token;
    format!(
        "POST /keys/k/create?api-version=7.4 HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n"
    )
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be_are_refused_without_repeating_them() {
    let world = World::new().await;
    let key = world.rsa("k").await;
    let create = "/keys/new/create".to_owned();
    let wrap = format!("{key}/wrapkey");
    for (method, path, body) in [
        (Method::POST, &create, "{"),
        (Method::POST, &create, "canary"),
        (Method::POST, &create, "[]"),
        (Method::POST, &create, "null"),
        (Method::POST, &create, ""),
        (Method::POST, &create, "\u{feff}{}"),
        (Method::POST, &create, r#"{"kty":"canary"}"#),
        (Method::POST, &create, r#"{"kty":1}"#),
        (Method::POST, &create, r#"{"kty":"EC"}"#),
        (Method::POST, &create, r#"{"kty":"RSA","kty":"RSA"}"#),
        (Method::POST, &create, r#"{"kty":"RSA","canary":1}"#),
        (Method::POST, &create, r#"{"kty":"RSA","key_size":1024}"#),
        (Method::POST, &create, r#"{"kty":"RSA","key_size":-1}"#),
        (Method::POST, &create, r#"{"kty":"RSA","public_exponent":3}"#),
        (Method::POST, &create, r#"{"kty":"RSA","key_ops":["canary"]}"#),
        (Method::POST, &create, r#"{"kty":"RSA","attributes":{"exportable":true}}"#),
        (Method::POST, &create, r#"{"kty":"RSA","attributes":{"nbf":2,"exp":1}}"#),
        (Method::POST, &create, r#"{"kty":"RSA","attributes":{"exp":18446744073709551615}}"#),
        (Method::POST, &create, r#"{"kty":"RSA","tags":{"a":1}}"#),
        (Method::POST, &create, r#"{"kty":"RSA","release_policy":{"data":"canary"}}"#),
        (Method::POST, &wrap, r#"{"alg":"RSA-OAEP-256"}"#),
        (Method::POST, &wrap, r#"{"alg":"RSA-OAEP-256","value":"canary!"}"#),
        (Method::POST, &wrap, r#"{"alg":"RSA-OAEP-256","value":7}"#),
        (Method::POST, &wrap, r#"{"alg":"RSA-OAEP","value":"AAAA"}"#),
        (Method::POST, &wrap, r#"{"alg":"RSA1_5","value":"AAAA"}"#),
        (Method::POST, &wrap, r#"{"alg":"A256KW","value":"AAAA"}"#),
        (Method::POST, &wrap, r#"{"alg":"canary","value":"AAAA"}"#),
        (Method::POST, &wrap, r#"{"alg":"RSA-OAEP-256","value":"AAAA","iv":"AAAA"}"#),
        (Method::PUT, &"/keys/new".to_owned(), r#"{"key":{"kty":"oct-HSM","k":"canary"}}"#),
    ] {
        let url = format!("{}{path}?api-version=7.4", world.server.url());
        let request = world.client.request(method, url).bearer_auth(&world.token).body(body);
        let refused = said(request.send().await.unwrap()).await;
        let message = refused.refused(400, "BadParameter", None);
        assert!(!message.contains("canary"), "{body}: {message}");
    }
    let mut tags = serde_json::Map::new();
    for n in 0..16 {
        tags.insert(n.to_string(), json!(""));
    }
    world.post(&create, json!({ "kty": "RSA", "tags": tags })).await.refused(400, "BadParameter", None);
    let long = json!({ "kty": "RSA", "tags": { "a": "x".repeat(257) } });
    world.post(&create, long).await.refused(400, "BadParameter", None);
    assert_eq!(world.vault.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_keeps_to_one_kind() {
    let world = World::new().await;
    world.rsa("k").await;
    for other in [json!({ "kty": "oct-HSM" }), json!({ "kty": "RSA", "key_size": 3072 })] {
        let refused = world.post("/keys/k/create", other).await;
        let message = refused.refused(400, "BadParameter", None);
        assert!(message.contains("rsa-2048"), "{message}");
    }
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_before_it_is_read() {
    let world = World::new().await;
    let (head, mut connection) = (head(&world, 100_000_000), raw(&world.server));
    let answer = blocking(move || {
        connection.write_all(head.as_bytes()).unwrap();
        rest(&mut connection)
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains(r#""code":"RequestBodyTooLarge""#), "{answer}");

    // One that does not say how long it is.
    let head = head_chunked(&world);
    let mut connection = raw(&world.server);
    let answer = blocking(move || {
        connection.write_all(head.as_bytes()).unwrap();
        let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
        for _ in 0..5 {
            // It may be closed before it has it all.
            if connection.write_all(&chunk).is_err() {
                break;
            }
        }
        rest(&mut connection)
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let large = json!({ "kty": "RSA", "tags": { "a": "x".repeat(70_000) } });
    world.post("/keys/k/create", large).await.refused(413, "RequestBodyTooLarge", None);
    let url = world.server.token_url();
    let form = "x".repeat(70_000);
    let refused = world.client.post(url).body(form).send().await.unwrap();
    assert_eq!(refused.status(), 413);
    world.get("/keys").await.ok();
}

fn head_chunked(world: &World) -> String {
    head(world, 0).replace("content-length: 0", "transfer-encoding: chunked")
}

#[tokio::test]
async fn plain_http_and_noise_get_no_answer_and_do_no_harm() {
    let world = World::new().await;
    let address = world.server.address();
    for sent in [b"GET /keys?api-version=7.4 HTTP/1.1\r\nhost: h\r\n\r\n".as_slice(), &[0xff; 4096], b""] {
        let answer = blocking(move || {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(sent).unwrap();
            connection.shutdown(std::net::Shutdown::Write).unwrap();
            rest(&mut connection)
        })
        .await;
        assert!(!answer.contains("HTTP/1.1 200") && !answer.contains("kid"), "{answer}");
    }
    let mut connection = raw(&world.server);
    let answer = blocking(move || {
        connection.write_all(b"NONSENSE\r\n\r\n").unwrap();
        rest(&mut connection)
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    world.get("/keys").await.ok();
}

#[tokio::test]
async fn an_untrusted_authority_is_told_from_the_servers_own() {
    let (world, other) = (World::new().await, World::new().await);
    let url = format!("{}/keys?api-version=7.4", world.server.url());
    assert!(other.client.get(&url).send().await.unwrap_err().is_connect());
    world.client.get(&url).send().await.unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_arrive_in_time_is_ended() {
    let world = World::with(|options| options.request_time = Duration::from_millis(100)).await;
    // No handshake at all; half a head; a head and half a body.
    let address = world.server.address();
    let silent = blocking(move || rest(&mut TcpStream::connect(address).unwrap())).await;
    assert_eq!(silent, "");
    for (sent, answered) in
        [("POST /keys/k/create HTTP/1.1\r\nho".to_owned(), None), (head(&world, 100), Some("408"))]
    {
        let mut connection: Raw = raw(&world.server);
        let answer = blocking(move || {
            connection.write_all(sent.as_bytes()).unwrap();
            rest(&mut connection)
        })
        .await;
        match answered {
            Some(status) => assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}"),
            None => assert!(!answer.contains("200 OK"), "{answer}"),
        }
    }
    world.get("/keys").await.ok();
}

#[tokio::test]
async fn connections_are_bounded() {
    let world = World::with(|options| options.max_connections = 4).await;
    let address = world.server.address();
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut connection = raw(&world.server);
        let request = format!(
            "GET /keys?api-version=7.4 HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\n\r\n",
            world.token
        );
        let (connection, answer) = blocking(move || {
            connection.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 15];
            connection.read_exact(&mut answer).unwrap();
            (connection, answer)
        })
        .await;
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        held.push(connection);
    }
    // The fifth is closed before its handshake.
    let refused = blocking(move || {
        let mut connection = TcpStream::connect(address).unwrap();
        rest(&mut connection)
    })
    .await;
    assert_eq!(refused, "");
    assert!(world.client.get(world.server.url()).send().await.is_err());
    drop(held);
    // A place is free as soon as the server has seen one go.
    let answered = async {
        loop {
            if let Ok(answer) = world.client.get(format!("{}/keys", world.server.url())).send().await {
                break answer.status();
            }
            tokio::task::yield_now().await;
        }
    };
    let answered = tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap();
    assert_eq!(answered, 401);
}

#[tokio::test]
async fn paths_and_methods_that_are_none_are_refused() {
    let world = World::new().await;
    world.rsa("k").await;
    for (method, path, status) in [
        (Method::GET, "/keys/a_b?api-version=7.4", 400),
        (Method::GET, "/keys/k?api-version=1.0", 400),
        (Method::GET, "/keys/k", 400),
        (Method::GET, "/secrets/k?api-version=7.4", 404),
        (Method::GET, "/?api-version=7.4", 404),
        (Method::PUT, "/keys?api-version=7.4", 405),
        (Method::HEAD, "/keys/k?api-version=7.4", 405),
        (Method::POST, "/keys/k/encrypt?api-version=7.4", 400),
        (Method::POST, "/keys/k/00000000000000000000000000000000/rotate?api-version=7.4", 404),
    ] {
        let answer = world.ask_as(Some(&world.token), method.clone(), path, None).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {answer:?}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_out_of_its_place() {
    let world = World::new().await;
    world.rsa("k").await;
    // As they are: a client of the usual kind would tidy them up.
    for path in [
        "/keys/..",
        "/keys/%2e%2e",
        "/keys/../keys/k",
        "/keys/..%2f..%2fv",
        "/keys/k/..",
        "/keys/k%00",
        "/keys/..\\v",
    ] {
        let request = format!(
            "GET {path}?api-version=7.4 HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            world.token
        );
        let mut connection = raw(&world.server);
        let answer = blocking(move || {
            connection.write_all(request.as_bytes()).unwrap();
            rest(&mut connection)
        })
        .await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "400" | "405") && !answer.contains("\"kid\""), "{path}: {answer}");
    }
}
