//! What stands behind the server: a store of keys that wraps and unwraps.
//!
//! Guarantees for who calls it: one call is one decision. A wrap or unwrap looks at the key's state and uses it at one
//! moment, a change is made as a whole or not at all. Not its job: who may ask, and how an answer is written.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{
    kw::Kek,
    rsa::{RsaKek, RsaPublicKey},
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{KeyKind, KeyOperation, Recovery};

/// A store of keys that can be served. [`LocalVault`](crate::LocalVault) is one.
///
/// A version left out means the newest that is not deleted; a key is deleted when all its versions are.
#[async_trait]
pub trait KeyStoreBackend: fmt::Debug + Send + Sync {
    /// Its name, as it is told to who may not use it.
    fn name(&self) -> &str;

    /// Every key, deleted ones too.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    async fn keys(&self) -> Result<Vec<StoredKey>, BackendError>;

    /// One key, deleted or not.
    ///
    /// # Errors
    /// [`BackendError::NotFound`], [`BackendError::Unavailable`].
    async fn key(&self, name: &str) -> Result<StoredKey, BackendError>;

    /// Makes a key, or a new version of the key of this name. Answers with the version.
    ///
    /// # Errors
    /// [`BackendError::Deleted`] where the name is a deleted key's, [`BackendError::OtherKind`],
    /// [`BackendError::Unsupported`], [`BackendError::Unavailable`].
    async fn create(&self, name: &str, new: NewKey) -> Result<(StoredKey, String), BackendError>;

    /// Changes what is said of a version. Answers with the version.
    ///
    /// # Errors
    /// [`BackendError::NotFound`], [`BackendError::Deleted`], [`BackendError::Unavailable`].
    async fn update(
        &self,
        name: &str,
        version: Option<&str>,
        change: KeyChange,
    ) -> Result<(StoredKey, String), BackendError>;

    /// Deletes a key with all its versions. Answers with what it was.
    ///
    /// # Errors
    /// [`BackendError::NotFound`], [`BackendError::Deleted`], [`BackendError::Unavailable`].
    async fn delete(&self, name: &str) -> Result<StoredKey, BackendError>;

    /// Recovers a deleted key.
    ///
    /// # Errors
    /// [`BackendError::NotFound`], [`BackendError::NotDeleted`], [`BackendError::Unavailable`].
    async fn recover(&self, name: &str) -> Result<StoredKey, BackendError>;

    /// Destroys a deleted key.
    ///
    /// # Errors
    /// [`BackendError::NotFound`], [`BackendError::NotDeleted`], [`BackendError::PurgeProtected`],
    /// [`BackendError::Unavailable`].
    async fn purge(&self, name: &str) -> Result<(), BackendError>;

    /// Wraps a key of any kind. Answers with the version that wrapped it, too.
    ///
    /// # Errors
    /// [`BackendError`] of the key's state; [`BackendError::Value`] when it can't be wrapped.
    async fn wrap(
        &self,
        name: &str,
        version: Option<&str>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<(String, Vec<u8>), BackendError>;

    /// Unwraps a key. Its dates do not matter: what was wrapped must come back.
    ///
    /// # Errors
    /// [`BackendError`] of the key's state; [`BackendError::Value`] when it was not wrapped by that version.
    async fn unwrap(
        &self,
        name: &str,
        version: Option<&str>,
        wrapped: Vec<u8>,
    ) -> Result<(String, Zeroizing<Vec<u8>>), BackendError>;
}

/// A key as its store tells it.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// Its name.
    pub name: String,
    /// Its kind; all its versions are of that one.
    pub kind: KeyKind,
    /// What becomes of it when it is deleted.
    pub recovery: Recovery,
    /// Its versions, oldest first; never none.
    pub versions: Vec<StoredVersion>,
}

/// A version of a key. Times are since the Unix epoch.
#[derive(Clone, Debug)]
pub struct StoredVersion {
    /// Its name: 32 lower-case hex digits.
    pub version: String,
    /// The public half, where it is an RSA key.
    pub public: Option<RsaPublicKey>,
    /// Whether it may be used.
    pub enabled: bool,
    /// When it was made.
    pub created: Duration,
    /// Before when it does not wrap.
    pub not_before: Option<Duration>,
    /// From when it does not wrap.
    pub expires: Option<Duration>,
    /// When it was deleted, if it is.
    pub deleted: Option<Duration>,
    /// What else is kept of it, for who asks.
    pub details: KeyDetails,
}

/// What a store keeps of a version for those whom it is served to. No use of the key looks at the tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDetails {
    /// When it was last changed, since the Unix epoch.
    pub updated: Duration,
    /// Whether it was asked for as a key of a hardware module (`RSA-HSM`). It is in none.
    pub hsm: bool,
    /// What it may be used for.
    pub operations: Vec<KeyOperation>,
    /// Names and values that the user gave it.
    pub tags: BTreeMap<String, String>,
}

/// A key to be made.
#[derive(Debug)]
pub struct NewKey {
    /// Where it comes from.
    pub material: NewMaterial,
    /// Whether it is asked for as a key of a hardware module.
    pub hsm: bool,
    /// What becomes of it when it is deleted, where it is the first version.
    pub recovery: Recovery,
    /// What else is said of it.
    pub said: KeyChange,
}

/// Where a new key comes from.
#[derive(Debug)]
pub enum NewMaterial {
    /// The store makes it.
    Draw(KeyKind),
    /// An AES key that was brought.
    Aes(Kek),
    /// An RSA key that was brought.
    Rsa(RsaKek),
}

impl NewMaterial {
    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        match self {
            Self::Draw(kind) => *kind,
            Self::Aes(_) => KeyKind::Aes256,
            Self::Rsa(kek) => KeyKind::Rsa(kek.public_key().size()),
        }
    }
}

/// What is to be said of a version: what is None stays as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// Whether it may be used.
    pub enabled: Option<bool>,
    /// Before when it does not wrap.
    pub not_before: Option<Duration>,
    /// From when it does not wrap.
    pub expires: Option<Duration>,
    /// What it may be used for.
    pub operations: Option<Vec<KeyOperation>>,
    /// Its tags, all of them.
    pub tags: Option<BTreeMap<String, String>>,
}

impl StoredKey {
    /// The newest version that is not deleted; where all are, the newest.
    pub fn latest(&self) -> Option<&StoredVersion> {
        self.versions.iter().rfind(|v| v.deleted.is_none()).or(self.versions.last())
    }

    /// The version of this name, or the latest.
    pub fn version(&self, version: Option<&str>) -> Option<&StoredVersion> {
        match version {
            None => self.latest(),
            Some(version) => self.versions.iter().find(|v| v.version == version),
        }
    }

    /// When it was deleted, if it is: when the last of its versions was.
    pub fn deleted(&self) -> Option<Duration> {
        let deleted: Option<Vec<_>> = self.versions.iter().map(|v| v.deleted).collect();
        deleted?.into_iter().max()
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackendError {
    /// There is no such key or version.
    #[error("there is no such key")]
    NotFound,
    /// The key is deleted.
    #[error("the key is deleted: recover or purge it")]
    Deleted,
    /// The key is not deleted.
    #[error("the key is not deleted")]
    NotDeleted,
    /// The version is disabled.
    #[error("the key is disabled: enable it")]
    Disabled,
    /// The version's time is over.
    #[error("the key has expired: set a later expiry")]
    Expired,
    /// The version's time has not come.
    #[error("the key is not yet valid: wait, or set an earlier time")]
    NotYetValid,
    /// The version is not for that.
    #[error("the key is not for that operation: change its operations")]
    NotPermitted,
    /// The key can't be purged yet.
    #[error("the key is under purge protection")]
    PurgeProtected,
    /// A key's versions are all of one kind here.
    #[error("the key is {has}, and all its versions are: choose another name")]
    OtherKind {
        /// What it is.
        has: KeyKind,
    },
    /// What was given can't be wrapped, or was not wrapped by that version.
    #[error("{what}")]
    Value {
        /// What is wrong with it.
        what: String,
    },
    /// What was asked for is not done here.
    #[error("{what}")]
    Unsupported {
        /// What, and what to do instead.
        what: String,
    },
    /// The store can't be used now, or something is wrong with it.
    #[error("the store of keys can't be used now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
