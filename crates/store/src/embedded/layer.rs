//! The file under an embedded store, as a trait, so that tests can put one there that fails.
//!
//! Guarantees of [`LockedFile`]: it is locked against every other handle and process for as long as it is
//! open; a read or write moves all bytes or fails; the file that takes its place is locked before it does, and has its
//! owner and permissions. Not its job: what the bytes are.

use std::{
    ffi::OsString,
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
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

    /// A new empty file, in this one's care until it takes this one's place by [`Self::replace`]. One that was made before
    /// is removed.
    ///
    /// # Errors
    /// The operating system's; `Unsupported` where there can be no other file, so that the store can't be compacted.
    fn beside(&self) -> io::Result<Arc<dyn FileLayer>>;

    /// Gives this one's place to the file that [`Self::beside`] made, whole or not at all: who opens the store from now on
    /// finds that one. This one is not used afterwards.
    ///
    /// # Errors
    /// The operating system's; this one has its place still then.
    fn replace(&self) -> io::Result<()>;

    /// Returns once it is durable which file has the place. Until then a crash may leave the one there or the other.
    ///
    /// # Errors
    /// The operating system's; which of them a crash leaves is unknown then.
    fn sync_place(&self) -> io::Result<()>;

    /// Removes a file that [`Self::beside`] made, in this process or in one that ended, and that took no place.
    ///
    /// # Errors
    /// The operating system's.
    fn clear_beside(&self) -> io::Result<()>;
}

/// A file of the operating system, locked.
#[derive(Debug)]
pub(crate) struct LockedFile {
    file: File,
    /// Where it lies or will lie, whatever becomes of the working directory.
    place: PathBuf,
}

/// How often a file is opened that was replaced before it could be locked.
const TRIES: usize = 100;

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
        for _ in 0..TRIES {
            let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
            let locked = Self::lock(file, path)?;
            // Whoever had it locked may have put another one in its place.
            if locked.is_in_place().map_err(failed)? {
                return Ok(locked);
            }
        }
        Err(StoreError::new(StoreErrorKind::Locked).with_detail("it is replaced all the time").at(path))
    }

    /// Locks a file that is open for reading and writing, and that lies at `path` or will.
    pub(crate) fn lock(file: File, path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::from_io("locking the store's file", error).at(path);
        match file.try_lock() {
            Ok(()) => Ok(Self { file, place: resolved(path).map_err(failed)? }),
            Err(TryLockError::WouldBlock) => Err(StoreError::new(StoreErrorKind::Locked).at(path)),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    #[cfg(unix)]
    fn is_in_place(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let (own, there) = (self.file.metadata()?, std::fs::metadata(&self.place)?);
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    }

    /// Elsewhere that can't be told: who opens a store in the moment of its compaction may find one that is gone.
    #[cfg(not(unix))]
    fn is_in_place(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn path_beside(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.place.file_name().unwrap_or_default());
        name.push(".compacting");
        self.place.with_file_name(name)
    }

    /// Who may use the other file is who may use this one.
    fn share_with(&self, other: &File) -> io::Result<()> {
        let own = self.file.metadata()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let new = other.metadata()?;
            if (own.uid(), own.gid()) != (new.uid(), new.gid()) {
                std::os::unix::fs::fchown(other, Some(own.uid()), Some(own.gid()))?;
            }
        }
        other.set_permissions(own.permissions())
    }
}

/// The path without links, so that a link to the file is not what is replaced. The file itself may not be there yet.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(error)?;
            Ok(folder_of(path).canonicalize()?.join(name))
        }
        resolved => resolved,
    }
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder can't be synced; the system does so itself.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

impl FileLayer for LockedFile {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, data, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, out, offset)? {
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
            match std::os::windows::fs::FileExt::seek_write(&self.file, data, offset)? {
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
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(target_os = "linux")]
    fn forget(&self) {
        // After a failed sync Linux takes pages that were never written for clean ones.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn release(&self) {
        // Closing the file releases it as well; this is for a handle that can't be closed.
        let _ = self.file.unlock();
    }

    fn beside(&self) -> io::Result<Arc<dyn FileLayer>> {
        let path = self.path_beside();
        remove_if_there(&path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        file.try_lock()?;
        self.share_with(&file)?;
        Ok(Arc::new(Self { file, place: self.place.clone() }))
    }

    fn replace(&self) -> io::Result<()> {
        std::fs::rename(self.path_beside(), &self.place)
    }

    fn sync_place(&self) -> io::Result<()> {
        sync_folder(folder_of(&self.place))
    }

    fn clear_beside(&self) -> io::Result<()> {
        remove_if_there(&self.path_beside())
    }
}
