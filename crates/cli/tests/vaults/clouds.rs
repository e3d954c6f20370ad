//! `--vault-config` with vaults of clouds: Azure Key Vault as our own server speaks it, AWS KMS as ministack and moto do.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use cofferdam_vault::testing::servers::{Ministack, Moto};
use serde_json::{Value, json};

use crate::{
    common::Home,
    config::{Configured, goes_through_its_life},
    serve::Server,
};

#[test]
fn an_accounts_key_lives_in_a_key_vault_and_moves_there_from_a_file() {
    let (home, own) = Home::with_account(&[]);
    let owner = Home::new();
    let made = owner.run(["vault", "create-key", "k", "--kind", "rsa-2048"]);
    let local = made.succeeds().text().trim();
    let server = Server::start(&owner, &[]);
    let url = server.says("url");
    let text = format!(
        "[vaults.own]\nkind = \"local\"\n[vaults.azure]\nkind = \"azure\"\nurl = \"{url}\"\ntest-server = true\n\
         authority-host = \"{url}\"\nca-file = \"{}\"\n\
         [vaults.azure.credential.client-secret]\ntenant-id = \"{}\"\nclient-id = \"{}\"\nsecret = {{ file = \"{}\" }}\n\
         [principals.customer]\nvaults = [\"own\", \"azure\"]\n",
        server.says("authority_file"),
        server.says("tenant"),
        server.says("client_id"),
        server.says("client_secret_file"),
    );
    let home = Configured::new(home, &text);
    let own = home.home.json(["status", "a"])[0]["key_id"].as_str().map_or(own, str::to_owned);
    let (_, version) = local.split_once("/keys/k/").unwrap();
    goes_through_its_life(
        &home,
        &own,
        &format!("{url}/keys/k/{version}"),
        || assert_eq!(owner.run(["vault", "disable", local]).code, 0),
        || assert_eq!(owner.run(["vault", "enable", local]).code, 0),
    );
    assert_eq!(server.stop("TERM").0, 0);
    assert_eq!(home.run(["get", "a", "0"]).code, 4, "a server that is not there is an outage");
}

/// What a stand-in for AWS KMS answers; none checks a signature.
fn kms(url: &str, action: &str, body: &Value) -> Value {
    let address = url.strip_prefix("http://").unwrap();
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: {address}\r\nx-amz-target: TrentService.{action}\r\n\
         content-type: application/x-amz-json-1.1\r\nconnection: close\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=ADMIN/20260101/eu-west-1/kms/aws4_request, \
         SignedHeaders=host, Signature=0\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{action}: {answer}");
    // It is told by its length or comes in one chunk.
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    match (body.find('{'), body.rfind('}')) {
        (Some(from), Some(to)) => serde_json::from_str(&body[from..=to]).unwrap(),
        _ => Value::Null,
    }
}

/// A home of one account in its own vault, with KMS at this endpoint, and the ARN of a key there.
fn with_kms(url: &str, account: &str) -> (Configured, String, String) {
    let (home, own) = Home::with_account(&[]);
    let text = format!(
        "[vaults.own]\nkind = \"local\"\n[vaults.aws]\nkind = \"aws\"\nregion = \"eu-west-1\"\naccounts = [\"{account}\"]\n\
         endpoint = \"{url}\"\nallow-plain-http-to-loopback = true\n\
         credentials = {{ access-key-id = {{ file = \"id\" }}, secret-access-key = {{ file = \"secret\" }} }}\n\
         [principals.customer]\nvaults = [\"own\", \"aws\"]\n"
    );
    let home = Configured::new(home, &text);
    home.beside("id", "AKIAIOSFODNN7EXAMPLE\n");
    home.beside("secret", "a-secret-access-key\n");
    let own = home.home.json(["status", "a"])[0]["key_id"].as_str().map_or(own, str::to_owned);
    let made = kms(url, "CreateKey", &json!({ "KeyUsage": "ENCRYPT_DECRYPT" }));
    (home, own, made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned())
}

#[test]
fn an_accounts_key_lives_in_aws_kms_and_moves_there_from_a_file() {
    let Some(server) = Ministack::start() else { return };
    let (home, own, key) = with_kms(server.url(), "000000000000");
    let id = json!({ "KeyId": key.rsplit('/').next() });
    goes_through_its_life(
        &home,
        &own,
        &key,
        || drop(kms(server.url(), "DisableKey", &id)),
        || drop(kms(server.url(), "EnableKey", &id)),
    );
}

/// moto authenticates what it decrypts, which ministack does not; but it goes on decrypting by a disabled key, so none is taken away here.
#[test]
fn an_accounts_key_lives_in_moto_and_moves_there_from_a_file() {
    let Some(server) = Moto::start() else { return };
    let (home, own, key) = with_kms(server.url(), "123456789012");
    home.home.feed(["put", "a", "x"], b"of a").succeeds();
    home.run(["rotate-kek", "a", &key]).succeeds();
    home.run(["safe-to-disable", &own]).succeeds();
    home.home.run(["vault", "disable", &own]).succeeds();
    assert_eq!(home.run(["get", "a", "x"]).succeeds().stdout, b"of a");
    let status = home.json(&["status", "a"]).remove(0);
    assert_eq!(status["key_id"], key.as_str(), "{status}");
    drop(server);
    assert_eq!(home.run(["get", "a", "x"]).code, 4, "a server that is not there is an outage");
}
