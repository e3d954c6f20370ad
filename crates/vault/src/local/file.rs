//! A local vault's file: how it is laid out, read, locked and replaced.
//!
//! Guarantees:
//! - A file is accepted only whole: a checksum over its exact bytes catches damage, under a passphrase a tag
//!   over them catches whoever does not know it. Both are checked before a record is believed.
//! - A reader sees the file before a change or after it, never between: changes are written beside it, made
//!   durable, then renamed over it. Its mode is 0600 from its first byte.
//! - Writers exclude each other by a lock on a file beside it, which stays.
//!
//! `docs/local-vault.md` specifies every byte. Not its job: what the records mean.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    LocalVaultError,
    protect::{FileKeys, Passphrase, TAG_LEN},
    record::{DetailsRecord, Document, Protection, VersionRecord, decode_hex},
};

/// The most bytes that are read: some 30,000 key versions, or 2,500 of RSA with 4,096 bits.
pub(super) const MAX_LEN: usize = 16 * 1024 * 1024;

/// The first bytes of every version of the format; its number follows.
const HEAD: &str = "{\n  \"format\": \"cofferdam local vault\",\n  \"version\": ";
const TAG: &str = ",\n  \"tag\": \"";
const CHECKSUM: &str = ",\n  \"checksum\": \"";
const QUOTE: &str = "\"";
const END: &str = "\"\n}\n";
/// What ends a JSON object as it is written, before the tail takes its place.
const CLOSE: &[u8] = b"\n}";

/// How long a writer that finds the lock held waits before it looks again.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(8);

/// What opens the file.
pub(super) enum Access<'a> {
    /// A passphrase if the user gave one; Argon2id is run.
    First(Option<&'a Passphrase>),
    /// What it was opened with before.
    Again(Option<&'a FileKeys>),
}

/// Reads the file; on first access also what keys the passphrase gives.
pub(super) fn read(path: &Path, access: Access<'_>) -> Result<(Document, Option<FileKeys>), LocalVaultError> {
    let mut bytes = read_bytes(path)?;
    decode(path, &mut bytes, access)
}

fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, LocalVaultError> {
    let io = |source| io_error("read the vault", path, source);
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        // Before it is opened: opening a pipe waits for a writer.
        return Err(LocalVaultError::NotAVault { path: path.into() });
    }
    let file = File::open(path).map_err(io)?;
    // With room for all of it, so that no copy of a key is left behind when it grows.
    let room = usize::try_from(metadata.len()).unwrap_or(MAX_LEN).min(MAX_LEN) + 64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Takes the bytes apart in the order in which they can be believed.
fn decode(
    path: &Path,
    bytes: &mut Vec<u8>,
    access: Access<'_>,
) -> Result<(Document, Option<FileKeys>), LocalVaultError> {
    let damaged = |what| LocalVaultError::Damaged { path: path.into(), what };
    if bytes.len() > MAX_LEN {
        return Err(damaged("it is larger than any vault"));
    }
    check_head(path, bytes)?;

    let (end, checksum) = split_tail(bytes, CHECKSUM, END).ok_or_else(|| damaged("it is cut short"))?;
    bytes.truncate(end);
    if Sha256::digest(&*bytes)[..] != checksum {
        return Err(damaged("its checksum is wrong"));
    }
    let tag = split_tail(bytes, TAG, QUOTE).map(|(end, tag)| {
        bytes.truncate(end);
        tag
    });

    // Without its tail it is a JSON object but for the brace.
    bytes.extend_from_slice(CLOSE);
    let document: Document = serde_json::from_slice(bytes).map_err(|_| damaged("a record can't be read"))?;
    bytes.truncate(bytes.len() - CLOSE.len());

    let new_keys = unlock(path, &document.protection, &access)?;
    let keys = match access {
        Access::First(_) => new_keys.as_ref(),
        Access::Again(keys) => keys,
    };
    match (keys, tag) {
        (None, None) => {}
        (Some(keys), Some(tag)) if keys.verify(bytes, &tag) => {}
        _ => return Err(damaged("it was changed by something that does not know the passphrase")),
    }
    document.check().map_err(damaged)?;
    Ok((document, new_keys))
}

fn check_head(path: &Path, bytes: &[u8]) -> Result<(), LocalVaultError> {
    const LATEST: u64 = Document::VERSION as u64;
    let cut_short = || LocalVaultError::Damaged { path: path.into(), what: "it is cut short" };
    let Some(rest) = bytes.strip_prefix(HEAD.as_bytes()) else {
        return Err(match HEAD.as_bytes().starts_with(bytes) {
            true => cut_short(),
            false => LocalVaultError::NotAVault { path: path.into() },
        });
    };
    let digits = rest.iter().position(|b| !b.is_ascii_digit()).ok_or_else(cut_short)?;
    let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|n| n.parse::<u64>().ok());
    match number {
        Some(1..=LATEST) => Ok(()),
        Some(found) if found > LATEST => {
            Err(LocalVaultError::NewerVersion { path: path.into(), found, supported: LATEST })
        }
        _ => Err(LocalVaultError::Damaged { path: path.into(), what: "its version is not one" }),
    }
}

/// The 32 bytes between `before` and `after` at the very end, and where `before` begins.
fn split_tail(bytes: &[u8], before: &str, after: &str) -> Option<(usize, [u8; TAG_LEN])> {
    let rest = bytes.strip_suffix(after.as_bytes())?;
    let (rest, hex) = rest.split_at_checked(rest.len().checked_sub(2 * TAG_LEN)?)?;
    let rest = rest.strip_suffix(before.as_bytes())?;
    let mut tag = [0; TAG_LEN];
    decode_hex(std::str::from_utf8(hex).ok()?, &mut tag).ok()?;
    Some((rest.len(), tag))
}

/// Whether the vault is of the kind that the caller can open; on first access, the keys.
fn unlock(
    path: &Path,
    protection: &Protection,
    access: &Access<'_>,
) -> Result<Option<FileKeys>, LocalVaultError> {
    let path = || path.to_path_buf();
    match (protection, access) {
        (Protection::None, Access::First(None) | Access::Again(None)) => Ok(None),
        (Protection::None, Access::First(Some(_))) => {
            Err(LocalVaultError::PassphraseNotNeeded { path: path() })
        }
        (Protection::Argon2id { .. }, Access::First(None)) => {
            Err(LocalVaultError::PassphraseMissing { path: path() })
        }
        (Protection::Argon2id { cost, salt, check }, Access::First(Some(passphrase))) => {
            cost.check().map_err(|what| LocalVaultError::Damaged { path: path(), what })?;
            let keys = FileKeys::derive(passphrase, *cost, salt.0)?;
            if *keys.check() == check.0 {
                Ok(Some(keys))
            } else {
                Err(LocalVaultError::WrongPassphrase { path: path() })
            }
        }
        (Protection::Argon2id { cost, salt, check }, Access::Again(Some(keys)))
            if (keys.cost(), *keys.salt(), *keys.check()) == (*cost, salt.0, check.0) =>
        {
            Ok(None)
        }
        (_, Access::Again(_)) => Err(LocalVaultError::Replaced { path: path() }),
    }
}

fn encode(
    path: &Path,
    document: &Document,
    keys: Option<&FileKeys>,
) -> Result<Zeroizing<Vec<u8>>, LocalVaultError> {
    // With room for all of it, so that no copy of a key is left behind when it grows.
    let versions = document.keys.iter().flat_map(|key| &key.versions);
    let details = |version: &VersionRecord| version.details.as_ref().map_or(0, DetailsRecord::written_len);
    let room = versions.map(|version| 768 + version.key.hex_len() + details(version)).sum::<usize>();
    let room = 1024 + 256 * document.keys.len() + room;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer_pretty(&mut *bytes, document)
        .map_err(|_| LocalVaultError::Defect { what: "a vault's record could not be written as JSON" })?;
    let end = bytes.len() - CLOSE.len();
    bytes.truncate(end);
    if let Some(keys) = keys {
        let tag = HEXLOWER.encode(&keys.tag(&bytes));
        [TAG, &tag, QUOTE].iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
    }
    let checksum = HEXLOWER.encode(&Sha256::digest(&*bytes));
    [CHECKSUM, &checksum, END].iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
    if bytes.len() > MAX_LEN {
        return Err(LocalVaultError::TooLarge { path: path.into(), len: bytes.len(), max: MAX_LEN });
    }
    Ok(bytes)
}

/// A writer's lock: held until it is dropped, or until its process ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn path(vault: &Path) -> PathBuf {
        beside(vault, ".lock")
    }

    /// Waits in place, so this is for threads that may block.
    ///
    /// Others hold it for milliseconds. A child that this process is starting holds it too until it executes its
    /// program, so even a lone writer may find it held.
    pub(super) fn acquire(vault: &Path, wait: Duration) -> Result<Self, LocalVaultError> {
        let path = Self::path(vault);
        let io = |source| io_error("lock", &path, source);
        let file = private(OpenOptions::new().read(true).write(true).create(true)).open(&path).map_err(io)?;
        let (mut waited, mut pause) = (Duration::ZERO, FIRST_PAUSE);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(source)) => return Err(io(source)),
                Err(TryLockError::WouldBlock) if waited >= wait => {
                    return Err(LocalVaultError::Locked { path });
                }
                Err(TryLockError::WouldBlock) => {}
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "another process decides how long: no clock that a test could set does"
            )]
            std::thread::sleep(pause);
            waited += pause;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Replaces the file, or makes it. When it fails the file is as it was, or, if only the folder could not be
/// made durable, as it should be.
pub(super) fn replace(
    path: &Path,
    document: &Document,
    keys: Option<&FileKeys>,
    _held: &Lock,
) -> Result<(), LocalVaultError> {
    let bytes = encode(path, document, keys)?;
    // One name is enough under the lock, and what a crash has left there goes with the next change.
    let temporary = beside(path, ".tmp");
    let written = write_durably(&temporary, &bytes)
        .map_err(|source| io_error("write", &temporary, source))
        .and_then(|()| fs::rename(&temporary, path).map_err(|e| io_error("replace the vault", path, e)));
    if let Err(error) = written {
        // The first error says more than this one could.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(path).map_err(|source| io_error("make durable the folder of", path, source))
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn sync_folder(path: &Path) -> io::Result<()> {
    // Elsewhere a folder can't be opened, and a rename is durable by itself.
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Whether others than its owner may read or write the file.
pub(super) fn open_to_others(path: &Path) -> bool {
    #[cfg(unix)]
    return fs::metadata(path)
        .is_ok_and(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o077 != 0);
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> LocalVaultError {
    LocalVaultError::Io { what, path: path.into(), source }
}
