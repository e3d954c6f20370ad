//! The storage backend under redb: checksums on every page, and redb's header kept twice.
//!
//! Guarantees: redb is handed the bytes that it wrote to that very page, or an error; never damaged bytes,
//! another page's, or a page that was never written. The failure that weighs most is kept in [`Health`], because
//! redb answers everything after a failure with a bare "previous I/O error".
//!
//! Invariants:
//! - A page and its checksum lie together, so that one write carries both and a crash can't part them. A page
//!   that a crash left torn is one that redb does not reach: with two-phase commit it has become durable
//!   before anything points to it.
//! - redb's header (its page 0, the only one that it overwrites in place) goes to the slot that is *not* the
//!   last one known to be durable. A crash at any write leaves either the new header or the one before it.
//! - The header says how long the file is at least, so a file that was cut is refused before redb counts on
//!   pages that are gone.
//! - redb never reads a page that it has not written; new pages are zeros without a checksum, and refused.
//! - A file that is made to take another one's place is not synced before it is complete: after a crash it is thrown away.
//!
//! Not its job: locks (the file layer's), recovery (redb's), deciding what a failure means (the joint's).

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cofferdam_crypto::planted::{Bug, is_planted};

use super::{
    header::{
        HEADER_LEN, PAGE, PAGES_AT, Record, SLOT_LEN, SLOTS_AT, STRIDE, check_super, encode_super, page_sum,
        word,
    },
    layer::FileLayer,
};
use crate::error::{StoreError, StoreErrorKind, io_kind};

/// How many pages one system call moves at most.
const PAGES_AT_ONCE: usize = 256;

/// What failed under redb, or in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A page did not verify.
    Damaged { page: u64 },
    /// The file has a length that no store has, or ends before a page.
    Truncated,
    /// A read failed.
    Read(io::ErrorKind),
    /// The disk is full; nothing durable was touched.
    Full,
    /// A write failed.
    Write(io::ErrorKind),
    /// A sync failed: what is durable is unknown.
    Sync(io::ErrorKind),
    /// redb panicked: what it holds in memory is not to be used, nor dropped.
    Panicked,
}

/// What a failure means for the handle; the graver, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// What is durable is known: the database may be opened again.
    Certain,
    /// What is durable is unknown.
    Doubt,
    /// As [`Self::Doubt`], and the database is to be leaked.
    Panic,
}

impl Failure {
    pub(crate) fn weight(self) -> Weight {
        match self {
            Self::Damaged { .. } | Self::Truncated | Self::Read(_) | Self::Full => Weight::Certain,
            Self::Write(_) | Self::Sync(_) => Weight::Doubt,
            Self::Panicked => Weight::Panic,
        }
    }

    /// Whether it is unknown what is durable after it.
    pub(crate) fn leaves_doubt(self) -> bool {
        self.weight() >= Weight::Doubt
    }
}

/// How the disk was used, over all openings of one handle.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Syncs that succeeded.
    pub(crate) syncs: AtomicU64,
    /// Pages read whose checksum was right.
    pub(crate) sound: AtomicU64,
    /// Pages read whose checksum was wrong.
    pub(crate) damaged: AtomicU64,
}

/// What has failed under redb since it was opened.
#[derive(Debug)]
pub(crate) struct Health {
    gravest: Mutex<Option<Failure>>,
    /// Nobody counts on the file yet, so it is not synced.
    unused: AtomicBool,
    pub(crate) counters: Arc<Counters>,
}

impl Health {
    /// The first of the failures that weigh most.
    pub(crate) fn failure(&self) -> Option<Failure> {
        *self.gravest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { gravest: Mutex::default(), unused: AtomicBool::new(false), counters }
    }

    /// For a file that nobody counts on until it has been synced by itself.
    pub(crate) fn unused(counters: Arc<Counters>) -> Self {
        Self { unused: AtomicBool::new(true), ..Self::new(counters) }
    }

    /// The file was synced, and is from now on.
    pub(crate) fn is_used(&self) {
        self.unused.store(false, Ordering::Release);
    }

    /// A reader's damage never hides a sync that fails meanwhile.
    pub(crate) fn note(&self, failure: Failure) {
        let mut gravest = self.gravest.lock().unwrap_or_else(PoisonError::into_inner);
        if gravest.is_none_or(|known| known.weight() < failure.weight()) {
            *gravest = Some(failure);
        }
    }
}

/// redb's header as it is in memory, and where its last two writings are.
#[derive(Debug)]
struct Slots {
    current: Record,
    /// Where `current` was written.
    last: usize,
    /// The slot that holds the newest header known to be durable.
    durable: usize,
    /// redb's length of the file, and the part of it that is known to be durable.
    len: u64,
    durable_len: u64,
}

/// A redb backend over a [`FileLayer`].
pub(crate) struct Checksummed {
    layer: Arc<dyn FileLayer>,
    health: Arc<Health>,
    slots: Mutex<Slots>,
}

impl Checksummed {
    /// Over an empty file, of which this writes the first block.
    pub(crate) fn create(layer: Arc<dyn FileLayer>, health: Arc<Health>) -> Result<Self, StoreError> {
        let failed = |error| StoreError::from_io("writing the first block of a new store", error);
        layer.set_len(SLOTS_AT).map_err(failed)?;
        layer.write_at(0, &encode_super()).map_err(failed)?;
        let current = Record { sequence: 0, least_len: 0, bytes: [0; HEADER_LEN] };
        let slots = Slots { current, last: 0, durable: 0, len: 0, durable_len: 0 };
        Ok(Self { layer, health, slots: Mutex::new(slots) })
    }

    /// Over a file that holds a store.
    pub(crate) fn open(layer: Arc<dyn FileLayer>, health: Arc<Health>) -> Result<Self, StoreError> {
        let failed = |error| StoreError::from_io("reading the header of the store", error);
        let len = layer.size().map_err(failed)?;
        let mut first = [0; SLOTS_AT as usize];
        let there = usize::try_from(len).unwrap_or(usize::MAX).min(first.len());
        layer.read_at(0, &mut first[..there]).map_err(failed)?;
        check_super(&first[..there])?;
        let corrupt = |what| StoreError::new(StoreErrorKind::Corrupt).with_detail(what);
        if len < PAGES_AT {
            return Err(corrupt("the file ends within its header"));
        }
        let mut records = [None, None];
        for (slot, record) in records.iter_mut().enumerate() {
            let mut block = [0; SLOT_LEN];
            layer.read_at(slot_at(slot), &mut block).map_err(failed)?;
            *record = Record::decode(&block, slot);
        }
        let [Some(a), Some(b)] = records else {
            return Err(corrupt("the header does not verify"));
        };
        let (current, last) = if a.sequence > b.sequence { (a, 0) } else { (b, 1) };
        let len = logical_len(len).filter(|len| *len >= current.least_len);
        let len = len.ok_or_else(|| corrupt("the file was cut, or something was added to it"))?;
        // The newer one was read back, but perhaps from memory only: a sync makes sure before the older one
        // may be overwritten.
        layer.sync().map_err(|error| {
            health.note(Failure::Sync(error.kind()));
            StoreError::from_io("syncing the store's file", error)
        })?;
        let slots = Slots { current, last, durable: last, len, durable_len: len };
        Ok(Self { layer, health, slots: Mutex::new(slots) })
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, failure: Failure) -> io::Error {
        self.health.note(failure);
        let what = match failure {
            Failure::Damaged { page } => format!("page {page} does not verify"),
            _ => "the file is shorter than its contents".into(),
        };
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    fn read_pages(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut number = page_number(offset, out.len())?;
        let mut buffer = vec![0; STRIDE * (out.len() / PAGE).min(PAGES_AT_ONCE)];
        for out in out.chunks_mut(PAGE * PAGES_AT_ONCE) {
            let pages = &mut buffer[..out.len() / PAGE * STRIDE];
            self.layer.read_at(page_at(number), pages).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    return self.damaged(Failure::Truncated);
                }
                self.health.note(Failure::Read(error.kind()));
                error
            })?;
            for (page, out) in pages.chunks_exact(STRIDE).zip(out.chunks_exact_mut(PAGE)) {
                if page_sum(&page[..PAGE], number) != word(page, PAGE) {
                    self.health.counters.damaged.fetch_add(1, Ordering::Relaxed);
                    return Err(self.damaged(Failure::Damaged { page: number }));
                }
                out.copy_from_slice(&page[..PAGE]);
                number += 1;
            }
            self.health.counters.sound.fetch_add((out.len() / PAGE) as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn write_pages(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut number = page_number(offset, data.len())?;
        let mut buffer = vec![0; STRIDE * (data.len() / PAGE).min(PAGES_AT_ONCE)];
        for data in data.chunks(PAGE * PAGES_AT_ONCE) {
            let pages = &mut buffer[..data.len() / PAGE * STRIDE];
            let first = number;
            for (data, page) in data.chunks_exact(PAGE).zip(pages.chunks_exact_mut(STRIDE)) {
                page[..PAGE].copy_from_slice(data);
                page[PAGE..].copy_from_slice(&page_sum(data, number).to_le_bytes());
                number += 1;
            }
            self.write_at(page_at(first), pages)?;
        }
        Ok(())
    }

    fn write_header(&self, offset: usize, data: &[u8]) -> io::Result<()> {
        let mut slots = self.slots();
        let mut next = slots.current.clone();
        next.bytes.get_mut(offset..offset + data.len()).ok_or_else(misaligned)?.copy_from_slice(data);
        next.least_len = slots.durable_len;
        self.write_record(&mut slots, next)
    }

    fn write_record(&self, slots: &mut Slots, mut next: Record) -> io::Result<()> {
        next.sequence += 1;
        let slot = 1 - slots.durable;
        self.write_at(slot_at(slot), &next.encode(slot))?;
        slots.current = next;
        slots.last = slot;
        Ok(())
    }

    fn sync(&self, slots: &mut Slots) -> io::Result<()> {
        let unused = self.health.unused.load(Ordering::Acquire);
        let synced = if unused { Ok(()) } else { self.layer.sync() };
        if !is_planted(Bug::SyncFailureIgnored) {
            synced.inspect_err(|error| self.health.note(Failure::Sync(error.kind())))?;
        }
        slots.durable = slots.last;
        slots.durable_len = slots.len;
        self.health.counters.syncs.fetch_add(u64::from(!unused), Ordering::Relaxed);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.layer.write_at(offset, data).inspect_err(|error| self.note_write(error))
    }

    fn note_write(&self, error: &io::Error) {
        self.health.note(match io_kind(error) {
            StoreErrorKind::Full => Failure::Full,
            _ => Failure::Write(error.kind()),
        });
    }
}

impl fmt::Debug for Checksummed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksummed({:?})", self.layer)
    }
}

impl redb::StorageBackend for Checksummed {
    fn len(&self) -> io::Result<u64> {
        Ok(self.slots().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset >= PAGE as u64 {
            return self.read_pages(offset, out);
        }
        let slots = self.slots();
        let at = offset as usize;
        out.copy_from_slice(slots.current.bytes.get(at..at + out.len()).ok_or_else(misaligned)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset >= PAGE as u64 {
            return self.write_pages(offset, data);
        }
        self.write_header(offset as usize, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let physical = match page_number(len, 0)? {
            0 => SLOTS_AT,
            pages => PAGES_AT + (pages - 1) * STRIDE as u64,
        };
        let mut slots = self.slots();
        if len < slots.current.least_len {
            // Or a crash after the cut would look like a file that somebody cut.
            let next = Record { least_len: len, ..slots.current.clone() };
            self.write_record(&mut slots, next)?;
            self.sync(&mut slots)?;
        }
        self.layer.set_len(physical).inspect_err(|error| self.note_write(error))?;
        slots.len = len;
        slots.durable_len = slots.durable_len.min(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // Held throughout: what is written to a slot meanwhile would count as durable.
        self.sync(&mut self.slots())
    }
}

/// redb's length of a file of this length; `None` when no store has that.
fn logical_len(physical: u64) -> Option<u64> {
    let pages = physical.checked_sub(PAGES_AT)?;
    let whole = pages.is_multiple_of(STRIDE as u64);
    whole.then(|| (pages / STRIDE as u64 + 1) * PAGE as u64)
}

fn slot_at(slot: usize) -> u64 {
    SLOTS_AT + (slot * SLOT_LEN) as u64
}

/// Where page `number`, which is not 0, begins in the file.
fn page_at(number: u64) -> u64 {
    PAGES_AT + (number - 1) * STRIDE as u64
}

fn page_number(offset: u64, len: usize) -> io::Result<u64> {
    if !offset.is_multiple_of(PAGE as u64) || !len.is_multiple_of(PAGE) {
        return Err(misaligned());
    }
    Ok(offset / PAGE as u64)
}

/// redb reads and writes whole pages, and of page 0 its header; anything else is a redb that we don't know.
fn misaligned() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the access is not of whole pages")
}
