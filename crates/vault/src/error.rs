//! What a vault can answer but a key, and what that means.

use std::{fmt, time::Duration};

use cofferdam_crypto::KeyId;

/// Why a vault did not do what it was asked.
///
/// Coarse on purpose: a kind exists only where somebody must act otherwise on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VaultErrorKind {
    /// Access was denied (403), with a credential known good.
    AccessDenied,
    /// The key or its version is disabled, expired or not yet active.
    KeyDisabled,
    /// The key or its version is deleted, soft-deleted, pending deletion or unknown.
    KeyNotFound,
    /// Too many requests (429); the vault may have said how long to wait.
    Throttled {
        /// How long the vault asked to wait.
        retry_after: Option<Duration>,
    },
    /// No answer, or none of the vault's: time-out, refused, reset, DNS failure, 5xx, sealed.
    Unavailable,
    /// The credential was not taken (401), or there was none to be had.
    Unauthenticated,
    /// The peer is not the vault: TLS failure, wrong certificate. Never retried in the clear.
    Untrusted,
    /// The wrapped key is malformed, or what it unwraps to is not the expected key.
    Corrupt,
    /// Anything else.
    Other,
}

/// What an error means for a cached key: the one table that everything obeys (`docs/vault-errors.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The customer says no: revoked at once, no grace.
    Denial,
    /// Perhaps no: serving stops at once; a revocation once three answers within 5 s agree.
    UnconfirmedDenial,
    /// The vault can't be reached or asked: spends grace.
    Outage,
}

impl VaultErrorKind {
    /// What it means for a cached key.
    pub const fn meaning(self) -> Meaning {
        match self {
            Self::AccessDenied | Self::KeyDisabled => Meaning::Denial,
            Self::KeyNotFound => Meaning::UnconfirmedDenial,
            Self::Throttled { .. }
            | Self::Unavailable
            | Self::Unauthenticated
            | Self::Untrusted
            | Self::Corrupt
            | Self::Other => Meaning::Outage,
        }
    }

    /// Its name, as events and metrics carry it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::KeyDisabled => "key_disabled",
            Self::KeyNotFound => "key_not_found",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable => "unavailable",
            Self::Unauthenticated => "unauthenticated",
            Self::Untrusted => "untrusted",
            Self::Corrupt => "corrupt",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for VaultErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A vault's failure: its kind, the key it was about, and the vault's own words without any secret.
#[derive(Debug)]
pub struct VaultError {
    kind: VaultErrorKind,
    key_id: Option<KeyId>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl VaultError {
    /// A failure of this kind; `message` says what was wrong and what to do.
    pub fn new(kind: VaultErrorKind, message: impl Into<String>) -> Self {
        Self { kind, key_id: None, message: message.into(), source: None }
    }

    /// The answer to who asks for the public half of a key that has none: `Other`, as it says nothing of the key.
    pub fn not_rsa(key_id: &KeyId) -> Self {
        let message = "this is no RSA key, so it has no public half: ask for its properties first";
        Self::new(VaultErrorKind::Other, message).about(key_id)
    }

    /// The same about this key.
    #[must_use]
    pub fn about(mut self, key_id: &KeyId) -> Self {
        self.key_id = Some(key_id.clone());
        self
    }

    /// The same with what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Its kind.
    pub fn kind(&self) -> VaultErrorKind {
        self.kind
    }

    /// The key it is about.
    pub fn key_id(&self) -> Option<&KeyId> {
        self.key_id.as_ref()
    }
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.key_id {
            Some(key_id) => write!(f, " (key {key_id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for VaultError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [VaultErrorKind; 9] = [
        VaultErrorKind::AccessDenied,
        VaultErrorKind::KeyDisabled,
        VaultErrorKind::KeyNotFound,
        VaultErrorKind::Throttled { retry_after: None },
        VaultErrorKind::Unavailable,
        VaultErrorKind::Unauthenticated,
        VaultErrorKind::Untrusted,
        VaultErrorKind::Corrupt,
        VaultErrorKind::Other,
    ];

    #[test]
    fn the_documented_table_is_the_one_that_is_obeyed() {
        let text = include_str!("../../../docs/vault-errors.md");
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), KINDS.len());
        for (row, kind) in rows.iter().zip(KINDS) {
            let meaning = match kind.meaning() {
                Meaning::Denial => "denial",
                Meaning::UnconfirmedDenial => "unconfirmed denial",
                Meaning::Outage => "outage",
            };
            assert_eq!(row[0], format!("`{kind}`"));
            assert_eq!(row[1], meaning, "{kind}");
        }
    }

    #[test]
    fn only_a_customers_word_is_a_denial() {
        let denials: Vec<_> = KINDS.into_iter().filter(|k| k.meaning() != Meaning::Outage).collect();
        assert_eq!(
            denials,
            [VaultErrorKind::AccessDenied, VaultErrorKind::KeyDisabled, VaultErrorKind::KeyNotFound]
        );
    }

    #[test]
    fn an_error_says_what_was_wrong_with_which_key_and_why() {
        let key = KeyId::new("local://acme/keys/payroll").unwrap();
        let error = VaultError::new(VaultErrorKind::Unavailable, "can't read the vault: mount it")
            .about(&key)
            .caused_by(std::io::Error::other("gone"));
        assert_eq!(error.to_string(), "can't read the vault: mount it (key local://acme/keys/payroll)");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "gone");
        assert_eq!((error.kind(), error.key_id()), (VaultErrorKind::Unavailable, Some(&key)));
    }
}
