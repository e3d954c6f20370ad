//! What can go wrong with a local vault, and what to do about it.

use std::{io, path::PathBuf, time::Duration};

use cofferdam_crypto::{EntropyError, KeyId, rsa::RsaError};
use thiserror::Error;

use crate::{KeyKind, VaultError, VaultErrorKind, WorkLost};

/// Why a local vault was not made, opened or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalVaultError {
    /// The file is something else.
    #[error("{path} is not a local vault: give the path of a vault's file")]
    NotAVault {
        /// The file.
        path: PathBuf,
    },
    /// The file is cut short, changed, or was never whole.
    #[error("the vault {path} is damaged ({what}): restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        what: &'static str,
    },
    /// The file is of a later version of the format.
    #[error(
        "the vault {path} has format version {found}, this program knows {supported}: use a newer program"
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: u64,
        /// The latest that is known.
        supported: u64,
    },
    /// The passphrase is not the vault's.
    #[error("this is not the passphrase of the vault {path}: try again")]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// The vault has a passphrase and none was given.
    #[error("the vault {path} is protected: give its passphrase")]
    PassphraseMissing {
        /// The file.
        path: PathBuf,
    },
    /// A passphrase was given and the vault has none: perhaps it is not the vault that was meant.
    #[error(
        "the vault {path} has no passphrase, but one was given: leave it out if this is the vault you mean"
    )]
    PassphraseNotNeeded {
        /// The file.
        path: PathBuf,
    },
    /// A passphrase has no characters.
    #[error("the passphrase is empty: give one of a few words, or none for an unprotected vault")]
    EmptyPassphrase,
    /// A passphrase is to cost less or more than is allowed.
    #[error("the passphrase's cost is out of bounds ({what})")]
    BadCost {
        /// Which bound.
        what: &'static str,
    },
    /// Another vault has taken the file's place since it was opened.
    #[error(
        "another vault has taken the place of {path} since it was opened: open it again if you mean it to"
    )]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// The file is older than what was read before.
    #[error(
        "the vault {path} went back from generation {seen} to {found}: open it again if a backup was restored"
    )]
    RolledBack {
        /// The file.
        path: PathBuf,
        /// The generation that was read before.
        seen: u64,
        /// The file's now.
        found: u64,
    },
    /// There is a file already.
    #[error("{path} exists already: open it, or choose another path")]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has held the lock for too long.
    #[error("the vault's lock {path} is held by another process: try again, or see whether that one hangs")]
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
    /// The vault would outgrow what is read back.
    #[error("the vault {path} would have {len} bytes, the most is {max}: purge keys that are not needed")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes it would have.
        len: usize,
        /// The most.
        max: usize,
    },
    /// A name has characters that are not allowed, none, or too many.
    #[error("{name:?} can't name a {what}: use 1 to 127 letters (a-z, A-Z), digits and hyphens")]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// The name, cut short where it is long.
        name: String,
    },
    /// A key of a kind that other vaults have was asked for.
    #[error("a local vault makes no key of kind {kind}: use aes-256, rsa-2048, rsa-3072 or rsa-4096")]
    KindOfOthers {
        /// The kind.
        kind: KeyKind,
    },
    /// A key id is not one of this vault.
    #[error("{key_id} is not a key of the local vault {vault}: {why}")]
    BadKeyId {
        /// The key id.
        key_id: KeyId,
        /// The vault's name.
        vault: String,
        /// What is wrong with it, and what one looks like.
        why: &'static str,
    },
    /// There is a key of that name, perhaps a deleted one.
    #[error(
        "the key {key_id} exists already: make a new version of it, or recover or purge it if it is deleted"
    )]
    KeyExists {
        /// The key.
        key_id: KeyId,
    },
    /// There is no such key or version.
    #[error("there is no key {key_id}: list the vault's keys")]
    KeyNotFound {
        /// The key.
        key_id: KeyId,
    },
    /// The key or version is deleted.
    #[error("the key {key_id} is deleted: recover it first")]
    KeyDeleted {
        /// The key.
        key_id: KeyId,
    },
    /// The key or version is not deleted.
    #[error("the key {key_id} is not deleted: only a deleted key can be recovered or purged")]
    NotDeleted {
        /// The key.
        key_id: KeyId,
    },
    /// The key can't be purged yet.
    #[error("the key {key_id} is under purge protection for another {}: purge it then, or recover it", days(.left))]
    PurgeProtected {
        /// The key.
        key_id: KeyId,
        /// How long the protection lasts.
        left: Duration,
    },
    /// A file could not be read or written.
    #[error("can't {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There were no random bytes for a key, a version, a salt or a nonce; nothing was changed.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// An RSA key could not be made or used.
    #[error(transparent)]
    Rsa(#[from] RsaError),
    /// Something that can't be.
    #[error("{what}: this is a defect, please report it")]
    Defect {
        /// What was found.
        what: &'static str,
    },
    /// The work could not be run.
    #[error(transparent)]
    Lost(#[from] WorkLost),
}

impl LocalVaultError {
    /// What it means when a vault that serves answers so. Only a vault's own word on a key is a denial:
    /// everything that is wrong with its file is an outage.
    pub(super) fn kind(&self) -> VaultErrorKind {
        match self {
            Self::KeyNotFound { .. } | Self::KeyDeleted { .. } => VaultErrorKind::KeyNotFound,
            Self::Io { .. } | Self::Locked { .. } | Self::Entropy(_) | Self::Lost(_) => {
                VaultErrorKind::Unavailable
            }
            _ => VaultErrorKind::Other,
        }
    }

    pub(super) fn into_vault_error(self, key_id: &KeyId) -> VaultError {
        // A vault's error names its key at the end.
        let message = match &self {
            Self::KeyNotFound { .. } => "there is no such key: list the vault's keys".into(),
            Self::BadKeyId { vault, why, .. } => format!("not a key of the local vault {vault}: {why}"),
            _ => self.to_string(),
        };
        VaultError::new(self.kind(), message).about(key_id).caused_by(self)
    }
}

fn days(time: &Duration) -> String {
    match time.as_secs() / (24 * 60 * 60) {
        0 => "day at most".into(),
        _ => format!("{} days", time.as_secs().div_ceil(24 * 60 * 60)),
    }
}
