//! What can be wrong with the settings of a Transit vault, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::WorkLost;

/// Why a Transit vault was not set up, or a secret of it not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransitError {
    /// The address is none.
    #[error("{address:?} is not the address of a vault ({why}): give one such as https://vault.example:8200")]
    BadAddress {
        /// The address.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The address would send keys and tokens in the clear.
    #[error(
        "{address} is plain http, which shows keys and tokens to the network: use https (to this machine alone \
         plain http can be allowed, for tests)"
    )]
    PlainHttp {
        /// The address.
        address: String,
    },
    /// A name that the settings give can't stand in a key id or in a path.
    #[error("{name:?} can't be {what}: use letters, digits, dots, hyphens and underscores{shape}")]
    BadName {
        /// What it was to name.
        what: &'static str,
        /// The name, cut short where it is long.
        name: String,
        /// What else is allowed.
        shape: &'static str,
    },
    /// The certificates to trust are none.
    #[error("the certificates to trust can't be read ({why}): give PEM with at least one CA certificate")]
    BadCertificates {
        /// What is wrong with them.
        why: String,
    },
    /// TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    Client(#[source] reqwest::Error),
    /// There is no tokio runtime to renew the token on.
    #[error("there is no tokio runtime here, and the token is renewed on one: connect within a runtime")]
    NoRuntime,
    /// A secret's file could not be read.
    #[error("can't read {what} from {path}: {source}")]
    SecretFile {
        /// Which secret.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A secret's callback failed.
    #[error("{what} could not be had from its callback: {source}")]
    SecretCallback {
        /// Which secret.
        what: &'static str,
        /// What the callback says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What a file or a callback gave is no secret of this sort.
    #[error("{what} {why}: look at where it comes from")]
    BadSecret {
        /// Which secret.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The work of reading a secret could not be run.
    #[error(transparent)]
    Lost(#[from] WorkLost),
}
