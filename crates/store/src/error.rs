//! What a store says when it can't do what it was asked.
//!
//! Guarantees: one [`StoreErrorKind`] for each thing that a caller can do about it; the message says what was
//! wrong, with what, and what to do. Never holds a secret or a block's bytes.
//!
//! Not its job: what a failure means for a key or an account: that is the engine's.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

/// What failed, coarsely: what decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Another handle or process has the store open.
    Locked,
    /// There is no store at this place.
    NotFound,
    /// There is something at this place already.
    AlreadyExists,
    /// What is at this place is not a store.
    NotAStore,
    /// The store was written by a newer version of this library.
    NewerFormat {
        /// The store's format.
        found: u32,
        /// The newest format that this library reads.
        supported: u32,
    },
    /// The store can't be written: permission, or a file system that is mounted read-only.
    ReadOnly,
    /// The disk or the quota is full.
    Full,
    /// What was read is not what was written.
    Corrupt,
    /// An earlier failure left it unknown what is on disk, so the handle refuses everything.
    Poisoned,
    /// Somebody else changed it first.
    Conflict,
    /// It is larger than the store takes.
    TooLarge,
    /// The account's fallback buffer holds as much as it may, or has held something for as long as it may.
    BufferFull,
    /// A range lies outside of the block or runs backwards.
    OutOfBounds,
    /// The operation contradicts itself.
    Invalid,
    /// The store can't do what is needed of it.
    Unsupported,
    /// The handle was closed.
    Closed,
    /// The operating system failed in some other way.
    Io,
}

impl StoreErrorKind {
    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Locked => "close the other handle or end the other process",
            Self::NotFound => "check the path, or create the store first",
            Self::AlreadyExists => "open it, or choose another path",
            Self::NotAStore => "check the path: nothing was changed",
            Self::NewerFormat { .. } => "update this program: nothing was changed",
            Self::ReadOnly => "grant write access: the store is locked and recovered by writing to it",
            Self::Full => "free space or raise the quota, then try again",
            Self::Corrupt => "restore it from a copy: what was not damaged still reads",
            Self::Poisoned => {
                "check the disk and its free space, then close the handle and open the store again"
            }
            Self::Conflict => "load it again and decide anew",
            Self::TooLarge => "split it",
            Self::BufferFull => "mend the way to the account's vault, or raise the bounds of the buffer",
            Self::OutOfBounds => "keep the range within the block",
            Self::Invalid => "mend the caller's code",
            Self::Unsupported => "take another store, or set this one up for it",
            Self::Closed => "open the store again",
            Self::Io => "look at the cause, then try again",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Locked => "the store is in use",
            Self::NotFound => "no store was found",
            Self::AlreadyExists => "something is there already",
            Self::NotAStore => "this is not a store",
            Self::NewerFormat { .. } => "the store has a newer format",
            Self::ReadOnly => "the store can't be written",
            Self::Full => "the disk or quota is full",
            Self::Corrupt => "the store is damaged",
            Self::Poisoned => "the store's handle failed earlier",
            Self::Conflict => "it was changed meanwhile",
            Self::TooLarge => "it is too large",
            Self::BufferFull => "the account's buffer takes no more",
            Self::OutOfBounds => "the range is out of bounds",
            Self::Invalid => "the operation contradicts itself",
            Self::Unsupported => "the store can't do what is needed",
            Self::Closed => "the store was closed",
            Self::Io => "an operation of the store failed",
        }
    }
}

/// A failure of a [`BlockStore`](crate::BlockStore) or a [`Catalog`](crate::Catalog).
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    detail: Option<Box<str>>,
    path: Option<Box<Path>>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// A failure of this kind, for a store to report.
    pub fn new(kind: StoreErrorKind) -> Self {
        Self { kind, detail: None, path: None, source: None }
    }

    /// Says more on what was wrong; never a secret.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into().into());
        self
    }

    /// Names the file.
    #[must_use]
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into().into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The failure that an operating system's error is; `doing` names the operation.
    pub fn from_io(doing: &str, error: io::Error) -> Self {
        Self::new(io_kind(&error)).with_detail(doing).caused_by(error)
    }

    /// What decides what to do.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The file it is about, where there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The same failure, to tell everybody whose writes shared a commit; the cause becomes part of the text.
    pub(crate) fn duplicate(&self) -> Self {
        let detail = match (&self.detail, &self.source) {
            (Some(detail), Some(source)) => Some(format!("{detail}: {source}").into()),
            (None, Some(source)) => Some(source.to_string().into()),
            (detail, None) => detail.clone(),
        };
        Self { kind: self.kind, detail, path: self.path.clone(), source: None }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.title())?;
        if let StoreErrorKind::NewerFormat { found, supported } = self.kind {
            write!(f, " ({found}, this program reads up to {supported})")?;
        }
        if let Some(path) = &self.path {
            write!(f, " ({})", path.display())?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        write!(f, "; {}", self.kind.advice())
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// The kind of an operating system's error.
pub(crate) fn io_kind(error: &io::Error) -> StoreErrorKind {
    use io::ErrorKind as E;
    match error.kind() {
        E::StorageFull | E::QuotaExceeded => StoreErrorKind::Full,
        E::ReadOnlyFilesystem | E::PermissionDenied => StoreErrorKind::ReadOnly,
        E::NotFound => StoreErrorKind::NotFound,
        E::AlreadyExists => StoreErrorKind::AlreadyExists,
        E::InvalidData | E::UnexpectedEof => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_with_what_and_what_to_do() {
        let error =
            StoreError::new(StoreErrorKind::NewerFormat { found: 9, supported: 1 }).at("/srv/a.store");
        assert_eq!(
            error.to_string(),
            "the store has a newer format (9, this program reads up to 1) (/srv/a.store); \
             update this program: nothing was changed"
        );
    }

    #[test]
    fn a_full_disk_and_a_full_quota_are_the_same_to_a_caller() {
        for code in [28, 122] {
            let error = StoreError::from_io("writing", io::Error::from_raw_os_error(code));
            assert_eq!(error.kind(), StoreErrorKind::Full);
            assert!(error.source().is_some());
        }
    }
}
