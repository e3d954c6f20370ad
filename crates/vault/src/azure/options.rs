//! What an Azure vault works with, and what can be wrong with it.

use std::{fmt, sync::Arc, time::Duration};

use thiserror::Error;

use super::{AzureCredential, names::Hosts};
use crate::{Clock, SystemClock};

/// What an Azure vault works with.
#[derive(Clone)]
pub struct AzureOptions {
    pub(super) vault_url: String,
    pub(super) credential: AzureCredential,
    pub(super) hosts: Hosts,
    pub(super) authority_host: Option<String>,
    pub(super) roots: Option<Vec<u8>>,
    pub(super) connect_timeout: Duration,
    pub(super) call_timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl AzureOptions {
    const TIMEOUT: Duration = Duration::from_secs(5);

    /// The vault at this URL, such as `https://acme.vault.azure.net` or `https://acme.managedhsm.azure.net`, with the
    /// credential of the service.
    pub fn new(vault_url: impl Into<String>, credential: AzureCredential) -> Self {
        Self {
            vault_url: vault_url.into(),
            credential,
            hosts: Hosts::Azure,
            authority_host: None,
            roots: None,
            connect_timeout: Self::TIMEOUT,
            call_timeout: Self::TIMEOUT,
            clock: Arc::new(SystemClock),
        }
    }

    /// The same in a cloud that this crate does not know, whose vaults are `NAME.suffix`: Azure Stack Hub, a nation's own.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.hosts = Hosts::Ending(suffix.into());
        self
    }

    /// The same for a test server: at any host and port, and without the check that it asks for a token for itself.
    ///
    /// Never for production: whoever answers at that address can ask for a token of another service, and gets it.
    #[must_use]
    pub fn test_server(mut self) -> Self {
        self.hosts = Hosts::Any;
        self
    }

    /// The same with tokens from this address, for credentials that ask Entra ID or what stands in its place. By default that
    /// of the vault's cloud; for one that is not known, what AZURE_AUTHORITY_HOST says.
    #[must_use]
    pub fn authority_host(mut self, url: impl Into<String>) -> Self {
        self.authority_host = Some(url.into());
        self
    }

    /// The same where the vault's and the token service's certificates are believed under these authorities alone, one or
    /// more certificates in PEM; by default under those that the system believes.
    #[must_use]
    pub fn roots_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// The same with another time-out of a connection. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The same with another time-out of one request and its answer, and of one token. Default 5 s. A call of the vault is
    /// up to four requests; who calls bounds it by a time-out of its own.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// The same with another clock: for dates of keys and for the age of tokens.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl fmt::Debug for AzureOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureOptions")
            .field("vault_url", &self.vault_url)
            .field("credential", &self.credential)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// Why an Azure vault could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AzureError {
    /// The URL is no vault's.
    #[error("{url:?} is no vault's URL: {why}; one looks like https://NAME.vault.azure.net")]
    VaultUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The URL is of plain http.
    #[error("{url:?} is not encrypted: keys and tokens are sent over https alone")]
    PlainHttp {
        /// The URL.
        url: String,
    },
    /// The authorities that were set can't be read.
    #[error("the certificates of the authorities can't be read: give one or more in PEM")]
    Roots(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// TLS, or the client over it, can't be set up.
    #[error("the client can't be set up: see its source")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}
