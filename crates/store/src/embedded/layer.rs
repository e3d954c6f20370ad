//! The file under an embedded store, as a trait, so that tests can put one there that fails.
//!
//! Guarantees of [`LockedFile`]: it is locked against every other handle and process for as long as it is
//! open; a read or write moves all bytes or fails. Not its job: what the bytes are.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
};

use crate::error::{StoreError, StoreErrorKind};

/// Positioned I/O on one file.
pub trait FileLayer: fmt::Debug + Send + Sync {
    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// The operating system's; `UnexpectedEof` when the file ends first.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// The operating system's; how much was written is unknown then.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns once everything that was written is durable.
    ///
    /// # Errors
    /// The operating system's; what is durable is unknown then, and stays so.
    fn sync(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn size(&self) -> io::Result<u64>;

    /// Drops what the operating system remembers of the file, so that reads come from the disk; what is not
    /// written yet stays. As well as it can: nobody counts on it.
    fn forget(&self) {}

    /// Gives up the lock. The file is not used afterwards.
    fn release(&self) {}
}

/// A file of the operating system, locked.
#[derive(Debug)]
pub(crate) struct LockedFile(File);

impl LockedFile {
    /// Opens the file at `path` for reading and writing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::from_io("opening the store's file", error).at(path);
        let meta = std::fs::metadata(path).map_err(failed)?;
        if !meta.is_file() {
            return Err(StoreError::new(StoreErrorKind::NotAStore).with_detail("it is not a file").at(path));
        }
        // To root every file is writable, but somebody marked this one as not to be written.
        if meta.permissions().readonly() {
            return Err(StoreError::new(StoreErrorKind::ReadOnly)
                .with_detail("the file's permissions are read-only")
                .at(path));
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        Self::lock(file, path)
    }

    /// Locks a file that is open for reading and writing.
    pub(crate) fn lock(file: File, path: &Path) -> Result<Self, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::new(StoreErrorKind::Locked).at(path)),
            Err(TryLockError::Error(error)) => {
                Err(StoreError::from_io("locking the store's file", error).at(path))
            }
        }
    }
}

impl FileLayer for LockedFile {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, out, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, data, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.0, out, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    out = &mut out[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(&self.0, data, offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => {
                    data = &data[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    #[cfg(target_os = "linux")]
    fn forget(&self) {
        // After a failed sync Linux takes pages that were never written for clean ones.
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn release(&self) {
        // Closing the file releases it as well; this is for a handle that can't be closed.
        let _ = self.0.unlock();
    }
}
