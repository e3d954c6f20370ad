//! A running server before a local vault in a folder of its own, and a client that trusts it.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{net::TcpStream, sync::Arc, time::Duration};

use cofferdam_vault::{
    LocalVault, LocalVaultOptions, Recovery, SystemEntropy,
    serve::{KeyVaultServer, Permission, ServerOptions},
    testing::{ManualClock, PublishedRsaKeys},
};
use data_encoding::BASE64URL_NOPAD;
use reqwest::{Client, Method, StatusCode, header::HeaderMap};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) struct World {
    pub(crate) server: KeyVaultServer,
    pub(crate) vault: LocalVault,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) client: Client,
    pub(crate) token: String,
    pub(crate) folder: TempDir,
}

/// What the server said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Said {
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    /// Checks status, code and inner code of a refusal.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str, inner: Option<&str>) -> &str {
        let error = &self.body["error"];
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(error["code"], code, "{self:?}");
        assert_eq!(error["innererror"]["code"].as_str(), inner, "{self:?}");
        error["message"].as_str().unwrap()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|options| options.recovery = Recovery::Purgeable).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let clock = Arc::new(ManualClock::default());
        let folder = tempfile::tempdir().unwrap();
        let options = LocalVaultOptions::new(clock.clone(), Arc::new(SystemEntropy));
        let options = options.rsa_keys(Arc::new(PublishedRsaKeys::default()));
        let vault = LocalVault::create(folder.path().join("v"), "acme", options).await.unwrap();
        let mut options = ServerOptions::default();
        options.clock = clock.clone();
        change(&mut options);
        let server = KeyVaultServer::start(Arc::new(vault.clone()), options).await.unwrap();
        server.add_client("admin", &Permission::ALL).unwrap();
        let token = server.issue_token("admin", HOUR).unwrap().to_string();
        let client = client(&server);
        Self { server, vault, clock, client, token, folder }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Said {
        let query = if path.contains('?') { "&api-version=7.4" } else { "?api-version=7.4" };
        self.ask_as(Some(&self.token), method, &format!("{path}{query}"), body).await
    }

    pub(crate) async fn ask_as(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Said {
        let url = match path.starts_with("https://") {
            true => path.to_owned(),
            false => format!("{}{path}", self.server.url()),
        };
        let mut request = self.client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        said(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Said {
        self.ask(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Said {
        self.ask(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Said {
        self.ask(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Said {
        self.ask(Method::DELETE, path, None).await
    }

    /// Makes an RSA key; answers with the path of its version.
    pub(crate) async fn rsa(&self, name: &str) -> String {
        let key = self.post(&format!("/keys/{name}/create"), json!({ "kty": "RSA" })).await.ok();
        self.path(&key)
    }

    /// The path of a key in an answer.
    pub(crate) fn path(&self, key: &Value) -> String {
        let kid = key["key"]["kid"].as_str().or(key["kid"].as_str()).unwrap();
        kid.strip_prefix(self.server.url()).unwrap().to_owned()
    }

    pub(crate) async fn wrap(&self, path: &str, alg: &str, key: &[u8]) -> Said {
        let body = json!({ "alg": alg, "value": BASE64URL_NOPAD.encode(key) });
        self.post(&format!("{path}/wrapkey"), body).await
    }

    pub(crate) async fn unwrap(&self, path: &str, alg: &str, wrapped: &Value) -> Said {
        self.post(&format!("{path}/unwrapkey"), json!({ "alg": alg, "value": wrapped })).await
    }
}

pub(crate) async fn said(response: reqwest::Response) -> Said {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    Said { status, headers, body }
}

/// A TLS connection on which a test speaks HTTP by itself. Blocks: use it in [`blocking`].
pub(crate) fn raw(server: &KeyVaultServer) -> Raw {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DAY)).unwrap();
    let mut config = tls(roots(server));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = "127.0.0.1".try_into().unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

pub(crate) type Raw = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A client that trusts the server's authority and nobody else.
pub(crate) fn client(server: &KeyVaultServer) -> Client {
    Client::builder().tls_backend_preconfigured(tls(roots(server))).build().unwrap()
}

fn roots(server: &KeyVaultServer) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.authority_pem().as_bytes()).unwrap()).unwrap();
    roots
}

pub(crate) fn tls(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    BASE64URL_NOPAD.decode(value.as_str().unwrap().as_bytes()).unwrap()
}
