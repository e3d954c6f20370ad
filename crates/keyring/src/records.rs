//! Where a keyring reads the wrapped keys of an account, and writes that they are revoked.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, RecordKey, WrappedAek};
use cofferdam_vault::Principal;
use thiserror::Error;

/// An account's wrapped AEKs under one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Whose vault has the KEKs; `None` for the service's own.
    pub principal: Option<Principal>,
    /// Every epoch, the oldest first. Never empty.
    pub epochs: Vec<WrappedAek>,
    /// Whether the customer's key was found to be revoked.
    pub revoked: bool,
}

/// The account records, as a keyring needs them. A store implements it.
///
/// A call that takes longer than the policy's `record_timeout` is dropped and counts as failed.
#[async_trait]
pub trait KeyRecords: fmt::Debug + Send + Sync {
    /// The service's wraps of this account, as stored.
    ///
    /// # Errors
    /// [`RecordError::NotFound`] when there is no such account.
    async fn service_keys(&self, account: AccountId) -> Result<KeyRecord, RecordError>;

    /// The customer's wraps, authenticated under the account's service AEK (`service`) before they are returned.
    ///
    /// # Errors
    /// [`RecordError::NotFound`] when the account has no customer key; [`RecordError::Tampered`] when the tag
    /// does not fit.
    async fn customer_keys(&self, account: AccountId, service: &RecordKey) -> Result<KeyRecord, RecordError>;

    /// Persists, durably, that the customer's key is revoked, or no longer is, before it is announced.
    ///
    /// # Errors
    /// [`RecordError`]; the keyring tries again.
    async fn set_revoked(&self, account: AccountId, revoked: bool) -> Result<(), RecordError>;
}

/// Why an account's record could not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// There is no such account, or it has no key of that provider.
    #[error("no such record")]
    NotFound,
    /// It is not what was written: its tag does not fit, or it contradicts itself.
    #[error("the account's record is not as it was written ({0}): restore it from a backup")]
    Tampered(String),
    /// The store did not answer in time. What was to be written may have been.
    #[error("the store of the account's record did not answer within {0:?}: see what holds it up")]
    TimedOut(Duration),
    /// It can't be read or written.
    #[error("the account's record can't be read or written: {0}")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}
