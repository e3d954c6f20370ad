//! The task of one entry: it does what the machine asks for, one thing after another, and ends when nothing is left.
//!
//! Guarantees: time passes for the machine also while a call is under way, so a key is dropped at its bound even
//! if its vault hangs; a vault or a record store that panics is an outage; whatever ends the task, those who wait
//! are told; a revocation that is known when the keyring closes is persisted, or tried once more.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use cofferdam_crypto::{
    Epoch,
    planted::{Bug, is_planted},
};

use super::{
    Shared,
    agenda::LONGEST_SLEEP,
    desk::{Desk, Ticket},
    entry::Entry,
    live::Material,
    seats::Claim,
    steps::{Ticked, Work},
};
use crate::{
    Fault, KeyError, KeyEvent,
    machine::{Attempt, Effect, Event, Jitter},
    rt::{self, atomic::Ordering, sleep},
};

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Arc<Entry>,
    /// It has come to rest by itself: the entry may have another task by now.
    ended: bool,
}

/// Starts the task with this to do first; the caller has marked the entry as running.
pub(super) fn spawn(shared: Arc<Shared>, entry: Arc<Entry>, first: Work) {
    shared.tasks.add();
    rt::spawn(run(Task { shared, entry, ended: false }, first));
}

/// Boxed, because a task can start another: a customer key's record needs the service key.
fn run(mut task: Task, first: Work) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { task.run(first).await })
}

impl Task {
    /// One beside the entry's own.
    #[cfg(cofferdam_planted)]
    pub(super) fn extra(shared: Arc<Shared>, entry: Arc<Entry>) -> Self {
        shared.tasks.add();
        Self { shared, entry, ended: true }
    }

    async fn run(&mut self, first: Work) {
        let mut next = Some(first);
        let mut work = None;
        while !self.shared.is_closing() {
            let todo = match (work.take(), next.take()) {
                (Some(effect), _) => Work::Do(effect),
                (None, Some(todo)) => todo,
                (None, None) => match self.entry.next(&self.shared, true) {
                    Some(todo) => todo,
                    None => Work::End,
                },
            };
            match todo {
                Work::Do(effect) => work = self.perform(effect).await,
                Work::Look(lacking) => work = self.look(&lacking).await,
                Work::Rest(_) | Work::End => {
                    self.ended = true;
                    self.shared.keep_agenda();
                    return;
                }
            }
        }
        if let (None, Some(Work::Do(effect))) = (&work, next) {
            work = Some(effect);
        }
        self.leave(work).await;
    }

    /// Persists what is known and not persisted yet, once: the process may end after this.
    async fn leave(&self, mut work: Option<Effect>) {
        if !matches!(work, Some(Effect::Persist { .. })) {
            work = self.entry.owed(&self.shared);
        }
        // One persisting can ask for another, but not for a third.
        for _ in 0..2 {
            let Some(effect @ Effect::Persist { .. }) = work else { return };
            work = self.perform(effect).await;
        }
    }

    pub(super) async fn perform(&self, effect: Effect) -> Option<Effect> {
        let generation = match effect {
            Effect::Persist { .. } => Ticket::ALWAYS,
            _ => self.entry.desk().ticket(),
        };
        let done = match effect {
            Effect::Attempt { attempt, reread } => {
                let work = self.attempt(attempt, reread, generation);
                self.during(generation, work).await
            }
            Effect::ReadRecord => self.during(generation, self.read_after_denial(generation)).await,
            // Not given up when the keyring closes: a revocation that is known is persisted.
            Effect::Persist { revoked } => {
                unless_it_panics(self.persist(revoked)).await.ok_or(Ended::Panicked)
            }
            _ => Ok(None),
        };
        match done {
            Ok(next) => next,
            Err(Ended::GivenUp) => None,
            Err(Ended::Displaced(by)) => Some(by),
            Err(Ended::Panicked) => self.panicked(generation),
        }
    }

    /// Looks for epochs in the record without asking the vault: a block can claim any epoch, and whoever plants
    /// one must not be able to use up the vault's limit.
    async fn look(&self, lacking: &BTreeSet<Epoch>) -> Option<Effect> {
        let generation = self.entry.desk().ticket_of_record();
        let read = match self.during(generation, self.read()).await {
            Ok(read) => read,
            Err(Ended::GivenUp) => return None,
            Err(Ended::Displaced(by)) => return Some(by),
            Err(Ended::Panicked) => Err(self.error_of_panic()),
        };
        if let Ok(record) = &read {
            self.drop_outdated(generation, record);
        }
        self.entry.settle(generation, lacking, read, &self.shared.names);
        None
    }

    fn error_of_panic(&self) -> KeyError {
        KeyError::Unavailable {
            account: self.entry.account,
            provider: self.entry.provider,
            fault: Fault::Panicked,
            proven: self.entry.desk().is_proven(),
            retry: self.shared.parts.policy.retry_max(),
        }
    }

    /// Foreign code panicked: a failure like any other, as far as keys are concerned.
    fn panicked(&self, generation: Ticket) -> Option<Effect> {
        let error = self.error_of_panic();
        let at = self.entry.now();
        self.conclude(generation, Event::Abandoned, |desk| {
            desk.wanted.clear();
            desk.note_failure(error.clone(), at);
            self.entry.say(desk, error);
        })
    }

    /// What the work brings, unless the keyring closes or what it is about is forgotten meanwhile.
    async fn during<T>(&self, generation: Ticket, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = std::pin::pin!(unless_it_panics(work));
        // There while there is a task; a task beside it hears of nothing.
        let wake = self.entry.desk().running.clone().unwrap_or_default();
        loop {
            let wait = self.until_next_wake();
            tokio::select! {
                biased;
                // First: an answer that is there counts, also when the keyring closes.
                done = &mut work => return done.ok_or(Ended::Panicked),
                () = self.shared.closing.wait() => return Err(Ended::GivenUp),
                () = wake.notified() => {
                    if !self.entry.desk().admits(generation) {
                        return Err(Ended::GivenUp);
                    }
                }
                () = sleep(wait) => {
                    match self.entry.tick(&self.shared, generation) {
                        Ticked::GoOn => {}
                        Ticked::Forgotten => return Err(Ended::GivenUp),
                        Ticked::Due(effect) => return Err(Ended::Displaced(effect)),
                    }
                }
            }
        }
    }

    fn until_next_wake(&self) -> Duration {
        let wake = self.entry.desk().machine.next_wake(self.entry.now(), &self.shared.parts.policy);
        wake.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    /// The attempt's keys were verified: the same as [`Self::conclude`], at the pace of their vault, and spread if many
    /// may have been verified at once.
    pub(super) async fn verified(
        &self,
        generation: Ticket,
        attempt: Attempt,
        keys: Vec<Arc<Material>>,
    ) -> Option<Effect> {
        loop {
            let mut claim = self.claim().await;
            if let Landed::Seated(work) = self.land(generation, attempt, &keys, &mut claim) {
                return work;
            }
        }
    }

    fn land(
        &self,
        generation: Ticket,
        attempt: Attempt,
        keys: &[Arc<Material>],
        claim: &mut Option<Claim>,
    ) -> Landed {
        let (jitter, share) = (self.jitter(), self.jitter());
        let mut told: Vec<KeyEvent> = Vec::new();
        let mut desk = self.entry.desk();
        if !desk.admits(generation) {
            return Landed::Seated(None);
        }
        let lanes = &self.shared.lanes;
        let demand = desk.record.as_ref().and_then(|record| lanes.demand(self.entry.provider, record));
        let pace = demand.map_or(Duration::ZERO, |demand| demand.pace());
        let is_one_of_many = desk.machine.is_one_of_many();
        let mut work = self.entry.feed(&mut desk, &self.shared, Event::Paced(pace), &mut told);
        if desk.seat.is_none() && claim.is_none() && !is_planted(Bug::PublishedWithoutSeat) {
            // The key has just reached its bound.
            self.entry.tell(&self.shared, desk, told);
            return Landed::WithoutSeat;
        }
        desk.claim = claim.take();
        for key in keys {
            desk.wanted.remove(&key.epoch());
        }
        desk.candidate = Some(keys.to_vec());
        let verified = Event::Verified { attempt, jitter };
        work = self.entry.feed(&mut desk, &self.shared, verified, &mut told).or(work);
        if is_one_of_many {
            work = self.entry.feed(&mut desk, &self.shared, Event::Spread(share), &mut told).or(work);
        }
        self.entry.end_round(&mut desk);
        self.entry.tell(&self.shared, desk, told);
        Landed::Seated(work)
    }

    /// Feeds an event that concludes something, unless what it is about was forgotten meanwhile.
    pub(super) fn conclude(
        &self,
        generation: Ticket,
        event: Event,
        prepare: impl FnOnce(&mut Desk),
    ) -> Option<Effect> {
        let mut told: Vec<KeyEvent> = Vec::new();
        let mut desk = self.entry.desk();
        if !desk.admits(generation) {
            return None;
        }
        prepare(&mut desk);
        let work = self.entry.feed(&mut desk, &self.shared, event, &mut told);
        self.entry.end_round(&mut desk);
        self.entry.tell(&self.shared, desk, told);
        work
    }

    pub(super) fn jitter(&self) -> Jitter {
        let mut bytes = [0; 2];
        match self.shared.parts.entropy.fill(&mut bytes) {
            Ok(()) => Jitter(u16::from_le_bytes(bytes)),
            Err(_) => Jitter::default(),
        }
    }
}

/// What became of keys that were verified.
enum Landed {
    /// What is to be done then.
    Seated(Option<Effect>),
    /// Nothing: there was no seat for them.
    WithoutSeat,
}

/// Why work brought nothing.
enum Ended {
    GivenUp,
    /// This is to be done first.
    Displaced(Effect),
    Panicked,
}

/// What the future brings; `None` if it panics. It is not polled again then.
async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

impl Shared {
    /// Persists what is known and not persisted yet, as the keyring closes: once.
    pub(super) fn leave_all(self: &Arc<Self>) {
        if self.left.swap(true, Ordering::SeqCst) {
            return;
        }
        for entry in self.entries.all() {
            let mut desk = entry.desk();
            if desk.running.is_none() && desk.machine.is_unpersisted() {
                desk.running = Some(Arc::default());
                drop(desk);
                spawn(self.clone(), entry, Work::End);
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.ended {
            self.entry.abandon(&self.shared);
        }
        self.shared.tasks.remove();
    }
}
