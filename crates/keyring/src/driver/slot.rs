//! Where an entry's desk is kept while nobody is at it.
//!
//! Guarantees: a desk that rests takes about a hundred bytes; whoever comes to it finds it as it was left. Nothing about
//! a desk is different because of where it was kept.
//!
//! Not its job: to say what rests: the machine does of its state.

use std::{
    cell::OnceCell,
    ops::{Deref, DerefMut},
    sync::{Arc, PoisonError, TryLockError},
    time::Duration,
};

use cofferdam_crypto::{Epoch, KeyCheckValue};
use cofferdam_vault::Timestamp;

use super::{desk::Desk, entry::Entry, kept::Kept, lane::InUse, seats::Seat};
use crate::{
    KeyState,
    machine::Packed,
    rt::{MutexGuard, watch},
    telemetry::HeldIn,
};

/// A desk that nobody is at.
pub(super) enum Slot {
    Rests(Rests),
    Stands(Box<Desk>),
    /// Somebody is at it.
    Taken,
}

/// What there is to keep of a desk at which nothing is under way, nothing has failed and nobody waits.
pub(super) struct Rests {
    machine: Packed,
    record: Option<Arc<Kept>>,
    proven: Proven,
    seat: Option<Seat>,
    held: Option<HeldIn>,
    watch: Option<Box<watch::Sender<KeyState>>>,
    in_use: Option<InUse>,
    timer: Option<u64>,
    used: bool,
    lent: bool,
    retired: bool,
    queued: bool,
}

enum Proven {
    No,
    /// The newest of the keys that are live.
    Live,
    Other(Box<(Epoch, KeyCheckValue)>),
}

/// Somebody at a desk, under its lock.
pub(super) struct AtDesk<'a> {
    entry: &'a Entry,
    slot: MutexGuard<'a, Slot>,
    /// There until it is put back.
    desk: Option<Box<Desk>>,
    /// In the place of a desk that is not there, which does not happen.
    spare: OnceCell<Box<Desk>>,
}

impl Entry {
    pub(super) fn desk(&self) -> AtDesk<'_> {
        AtDesk::new(self, self.slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The desk, if nobody is at it.
    pub(super) fn try_desk(&self) -> Option<AtDesk<'_>> {
        match self.slot.try_lock() {
            Ok(slot) => Some(AtDesk::new(self, slot)),
            Err(TryLockError::Poisoned(poisoned)) => Some(AtDesk::new(self, poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A desk at which nothing was ever done.
    fn empty_desk(&self) -> Box<Desk> {
        // By this clock alone, to the second: what it decides is minutes long.
        let boot = Duration::from_secs(self.used_at().into());
        Box::new(Desk::new(self.provider, Timestamp { boot, wall: Duration::MAX }))
    }
}

impl<'a> AtDesk<'a> {
    fn new(entry: &'a Entry, mut slot: MutexGuard<'a, Slot>) -> Self {
        let desk = match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Stands(desk) => desk,
            Slot::Rests(rests) => rests.stand(entry),
            Slot::Taken => entry.empty_desk(),
        };
        Self { entry, slot, desk: Some(desk), spare: OnceCell::new() }
    }
}

impl Deref for AtDesk<'_> {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        match &self.desk {
            Some(desk) => desk,
            None => self.spare.get_or_init(|| self.entry.empty_desk()),
        }
    }
}

impl DerefMut for AtDesk<'_> {
    fn deref_mut(&mut self) -> &mut Desk {
        self.desk.get_or_insert_with(|| self.entry.empty_desk())
    }
}

impl Drop for AtDesk<'_> {
    fn drop(&mut self) {
        if let Some(mut desk) = self.desk.take() {
            *self.slot = match Rests::of(&mut desk, self.entry) {
                Some(rests) => Slot::Rests(rests),
                None => Slot::Stands(desk),
            };
        }
    }
}

impl Rests {
    /// Takes what there is to keep, if the desk rests.
    fn of(desk: &mut Desk, entry: &Entry) -> Option<Self> {
        let is_quiet = desk.running.is_none()
            && desk.waiting == 0
            && !desk.asked
            && desk.turns.is_empty()
            && desk.untold.is_none()
            && desk.candidate.is_none()
            && desk.claim.is_none()
            && desk.failure.is_none()
            && desk.denied.is_empty()
            && !desk.denied_elsewhere
            && desk.bridged.is_none()
            && !desk.is_stale()
            && desk.reloading == 0
            && desk.denial.is_none()
            && desk.said.is_none()
            && desk.said_of.is_empty()
            && desk.wanted.is_empty()
            && desk.unknown.is_empty();
        if !is_quiet {
            return None;
        }
        let machine = desk.machine.pack()?;
        let live = entry.live.load();
        let live = live.as_deref().map_or(&[][..], |live| &live.keys);
        let is_live = live.len() == desk.keys.len()
            && live.iter().zip(&desk.keys).all(|(live, key)| Arc::ptr_eq(live, key));
        if !is_live {
            return None;
        }
        let proven = match desk.proven {
            None => Proven::No,
            Some(proven) if live.last().is_some_and(|key| (key.epoch(), key.check()) == proven) => {
                Proven::Live
            }
            Some(proven) => Proven::Other(Box::new(proven)),
        };
        if !desk.is_watched() {
            desk.watch = None;
        }
        Some(Self {
            machine,
            record: desk.record.take(),
            proven,
            seat: desk.seat.take(),
            held: desk.held.take(),
            watch: desk.watch.take(),
            in_use: desk.in_use.take(),
            timer: desk.timer,
            used: desk.used,
            lent: desk.lent,
            retired: desk.retired,
            queued: desk.queued,
        })
    }

    fn stand(self, entry: &Entry) -> Box<Desk> {
        let mut desk = entry.empty_desk();
        let Self { machine, record, proven, seat, held, watch, in_use, .. } = self;
        let Self { timer, used, lent, retired, queued, .. } = self;
        let live = entry.live.load();
        desk.keys = live.as_deref().map_or_else(Vec::new, |live| live.keys.to_vec());
        desk.proven = match proven {
            Proven::No => None,
            Proven::Live => desk.keys.last().map(|key| (key.epoch(), key.check())),
            Proven::Other(proven) => Some(*proven),
        };
        desk.machine = machine.unpack(entry.provider);
        (desk.record, desk.seat, desk.held, desk.watch, desk.in_use) = (record, seat, held, watch, in_use);
        (desk.timer, desk.used, desk.lent) = (timer, used, lent);
        (desk.retired, desk.queued) = (retired, queued);
        desk
    }
}
