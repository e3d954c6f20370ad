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
//! It may have another file beside it, which takes its place (`beside`, `replace`): until the place is synced, a crash
//! leaves the one there or the other, each as its own syncs left it. What lies beside the place after a crash stays there.
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
    /// The making of a file beside this one.
    Beside,
    /// That file's taking this one's place.
    Replace,
    /// A sync of which file has the place.
    SyncPlace,
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

/// A file in memory; clones are the same file, and whatever took its place.
#[derive(Clone, Default)]
pub struct FaultyFile {
    disk: Arc<Mutex<Disk>>,
    /// This one wherever it lies; `None`: the one that has the place.
    number: Option<u64>,
}

struct Disk {
    files: BTreeMap<u64, Contents>,
    /// Which of them has the place, and which had when that was last synced.
    place: u64,
    durable_place: u64,
    beside: Option<u64>,
    /// How many files there have been.
    made: u64,
    /// How often each operation was asked for.
    asked: BTreeMap<FileOp, u64>,
    faults: Vec<(FileOp, u64, Fault)>,
    power: Power,
    /// How often the power has failed.
    crashes: u64,
    /// Blocks that may be allocated.
    capacity: Option<u64>,
}

#[derive(Default)]
struct Contents {
    /// What a crash leaves for certain.
    durable: Vec<u8>,
    /// What reads see.
    current: Vec<u8>,
    unsynced: Vec<Change>,
    /// Blocks that are allocated.
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
        file.disk().files.insert(0, Contents::of(bytes));
        file
    }

    /// What reads see.
    pub fn bytes(&self) -> Vec<u8> {
        self.with(|contents| contents.current.clone())
    }

    /// What reads see of it and of what lies beside it.
    pub fn all_bytes(&self) -> Vec<Vec<u8>> {
        self.disk().files.values().map(|contents| contents.current.clone()).collect()
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
        self.disk().allocated() * BLOCK
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
        let (at, mask) = ((bit / 8) as usize, 1u8 << (bit % 8));
        self.with(|Contents { durable, current, .. }| {
            for bytes in [durable, current] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
        });
    }

    /// The file as it is after the power has failed now and come back. `draw` decides what was kept, and is asked
    /// three times: how many of the lengths set, what share of the sectors written (0: none), and which of them; before that,
    /// where another file has the place since the last sync of it, whether that was kept (0: it was not).
    pub fn after_crash(&self, mut draw: impl FnMut() -> u64) -> Self {
        let disk = self.disk();
        let place = match disk.place == disk.durable_place || draw() % 2 == 1 {
            true => disk.place,
            false => disk.durable_place,
        };
        let after = Self::new();
        {
            let mut after = after.disk();
            after.crashes = disk.crashes + 1;
            after.made = 2;
            if let Some(contents) = disk.files.get(&place) {
                after.files.insert(0, Contents::of(contents.after_crash(disk.crashes, &mut draw)));
            }
            if let Some((_, beside)) = disk.files.iter().find(|(number, _)| **number != place) {
                after.files.insert(1, Contents::of(beside.current.clone()));
                after.beside = Some(1);
            }
        }
        after
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, call: impl FnOnce(&mut Contents) -> T) -> T {
        let mut disk = self.disk();
        let number = self.number.unwrap_or(disk.place);
        call(disk.files.entry(number).or_default())
    }

    /// Asks the disk for an operation on this file, and does it.
    fn ask<T>(
        &self,
        op: FileOp,
        call: impl FnOnce(&mut Disk, u64, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.disk();
        let number = self.number.unwrap_or(disk.place);
        let fault = disk.ask(op, number)?;
        call(&mut disk, number, fault)
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            files: BTreeMap::from([(0, Contents::default())]),
            place: 0,
            durable_place: 0,
            beside: None,
            made: 1,
            asked: BTreeMap::new(),
            faults: Vec::new(),
            power: Power::On,
            crashes: 0,
            capacity: None,
        }
    }
}

impl Disk {
    /// Counts the operation, and says how it is to fail.
    fn ask(&mut self, op: FileOp, file: u64) -> io::Result<Option<Fault>> {
        let asked = self.asked.entry(op).or_default();
        let number = *asked;
        *asked += 1;
        self.power = match (self.power, op) {
            (power, FileOp::Read) => power,
            (Power::For(left), _) => match left.checked_sub(1) {
                Some(left) => Power::For(left),
                None if op == FileOp::Write => Power::Failing,
                None => Power::Off,
            },
            (Power::Failing, FileOp::Write) => Power::Failing,
            (Power::Failing, _) => Power::Off,
            (power, _) => power,
        };
        if self.power == Power::Off {
            return Err(power_is_off());
        }
        let Some(found) = self.faults.iter().position(|(kind, at, _)| *kind == op && *at == number) else {
            return Ok(None);
        };
        match (self.faults.swap_remove(found).2, op) {
            (Fault::Error(kind), FileOp::Sync) => {
                self.contents(file)?.drop_dirty();
                Err(kind.into())
            }
            (Fault::Short(kind), FileOp::Sync) => {
                self.contents(file)?.sync_some(number);
                Err(kind.into())
            }
            (Fault::Error(kind), _) => Err(kind.into()),
            (fault, _) => Ok(Some(fault)),
        }
    }

    fn contents(&mut self, file: u64) -> io::Result<&mut Contents> {
        self.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn allocated(&self) -> u64 {
        self.files.values().map(|contents| contents.allocated.len() as u64).sum()
    }

    fn allocate(&mut self, file: u64, offset: u64, len: usize) -> io::Result<()> {
        for block in offset / BLOCK..(offset + len as u64).div_ceil(BLOCK) {
            let full = self.capacity.is_some_and(|capacity| self.allocated() >= capacity);
            let contents = self.contents(file)?;
            if full && !contents.allocated.contains_key(&block) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            contents.allocated.insert(block, ());
        }
        Ok(())
    }

    fn clear_beside(&mut self) {
        if let Some(beside) = self.beside.take() {
            self.files.remove(&beside);
        }
    }
}

impl Contents {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            allocated: (0..(bytes.len() as u64).div_ceil(BLOCK)).map(|block| (block, ())).collect(),
            durable: bytes.clone(),
            current: bytes,
            unsynced: Vec::new(),
        }
    }

    fn after_crash(&self, crashes: u64, mut draw: impl FnMut() -> u64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        // Lengths are set in order, so one of them is the last that was kept.
        let lengths: Vec<u64> = self
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
        keep_some(&mut bytes, &self.unsynced, odds, draw() ^ crashes.rotate_left(32));
        bytes
    }

    /// After a failed sync, what it covered counts as never written, though reads may still see it.
    fn drop_dirty(&mut self) {
        self.unsynced.clear();
    }

    /// A sync that fails after some of it.
    fn sync_some(&mut self, seed: u64) {
        let Self { durable, unsynced, .. } = self;
        for change in unsynced.iter() {
            if let Change::SetLen(len) = change {
                durable.resize(*len as usize, 0);
            }
        }
        keep_some(durable, unsynced, 1, seed);
        self.drop_dirty();
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

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::SetLen(len) => self.durable.resize(len as usize, 0),
                Change::Write { offset, data } => {
                    let at = offset as usize;
                    if let Some(place) = self.durable.get_mut(at..at + data.len()) {
                        place.copy_from_slice(&data);
                    }
                }
            }
        }
    }

    fn forget(&mut self) {
        let Self { durable, current, unsynced, .. } = self;
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
        self.ask(FileOp::Read, |disk, number, _| {
            let at = offset as usize;
            let contents = disk.contents(number)?;
            let bytes = contents.current.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ask(FileOp::Write, |disk, number, fault| match fault {
            None => {
                disk.allocate(number, offset, data.len())?;
                disk.contents(number)?.write(offset, data);
                Ok(())
            }
            Some(Fault::Lost) => Ok(()),
            Some(Fault::Short(kind) | Fault::Error(kind)) => {
                disk.contents(number)?.write(offset, &data[..data.len() / 2]);
                Err(kind.into())
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.ask(FileOp::SetLen, |disk, number, _| {
            let contents = disk.contents(number)?;
            contents.current.resize(len as usize, 0);
            contents.allocated.retain(|block, ()| *block < len.div_ceil(BLOCK));
            contents.unsynced.push(Change::SetLen(len));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.ask(FileOp::Sync, |disk, number, _| {
            disk.contents(number)?.sync();
            Ok(())
        })
    }

    fn forget(&self) {
        self.with(Contents::forget);
    }

    fn size(&self) -> io::Result<u64> {
        let off = self.disk().power == Power::Off;
        if off { Err(power_is_off()) } else { Ok(self.with(|contents| contents.current.len() as u64)) }
    }

    fn beside(&self) -> io::Result<Arc<dyn FileLayer>> {
        self.ask(FileOp::Beside, |disk, _, _| {
            disk.clear_beside();
            let number = disk.made;
            disk.made += 1;
            disk.files.insert(number, Contents::default());
            disk.beside = Some(number);
            let new: Arc<dyn FileLayer> = Arc::new(Self { disk: self.disk.clone(), number: Some(number) });
            Ok(new)
        })
    }

    fn replace(&self) -> io::Result<()> {
        self.ask(FileOp::Replace, |disk, _, _| {
            disk.place = disk.beside.take().ok_or(io::ErrorKind::NotFound)?;
            Ok(())
        })
    }

    fn sync_place(&self) -> io::Result<()> {
        self.ask(FileOp::SyncPlace, |disk, _, _| {
            disk.durable_place = disk.place;
            let kept = [Some(disk.place), disk.beside];
            disk.files.retain(|number, _| kept.contains(&Some(*number)));
            Ok(())
        })
    }

    fn clear_beside(&self) -> io::Result<()> {
        self.disk().clear_beside();
        Ok(())
    }
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyFile({} bytes)", self.with(|contents| contents.current.len()))
    }
}
