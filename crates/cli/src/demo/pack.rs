//! Files into blocks and back.
//!
//! Guarantees: a file's digest is of the bytes that were stored, and is compared with that of the bytes that
//! were read back, block by block in order; block ids repeat nothing of a file, not even its name.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cofferdam_store::Account;
use cofferdam_vault::{Clock, SystemClock};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use crate::{
    error::CliError,
    feed::{Feed, Input},
    writer::{Watcher, Written, block_id, write_all},
};

/// How many bytes a block has at most.
pub(super) const BLOCK: usize = 1 << 20;
/// How many writes are under way at once, and how many reads.
const WRITERS: usize = 8;
const READERS: usize = 4;

/// A file that was stored.
pub(super) struct Packed {
    pub(super) path: PathBuf,
    name: Vec<u8>,
    pub(super) blocks: u64,
    sha256: [u8; 32],
}

/// What was stored.
pub(super) struct Packing {
    pub(super) files: Vec<Packed>,
    /// Files that could not be read, and why.
    pub(super) unreadable: Vec<String>,
    pub(super) empty: u64,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

/// Stores the files, several blocks at a time.
pub(super) async fn pack(
    account: &Account,
    paths: Vec<PathBuf>,
    bar: &ProgressBar,
) -> Result<Packing, CliError> {
    let began = SystemClock.now();
    let names: Arc<[Vec<u8>]> = (1..=paths.len()).map(|n| format!("f{n:06}").into_bytes()).collect();
    let digests = Arc::new(Mutex::new(vec![(Sha256::new(), 0u64); paths.len()]));
    let hashing = digests.clone();
    let feed = Feed::start(paths.iter().cloned().map(Input::File).collect(), BLOCK, move |file, data| {
        let mut digests = hashing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((digest, len)) = digests.get_mut(file) {
            digest.update(data);
            *len += data.len() as u64;
        }
    })?;
    let mut counts = Counts { bar, unreadable: vec![None; paths.len()], blocks: 0, bytes: 0 };
    write_all(account, &feed, &names, WRITERS, &mut counts, std::future::pending()).await?;

    let mut packing = Packing {
        files: Vec::with_capacity(paths.len()),
        unreadable: Vec::new(),
        empty: 0,
        blocks: counts.blocks,
        bytes: counts.bytes,
        took: SystemClock.now().since(&began),
    };
    let mut digests = digests.lock().unwrap_or_else(PoisonError::into_inner);
    for (at, path) in paths.into_iter().enumerate() {
        if let Some(why) = counts.unreadable[at].take() {
            packing.unreadable.push(format!("{}: {why}", path.display()));
            continue;
        }
        let (digest, len) = std::mem::take(&mut digests[at]);
        packing.empty += u64::from(len == 0);
        packing.files.push(Packed {
            path,
            name: names[at].clone(),
            blocks: len.div_ceil(BLOCK as u64).max(1),
            sha256: digest.finalize().into(),
        });
    }
    Ok(packing)
}

struct Counts<'a> {
    bar: &'a ProgressBar,
    unreadable: Vec<Option<String>>,
    blocks: u64,
    bytes: u64,
}

impl Watcher for Counts<'_> {
    fn written(&mut self, block: &Written) -> Result<(), CliError> {
        self.blocks += 1;
        self.bytes += block.len;
        self.bar.inc(block.len);
        Ok(())
    }

    fn unreadable(&mut self, source: usize, error: &io::Error) {
        if let Some(place) = self.unreadable.get_mut(source) {
            *place = Some(error.to_string());
        }
    }
}

/// Reads every file back and compares digests. Answers with how long it took.
pub(super) async fn read_back(
    account: &Account,
    files: &[Packed],
    bar: &ProgressBar,
) -> Result<Duration, CliError> {
    let began = SystemClock.now();
    let mut wanted = files.iter().flat_map(|file| (0..file.blocks).map(move |number| (file, number)));
    let mut reading = VecDeque::with_capacity(READERS);
    let mut digest = Sha256::new();
    loop {
        while reading.len() < READERS {
            let Some((file, number)) = wanted.next() else { break };
            let id = block_id(&file.name, number).map_err(|e| CliError::Task(e.to_string()))?;
            let account = account.clone();
            reading.push_back((file, number, tokio::spawn(async move { account.get(&id).await })));
        }
        let Some((file, number, task)) = reading.pop_front() else {
            return Ok(SystemClock.now().since(&began));
        };
        let data = task.await.map_err(|e| CliError::Task(e.to_string()))??;
        bar.inc(data.len() as u64);
        digest.update(&data);
        if number + 1 == file.blocks && <[u8; 32]>::from(digest.finalize_reset()) != file.sha256 {
            let what = format!("{} reads back with another digest", file.path.display());
            return Err(CliError::Demo { what });
        }
    }
}

/// The id of a file's first block.
pub(super) fn first_block(file: &Packed) -> Result<cofferdam_crypto::BlockId, CliError> {
    block_id(&file.name, 0).map_err(|e| CliError::Task(e.to_string()))
}
