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

mod disk;

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::disk::{BLOCK, Change, Contents, Disk, Power, power_is_off};
use super::layer::FileLayer;

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
