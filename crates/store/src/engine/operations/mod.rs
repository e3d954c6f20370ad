//! Long changes of accounts: rotation, linking, deletion.
//!
//! Guarantees: an operation is a record before it is an act. It ends `Succeeded`, or `Failed` with the account as it was
//! before; a crash or a restart in between is gone on from, at whichever step it came. An account has at most one
//! operation that has not ended, in all engines that share its catalog. Each step can be done again.
//!
//! What an operation changes of an account's record it changes in one compare-and-swap. Whatever comes after that (other
//! engines take note, blocks are sealed anew, old keys are destroyed) can be late, not undone.
//!
//! Not its job: the steps themselves (`change`, `reencrypt`, `purge`), how other engines take note (`nodes`).

mod begin;
mod change;
mod handle;
mod purge;
mod reencrypt;
mod row;
mod runner;

use std::{fmt, str::FromStr, time::Duration};

use cofferdam_crypto::{AccountId, KeyId};
use cofferdam_vault::Principal;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

pub use begin::{LinkTo, Reencrypt};
pub use handle::OperationHandle;
pub(super) use row::OperationRows;
pub(super) use runner::Runner;

use super::{AccountName, BufferMode, EngineError};

/// Names an operation: 128 random bits, printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId([u8; 16]);

impl OperationId {
    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationId({self})")
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for OperationId {
    type Error = EngineError;

    fn try_from(text: String) -> Result<Self, EngineError> {
        text.parse()
    }
}

impl FromStr for OperationId {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| EngineError::NoOperation { operation: text.chars().take(64).collect() })
    }
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OperationKind {
    /// Wraps the account's AEKs under another KEK, or another version of it, in place of one.
    RotateKek {
        /// Whose vault the former one is in.
        of: Principal,
        /// The version that they are wrapped under before.
        from: KeyId,
        /// Whose vault the new one is in.
        principal: Principal,
        /// The new one: with a version, or without for the latest.
        to: KeyId,
    },
    /// Wraps them under one KEK more.
    AddKek {
        /// Whose vault it is in.
        principal: Principal,
        /// The KEK: with a version, or without for the latest.
        kek: KeyId,
    },
    /// Takes the wraps under one KEK away.
    RemoveKek {
        /// Whose vault it is in.
        principal: Principal,
        /// The version that they are wrapped under.
        kek: KeyId,
    },
    /// Starts a new epoch.
    RotateAek {
        /// Whether what is sealed under older ones is sealed anew, and those are destroyed.
        reencrypt: bool,
    },
    /// Moves the account from the service's key to a customer's.
    Link {
        /// Whose vault the KEK is in.
        principal: Principal,
        /// The KEK: with a version, or without for the latest.
        kek: KeyId,
        /// What writes are sealed under while that can't be had.
        buffer: BufferMode,
        /// Whether what is sealed under the service's key is sealed anew.
        reencrypt: bool,
    },
    /// Moves the account from its customer's key to the service's.
    Unlink {
        /// Whether what is sealed under the customer's key is sealed anew, and that is given up.
        reencrypt: bool,
    },
    /// Deletes the account, for now.
    Delete,
    /// Brings a deleted account back.
    Recover,
    /// Destroys the keys of a deleted account, then removes its blocks.
    Purge,
}

impl OperationKind {
    /// Its name, as it is printed.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RotateKek { .. } => "rotate-kek",
            Self::AddKek { .. } => "add-kek",
            Self::RemoveKek { .. } => "remove-kek",
            Self::RotateAek { .. } => "rotate-aek",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Delete => "delete",
            Self::Recover => "recover",
            Self::Purge => "purge",
        }
    }

    /// The steps, in order.
    fn steps(&self) -> &'static [Step] {
        use Step as S;
        match self {
            Self::RotateKek { .. } | Self::RemoveKek { .. } => &[S::Change, S::Announce, S::Segments],
            Self::RotateAek { reencrypt: true } | Self::Unlink { reencrypt: true } => {
                &[S::Change, S::Announce, S::Reencrypt, S::Retire, S::AnnounceRetired]
            }
            Self::Link { reencrypt: true, .. } => &[S::Change, S::Announce, S::Reencrypt],
            Self::Purge => &[S::Destroy, S::Announce, S::Remove, S::Compact],
            _ => &[S::Change, S::Announce],
        }
    }
}

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationStatus {
    /// The account is as it was; it can be cancelled.
    InProgress,
    /// The account's record is changed, and what follows from that is under way.
    Updating,
    /// The account is being deleted, or destroyed.
    Deleting,
    /// It is done.
    Succeeded,
    /// The account is as it was, and [`Operation::failure`] says why.
    Failed,
}

impl OperationStatus {
    /// Whether it has ended.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// Its name, as the reference spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::Updating => "Updating",
            Self::Deleting => "Deleting",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// A step of an operation. Each can be done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The account's record is changed, in one compare-and-swap.
    Change,
    /// Every engine that shares the catalog takes note of the change.
    Announce,
    /// The segments of a write-only buffer are wrapped anew.
    Segments,
    /// Blocks are sealed anew under the newest epoch.
    Reencrypt,
    /// The wraps of keys that nothing is sealed under any longer are destroyed.
    Retire,
    /// Every engine takes note of that.
    AnnounceRetired,
    /// The account's record is destroyed, with all its wraps.
    Destroy,
    /// Its blocks are removed.
    Remove,
    /// What was removed leaves the store's files.
    Compact,
}

impl Step {
    /// Its name, as it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Announce => "announce",
            Self::Segments => "segments",
            Self::Reencrypt => "reencrypt",
            Self::Retire => "retire",
            Self::AnnounceRetired => "announce-retired",
            Self::Destroy => "destroy",
            Self::Remove => "remove",
            Self::Compact => "compact",
        }
    }
}

/// How far an operation came, in blocks. `total` is what was there when it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Blocks that are done.
    pub done: u64,
    /// Of how many; 0 where there is nothing to count.
    pub total: u64,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationFailure {
    /// What kind of failure, in one word that does not change between versions.
    pub code: String,
    /// What was wrong, and what to do.
    pub message: String,
}

/// A long change of an account, as its record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// The account's name.
    pub account: AccountName,
    /// The account's id.
    pub account_id: AccountId,
    /// What it does.
    pub kind: OperationKind,
    /// How it stands.
    pub status: OperationStatus,
    /// The step that it is at, or ended at.
    pub step: Step,
    /// How far that came.
    #[serde(default)]
    pub progress: Progress,
    /// When it began, as time since the Unix epoch.
    pub started_at: Duration,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Duration>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<OperationFailure>,
    /// What keeps it from going on, while something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

impl Operation {
    /// Whether it can be cancelled: nothing is changed yet.
    pub fn is_cancellable(&self) -> bool {
        self.status == OperationStatus::InProgress
    }

    fn status_at(&self, step: Step) -> OperationStatus {
        match (&self.kind, step) {
            (OperationKind::Purge, _) => OperationStatus::Deleting,
            (_, Step::Change) => OperationStatus::InProgress,
            (OperationKind::Delete, _) => OperationStatus::Deleting,
            _ => OperationStatus::Updating,
        }
    }
}
