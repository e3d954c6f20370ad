//! What a [`FaultyFile`](super::FaultyFile) is made of: files with what is durable of them, faults, and the power.
//!
//! Guarantees: those of the model of a disk that its parent states. Not its job: to be a file layer.

use std::{collections::BTreeMap, io};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Fault, FileOp};

const SECTOR: usize = 512;
pub(super) const BLOCK: u64 = 4096;

pub(super) struct Disk {
    pub(super) files: BTreeMap<u64, Contents>,
    /// Which of them has the place, and which had when that was last synced.
    pub(super) place: u64,
    pub(super) durable_place: u64,
    pub(super) beside: Option<u64>,
    /// How many files there have been.
    pub(super) made: u64,
    /// How often each operation was asked for.
    pub(super) asked: BTreeMap<FileOp, u64>,
    pub(super) faults: Vec<(FileOp, u64, Fault)>,
    pub(super) power: Power,
    /// How often the power has failed.
    pub(super) crashes: u64,
    /// Blocks that may be allocated.
    pub(super) capacity: Option<u64>,
}

#[derive(Default)]
pub(super) struct Contents {
    /// What a crash leaves for certain.
    pub(super) durable: Vec<u8>,
    /// What reads see.
    pub(super) current: Vec<u8>,
    pub(super) unsynced: Vec<Change>,
    /// Blocks that are allocated.
    pub(super) allocated: BTreeMap<u64, ()>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Power {
    #[default]
    On,
    /// For this many operations more, reads aside.
    For(u64),
    /// It failed amid writes. The next operation other than a read or a write learns of it.
    Failing,
    Off,
}

pub(super) enum Change {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
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
    pub(super) fn ask(&mut self, op: FileOp, file: u64) -> io::Result<Option<Fault>> {
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

    pub(super) fn contents(&mut self, file: u64) -> io::Result<&mut Contents> {
        self.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn allocated(&self) -> u64 {
        self.files.values().map(|contents| contents.allocated.len() as u64).sum()
    }

    pub(super) fn allocate(&mut self, file: u64, offset: u64, len: usize) -> io::Result<()> {
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

    pub(super) fn clear_beside(&mut self) {
        if let Some(beside) = self.beside.take() {
            self.files.remove(&beside);
        }
    }
}

impl Contents {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self {
            allocated: (0..(bytes.len() as u64).div_ceil(BLOCK)).map(|block| (block, ())).collect(),
            durable: bytes.clone(),
            current: bytes,
            unsynced: Vec::new(),
        }
    }

    pub(super) fn after_crash(&self, crashes: u64, mut draw: impl FnMut() -> u64) -> Vec<u8> {
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
    pub(super) fn drop_dirty(&mut self) {
        self.unsynced.clear();
    }

    /// A sync that fails after some of it.
    pub(super) fn sync_some(&mut self, seed: u64) {
        let Self { durable, unsynced, .. } = self;
        for change in unsynced.iter() {
            if let Change::SetLen(len) = change {
                durable.resize(*len as usize, 0);
            }
        }
        keep_some(durable, unsynced, 1, seed);
        self.drop_dirty();
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let at = offset as usize;
        if self.current.len() < at + data.len() {
            self.current.resize(at + data.len(), 0);
            self.unsynced.push(Change::SetLen((at + data.len()) as u64));
        }
        self.current[at..at + data.len()].copy_from_slice(data);
        self.unsynced.push(Change::Write { offset, data: data.to_vec() });
    }

    pub(super) fn sync(&mut self) {
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

    pub(super) fn forget(&mut self) {
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

pub(super) fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}
