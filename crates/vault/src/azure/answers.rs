//! What Azure says, and what it means: the table at the end of `docs/vault-azure.md`.
//!
//! Guarantees: a denial is read only from Key Vault's own error body with the status that goes with it; whatever else
//! arrives is an outage. Nothing of a request is repeated in an error.

use std::{error::Error as StdError, time::Duration};

use azure_core::{
    error::ErrorKind,
    http::{
        RawResponse,
        headers::{HeaderName, Headers},
    },
    time::{OffsetDateTime, parse_rfc7231},
};
use azure_security_keyvault_keys::models::{DeletionRecoveryLevel, JsonWebKey, KeyAttributes, KeyType};
use cofferdam_crypto::{
    KeyId,
    rsa::{RsaPublicKey, RsaSize},
};
use serde::Deserialize;

use super::wire::WireError;
use crate::{KeyKind, KeyProperties, KeyState, VaultError, VaultErrorKind as Kind};

/// What the vault was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Get,
    Wrap,
    Unwrap,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorWords,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorWords {
    code: Option<String>,
    message: Option<String>,
    #[serde(alias = "innerError")]
    innererror: Option<InnerError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InnerError {
    code: Option<String>,
}

impl ErrorWords {
    /// Of a body of Key Vault's; without any for every other.
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice::<ErrorBody>(body).map(|body| body.error).unwrap_or_default()
    }

    fn codes(&self) -> (&str, &str) {
        let inner = self.innererror.as_ref().and_then(|inner| inner.code.as_deref());
        (self.code.as_deref().unwrap_or_default(), inner.unwrap_or_default())
    }
}

/// What an answer means that is no success.
pub(super) fn classify(
    asked: Asked,
    status: u16,
    body: &[u8],
    retry_after: Option<Duration>,
) -> (Kind, &'static str) {
    let words = ErrorWords::read(body);
    match (status, words.codes()) {
        (401, _) => (Kind::Unauthenticated, "the vault does not take the service's token"),
        (403, (_, "KeyDisabled")) => (Kind::KeyDisabled, "the key is disabled: the customer enables it"),
        (403, (_, "KeyExpired" | "KeyNotYetValid" | "KeyNotYetValidOrExpired")) => {
            (Kind::KeyDisabled, "the key is outside its dates: the customer changes them")
        }
        // The vault's network rules, which go by the address that we come from: docs/vault-azure.md says why.
        (403, (outer, inner)) if is_of_network(outer) || is_of_network(inner) => (
            Kind::Unavailable,
            "the vault's network does not let this service in: the customer's firewall, private link or perimeter, or \
             the service's own route and name resolution",
        ),
        (403, ("Forbidden" | "AccessDenied", _)) => (
            Kind::AccessDenied,
            "the vault denies access: the customer grants keys get, wrapKey and unwrapKey again",
        ),
        (403, _) => {
            (Kind::Other, "somebody denies access, but not in Key Vault's words: look at what is between")
        }
        (404, ("KeyNotFound", _)) => {
            (Kind::KeyNotFound, "there is no such key or version: the customer recovers it")
        }
        (409, (_, "ObjectIsDeletedButRecoverable" | "ObjectIsBeingDeleted")) => {
            (Kind::KeyNotFound, "the key is deleted: the customer recovers it")
        }
        (409, (_, "ObjectIsBeingRecovered")) => (Kind::Unavailable, "the key is being recovered: wait"),
        (400, ("BadParameter", _)) if asked == Asked::Unwrap => {
            (Kind::Corrupt, "the vault can't unwrap this with that key: restore the account's record")
        }
        (429, _) => (Kind::Throttled { retry_after }, "the vault has too many requests"),
        (408 | 500..=599, _) => (Kind::Unavailable, "the vault fails"),
        (300..=399, _) => (Kind::Other, "somebody sends the service elsewhere, where it does not go"),
        _ => (Kind::Other, "the vault refuses the request"),
    }
}

fn is_of_network(code: &str) -> bool {
    matches!(code, "ForbiddenByFirewall" | "ForbiddenByConnection" | "ForbiddenByNsp")
}

/// What a call that failed means, in which these secrets were sent.
pub(super) fn failed(asked: Asked, error: azure_core::Error, now: Duration, secrets: &[&str]) -> VaultError {
    match error.kind() {
        ErrorKind::HttpResponse { status, raw_response, .. } => {
            let status = u16::from(*status);
            refused(asked, status, raw_response.as_deref(), now, secrets)
        }
        ErrorKind::Credential => {
            let message = format!("there is no token for the vault: {}", said(&error));
            VaultError::new(Kind::Unauthenticated, message)
        }
        _ => match wire_error(&error) {
            Some(wire) => {
                let message = format!("the vault can't be asked: {}", said(&error));
                VaultError::new(wire.kind(), message).caused_by(error)
            }
            None => VaultError::new(Kind::Other, format!("the vault can't be asked: {}", said(&error))),
        },
    }
}

fn refused(
    asked: Asked,
    status: u16,
    answer: Option<&RawResponse>,
    now: Duration,
    secrets: &[&str],
) -> VaultError {
    let body: &[u8] = answer.map_or(&[], |answer| answer.body());
    let retry_after = answer.and_then(|answer| retry_after(answer.headers(), now));
    let (kind, meaning) = classify(asked, status, body, retry_after);
    let words = ErrorWords::read(body);
    let (outer, inner) = words.codes();
    let mut message = format!("{meaning}; it answered {status}");
    let text = String::from_utf8_lossy(body);
    if secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret)) {
        message.push_str("; its words are left out, they repeat a secret");
        return VaultError::new(kind, message);
    }
    for word in [outer, inner, words.message.as_deref().unwrap_or_default()] {
        if !word.is_empty() {
            message.push_str(", ");
            message.push_str(&plain(word));
        }
    }
    VaultError::new(kind, message)
}

/// How long the vault asks to wait, given in milliseconds, seconds or as a date.
fn retry_after(headers: &Headers, now: Duration) -> Option<Duration> {
    let get = |name: &'static str| headers.get_optional_str(&HeaderName::from_static(name)).map(str::trim);
    let ms = ["retry-after-ms", "x-ms-retry-after-ms"].into_iter().find_map(get);
    if let Some(ms) = ms.and_then(|ms| ms.parse().ok()) {
        return Some(Duration::from_millis(ms));
    }
    let said = get("retry-after")?;
    if let Ok(seconds) = said.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(since_epoch(parse_rfc7231(said).ok()?)?.saturating_sub(now))
}

fn wire_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a WireError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(wire) = error.downcast_ref() {
            return Some(wire);
        }
        next = error.source();
    }
    None
}

/// An error and what caused it, in one line.
pub(super) fn said(error: &(dyn StdError + 'static)) -> String {
    let mut said = plain(&error.to_string());
    let mut next = error.source();
    while let Some(error) = next {
        let more = plain(&error.to_string());
        if !said.contains(&more) {
            said.push_str(": ");
            said.push_str(&more);
        }
        next = error.source();
    }
    plain(&said)
}

/// What others wrote, as one line of bounded length.
fn plain(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(400).collect()
}

fn since_epoch(time: OffsetDateTime) -> Option<Duration> {
    u64::try_from(time.unix_timestamp()).ok().map(Duration::from_secs)
}

/// A key as the vault describes it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) key_id: KeyId,
    pub(super) kind: KeyKind,
    /// Of an RSA key.
    pub(super) public: Option<RsaPublicKey>,
    pub(super) enabled: bool,
    not_before: Option<Duration>,
    expires_at: Option<Duration>,
    soft_delete: bool,
    purge_protection: bool,
}

impl Described {
    /// A key of this id, by what the vault answered of it; or what is wrong with that.
    pub(super) fn new(
        key_id: KeyId,
        key: &JsonWebKey,
        attributes: Option<&KeyAttributes>,
    ) -> Result<Self, String> {
        let (kind, public) = match &key.kty {
            Some(KeyType::Rsa | KeyType::RsaHsm) => {
                let none = Vec::new();
                let (n, e) = (key.n.as_ref().unwrap_or(&none), key.e.as_ref().unwrap_or(&none));
                let public = RsaPublicKey::from_components(n, e);
                let public = public.map_err(|e| format!("its public half is none for a KEK: {e}"))?;
                (KeyKind::Rsa(public.size()), Some(public))
            }
            // The vault does not tell its size; with any other than 256 bits it refuses to wrap.
            Some(KeyType::Oct | KeyType::OctHsm) => (KeyKind::Aes256, None),
            other => {
                let other = other.as_ref().map_or("none", |kty| kty.as_ref());
                return Err(format!(
                    "a key of type {} does not wrap keys: use RSA of {} to {} bits, or oct-HSM of 256 bits",
                    plain(other),
                    RsaSize::Rsa2048.bits(),
                    RsaSize::Rsa4096.bits()
                ));
            }
        };
        let none = KeyAttributes::default();
        let attributes = attributes.unwrap_or(&none);
        let (soft_delete, purge_protection) = recovery(attributes.recovery_level.as_ref());
        Ok(Self {
            key_id,
            kind,
            public,
            enabled: attributes.enabled.unwrap_or(true),
            not_before: attributes.not_before.and_then(since_epoch),
            expires_at: attributes.expires.and_then(since_epoch),
            soft_delete,
            purge_protection,
        })
    }

    pub(super) fn state(&self, now: Duration) -> KeyState {
        if !self.enabled {
            KeyState::Disabled
        } else if self.expires_at.is_some_and(|at| now >= at) {
            KeyState::Expired
        } else if self.not_before.is_some_and(|at| now < at) {
            KeyState::NotYetActive
        } else {
            KeyState::Enabled
        }
    }

    pub(super) fn properties(self, latest: KeyId, state: KeyState) -> KeyProperties {
        let mut properties = KeyProperties::new(self.key_id, latest, self.kind);
        properties.state = state;
        properties.not_before = self.not_before;
        properties.expires_at = self.expires_at;
        properties.soft_delete = self.soft_delete;
        properties.purge_protection = self.purge_protection;
        properties
    }
}

/// Whether a deleted key can be recovered, and whether nobody can purge it before its time.
fn recovery(level: Option<&DeletionRecoveryLevel>) -> (bool, bool) {
    use DeletionRecoveryLevel as Level;
    match level {
        Some(Level::RecoverablePurgeable | Level::CustomizedRecoverablePurgeable) => (true, false),
        Some(
            Level::Recoverable
            | Level::RecoverableProtectedSubscription
            | Level::CustomizedRecoverable
            | Level::CustomizedRecoverableProtectedSubscription,
        ) => (true, true),
        // What this does not know promises nothing.
        Some(Level::Purgeable | Level::UnknownValue(_)) | None => (false, false),
    }
}

/// What was answered to a wrap or an unwrap. Its key is not copied.
#[derive(Deserialize)]
pub(super) struct Operated<'a> {
    #[serde(borrow)]
    pub(super) kid: &'a str,
    #[serde(borrow)]
    pub(super) value: &'a str,
}
