//! How a Transit vault is reached and logged in to.

use std::{fmt, sync::Arc, time::Duration};

use super::SecretSource;
use crate::{Clock, Executor, SpawnBlocking, SystemClock};

/// How a Transit vault is reached.
#[derive(Debug)]
#[non_exhaustive]
pub struct TransitOptions {
    /// `https://HOST[:PORT]`.
    pub address: String,
    /// The server's name in key ids, which must outlive its address: host and port unless set.
    pub authority: Option<String>,
    /// The namespace of the keys, such as `org/team`: every key id must be in it. The root unless set.
    pub namespace: Option<String>,
    /// The namespace that is logged in to, where it is not that of the keys.
    pub login_namespace: Option<String>,
    /// Who may sign the server's certificate.
    pub trust: Trust,
    /// How long a connection may take to be made. 5 s.
    pub connect_timeout: Duration,
    /// How long one request may take, from its first byte to the last of its answer. 5 s.
    pub call_timeout: Duration,
    /// Takes `http://` to an IP address of this machine's loopback: for tests.
    pub allow_plain_http_to_loopback: bool,
    /// Tells how old a token is.
    pub clock: Arc<dyn Clock>,
    /// Where secrets are read from files and callbacks.
    pub executor: Arc<dyn Executor>,
}

impl TransitOptions {
    const TIMEOUT: Duration = Duration::from_secs(5);

    /// The server at this address, its root namespace, certificates that the system trusts, the machine's clock.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            authority: None,
            namespace: None,
            login_namespace: None,
            trust: Trust::System,
            connect_timeout: Self::TIMEOUT,
            call_timeout: Self::TIMEOUT,
            allow_plain_http_to_loopback: false,
            clock: Arc::new(SystemClock),
            executor: Arc::new(SpawnBlocking),
        }
    }

    /// The same under this name in key ids.
    #[must_use]
    pub fn authority(mut self, name: impl Into<String>) -> Self {
        self.authority = Some(name.into());
        self
    }

    /// The same with keys in this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The same logged in to this namespace; empty is the root.
    #[must_use]
    pub fn login_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.login_namespace = Some(namespace.into());
        self
    }

    /// The same trusting these.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// The same with this time for a connection to be made.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The same with this time for one request.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// The same, taking `http://` to this machine's loopback.
    #[must_use]
    pub fn allow_plain_http_to_loopback(mut self) -> Self {
        self.allow_plain_http_to_loopback = true;
        self
    }

    /// The same with this clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same reading secrets there.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }
}

/// Who may sign the server's certificate.
#[derive(Clone)]
#[non_exhaustive]
pub enum Trust {
    /// Whom the system trusts.
    System,
    /// The CAs whose certificates are in this PEM, and nobody else.
    Only(Vec<u8>),
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Only(_) => "Only(..)",
        })
    }
}

/// How to come by a token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransitLogin {
    /// It is given: by an operator, or in a file that an agent renews.
    Token(SecretSource),
    /// By a role and a secret id of it.
    AppRole {
        /// Where the method is mounted: `approle` unless it was put elsewhere.
        mount: String,
        /// The role's id.
        role_id: SecretSource,
        /// A secret id that may be used for many logins.
        secret_id: SecretSource,
    },
}

impl TransitLogin {
    /// By AppRole, where it is usually mounted.
    pub fn app_role(role_id: SecretSource, secret_id: SecretSource) -> Self {
        Self::AppRole { mount: "approle".into(), role_id, secret_id }
    }
}
