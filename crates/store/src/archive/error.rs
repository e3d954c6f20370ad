//! What is wrong with an archive, and what to do about it.

use std::io;

use cofferdam_crypto::{Epoch, ProviderKind};
use thiserror::Error;

/// Why an archive is not read, or could not be written. Nothing of it was used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is something else.
    #[error("this is not an archive of an account: choose another file")]
    NotAnArchive,
    /// It is of a later format.
    #[error("the archive has format {found}, this version reads format {supported}: use a newer one")]
    Newer {
        /// Its format.
        found: u8,
        /// The newest that is known.
        supported: u8,
    },
    /// It ends too early.
    #[error("the archive ends at byte {at}, within {what}: it was cut off, take another copy of it")]
    Truncated {
        /// How long it is.
        at: u64,
        /// Within what.
        what: String,
    },
    /// Something in it is not what was written.
    #[error("the archive is damaged at byte {at}, in {what}: {reason}; take another copy of it")]
    Damaged {
        /// Where the record begins.
        at: u64,
        /// Which record.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A record is where another should be: some were left out, repeated or moved.
    #[error(
        "the archive has record {found} where record {expected} should be, at byte {at}: records were left out, \
         repeated or moved; take another copy of it"
    )]
    OutOfOrder {
        /// Where.
        at: u64,
        /// The number it should have.
        expected: u64,
        /// The number it has.
        found: u64,
    },
    /// A part of it is larger than may be.
    #[error("{what} in the archive, at byte {at}, has {len} bytes, and the most here is {max}; {advice}")]
    TooLarge {
        /// Where the record begins.
        at: u64,
        /// Which part.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The most.
        max: u64,
        /// What to do.
        advice: &'static str,
    },
    /// There is more after its end.
    #[error("the archive ends at byte {at} and the file does not: it was added to, take another copy of it")]
    Trailing {
        /// Where it ends.
        at: u64,
    },
    /// Its records are whole, and not those that its end was written for.
    #[error("the archive's records are not those that its end was written for: take another copy of it")]
    WrongHash,
    /// The account's key did not make its tag.
    #[error(
        "the archive was not made with the account's key: its tag under the {provider} key of epoch {epoch} is wrong; \
         it was changed or forged, do not use it"
    )]
    Forged {
        /// Whose key.
        provider: ProviderKind,
        /// The epoch of it.
        epoch: Epoch,
    },
    /// It has no tag under the key that must have made it.
    #[error("the archive has no tag under the account's {provider} key of epoch {epoch}: do not use it")]
    NoTag {
        /// Whose key.
        provider: ProviderKind,
        /// The epoch of it.
        epoch: Epoch,
    },
    /// It was changed while it was read.
    #[error("the archive was changed while it was read: leave the file alone and import it again")]
    Changed,
    /// What was to be archived makes no archive.
    #[error("this makes no archive: {reason}")]
    Unfit {
        /// Why.
        reason: String,
    },
    /// The file could not be read or written.
    #[error("the archive could not be {doing}: {source}")]
    Io {
        /// Read or written.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl ArchiveError {
    /// Whether another copy of it is needed.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Truncated { .. }
            | Self::Damaged { .. }
            | Self::OutOfOrder { .. }
            | Self::Trailing { .. }
            | Self::WrongHash
            | Self::Forged { .. }
            | Self::NoTag { .. } => true,
            Self::NotAnArchive
            | Self::Newer { .. }
            | Self::TooLarge { .. }
            | Self::Changed
            | Self::Unfit { .. }
            | Self::Io { .. } => false,
        }
    }

    pub(crate) fn reading(source: io::Error) -> Self {
        Self::Io { doing: "read", source }
    }

    pub(crate) fn writing(source: io::Error) -> Self {
        Self::Io { doing: "written", source }
    }
}
