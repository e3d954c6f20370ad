//! A disk that fails on demand, for tests.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

/// What the disk of a hot cache still does; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct HotCacheFaults(Arc<Mutex<Limits>>);

#[derive(Debug, Default)]
struct Limits {
    room: Option<usize>,
    removals: Option<usize>,
}

impl HotCacheFaults {
    /// So many more bytes of blocks can be written, then the disk is full; `None`: any number.
    pub fn set_room(&self, bytes: Option<usize>) {
        self.limits(|limits| limits.room = bytes);
    }

    /// So many more files can be removed, then it fails; `None`: any number.
    pub fn set_removals(&self, files: Option<usize>) {
        self.limits(|limits| limits.removals = files);
    }

    pub(super) fn write(&self, len: usize) -> io::Result<()> {
        self.limits(|limits| take(&mut limits.room, len)).ok_or(io::ErrorKind::StorageFull.into())
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        self.limits(|limits| take(&mut limits.removals, 1)).ok_or_else(|| io::Error::other("made to fail"))
    }

    fn limits<T>(&self, with: impl FnOnce(&mut Limits) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn take(left: &mut Option<usize>, what: usize) -> Option<()> {
    if let Some(left) = left {
        *left = left.checked_sub(what)?;
    }
    Some(())
}
