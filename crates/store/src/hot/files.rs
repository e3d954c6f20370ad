//! The files of the cache: one for each block, in a folder for each account.
//!
//! Guarantees: what an account has on disk is one folder, which goes as a whole; a file is read only if it says that it is
//! of this account, block and version; a torn or half-written file is none. Files are the owner's alone to read.
//!
//! Not its job: to survive a power failure, or to notice a changed byte of a block: the block's own tags do that when it
//! is opened, and then it is read from the store.
//!
//! A file is magic (8 bytes), account (16), name (16), meta (38), then the block's sealed bytes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use cofferdam_crypto::AccountId;
use uuid::Uuid;

use super::tier::Key;
use crate::{
    BlockMeta, StoreError, StoreErrorKind,
    embedded::LockedFile,
    hot::{CacheUsage, HotCacheSettings},
};

const MAGIC: &[u8; 8] = b"cdhot\0\0\x01";
const LOCK: &str = "hot-cache.lock";
const HALF: &str = "new";

/// The length of what precedes a block in its file.
pub(super) const HEADER_LEN: usize = 8 + 16 + 16 + BlockMeta::LEN;

#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// Locked for as long as it is open.
    lock: Mutex<Option<LockedFile>>,
    #[cfg(any(test, feature = "testing"))]
    faults: super::HotCacheFaults,
}

/// A file that was found.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Which block it is of; `None` where it is not whole.
    pub(super) of: Option<(Key, BlockMeta)>,
}

impl Files {
    /// Takes the folder, making it if need be.
    ///
    /// # Errors
    /// `NotAStore` when it holds anything else; `Locked`; `ReadOnly`, `Full`, `Io`.
    pub(super) fn open(folder: &Path, settings: &HotCacheSettings) -> Result<Self, StoreError> {
        let failed = |error| StoreError::from_io("opening the hot cache's folder", error).at(folder);
        private_folders().recursive(true).create(folder).map_err(failed)?;
        let lock = folder.join(LOCK);
        if !lock.exists() && fs::read_dir(folder).map_err(failed)?.next().is_some() {
            let detail =
                "the folder of a hot cache holds nothing else, as what is not known there is removed";
            return Err(StoreError::new(StoreErrorKind::NotAStore).with_detail(detail).at(folder));
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock).map_err(failed)?;
        let lock = Mutex::new(Some(LockedFile::lock(file, &lock)?));
        #[cfg(not(any(test, feature = "testing")))]
        let _ = settings;
        Ok(Self {
            folder: folder.to_owned(),
            lock,
            #[cfg(any(test, feature = "testing"))]
            faults: settings.faults.clone(),
        })
    }

    /// Lets go of the folder.
    pub(super) fn release(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The accounts that have a folder.
    pub(super) fn accounts(&self) -> io::Result<Vec<AccountId>> {
        let mut accounts = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| Uuid::try_parse(name).ok());
            // Only a name that we would write is ours.
            accounts.extend(
                id.map(|id| AccountId::from_bytes(*id.as_bytes())).filter(|id| name == *id.to_string()),
            );
        }
        accounts.sort_unstable();
        Ok(accounts)
    }

    /// The files of an account.
    pub(super) fn of(&self, account: AccountId) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.home(account))? {
            let path = entry?.path();
            let of = probe(&path)
                .ok()
                .flatten()
                .filter(|(key, _)| key.account == account && path == self.path(key));
            all.push(Found { path, of });
        }
        all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }

    /// Writes a block's file, in place of an older one. It is there as a whole or not at all.
    pub(super) fn write(&self, key: &Key, meta: &BlockMeta, sealed: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let half = path.with_extension(HALF);
        let written = match self.write_half(&half, key, meta, sealed) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                private_folders().create(self.home(key.account))?;
                self.write_half(&half, key, meta, sealed)
            }
            written => written,
        };
        written.and_then(|()| fs::rename(&half, &path)).inspect_err(|_| {
            let _ = fs::remove_file(&half);
        })
    }

    fn write_half(&self, path: &Path, key: &Key, meta: &BlockMeta, sealed: &[u8]) -> io::Result<()> {
        let header = header(key, meta).ok_or(ErrorKind::InvalidInput)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(&header)?;
        #[cfg(any(test, feature = "testing"))]
        self.faults.write(sealed.len())?;
        file.write_all(sealed)
    }

    /// The whole of a block, or ranges of it; `None` where there is no file of exactly this version.
    pub(super) fn read(
        &self,
        key: &Key,
        meta: &BlockMeta,
        ranges: &[Range<u64>],
    ) -> io::Result<Option<Vec<Bytes>>> {
        let mut file = match File::open(self.path(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if probe_file(&mut file)?.is_none_or(|of| of != (*key, *meta)) {
            return Ok(None);
        }
        let part = |range: &Range<u64>| {
            let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
            let mut bytes = vec![0; len.ok_or(ErrorKind::InvalidInput)?];
            file.seek(SeekFrom::Start(HEADER_LEN as u64 + range.start))?;
            file.read_exact(&mut bytes)?;
            Ok(Bytes::from(bytes))
        };
        ranges.iter().map(part).collect::<io::Result<_>>().map(Some)
    }

    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        self.remove_file(&self.path(key))
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        self.faults.remove()?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes all that an account has, or as much as can be. What it was.
    pub(super) fn remove_account(&self, account: AccountId) -> io::Result<CacheUsage> {
        let home = self.home(account);
        let entries = match fs::read_dir(&home) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(CacheUsage::default()),
            entries => entries?,
        };
        let (mut gone, mut failed) = (CacheUsage::default(), None);
        for entry in entries {
            let removed = entry.and_then(|entry| {
                let len = entry.metadata().map_or(0, |meta| meta.len());
                self.remove_file(&entry.path()).map(|()| len)
            });
            match removed {
                Ok(len) => gone.add(len.saturating_sub(HEADER_LEN as u64)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => fs::remove_dir(&home).map(|()| gone),
        }
    }

    fn home(&self, account: AccountId) -> PathBuf {
        self.folder.join(account.to_string())
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.home(key.account).join(format!("{:032x}", key.name))
    }
}

fn private_folders() -> DirBuilder {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// `None` for what is never here: a block of a segment is buffered.
fn header(key: &Key, meta: &BlockMeta) -> Option<[u8; HEADER_LEN]> {
    let meta: [u8; BlockMeta::LEN] = meta.encode().try_into().ok()?;
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(MAGIC);
    out[8..24].copy_from_slice(key.account.as_bytes());
    out[24..40].copy_from_slice(&key.name.to_be_bytes());
    out[40..].copy_from_slice(&meta);
    Some(out)
}

/// What a file says it is of, if it has the length that belongs to it.
fn probe(path: &Path) -> io::Result<Option<(Key, BlockMeta)>> {
    probe_file(&mut File::open(path)?)
}

fn probe_file(file: &mut File) -> io::Result<Option<(Key, BlockMeta)>> {
    let mut bytes = [0; HEADER_LEN];
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (Some((magic, rest)), len) = (bytes.split_first_chunk::<8>(), file.metadata()?.len()) else {
        return Ok(None);
    };
    let (Some((account, rest)), Ok(meta)) = (rest.split_first_chunk(), BlockMeta::decode(&bytes[40..]))
    else {
        return Ok(None);
    };
    let Some((name, _)) = rest.split_first_chunk() else { return Ok(None) };
    let key = Key { account: AccountId::from_bytes(*account), name: u128::from_be_bytes(*name) };
    let whole = magic == MAGIC && meta.sealed_len.checked_add(HEADER_LEN as u64) == Some(len);
    Ok(whole.then_some((key, meta)))
}
