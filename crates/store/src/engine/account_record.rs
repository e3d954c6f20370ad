//! An account as the catalog keeps it.
//!
//! Guarantees: a record is obeyed only after its tag, made under the account's service AEK, was checked and
//! its name found to be the one it is stored under; so who can write to the catalog can't hand an account
//! another key, though anybody may know a customer's KEK, or take its buffer off write-only, or link it to another key. Bytes:
//! format (1), tag (32), JSON. Not under the tag is the format.
//!
//! Invariants of a record that was read: every epoch has one wrap under each KEK, in the order of the KEKs, and under the
//! version that the KEK says; epochs ascend; a linked account has a customer's key.
//!
//! Not its job: rollback of a whole record (the store's), secrets (there are none in it).

use std::{collections::BTreeSet, fmt, time::Duration};

use cofferdam_crypto::{
    AccountId, Epoch, KeyId, Provider, RecordKey, WrapAlgorithm, WrappedAek, WrappedKey, rsa::RsaPublicKey,
};
use cofferdam_keyring::{Kek, KeyRecord};
use cofferdam_vault::Principal;
use serde::{Deserialize, Serialize};

use super::{AccountName, BufferMode, EngineError, OperationId, segments::SegmentKek};
use crate::Revision;

/// The format of a record.
const FORMAT: u8 = 3;
const TAG_END: usize = 33;
/// The most KEKs that an account's AEKs are wrapped under.
pub(crate) const MAX_KEKS: usize = KeyRecord::MOST_KEKS;

/// The customer's side of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CustomerKey {
    /// What its AEKs are wrapped under: 1 to [`MAX_KEKS`].
    pub(crate) keks: Vec<CustomerKek>,
    /// The AEKs of all epochs, oldest first.
    pub(crate) epochs: Vec<WrappedAek>,
    /// When the newest epoch began, since the Unix epoch.
    pub(crate) epoch_since: Duration,
    /// What writes are sealed under that wait for the key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) buffer: BufferMode,
}

/// A KEK of a customer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CustomerKek {
    /// Whose vault it is in.
    pub(crate) principal: Principal,
    /// The KEK as it was set: with a version or without.
    pub(crate) set: KeyId,
    /// The version that the AEKs are wrapped under.
    pub(crate) key_id: KeyId,
    /// The public half of that version where it is RSA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public_key: Option<PinnedKey>,
}

impl CustomerKek {
    /// Whether a wrap and the pinned public half are of one key.
    fn pin_fits(&self, wrap: &WrappedKey) -> bool {
        match &self.public_key {
            None => !is_rsa(wrap),
            Some(pinned) => pinned.may_have_wrapped(wrap),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_rsa(wrap: &WrappedKey) -> bool {
    wrap.algorithm == WrapAlgorithm::RsaOaep256
}

/// The public half of a customer's RSA KEK, proved to be the vault's when it was pinned.
///
/// What is wrapped by it later needs no vault, so the vault's word at that moment would be too late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PinnedKey {
    /// The version that it is of.
    pub(crate) key_id: KeyId,
    pub(crate) key: RsaPublicKey,
}

impl PinnedKey {
    /// Whether it is of the version that made this wrap.
    pub(crate) fn may_have_wrapped(&self, wrap: &WrappedKey) -> bool {
        is_rsa(wrap) && wrap.key_id == self.key_id && wrap.bytes.len() == self.key.modulus_len()
    }
}

/// Where an account is between its creation and its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    #[default]
    Live,
    /// Deleted, and kept for who wants it back. Times since the Unix epoch.
    Deleted { at: Duration, until: Duration },
}

/// An account's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountRecord {
    pub(crate) name: AccountName,
    pub(crate) id: AccountId,
    /// Time since the Unix epoch.
    pub(crate) created_at: Duration,
    /// The service AEKs of all epochs, oldest first.
    pub(crate) service: Vec<WrappedAek>,
    /// Where it has a customer's key: linked to it, or no longer and with blocks that are sealed under it.
    pub(crate) customer: Option<CustomerKey>,
    /// Whether new blocks are sealed under the customer's key.
    pub(crate) linked: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) stage: Stage,
    /// Whether it can't be purged before its time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) purge_protected: bool,
    /// Whether it goes to the latest versions of its KEKs by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) follows_latest: bool,
    /// The highest epoch that the customer's side ever had: no number is used twice.
    pub(crate) last_epoch: Epoch,
    /// The operation that wrote this record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) written_by: Option<OperationId>,
}

impl AccountRecord {
    /// Whose key new blocks are sealed under.
    pub(crate) fn provider(&self) -> Provider {
        if self.linked { Provider::Customer } else { Provider::Service }
    }

    /// What writes are sealed under that wait for the customer's key.
    pub(crate) fn buffer_mode(&self) -> Option<BufferMode> {
        self.customer.as_ref().filter(|_| self.linked).map(|customer| customer.buffer)
    }

    /// What the keys of its write-only buffer are wrapped to, where it has one; or what is wrong with it.
    pub(crate) fn segment_kek(&self) -> Result<Option<SegmentKek>, &'static str> {
        let write_only = |of: &&CustomerKey| of.buffer == BufferMode::WriteOnly;
        let Some(customer) = self.customer.as_ref().filter(write_only) else { return Ok(None) };
        // One of them is enough: which one unwraps is found when that is needed.
        match customer.keks.iter().find_map(|kek| kek.public_key.as_ref()) {
            Some(pinned) => {
                Ok(Some(SegmentKek { key_id: pinned.key_id.clone(), public: pinned.key.clone() }))
            }
            None => Err("it has a write-only buffer, and no public key to wrap to"),
        }
    }

    /// The bytes to store.
    pub(crate) fn seal(&self, key: &RecordKey) -> Result<Vec<u8>, EngineError> {
        let body = serde_json::to_vec(self).map_err(|e| self.bad(e))?;
        Ok([&[FORMAT][..], &key.tag(&body), &body].concat())
    }

    pub(crate) fn bad(&self, reason: impl fmt::Display) -> EngineError {
        EngineError::BadRecord { account: self.name.clone(), reason: reason.to_string() }
    }

    /// What is wrong with a record that could not have been written so.
    pub(crate) fn check(&self, name: &AccountName) -> Result<(), String> {
        if self.name != *name {
            return Err(format!("it is that of account {}", self.name));
        }
        let epochs_fit = |epochs: &[WrappedAek], provider| {
            epochs.iter().all(|of| of.scope.account == self.id && of.scope.provider == provider)
                && epochs.is_sorted_by(|one, next| one.scope.epoch < next.scope.epoch)
                && !epochs.is_empty()
        };
        let customer = self.customer.as_ref();
        if !epochs_fit(&self.service, Provider::Service)
            || !customer.is_none_or(|customer| epochs_fit(&customer.epochs, Provider::Customer))
        {
            return Err("it holds wraps of other keys".into());
        }
        // Else a public half of the service's would be enough to make a service AEK, and so a record's tag.
        if self.service.iter().flat_map(|aek| &aek.wraps).any(is_rsa) {
            return Err("its service key is wrapped under an RSA key, which anybody can do".into());
        }
        if self.linked && customer.is_none() {
            return Err("it is linked to no key".into());
        }
        let Some(customer) = customer else { return Ok(()) };
        let ids: BTreeSet<&KeyId> = customer.keks.iter().map(|kek| &kek.key_id).collect();
        if ids.is_empty() || ids.len() != customer.keks.len() || ids.len() > MAX_KEKS {
            return Err(format!("it names {} KEKs, of them {} once", customer.keks.len(), ids.len()));
        }
        for aek in &customer.epochs {
            let is_under = |(kek, wrap): (&CustomerKek, &WrappedKey)| kek.key_id == wrap.key_id;
            if aek.wraps.len() != customer.keks.len() || !customer.keks.iter().zip(&aek.wraps).all(is_under) {
                return Err("its epochs are not wrapped under its KEKs".into());
            }
            if !customer.keks.iter().zip(&aek.wraps).all(|(kek, wrap)| kek.pin_fits(wrap)) {
                return Err("its wraps and its pinned public key are not of one key".into());
            }
        }
        Ok(())
    }
}

/// A record as it was read: not yet known to be genuine.
#[derive(Debug)]
pub(crate) struct UnverifiedRecord {
    tag: [u8; 32],
    body: Vec<u8>,
    record: AccountRecord,
    revision: Revision,
}

impl UnverifiedRecord {
    /// Parses what is stored under `name`.
    pub(crate) fn parse(name: &AccountName, bytes: &[u8], revision: Revision) -> Result<Self, EngineError> {
        let bad = |reason: String| EngineError::BadRecord { account: name.clone(), reason };
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&found) if found > FORMAT => {
                return Err(EngineError::NewerRecord { account: name.clone(), found, supported: FORMAT });
            }
            _ => return Err(bad("it is not an account record".into())),
        }
        let tag = bytes.get(1..TAG_END).and_then(|tag| tag.try_into().ok());
        let (Some(tag), Some(body)) = (tag, bytes.get(TAG_END..)) else {
            return Err(bad(format!("it has {} bytes and ends within its tag", bytes.len())));
        };
        let record: AccountRecord = serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
        record.check(name).map_err(bad)?;
        Ok(Self { tag, body: body.to_vec(), record, revision })
    }

    /// The record unchecked: good for what needs no trust, such as the service's wraps. A forged one unwraps only if
    /// the service's vault made it for this account, which its check value tells.
    pub(crate) fn unverified(&self) -> &AccountRecord {
        &self.record
    }

    /// The record, if its tag is right.
    pub(crate) fn verify(self, key: &RecordKey) -> Result<VerifiedRecord, EngineError> {
        if key.verify(&self.body, &self.tag) {
            Ok(VerifiedRecord { record: self.record, revision: self.revision, tag: self.tag })
        } else {
            Err(self.record.bad("its tag does not fit"))
        }
    }
}

/// A genuine record, and which writing of it this is.
#[derive(Debug)]
pub(crate) struct VerifiedRecord {
    pub(crate) record: AccountRecord,
    pub(crate) revision: Revision,
    pub(crate) tag: [u8; 32],
}

impl CustomerKek {
    /// As a keyring asks it, while it is not bridged.
    pub(crate) fn kek(&self) -> Kek {
        Kek { principal: Some(self.principal.clone()), key_id: self.key_id.clone(), bridged_since: None }
    }
}
