//! What the tests of AWS KMS share: answers recorded from its published API, and options for servers on this machine.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedKey};
use cofferdam_vault::{
    CredentialError, WrapContext,
    aws::{AwsCredentialSource, AwsCredentials, AwsOptions},
    testing::servers::{Answer, Rogue, Speaks},
};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const ACCOUNT: &str = "111122223333";
pub(crate) const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

pub(crate) fn id(uri: &str) -> KeyId {
    KeyId::new(uri).unwrap()
}

pub(crate) fn aek(byte: u8) -> Aek {
    Aek::try_from_fn(|key| {
        key.fill(byte);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

pub(crate) fn context(account: u8) -> WrapContext {
    let account = AccountId::from_bytes([account; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

/// A wrap as KMS gave it: what is in it is KMS's.
pub(crate) fn wrapped(key: &str) -> WrappedKey {
    WrappedKey { key_id: id(key), algorithm: WrapAlgorithm::AwsKms, bytes: vec![7; 184] }
}

/// An access key that never changes.
#[derive(Debug)]
pub(crate) struct Fixed;

#[async_trait]
impl AwsCredentialSource for Fixed {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        Ok(AwsCredentials::new("AKIAIOSFODNN7EXAMPLE", "canary-secret-access-key", None, None))
    }
}

/// Options for a server on this machine.
pub(crate) fn options(url: &str, account: &str) -> AwsOptions {
    AwsOptions::new(REGION, account).credentials(Arc::new(Fixed)).endpoint(url).allow_plain_http_to_loopback()
}

/// KMS says yes.
pub(crate) fn ok(body: &Value) -> Answer {
    Answer::json(200, body.to_string())
}

/// KMS says that something failed.
pub(crate) fn exception(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, json!({ "__type": code, "message": message }).to_string())
}

/// KMS unwrapped this.
pub(crate) fn decrypted(plaintext: &[u8]) -> Value {
    json!({ "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": KEY, "Plaintext": BASE64.encode(plaintext) })
}

/// KMS wrapped something by this key.
pub(crate) fn encrypted(key: &str) -> Value {
    json!({
        "CiphertextBlob": BASE64.encode(&[9; 184]),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "KeyId": key,
    })
}

/// A server that gives these answers by turns, and the last again and again.
pub(crate) fn recorded(answers: impl IntoIterator<Item = Answer>) -> Rogue {
    Rogue::in_turn(Speaks::Http, answers)
}

/// What it was asked, the bodies.
pub(crate) fn asked(server: &Rogue) -> Vec<Value> {
    server.requests().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
}

/// What the customer does in AWS's console, on a stand-in that checks no signature: each call a request of its own.
#[derive(Debug)]
pub(crate) struct Admin {
    address: String,
}

impl Admin {
    pub(crate) fn new(url: &str) -> Self {
        Self { address: url.strip_prefix("http://").unwrap().trim_end_matches('/').into() }
    }

    /// A socket of its own to the same server.
    pub(crate) fn raw(&self) -> Raw {
        Raw { address: self.address.clone(), stream: None }
    }

    /// A symmetric key.
    pub(crate) async fn create_key(&self) -> KeyId {
        let answer = self.call("CreateKey", "KeyUsage", "ENCRYPT_DECRYPT", &[]).await;
        id(answer["KeyMetadata"]["Arn"].as_str().unwrap())
    }

    /// Calls KMS with these members, `true` as a boolean and a key named by its bare id, and must succeed.
    pub(crate) async fn call(&self, action: &str, name: &str, value: &str, more: &[(&str, &str)]) -> Value {
        let mut body = json!({});
        for (name, value) in [(name, value)].iter().chain(more) {
            body[name] = match *value {
                "true" => json!(true),
                key if name.ends_with("KeyId") => json!(key.rsplit('/').next()),
                value => json!(value),
            };
        }
        let (status, answer) = self.raw().post(action, &body.to_string()).await;
        assert_eq!(status, 200, "{action}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }
}

/// Requests over a bare socket, which is kept as long as the server keeps it.
pub(crate) struct Raw {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Raw {
    /// One request, and what came: the status and the body.
    pub(crate) async fn post(&mut self, action: &str, body: &str) -> (u16, String) {
        let address = &self.address;
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {address}\r\nx-amz-target: TrentService.{action}\r\n\
             content-type: application/x-amz-json-1.1\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=ADMIN/20260101/{REGION}/kms/aws4_request, \
             SignedHeaders=host, Signature=0\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(TcpStream::connect(address).await.unwrap()),
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "the server hung up: {head}");
        }
        let head = head.to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut answer = vec![0; header("content-length:").unwrap().parse().unwrap()];
        stream.read_exact(&mut answer).await.unwrap();
        if header("connection:") != Some("close") {
            self.stream = Some(stream);
        }
        (head.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(answer).unwrap())
    }
}
