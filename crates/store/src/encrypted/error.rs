//! What an encrypted object store refuses, and how its users find that in an `object_store::Error`.

use cofferdam_crypto::{Epoch, IdError, SealError};
use object_store::{Error, path::Path};
use thiserror::Error;

use crate::{EngineError, EngineErrorKind};

/// What `object_store::Error` names as the store that failed.
pub(super) const STORE: &str = "EncryptedObjectStore";

/// Why an object was not sealed or opened: the source of the `object_store::Error`, where [`Self::of`] finds it.
///
/// [`Self::KeyRevoked`] comes in an `Error::PermissionDenied`, [`Self::Reserved`] in an `Error::NotSupported`, every other in
/// an `Error::Generic`. What the store below refuses comes as that said it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EncryptedError {
    /// The customer's vault denies the key: nothing is read and nothing is written until access is restored.
    #[error("{path}: {source}")]
    KeyRevoked {
        /// The object.
        path: Path,
        /// What the engine knows of it.
        source: Box<EngineError>,
    },
    /// The key's vault can't be reached, and the key is past its grace time. Nothing was kept: objects are not buffered.
    #[error("{path}: {source}")]
    KeyUnavailable {
        /// The object.
        path: Path,
        /// What the engine knows of it.
        source: Box<EngineError>,
    },
    /// The account can't be used: it is deleted, its record is damaged, the engine is closed, and the like.
    #[error("{path}: {source}")]
    Account {
        /// The object.
        path: Path,
        /// What the engine says.
        source: Box<EngineError>,
    },
    /// No account has this path.
    #[error("no account is set for {path}: give one for a prefix of it, or one for all paths")]
    NoAccount {
        /// The object.
        path: Path,
    },
    /// The object is not what was sealed for this path: damaged, moved, cut off or forged.
    #[error("{path} does not open: it is damaged, or not what was written there; restore it from a copy")]
    Damaged {
        /// The object.
        path: Path,
    },
    /// The object was not written through an encrypted store, or by a newer one.
    #[error("{path} can't be read as a sealed object: {reason}")]
    NotEncrypted {
        /// The object.
        path: Path,
        /// What of it is not as it should be.
        reason: String,
    },
    /// The account has no such key, or has it no longer.
    #[error(
        "{path} says that it is sealed under epoch {epoch}, which its account does not have: is it the right account?"
    )]
    UnknownEpoch {
        /// The object.
        path: Path,
        /// The epoch.
        epoch: Epoch,
    },
    /// Each time the object was looked at it was another.
    #[error(
        "{path} was replaced again and again while it was read: read it again when there is less writing"
    )]
    Replaced {
        /// The object.
        path: Path,
    },
    /// The path is the encrypted store's own.
    #[error("{path} is under .cofferdam/, which an encrypted store keeps for itself: choose another path")]
    Reserved {
        /// The path.
        path: Path,
    },
    /// No object can be sealed for this path.
    #[error("{path:?} can't be the path of a sealed object: {source}")]
    Unnameable {
        /// The path.
        path: Path,
        /// What is wrong with it.
        source: IdError,
    },
    /// The object could not be sealed: it is too long, or there was no randomness.
    #[error("{path} could not be sealed: {source}")]
    Seal {
        /// The object.
        path: Path,
        /// What failed.
        source: SealError,
    },
    /// An upload that failed or ended was to go on.
    #[error("the upload of {path} has failed or ended: begin it anew")]
    UploadEnded {
        /// The object.
        path: Path,
    },
    /// The store is marked as something else.
    #[error(
        "{path} is not the marker of an encrypted object store: {reason}; open it elsewhere, or remove what is there"
    )]
    NotOurs {
        /// The marker.
        path: Path,
        /// What of it is not as it should be.
        reason: String,
    },
    /// The store was made by a newer version.
    #[error("the store's marker has version {found}, this one reads up to {supported}: use a newer one")]
    Newer {
        /// Its version.
        found: u32,
        /// The newest that is known.
        supported: u32,
    },
    /// A setting is out of its range.
    #[error("{setting} is {given}: set it to {allowed}")]
    BadSetting {
        /// The setting.
        setting: &'static str,
        /// The value given.
        given: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl EncryptedError {
    /// What an encrypted store says in this error, if it is one of its.
    pub fn of(error: &Error) -> Option<&Self> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// What the engine says means this for an object.
    pub(super) fn key(path: &Path, source: EngineError) -> Self {
        let (path, source) = (path.clone(), Box::new(source));
        match source.kind() {
            EngineErrorKind::Revoked => Self::KeyRevoked { path, source },
            EngineErrorKind::Unavailable => Self::KeyUnavailable { path, source },
            _ => Self::Account { path, source },
        }
    }

    pub(super) fn damaged(path: &Path) -> Self {
        Self::Damaged { path: path.clone() }
    }
}

impl From<EncryptedError> for Error {
    fn from(e: EncryptedError) -> Self {
        match &e {
            EncryptedError::KeyRevoked { path, .. } => {
                Self::PermissionDenied { path: path.to_string(), source: e.into() }
            }
            EncryptedError::Reserved { .. } => Self::NotSupported { source: e.into() },
            _ => Self::Generic { store: STORE, source: e.into() },
        }
    }
}

/// An error of the store below that names a path of ours in place of the object's.
pub(super) fn renamed(mut error: Error, to: &Path) -> Error {
    match &mut error {
        Error::NotFound { path, .. }
        | Error::AlreadyExists { path, .. }
        | Error::Precondition { path, .. }
        | Error::NotModified { path, .. }
        | Error::PermissionDenied { path, .. }
        | Error::Unauthenticated { path, .. } => *path = to.to_string(),
        _ => {}
    }
    error
}
