//! What the tests of AWS KMS share: a server that gives recorded answers, and options for servers on this machine.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedKey};
use cofferdam_vault::{
    CredentialError, WrapContext,
    aws::{AwsCredentialSource, AwsCredentials, AwsOptions},
};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
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

/// What a server answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn of(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn ok(body: &Value) -> Self {
        Self::of(200, body.to_string())
    }

    /// As KMS says that something failed.
    pub(crate) fn exception(status: u16, code: &str, message: &str) -> Self {
        Self::of(status, json!({ "__type": code, "message": message }).to_string())
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn decrypted(plaintext: &[u8]) -> Self {
        Self::ok(&json!({
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyId": KEY,
            "Plaintext": BASE64.encode(plaintext),
        }))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 {} Recorded\r\ncontent-length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("content-type: application/x-amz-json-1.1\r\n\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

/// What a server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// A server on this machine that gives recorded answers, the last one again and again.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Recorded {
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let task = tokio::spawn({
            let asked = asked.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, answers.clone(), asked.clone()));
                }
            }
        });
        Self { url, asked, task }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, answers: Arc<Mutex<VecDeque<Answer>>>, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if matches!(stream.read_line(&mut head).await, Err(_) | Ok(0)) {
                return;
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap();
        asked.lock().unwrap().push(Asked { head, body });
        let answer = {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        // The client may have gone.
        let _ = stream.write_all(&answer.unwrap().bytes()).await;
    }
}
