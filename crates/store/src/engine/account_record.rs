//! An account as the catalog keeps it.
//!
//! Guarantees: a record is obeyed only after its tag, made under the account's service AEK, was checked and
//! its name found to be the one it is stored under; so who can write to the catalog can't hand an account
//! another key, though anybody may know a customer's KEK, or take its buffer off write-only. Bytes: format (1), tag (32),
//! JSON. Not under the tag is the format, which must be that of what the JSON holds.
//!
//! Not its job: rollback of a whole record (the store's), secrets (there are none in it).

use std::{fmt, str::FromStr, time::Duration};

use cofferdam_crypto::{
    AccountId, KeyId, Provider, RecordKey, WrapAlgorithm, WrappedAek, WrappedKey, rsa::RsaPublicKey,
};
use cofferdam_vault::Principal;
use serde::{Deserialize, Serialize};

use super::{BufferMode, EngineError, segments::SegmentKek};

/// The format of a record that an earlier version reads as it is meant.
const FORMAT: u8 = 1;
/// The format of one that it would not: with a write-only buffer.
const FORMAT_WRITE_ONLY: u8 = 2;
const TAG_END: usize = 33;

/// The name of an account: 1 to 128 characters out of a-z, A-Z, 0-9, `.`, `_` and `-`, the first a letter or
/// digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(Box<str>);

impl AccountName {
    /// The longest a name may be, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The account name of this text.
    ///
    /// # Errors
    /// [`EngineError::BadAccountName`] when it has other characters, none, or too many.
    pub fn new(name: impl Into<String>) -> Result<Self, EngineError> {
        let name = name.into();
        let fits = (1..=Self::MAX_LEN).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && name.as_bytes()[0].is_ascii_alphanumeric();
        if fits {
            Ok(Self(name.into()))
        } else {
            Err(EngineError::BadAccountName { name: name.chars().take(Self::MAX_LEN).collect() })
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        Self::new(name)
    }
}

impl TryFrom<String> for AccountName {
    type Error = EngineError;

    fn try_from(name: String) -> Result<Self, EngineError> {
        Self::new(name)
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountName({self})")
    }
}

/// The customer's side of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CustomerKey {
    /// Whose vault it is in.
    pub(crate) principal: Principal,
    /// The KEK as it was set.
    pub(crate) kek: KeyId,
    /// The AEKs of all epochs, oldest first.
    pub(crate) epochs: Vec<WrappedAek>,
    /// The public half of the KEK where that is RSA. Records from before there were such have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public_key: Option<PinnedKey>,
    /// What writes are sealed under that wait for the key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) buffer: BufferMode,
}

fn is_default(buffer: &BufferMode) -> bool {
    *buffer == BufferMode::default()
}

impl CustomerKey {
    /// Whether the wraps of the last epoch and the pinned public half are of one key.
    fn pin_fits(&self) -> bool {
        let wraps = self.epochs.last().map_or(&[][..], |aek| &aek.wraps);
        match &self.public_key {
            None => !wraps.iter().any(is_rsa),
            Some(pinned) => wraps.iter().any(|wrap| pinned.may_have_wrapped(wrap)),
        }
    }
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

/// An account's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountRecord {
    pub(crate) name: AccountName,
    pub(crate) id: AccountId,
    /// Time since the Unix epoch.
    pub(crate) created_at: Duration,
    /// The service AEKs of all epochs, oldest first.
    pub(crate) service: Vec<WrappedAek>,
    /// None for an account under the service's key.
    pub(crate) customer: Option<CustomerKey>,
}

impl AccountRecord {
    /// Whose key new blocks are sealed under.
    pub(crate) fn provider(&self) -> Provider {
        if self.customer.is_some() { Provider::Customer } else { Provider::Service }
    }

    /// What writes are sealed under that wait for the customer's key.
    pub(crate) fn buffer_mode(&self) -> Option<BufferMode> {
        self.customer.as_ref().map(|customer| customer.buffer)
    }

    /// What the keys of its write-only buffer are wrapped to, where it has one; or what is wrong with it.
    pub(crate) fn segment_kek(&self) -> Result<Option<SegmentKek>, &'static str> {
        let Some(customer) = self.customer.as_ref().filter(|of| of.buffer == BufferMode::WriteOnly) else {
            return Ok(None);
        };
        match &customer.public_key {
            Some(pinned) => {
                Ok(Some(SegmentKek { key_id: pinned.key_id.clone(), public: pinned.key.clone() }))
            }
            None => Err("it has a write-only buffer, and no public key to wrap to"),
        }
    }

    fn format(&self) -> u8 {
        match self.buffer_mode() {
            Some(BufferMode::WriteOnly) => FORMAT_WRITE_ONLY,
            _ => FORMAT,
        }
    }

    /// The bytes to store.
    pub(crate) fn seal(&self, key: &RecordKey) -> Result<Vec<u8>, EngineError> {
        let body = serde_json::to_vec(self).map_err(|e| self.bad(e))?;
        Ok([&[self.format()][..], &key.tag(&body), &body].concat())
    }

    fn bad(&self, reason: impl fmt::Display) -> EngineError {
        EngineError::BadRecord { account: self.name.clone(), reason: reason.to_string() }
    }
}

/// A record as it was read: not yet known to be genuine.
#[derive(Debug)]
pub(crate) struct UnverifiedRecord {
    tag: [u8; 32],
    body: Vec<u8>,
    record: AccountRecord,
}

impl UnverifiedRecord {
    /// Parses what is stored under `name`.
    pub(crate) fn parse(name: &AccountName, bytes: &[u8]) -> Result<Self, EngineError> {
        let bad = |reason: String| EngineError::BadRecord { account: name.clone(), reason };
        let format = match bytes.first() {
            Some(&format @ FORMAT..=FORMAT_WRITE_ONLY) => format,
            Some(&found) if found > FORMAT_WRITE_ONLY => {
                let supported = FORMAT_WRITE_ONLY;
                return Err(EngineError::NewerRecord { account: name.clone(), found, supported });
            }
            _ => return Err(bad("it is not an account record".into())),
        };
        let tag = bytes.get(1..TAG_END).and_then(|tag| tag.try_into().ok());
        let (Some(tag), Some(body)) = (tag, bytes.get(TAG_END..)) else {
            return Err(bad(format!("it has {} bytes and ends within its tag", bytes.len())));
        };
        let record: AccountRecord = serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
        if record.format() != format {
            return Err(bad(format!("it says that it has format {format}, and has {}", record.format())));
        }
        if record.name != *name {
            return Err(bad(format!("it is that of account {}", record.name)));
        }
        let scopes_fit = record
            .service
            .iter()
            .all(|w| w.scope.account == record.id && w.scope.provider == Provider::Service)
            && record
                .customer
                .iter()
                .flat_map(|c| &c.epochs)
                .all(|w| w.scope.account == record.id && w.scope.provider == Provider::Customer);
        if record.service.is_empty() || !scopes_fit {
            return Err(bad("it holds wraps of other keys".into()));
        }
        // Else a public half of the service's would be enough to make a service AEK, and so a record's tag.
        if record.service.iter().flat_map(|aek| &aek.wraps).any(is_rsa) {
            return Err(bad("its service key is wrapped under an RSA key, which anybody can do".into()));
        }
        if record.customer.as_ref().is_some_and(|customer| !customer.pin_fits()) {
            return Err(bad("its wraps and its pinned public key are not of one key".into()));
        }
        Ok(Self { tag, body: body.to_vec(), record })
    }

    /// The record unchecked: good for what needs no trust, such as the service's wraps. A forged one unwraps only if
    /// the service's vault made it for this account, which its check value tells.
    pub(crate) fn unverified(&self) -> &AccountRecord {
        &self.record
    }

    /// The record, if its tag is right.
    pub(crate) fn verify(self, key: &RecordKey) -> Result<AccountRecord, EngineError> {
        if key.verify(&self.body, &self.tag) {
            Ok(self.record)
        } else {
            Err(self.record.bad("its tag does not fit"))
        }
    }
}
