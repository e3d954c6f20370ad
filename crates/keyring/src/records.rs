//! Where a keyring reads the wrapped keys of an account, and writes that they are revoked, and which KEK is bridged.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, KeyId, Provider, RecordKey, WrappedAek};
use cofferdam_vault::Principal;
use thiserror::Error;

/// An account's wrapped AEKs under one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The KEKs, 1 to [`KeyRecord::MOST_KEKS`]; of the service's keys there is one.
    pub keks: Vec<Kek>,
    /// Every epoch, the oldest first, each with one wrap for each KEK, in their order. Never empty.
    pub epochs: Vec<WrappedAek>,
    /// Whether the customer's key was found to be revoked.
    pub revoked: bool,
}

/// A KEK that wraps every epoch of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kek {
    /// Whose vault has it; `None` for the service's own.
    pub principal: Option<Principal>,
    /// The KEK, with its version.
    pub key_id: KeyId,
    /// Since when it has not answered while another did, since the Unix epoch: see [`KeyRecords::note_bridge`].
    pub bridged_since: Option<Duration>,
}

impl KeyRecord {
    /// The most KEKs that an account can have.
    pub const MOST_KEKS: usize = 4;

    /// The usual record, not revoked: the newest epoch's wraps name the KEKs, all of this principal, and none is bridged.
    pub fn under(principal: Option<Principal>, epochs: Vec<WrappedAek>) -> Self {
        let kek = |key_id: &KeyId| Kek {
            principal: principal.clone(),
            key_id: key_id.clone(),
            bridged_since: None,
        };
        let wraps = epochs.last().map_or(&[][..], |newest| &newest.wraps);
        let keks = wraps.iter().map(|wrap| kek(&wrap.key_id)).collect();
        Self { keks, epochs, revoked: false }
    }

    /// Whether it could have been written so.
    ///
    /// # Errors
    /// [`RecordError::Tampered`] says what contradicts itself.
    pub fn check(&self) -> Result<(), RecordError> {
        let wrong = |what: String| Err(RecordError::Tampered(what));
        let Some(first) = self.epochs.first() else { return wrong("it has no epoch".into()) };
        let most = if first.scope.provider == Provider::Service { 1 } else { Self::MOST_KEKS };
        if !(1..=most).contains(&self.keks.len()) {
            return wrong(format!("it has {} KEKs, of 1 to {most}", self.keks.len()));
        }
        if let Some(twice) = self.keks.iter().enumerate().find_map(|(at, kek)| {
            self.keks.iter().take(at).any(|earlier| earlier.key_id == kek.key_id).then_some(&kek.key_id)
        }) {
            return wrong(format!("it names KEK {twice} twice"));
        }
        if !self.epochs.is_sorted_by(|one, next| one.scope.epoch < next.scope.epoch) {
            return wrong("its epochs are out of order".into());
        }
        for of in &self.epochs {
            let fits = of.wraps.len() == self.keks.len()
                && of.wraps.iter().zip(&self.keks).all(|(wrap, kek)| wrap.key_id == kek.key_id);
            if !fits {
                return wrong(format!("epoch {} is not wrapped by each of its KEKs, once", of.scope.epoch));
            }
        }
        Ok(())
    }
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

    /// Persists, durably, that this KEK has not answered since then while another of the account's did, before the key is
    /// served on the strength of that one; or (`None`) that it answers again. An earlier time that is stored stays.
    /// Reading the record gives it back as the KEK's `bridged_since`.
    ///
    /// # Errors
    /// [`RecordError`]; the keyring tries again, and serves nothing on the strength of what is not persisted.
    async fn note_bridge(
        &self,
        account: AccountId,
        kek: &KeyId,
        since: Option<Duration>,
    ) -> Result<(), RecordError>;
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

#[cfg(test)]
mod tests {
    use cofferdam_crypto::{Aek, Epoch, KeyScope, WrapAlgorithm, WrappedKey};

    use super::*;

    fn kek(n: u8) -> KeyId {
        KeyId::new(format!("test://vault/keys/{n}")).unwrap()
    }

    fn epoch(number: u32, keks: &[u8]) -> WrappedAek {
        let account = AccountId::from_bytes([7; 16]);
        let scope = KeyScope { account, epoch: Epoch::new(number), provider: Provider::Customer };
        let aek = Aek::try_from_fn(|aek| {
            aek.fill(3);
            Ok::<_, ()>(())
        });
        let wrap =
            |&n: &u8| WrappedKey { key_id: kek(n), algorithm: WrapAlgorithm::Aes256Kw, bytes: vec![n; 40] };
        WrappedAek::new(&aek.unwrap(), scope, keks.iter().map(wrap).collect())
    }

    fn record(epochs: &[(u32, &[u8])]) -> KeyRecord {
        KeyRecord::under(None, epochs.iter().map(|(number, keks)| epoch(*number, keks)).collect())
    }

    #[test]
    fn a_record_with_each_epoch_under_each_kek_is_right() {
        for keks in [&[1][..], &[1, 2], &[4, 3, 2, 1]] {
            let right = record(&[(1, keks), (2, keks), (7, keks)]);
            right.check().unwrap();
            let named: Vec<KeyId> = right.keks.into_iter().map(|kek| kek.key_id).collect();
            assert_eq!(named, keks.iter().map(|&n| kek(n)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_record_that_contradicts_itself_is_taken_as_tampered_with() {
        let two: &[u8] = &[1, 2];
        let service = {
            let mut record = record(&[(1, two)]);
            record.epochs[0].scope.provider = Provider::Service;
            record
        };
        let other_keks = KeyRecord { keks: record(&[(1, &[1, 3])]).keks, ..record(&[(1, two)]) };
        for (wrong, said) in [
            (record(&[]), "no epoch"),
            (record(&[(1, &[])]), "0 KEKs"),
            (record(&[(1, &[1, 2, 3, 4, 5])]), "5 KEKs, of 1 to 4"),
            (service, "2 KEKs, of 1 to 1"),
            (record(&[(1, &[1, 1])]), "test://vault/keys/1 twice"),
            (record(&[(2, two), (1, two)]), "out of order"),
            (record(&[(1, two), (1, two)]), "out of order"),
            (record(&[(1, &[1]), (2, two)]), "epoch 1 is not wrapped"),
            (record(&[(1, &[1, 2, 3]), (2, two)]), "epoch 1 is not wrapped"),
            (record(&[(1, &[2, 1]), (2, two)]), "epoch 1 is not wrapped"),
            (other_keks, "epoch 1 is not wrapped"),
        ] {
            match wrong.check() {
                Err(RecordError::Tampered(what)) if what.contains(said) => {}
                other => panic!("{said}: {other:?}"),
            }
        }
    }
}
