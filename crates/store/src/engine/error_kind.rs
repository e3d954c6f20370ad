//! What an error asks of its reader.

use cofferdam_keyring::RecordError;
use cofferdam_vault::{Meaning, VaultErrorKind};

use super::{EngineError, RefusedKek};
use crate::{StoreError, StoreErrorKind};

/// What an error asks of its reader: coarser than [`EngineError`], and stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineErrorKind {
    /// The key's owner must restore access.
    Revoked,
    /// Wait, or mend the way to the vault.
    Unavailable,
    /// Restore from a copy.
    Corrupt,
    /// There is no such thing.
    NotFound,
    /// Ask otherwise.
    Invalid,
    /// The store, the machine or this process: the message says what.
    Other,
}

impl EngineError {
    /// What it asks of its reader.
    pub fn kind(&self) -> EngineErrorKind {
        use EngineErrorKind as Kind;
        match self {
            Self::KeyRevoked { .. } => Kind::Revoked,
            Self::KeyUnavailable { .. } | Self::BufferFull { .. } => Kind::Unavailable,
            Self::Vault { source, .. } => match (source.kind(), source.kind().meaning()) {
                (VaultErrorKind::KeyNotFound, _) => Kind::NotFound,
                // Not an answer that waiting mends: a key id of another vault, say.
                (VaultErrorKind::Other, _) => Kind::Other,
                (_, Meaning::Denial | Meaning::UnconfirmedDenial) => Kind::Revoked,
                (_, Meaning::Outage) => Kind::Unavailable,
            },
            Self::Record { source, .. } => match &**source {
                RecordError::Storage(e) => match (e.downcast_ref::<Self>(), e.downcast_ref::<StoreError>()) {
                    (Some(e), _) => e.kind(),
                    (_, Some(e)) if e.kind() == StoreErrorKind::Corrupt => Kind::Corrupt,
                    _ => Kind::Other,
                },
                RecordError::Tampered(_) => Kind::Corrupt,
                _ => Kind::Other,
            },
            Self::Damaged { .. } | Self::BadRecord { .. } => Kind::Corrupt,
            Self::Archive(e) if e.is_damage() => Kind::Corrupt,
            Self::NotImportable { refused, .. } => {
                let meanings = || refused.iter().filter_map(RefusedKek::meaning);
                // What passes by itself, first.
                if meanings().any(|meaning| meaning == Meaning::Outage) {
                    Kind::Unavailable
                } else if meanings().next().is_some() {
                    Kind::Revoked
                } else {
                    Kind::Invalid
                }
            }
            Self::Store(e) if e.kind() == StoreErrorKind::Corrupt => Kind::Corrupt,
            Self::NoAccount { .. }
            | Self::NoBlock { .. }
            | Self::NoOperation { .. }
            | Self::NoArchive { .. } => Kind::NotFound,
            Self::OldKek { source, .. } => match source.kind().meaning() {
                Meaning::Denial | Meaning::UnconfirmedDenial => Kind::Revoked,
                Meaning::Outage => Kind::Unavailable,
            },
            Self::AccountExists { .. }
            | Self::BadAccountName { .. }
            | Self::BlockTooLarge { .. }
            | Self::BatchTooLarge { .. }
            | Self::Range { .. }
            | Self::BadSetting { .. }
            | Self::UnfitKek { .. }
            | Self::NoWriteOnly { .. }
            | Self::AccountDeleted { .. }
            | Self::NotDeleted { .. }
            | Self::PurgeProtected { .. }
            | Self::NotLinked { .. }
            | Self::AlreadyLinked { .. }
            | Self::Undrained { .. }
            | Self::NoSuchKek { .. }
            | Self::KekInUse { .. }
            | Self::TooManyKeks { .. }
            | Self::LastKek { .. }
            | Self::OperationRunning { .. }
            | Self::AccountIdExists { .. }
            | Self::ImportRunning { .. }
            | Self::StrayBlocks { .. }
            | Self::NoVault { .. } => Kind::Invalid,
            Self::NewerRecord { .. }
            | Self::Entropy(_)
            | Self::Receipt(_)
            | Self::Seal(_)
            | Self::Segment { .. }
            | Self::WorkLost(_)
            | Self::Archive(_)
            | Self::Store(_)
            | Self::Closed => Kind::Other,
        }
    }
}
