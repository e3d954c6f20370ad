//! How many keys are held at once, and whose goes when room is needed.
//!
//! Guarantees: never more keys than seats. Whose key was used longest ago goes first, to the second; keys whose
//! vault fails go after all others, those in Grace last, since they could not be had again. Using a key costs it
//! nothing: how recently it was used is looked at when room is needed.
//!
//! A key that callers wait for stays until one of them has looked: so every call to a vault serves somebody,
//! however few seats there are.
//!
//! Invariants: a key is published only by who holds a seat, or a claim to one; the lock is taken under a desk's
//! and never the other way round.
//!
//! Not its job: to take the key away: who gets a seat from somebody does.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, PoisonError, Weak},
};

use super::entry::Entry;
use cofferdam_crypto::planted::{Bug, is_planted};

use crate::{
    machine::Recovery,
    rt::{Mutex, MutexGuard, Notified, Notify},
};

/// How many keys are looked at for one seat, at most: those were used since they were ranked, and are ranked
/// anew. So the work for one seat is bounded, also where every key is in use all the time.
const LOOKS: usize = 128;

pub(super) struct Seats {
    most: usize,
    plan: Mutex<Plan>,
    /// Wakes who needs a seat when one may be had.
    changed: Notify,
}

#[derive(Default)]
struct Plan {
    /// Who goes first is first.
    taken: BTreeMap<Rank, Weak<Entry>>,
    /// The rank of each seat, by number.
    ranks: BTreeMap<u64, Rank>,
    claimed: usize,
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    recovery: Recovery,
    /// In seconds since boot; the key may have been used since.
    used: u32,
    /// Names the seat.
    number: u64,
}

/// What a claim to a seat came to.
pub(super) enum Claimed {
    Free(Claim),
    /// The key in this seat must be taken away first.
    From(Claim, Arc<Entry>, u64),
    /// Whoever has a seat must keep it for the moment: see [`Seats::changed`].
    Later,
}

impl Seats {
    pub(super) fn new(most: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self { most: most.get(), plan: Mutex::default(), changed: Notify::new() })
    }

    pub(super) fn claim(self: &Arc<Self>) -> Claimed {
        // An entry whose last holder goes meanwhile leaves its seat: after the lock is released.
        let mut looked_at = Vec::new();
        let mut plan = self.plan();
        let from = if plan.taken.len() + plan.claimed < self.most {
            None
        } else {
            match plan.leave_first(&mut looked_at) {
                Some(from) => Some(from),
                None => return Claimed::Later,
            }
        };
        if is_planted(Bug::SeatsCountedEarly) {
            drop(plan);
            plan = self.plan();
        }
        plan.claimed += 1;
        drop(plan);
        let claim = Claim(self.clone());
        match from {
            None => Claimed::Free(claim),
            Some((entry, number)) => Claimed::From(claim, entry, number),
        }
    }

    /// Ends when a seat may be had that was not before this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// A key that was kept for callers no longer is.
    pub(super) fn note_change(&self) {
        self.changed.notify_waiters();
    }

    /// How many keys are held.
    pub(super) fn taken(&self) -> usize {
        self.plan().taken.len()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn sit(&mut self, rank: Rank, entry: Weak<Entry>) {
        self.ranks.insert(rank.number, rank);
        self.taken.insert(rank, entry);
    }

    /// Frees a seat, if it was not given to somebody else meanwhile.
    fn leave(&mut self, number: u64) -> Option<Weak<Entry>> {
        let rank = self.ranks.remove(&number)?;
        self.taken.remove(&rank)
    }

    /// Takes the seat of whose key was used longest ago.
    fn leave_first(&mut self, looked_at: &mut Vec<Arc<Entry>>) -> Option<(Arc<Entry>, u64)> {
        let mut kept = Vec::new();
        let mut looks = 0;
        let found = loop {
            let Some((rank, weak)) = self.taken.pop_first() else { break None };
            let Some(entry) = weak.upgrade() else {
                // Nobody has it any longer.
                self.ranks.remove(&rank.number);
                continue;
            };
            let used = entry.used_at();
            if entry.is_promised() {
                kept.push((rank, weak));
            } else if used <= rank.used || looks == LOOKS {
                self.ranks.remove(&rank.number);
                break Some((entry, rank.number));
            } else {
                self.sit(Rank { used, ..rank }, weak);
                looks += 1;
            }
            looked_at.push(entry);
        };
        self.taken.extend(kept);
        found
    }
}

/// The right to one seat.
pub(super) struct Claim(Arc<Seats>);

impl Claim {
    pub(super) fn sit(self, entry: Weak<Entry>, recovery: Recovery, used: u32) -> Seat {
        let mut plan = self.0.plan();
        plan.last += 1;
        let rank = Rank { recovery, used, number: plan.last };
        plan.sit(rank, entry);
        drop(plan);
        Seat { seats: self.0.clone(), rank }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.plan().claimed -= 1;
        self.0.note_change();
    }
}

/// A seat that is taken, until it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    /// As it was given last; `used` may have been found to be later since.
    rank: Rank,
}

impl Seat {
    pub(super) fn number(&self) -> u64 {
        self.rank.number
    }

    pub(super) fn rank(&mut self, recovery: Recovery, used: u32) {
        let rank = Rank { recovery, used, ..self.rank };
        if rank == self.rank {
            return;
        }
        self.rank = rank;
        let mut plan = self.seats.plan();
        // Unless it was given to somebody else, who is about to take the key away.
        if let Some(entry) = plan.leave(rank.number) {
            plan.sit(rank, entry);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.plan().leave(self.rank.number);
        self.seats.note_change();
    }
}
