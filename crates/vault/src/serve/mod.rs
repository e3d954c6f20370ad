//! A server that speaks the Azure Key Vault keys REST API over TLS: a developer without Azure runs it, and tests do.
//!
//! Guarantees: what a client is answered has the shape, the codes and the status that the published API has
//! (`docs/vault-serve.md` names what is left out, and where it is stricter); nobody without a token of the vault's tenant
//! and the permission learns of a key; connections, bodies and time are bounded.
//!
//! Invariants: an operation on a key is one call of the store behind it ([`KeyStoreBackend`]), which decides by the key's
//! state. What may be a key is wiped where this module holds it; hyper's and rustls's buffers, which held the request and
//! the answer, are not, nor is the text of an answer.
//!
//! Not its job: production. Tokens are lost when it ends, and whoever runs the machine has the keys.

mod access;
mod answer;
mod backend;
mod certificate;
mod limits;
mod operations;
mod route;
mod service;
mod tokens;
mod wire;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use axum_server::{
    Handle,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use cofferdam_crypto::EntropyError;
use thiserror::Error;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub use access::Permission;
pub use backend::{
    BackendError, KeyChange, KeyDetails, KeyStoreBackend, NewKey, NewMaterial, StoredKey, StoredVersion,
};
pub use certificate::ServerCertificate;

use access::{Access, NoToken};
use limits::Bounded;
use service::{Shared, Throttle};

use crate::{Clock, Entropy, Recovery, SystemClock, SystemEntropy};

/// How a server is run.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Where it listens; port 0 is any that is free.
    pub listen: SocketAddr,
    /// The host name or address in its URL, where clients find it; None is the address it listens on.
    pub host: Option<String>,
    /// The tenant that the vault belongs to.
    pub tenant: String,
    /// Its certificate; None makes one for the host and for loopback.
    pub certificate: Option<ServerCertificate>,
    /// What becomes of new keys when they are deleted.
    pub recovery: Recovery,
    /// How long a token is good for.
    pub token_lifetime: Duration,
    /// By what tokens end.
    pub clock: Arc<dyn Clock>,
    /// Where tokens come from.
    pub entropy: Arc<dyn Entropy>,
    /// The most connections at once.
    pub max_connections: usize,
    /// How long a handshake, a request's head, and a request may take.
    pub request_time: Duration,
}

impl Default for ServerOptions {
    /// Any free port of 127.0.0.1, a new certificate, keys under purge protection, tokens for an hour, 256 connections,
    /// 30 s a request.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            host: None,
            tenant: "11111111-1111-1111-1111-111111111111".into(),
            certificate: None,
            recovery: Recovery::default(),
            token_lifetime: Duration::from_secs(3600),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            max_connections: 256,
            request_time: Duration::from_secs(30),
        }
    }
}

/// A running server. It ends when it is dropped, at once; [`stop`](Self::stop) lets requests end first.
pub struct KeyVaultServer {
    shared: Arc<Shared>,
    authority_pem: String,
    address: SocketAddr,
    handle: Handle<SocketAddr>,
    task: JoinHandle<io::Result<()>>,
}

impl KeyVaultServer {
    /// Serves these keys. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`ServeError::Listen`] when the address can't be had; [`ServeError::Certificate`]; [`ServeError::Tls`].
    pub async fn start(keys: Arc<dyn KeyStoreBackend>, options: ServerOptions) -> Result<Self, ServeError> {
        let listen = options.listen;
        let failed = |source| ServeError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let host = options.host.unwrap_or_else(|| match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        let certificate = match options.certificate {
            Some(certificate) => certificate,
            None => ServerCertificate::generate(&host, &SystemClock)?,
        };
        let tls = RustlsConfig::from_config(Arc::new(tls(&certificate)?));
        let handle = Handle::new();
        let acceptor = RustlsAcceptor::new(tls)
            .handshake_timeout(options.request_time)
            .acceptor(Bounded::new(options.max_connections));
        let mut server = axum_server::from_tcp(listener)
            .map_err(failed)?
            .acceptor(acceptor)
            .first_request_timeout(options.request_time)
            .handle(handle.clone());
        let builder = server.http_builder();
        builder.http1().header_read_timeout(options.request_time).max_buf_size(MAX_HEAD);
        builder.http2().max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD as u32);

        let access = Access::new(options.tenant, options.clock, options.entropy.clone());
        let shared = Arc::new(Shared {
            url: format!("https://{host}:{}", address.port()),
            keys,
            access,
            entropy: options.entropy,
            recovery: options.recovery,
            token_lifetime: options.token_lifetime,
            request_time: options.request_time,
            throttle: Mutex::new(None),
        });
        let router = Router::new().fallback(service::handle).with_state(shared.clone());
        let task = tokio::spawn(server.serve(router.into_make_service()));
        tracing::info!(url = shared.url, "serving keys");
        Ok(Self { shared, authority_pem: certificate.pem().0.to_owned(), address, handle, task })
    }

    /// Its URL, without a slash at the end: the vault's URL for clients.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority in PEM: what a client must trust.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The tenant that the vault belongs to.
    pub fn tenant(&self) -> &str {
        self.shared.access.tenant()
    }

    /// Where clients get tokens by their secret.
    pub fn token_url(&self) -> String {
        format!("{}/{}/oauth2/v2.0/token", self.url(), self.tenant())
    }

    /// Adds a client of the vault's tenant. Answers with its secret, which is kept nowhere.
    ///
    /// # Errors
    /// [`ServeError::Entropy`].
    pub fn add_client(&self, id: &str, permissions: &[Permission]) -> Result<Zeroizing<String>, ServeError> {
        self.add_client_of(self.tenant(), id, permissions)
    }

    /// Adds a client of another tenant: it gets tokens, which this vault does not take.
    ///
    /// # Errors
    /// [`ServeError::Entropy`].
    pub fn add_client_of(
        &self,
        tenant: &str,
        id: &str,
        permissions: &[Permission],
    ) -> Result<Zeroizing<String>, ServeError> {
        let secret = self.shared.access.random()?;
        self.shared.access.add(id, tenant.to_owned(), &secret, permissions.to_vec());
        Ok(secret)
    }

    /// Adds a client of the vault's tenant with a secret that was given it before.
    pub fn add_client_with(&self, id: &str, secret: &str, permissions: &[Permission]) {
        self.shared.access.add(id, self.tenant().to_owned(), secret, permissions.to_vec());
    }

    /// What a client may do from now on, with the tokens that it has too.
    ///
    /// # Errors
    /// [`ServeError::NoClient`].
    pub fn permit(&self, id: &str, permissions: &[Permission]) -> Result<(), ServeError> {
        match self.shared.access.permit(id, permissions.to_vec()) {
            true => Ok(()),
            false => Err(ServeError::NoClient { id: id.to_owned() }),
        }
    }

    /// A token for a client, without its secret.
    ///
    /// # Errors
    /// [`ServeError::NoClient`], [`ServeError::Entropy`].
    pub fn issue_token(&self, id: &str, lifetime: Duration) -> Result<Zeroizing<String>, ServeError> {
        self.shared.access.issue(id, lifetime).map_err(|e| match e {
            NoToken::Entropy(source) => ServeError::Entropy(source),
            _ => ServeError::NoClient { id: id.to_owned() },
        })
    }

    /// Ends every token.
    pub fn expire_tokens(&self) {
        self.shared.access.expire_all();
    }

    /// Turns requests away as too many: so many of them, or all until [`unthrottle`](Self::unthrottle).
    pub fn throttle(&self, retry_after: Duration, requests: Option<u32>) {
        self.set_throttle(Some(Throttle { retry_after, requests }));
    }

    /// Takes requests again.
    pub fn unthrottle(&self) {
        self.set_throttle(None);
    }

    fn set_throttle(&self, throttle: Option<Throttle>) {
        *self.shared.throttle.lock().unwrap_or_else(PoisonError::into_inner) = throttle;
    }

    /// Takes no more connections, lets requests end for so long, then ends.
    ///
    /// # Errors
    /// [`ServeError::Ended`] when it had ended before, by an error.
    pub async fn stop(mut self, grace: Duration) -> Result<(), ServeError> {
        self.handle.graceful_shutdown(Some(grace));
        match (&mut self.task).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(ServeError::Ended { source }),
            Err(e) => Err(ServeError::Ended { source: io::Error::other(e) }),
        }
    }
}

impl Drop for KeyVaultServer {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.task.abort();
    }
}

impl fmt::Debug for KeyVaultServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyVaultServer").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// The most bytes of a request's head.
const MAX_HEAD: usize = 32 * 1024;
/// The most requests at once on a connection.
const MAX_STREAMS: u32 = 32;

fn tls(certificate: &ServerCertificate) -> Result<rustls::ServerConfig, ServeError> {
    let (chain, key) = certificate.parts()?;
    // Named, as a process may have installed no default, or another.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Why a server was not started, or ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}; choose another address, or end who has it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate can't be made or read.
    #[error("the server's certificate can't be used: {what}")]
    Certificate {
        /// What is wrong.
        what: String,
    },
    /// TLS does not take the certificate and its key.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no such client.
    #[error("there is no client {id:?}: add it first")]
    NoClient {
        /// Its id.
        id: String,
    },
    /// There were no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The server has ended.
    #[error("the server has ended: {source}")]
    Ended {
        /// Why.
        source: io::Error,
    },
}
