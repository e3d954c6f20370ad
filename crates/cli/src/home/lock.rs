//! Who has a home's store open.
//!
//! Guarantees: one process at a time, by an advisory lock that ends with the process however it ends. The
//! pid in the file is for people; only the lock counts.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use crate::error::CliError;

const NAME: &str = "lock";

/// The lock of a home, held until it is dropped.
#[derive(Debug)]
pub(crate) struct HomeLock {
    _file: File,
}

impl HomeLock {
    /// Takes the lock without waiting.
    pub(super) fn acquire(home: &Path) -> Result<Self, CliError> {
        let path = home.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| CliError::writing("lock", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CliError::Locked { path: home.into(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(e)) => return Err(CliError::writing("lock", &path, e)),
        }
        // Without it the message to others is poorer, no more: on a full disk reading must still work.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
