//! When what is to be looked at: one task for all keys of a keyring.
//!
//! Guarantees: an entry is looked at when its time has come, in the order of times; whoever waits at a vault is called
//! when there is a turn. While nothing is due there is no task. Time is the [`Clock`]'s, and it is looked at least every
//! [`LONGEST_SLEEP`], so that a machine that was suspended drops its overdue keys soon after.
//!
//! Invariants: the lock is taken under a desk's and a lane's, and nothing is called under it.
//!
//! Not its job: to decide what is due: an entry's machine and a vault's lane say so.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    pin::Pin,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use cofferdam_vault::{Clock, Timestamp};

use super::{Shared, entry::Entry};
use crate::rt::{self, Mutex, MutexGuard, Notify, let_others_run, sleep};

pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What every entry and every vault needs of its keyring.
pub(super) struct Hub {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) agenda: Agenda,
}

impl Hub {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, agenda: Agenda::default() })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

#[derive(Default)]
pub(super) struct Agenda {
    list: Mutex<List>,
    changed: Notify,
}

#[derive(Default)]
struct List {
    /// The soonest is first.
    timers: BinaryHeap<Reverse<Timer>>,
    /// To be looked at now.
    called: Vec<Weak<Entry>>,
    /// Vaults where there may be turns now.
    lanes: BTreeSet<usize>,
    /// When there are turns again at which vault, as time since boot.
    turns: BTreeMap<usize, Duration>,
    last: u64,
    /// There is a task.
    running: bool,
}

/// By time, then by order of coming: which is unique.
struct Timer {
    /// In nanoseconds since boot.
    at: u64,
    number: u64,
    entry: Weak<Entry>,
}

impl Timer {
    fn key(&self) -> (u64, u64) {
        (self.at, self.number)
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// What is due.
#[derive(Default)]
struct Due {
    entries: Vec<(Weak<Entry>, Option<u64>)>,
    lanes: BTreeSet<usize>,
}

impl Agenda {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry is looked at once this time since boot, in nanoseconds, has come.
    pub(super) fn at(&self, at: u64, entry: Weak<Entry>, now: u64) {
        let mut list = self.list();
        list.last += 1;
        let number = list.last;
        // One that is overdue was slept over: the machine was suspended, and the runtime's timers were too.
        let is_first = list.timers.peek().is_none_or(|Reverse(first)| at < first.at || first.at <= now);
        list.timers.push(Reverse(Timer { at, number, entry }));
        drop(list);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// The entry is looked at now.
    pub(super) fn call(&self, entry: Weak<Entry>) {
        self.list().called.push(entry);
        self.changed.notify_one();
    }

    /// The vault's turns are given out now.
    pub(super) fn serve(&self, lane: usize) {
        if self.list().lanes.insert(lane) {
            self.changed.notify_one();
        }
    }

    /// Takes what is due now, a part of it if it is much.
    fn take(&self, now: Duration) -> Due {
        const AT_ONCE: usize = 256;
        let mut due = Due::default();
        let mut list = self.list();
        due.lanes = std::mem::take(&mut list.lanes);
        while let Some((&lane, _)) = list.turns.iter().find(|&(_, &at)| at <= now) {
            list.turns.remove(&lane);
            due.lanes.insert(lane);
        }
        due.entries.extend(list.called.drain(..).map(|entry| (entry, None)));
        while due.entries.len() < AT_ONCE
            && let Some(Reverse(first)) = list.timers.peek()
            && u128::from(first.at) <= now.as_nanos()
            && let Some(Reverse(timer)) = list.timers.pop()
        {
            due.entries.push((timer.entry, Some(timer.at)));
        }
        if list.timers.capacity() > 1024 && list.timers.len() * 4 < list.timers.capacity() {
            let fewer = list.timers.len() * 2;
            list.timers.shrink_to(fewer);
        }
        due
    }

    /// How long nothing is due. `None`, once and for all, when there is nothing more: the task ends.
    fn rest(&self, now: Duration) -> Option<Duration> {
        let mut list = self.list();
        if !list.called.is_empty() || !list.lanes.is_empty() {
            return Some(Duration::ZERO);
        }
        let timer = list.timers.peek().map(|Reverse(first)| Duration::from_nanos(first.at));
        let next = timer.into_iter().chain(list.turns.values().copied()).min();
        if next.is_none() {
            list.running = false;
        }
        next.map(|at| at.saturating_sub(now).min(LONGEST_SLEEP))
    }
}

impl Shared {
    /// Starts the task if there is none: whoever leaves something to be done calls this, within a runtime.
    pub(super) fn keep_agenda(self: &Arc<Self>) {
        let mut list = self.hub.agenda.list();
        let is_empty = list.timers.is_empty()
            && list.called.is_empty()
            && list.lanes.is_empty()
            && list.turns.is_empty();
        if list.running || is_empty || self.is_closing() {
            return;
        }
        list.running = true;
        drop(list);
        self.tasks.add();
        rt::spawn(run(Keeper { shared: self.clone(), ended: false }));
    }
}

/// Boxed: what it starts can start it.
fn run(mut keeper: Keeper) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { keeper.run().await })
}

/// The task there is; when it is dropped there is none.
struct Keeper {
    shared: Arc<Shared>,
    /// It found nothing to do: there may be another by now.
    ended: bool,
}

impl Keeper {
    async fn run(&mut self) {
        self.ended = self.shared.follow_agenda().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.hub.agenda.list().running = false;
        }
        self.shared.tasks.remove();
    }
}

impl Shared {
    /// Does what is due, until nothing is, or the keyring closes; whether the first.
    async fn follow_agenda(self: &Arc<Self>) -> bool {
        let agenda = &self.hub.agenda;
        while !self.is_closing() {
            let due = agenda.take(self.hub.now().boot);
            for (entry, timer) in due.entries {
                if let Some(entry) = entry.upgrade()
                    && timer.is_none_or(|at| entry.is_timer(at))
                {
                    self.attend(&entry);
                }
            }
            for index in due.lanes {
                self.serve(index);
            }
            let Some(rest) = agenda.rest(self.hub.now().boot) else { return true };
            if rest.is_zero() {
                let_others_run().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.closing.wait() => {}
                () = agenda.changed.notified() => {}
                () = sleep(rest) => {}
            }
        }
        self.leave_all();
        false
    }

    /// Gives out a vault's turns.
    fn serve(self: &Arc<Self>, index: usize) {
        let Some(lane) = self.lanes.all().get(index) else { return };
        let released = lane.release(self.hub.now());
        {
            let mut list = self.hub.agenda.list();
            match released.again {
                Some(at) => list.turns.insert(index, at),
                None => list.turns.remove(&index),
            };
        }
        for (entry, turn) in released.behind {
            entry.take_turn(turn);
            self.attend(&entry);
        }
        if let Some(news) = released.news {
            self.tell_of_vault(lane, news);
        }
    }
}
