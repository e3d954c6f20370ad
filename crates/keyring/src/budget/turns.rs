//! Who waits for a turn at a vault, and who is next.
//!
//! Guarantees: those whom callers wait for come before those whom nobody waits for; among the first who came first is
//! first, but one without a key does not hold up one that has; among the others whose key is too old first is first.
//!
//! Not its job: to say whether there is a turn.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{Budget, Kind, Wait};

/// Who waits: `F` is waited for by callers, `B` by nobody.
#[derive(Debug)]
pub(crate) struct Turns<F, B> {
    held: VecDeque<Waits<F>>,
    cold: VecDeque<Waits<F>>,
    /// By when their keys are too old, and the order of coming.
    behind: BTreeMap<(Duration, u64), B>,
    last: u64,
}

#[derive(Debug)]
struct Waits<F> {
    number: u64,
    since: Duration,
    who: F,
}

/// Whose turn it is.
#[derive(Debug)]
pub(crate) enum Next<F, B> {
    Front(F),
    Behind(B),
}

impl<F, B> Turns<F, B> {
    pub(crate) fn new() -> Self {
        Self { held: VecDeque::new(), cold: VecDeque::new(), behind: BTreeMap::new(), last: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.is_front_empty() && self.behind.is_empty()
    }

    pub(crate) fn is_front_empty(&self) -> bool {
        self.held.is_empty() && self.cold.is_empty()
    }

    pub(crate) fn is_behind_waiting(&self) -> bool {
        !self.behind.is_empty()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.held.len() + self.cold.len() + self.behind.len()
    }

    /// Somebody comes whom callers wait for. Returns what names them.
    pub(crate) fn come(&mut self, kind: Kind, who: F, now: Duration) -> u64 {
        self.last += 1;
        let waits = Waits { number: self.last, since: now, who };
        self.front(kind).push_back(waits);
        self.last
    }

    /// Somebody comes whom nobody waits for, until `deadline`.
    pub(crate) fn come_behind(&mut self, who: B, deadline: Duration) {
        self.last += 1;
        self.behind.insert((deadline, self.last), who);
    }

    /// Somebody no longer waits.
    pub(crate) fn leave(&mut self, kind: Kind, number: u64) {
        let front = self.front(kind);
        if let Ok(at) = front.binary_search_by_key(&number, |waits| waits.number) {
            front.remove(at);
        }
    }

    /// Everybody whom callers wait for and who has a key; and those without one, if meant.
    pub(crate) fn leave_all(&mut self, cold_too: bool) -> Vec<F> {
        let mut all: Vec<Waits<F>> = self.held.drain(..).collect();
        if cold_too {
            all.extend(self.cold.drain(..));
            all.sort_by_key(|waits| waits.number);
        }
        all.into_iter().map(|waits| waits.who).collect()
    }

    /// Who is next, with a turn that is reserved; `front_only`: of those whom callers wait for. `patience` is how long
    /// the number of calls under way holds up one without a key.
    ///
    /// # Errors
    /// [`Wait`]: until when there is a turn for somebody who waits, if that is known. `ForATurn` also when nobody waits.
    pub(crate) fn next(
        &mut self,
        budget: &mut Budget,
        patience: Duration,
        now: Duration,
        front_only: bool,
    ) -> Result<Next<F, B>, Wait> {
        let mut soonest: Option<Duration> = None;
        let mut sooner = |wait| {
            if let Wait::Until(at) = wait {
                soonest = Some(soonest.map_or(at, |soonest: Duration| soonest.min(at)));
            }
        };
        let number = |front: &VecDeque<Waits<F>>| front.front().map(|waits| waits.number);
        let cold_first = match (number(&self.held), number(&self.cold)) {
            (Some(held), Some(cold)) => cold < held,
            (held, _) => held.is_none(),
        };
        for kind in if cold_first { [Kind::Cold, Kind::Held] } else { [Kind::Held, Kind::Cold] } {
            let Some(first) = self.front(kind).front() else { continue };
            let tired = first.since + patience;
            match budget.reserve(kind, now >= tired, now) {
                Ok(()) => {
                    if let Some(waits) = self.front(kind).pop_front() {
                        return Ok(Next::Front(waits.who));
                    }
                }
                Err(Wait::ForATurn) if kind == Kind::Cold && now < tired => sooner(Wait::Until(tired)),
                Err(wait) => sooner(wait),
            }
        }
        // While one whom callers wait for finds no room in the window, nobody behind does either.
        if !front_only && !self.behind.is_empty() {
            match budget.reserve(Kind::Behind, false, now) {
                Ok(()) => {
                    if let Some((_, who)) = self.behind.pop_first() {
                        return Ok(Next::Behind(who));
                    }
                }
                Err(wait) => sooner(wait),
            }
        }
        Err(soonest.map_or(Wait::ForATurn, Wait::Until))
    }

    fn front(&mut self, kind: Kind) -> &mut VecDeque<Waits<F>> {
        if kind == Kind::Cold { &mut self.cold } else { &mut self.held }
    }
}
