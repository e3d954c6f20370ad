//! A file in memory that fails on demand, for tests and the simulator.
//!
//! Guarantees: the model of a disk that the store is built for. What was synced stays. A crash keeps, of what
//! was not, any subset of its 512-byte sectors (so writes are torn, lost and reordered) and any of the lengths that
//! were set; sectors themselves are written whole. A sync that fails makes nothing or some of it durable, and what it
//! covered is forgotten as not written (Linux drops dirty pages after a failed sync); reads still see it until the
//! file is told to forget.
//!
//! The same seed leaves the same bytes, in whatever order the writes between two syncs come: what a crash or a failed
//! sync keeps of a sector depends on where it is, not on when it was written, and a power failure amid writes lets
//! those up to the next sync be tried, too. Only which page the `nth` write of [`FaultyFile::fail`] hits is a matter
//! of order (redb 4.6 has one, its hash maps being unseeded).
//!
//! Not its job: locks.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::layer::FileLayer;

const SECTOR: usize = 512;
const BLOCK: u64 = 4096;

/// An operation on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileOp {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A change of the length.
    SetLen,
    /// A sync.
    Sync,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this error, having done nothing.
    Error(io::ErrorKind),
    /// A write or a sync: with this error, after some of it.
    Short(io::ErrorKind),
    /// A write: reported as done, never done, not even by a sync.
    Lost,
}

/// A file in memory; clones are the same file.
#[derive(Clone, Default)]
pub struct FaultyFile(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    /// What a crash leaves for certain.
    durable: Vec<u8>,
    /// What reads see.
    current: Vec<u8>,
    unsynced: Vec<Change>,
    /// How often each operation was asked for.
    asked: BTreeMap<FileOp, u64>,
    faults: Vec<(FileOp, u64, Fault)>,
    power: Power,
    /// How often the power has failed.
    crashes: u64,
    /// Blocks that may be allocated, and those that are.
    capacity: Option<u64>,
    allocated: BTreeMap<u64, ()>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Power {
    #[default]
    On,
    /// For this many operations more, reads aside.
    For(u64),
    /// It failed amid writes. The next operation other than a read or a write learns of it.
    Failing,
    Off,
}

enum Change {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

impl FaultyFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file of these bytes, all of them durable.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let file = Self::new();
        {
            let mut disk = file.disk();
            disk.allocated = (0..(bytes.len() as u64).div_ceil(BLOCK)).map(|block| (block, ())).collect();
            disk.durable.clone_from(&bytes);
            disk.current = bytes;
        }
        file
    }

    /// What reads see.
    pub fn bytes(&self) -> Vec<u8> {
        self.disk().current.clone()
    }

    /// How often this operation was asked for.
    pub fn asked(&self, op: FileOp) -> u64 {
        self.disk().asked.get(&op).copied().unwrap_or(0)
    }

    /// Fails the `nth` operation of this kind from now on, 0 being the next one.
    pub fn fail(&self, op: FileOp, nth: u64, fault: Fault) {
        let at = self.asked(op) + nth;
        self.disk().faults.push((op, at, fault));
    }

    /// Lets at most this many bytes be allocated, in blocks of 4 KiB; `None` for any number.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes.map(|bytes| bytes / BLOCK);
    }

    /// How many bytes are allocated.
    pub fn allocated(&self) -> u64 {
        self.disk().allocated.len() as u64 * BLOCK
    }

    /// Turns the power off after this many operations other than reads; everything fails from then on, or amid
    /// writes from the next sync or change of the length on.
    pub fn power_off_after(&self, operations: u64) {
        self.disk().power = Power::For(operations);
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        matches!(self.disk().power, Power::Failing | Power::Off)
    }

    /// Lets nothing more fail that was to fail. What is without power stays so.
    pub fn mend(&self) {
        let mut disk = self.disk();
        disk.faults.clear();
        disk.capacity = None;
        if disk.power != Power::Off {
            disk.power = Power::On;
        }
    }

    /// Flips one bit of what is stored.
    pub fn flip(&self, bit: u64) {
        let mut disk = self.disk();
        let (at, mask) = ((bit / 8) as usize, 1u8 << (bit % 8));
        let Disk { durable, current, .. } = &mut *disk;
        for bytes in [durable, current] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
    }

    /// The file as it is after the power has failed now and come back. `draw` decides what was kept, and is asked
    /// three times: how many of the lengths set, what share of the sectors written (0: none), and which of them.
    pub fn after_crash(&self, mut draw: impl FnMut() -> u64) -> Self {
        let disk = self.disk();
        let mut bytes = disk.durable.clone();
        // Lengths are set in order, so one of them is the last that was kept.
        let lengths: Vec<u64> = disk
            .unsynced
            .iter()
            .filter_map(|change| match change {
                Change::SetLen(len) => Some(*len),
                Change::Write { .. } => None,
            })
            .collect();
        let kept_lengths = (draw() % (lengths.len() as u64 + 1)) as usize;
        for len in &lengths[..kept_lengths] {
            bytes.resize(*len as usize, 0);
        }
        // Sometimes everything or nothing, sometimes some sectors.
        let odds = [0, 1, 2, 8, u64::MAX][(draw() % 5) as usize];
        keep_some(&mut bytes, &disk.unsynced, odds, draw() ^ disk.crashes.rotate_left(32));
        let after = Self::from_bytes(bytes);
        after.disk().crashes = disk.crashes + 1;
        after
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// Counts the operation, and says how it is to fail.
    fn ask(&mut self, op: FileOp) -> io::Result<Option<Fault>> {
        let asked = self.asked.entry(op).or_default();
        let number = *asked;
        *asked += 1;
        self.power = match (self.power, op) {
            (Power::For(left), FileOp::Write | FileOp::SetLen | FileOp::Sync) => match left.checked_sub(1) {
                Some(left) => Power::For(left),
                None if op == FileOp::Write => Power::Failing,
                None => Power::Off,
            },
            (Power::Failing, FileOp::SetLen | FileOp::Sync) => Power::Off,
            (power, _) => power,
        };
        if self.power == Power::Off {
            return Err(power_is_off());
        }
        match self.faults.iter().position(|(kind, at, _)| *kind == op && *at == number) {
            Some(found) => match self.faults.swap_remove(found).2 {
                Fault::Error(kind) => {
                    if op == FileOp::Sync {
                        self.drop_dirty();
                    }
                    Err(kind.into())
                }
                Fault::Short(kind) if op == FileOp::Sync => {
                    let Self { durable, unsynced, .. } = self;
                    for change in unsynced.iter() {
                        if let Change::SetLen(len) = change {
                            durable.resize(*len as usize, 0);
                        }
                    }
                    keep_some(durable, unsynced, 1, number);
                    self.drop_dirty();
                    Err(kind.into())
                }
                fault => Ok(Some(fault)),
            },
            None => Ok(None),
        }
    }

    /// After a failed sync, what it covered counts as never written, though reads may still see it.
    fn drop_dirty(&mut self) {
        self.unsynced.clear();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let at = offset as usize;
        if self.current.len() < at + data.len() {
            self.current.resize(at + data.len(), 0);
            self.unsynced.push(Change::SetLen((at + data.len()) as u64));
        }
        self.current[at..at + data.len()].copy_from_slice(data);
        self.unsynced.push(Change::Write { offset, data: data.to_vec() });
    }

    fn allocate(&mut self, offset: u64, len: usize) -> io::Result<()> {
        for block in offset / BLOCK..(offset + len as u64).div_ceil(BLOCK) {
            let full = self.capacity.is_some_and(|capacity| self.allocated.len() as u64 >= capacity);
            if full && !self.allocated.contains_key(&block) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.allocated.insert(block, ());
        }
        Ok(())
    }
}

/// Of what was written, keeps sectors at odds of `odds` to one: none at 0, all at `u64::MAX`.
fn keep_some(bytes: &mut [u8], unsynced: &[Change], odds: u64, seed: u64) {
    // How often a sector was written: each time may be the last that was kept.
    let mut times = BTreeMap::<usize, u64>::new();
    for change in unsynced {
        let Change::Write { offset, data } = change else { continue };
        let mut at = *offset as usize;
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            let time = times.entry(at).or_default();
            *time += 1;
            let drawn = || xxh3_64_with_seed(&[(at as u64).to_le_bytes(), time.to_le_bytes()].concat(), seed);
            let keep = match odds {
                0 => false,
                u64::MAX => true,
                odds => drawn() % (odds + 1) < odds,
            };
            if keep && let Some(place) = bytes.get_mut(at..at + piece.len()) {
                place.copy_from_slice(piece);
            }
            at += piece.len();
            rest = after;
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl FileLayer for FaultyFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.ask(FileOp::Read)?;
        let at = offset as usize;
        match disk.current.get(at..at + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        match disk.ask(FileOp::Write)? {
            None => {
                disk.allocate(offset, data.len())?;
                disk.write(offset, data);
                Ok(())
            }
            Some(Fault::Lost) => Ok(()),
            Some(Fault::Short(kind) | Fault::Error(kind)) => {
                disk.write(offset, &data[..data.len() / 2]);
                Err(kind.into())
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.ask(FileOp::SetLen)?;
        disk.current.resize(len as usize, 0);
        disk.allocated.retain(|block, ()| *block < len.div_ceil(BLOCK));
        disk.unsynced.push(Change::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.ask(FileOp::Sync)?;
        for change in std::mem::take(&mut disk.unsynced) {
            match change {
                Change::SetLen(len) => disk.durable.resize(len as usize, 0),
                Change::Write { offset, data } => {
                    let at = offset as usize;
                    if let Some(place) = disk.durable.get_mut(at..at + data.len()) {
                        place.copy_from_slice(&data);
                    }
                }
            }
        }
        Ok(())
    }

    fn forget(&self) {
        let mut disk = self.disk();
        let Disk { durable, current, unsynced, .. } = &mut *disk;
        // The length is the file system's own, which a failed sync of pages leaves to be written.
        unsynced.insert(0, Change::SetLen(current.len() as u64));
        current.clone_from(durable);
        for change in unsynced.iter() {
            match change {
                Change::SetLen(len) => current.resize(*len as usize, 0),
                Change::Write { offset, data } => {
                    let at = *offset as usize;
                    if let Some(place) = current.get_mut(at..at + data.len()) {
                        place.copy_from_slice(data);
                    }
                }
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        let disk = self.disk();
        if disk.power == Power::Off {
            return Err(power_is_off());
        }
        Ok(disk.current.len() as u64)
    }
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyFile({} bytes)", self.disk().current.len())
    }
}
