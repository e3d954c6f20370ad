//! The transitions.
//!
//! Each event changes the phase; what follows from the change (eviction, new bounds, an announcement) is
//! found by comparing before and after, so no transition can forget it.

use std::time::Duration;

use cofferdam_crypto::{
    Provider,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{Meaning, Timestamp, VaultErrorKind};

use super::{
    Alarm, Attempt, Bounds, Effect, Event, Jitter, Keks, Policy, Serving, State, Why,
    bounds::{after, reached},
    state::{Failure, Phase, Revocation},
};

/// The state after an event, and what the driver is to do, in order.
///
/// `now` must not lie before an earlier `now` by both clocks. Pure: the same arguments give the same answer.
pub fn step(state: State, event: Event, now: Timestamp, policy: &Policy) -> (State, Vec<Effect>) {
    let bounds = state.bounds(policy);
    let reported = state.reported();
    let held = bounds.is_some();
    let mut step = Step { state, now, policy, held, effects: Vec::new(), why: Why::Expired };
    step.expire();
    step.apply(event);
    step.expire();
    step.conclude(bounds, reported)
}

struct Step<'a> {
    state: State,
    now: Timestamp,
    policy: &'a Policy,
    /// A key was held when the event came, even if its bound has passed.
    held: bool,
    effects: Vec<Effect>,
    why: Why,
}

impl Step<'_> {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Wake { wanted, used } => self.wake(wanted, used),
            Event::Paced(refresh) => self.paced(refresh),
            Event::Spread(jitter) => self.spread(jitter),
            Event::LetGo => {
                if self.held {
                    self.start_over(Why::Idle);
                }
            }
            Event::Fetch => self.fetch(),
            Event::Record { revoked, changed } => self.record(revoked, changed),
            Event::Outdated => {
                if self.state.holds_key() {
                    self.why = Why::Outdated;
                    self.state.phase = Phase::Cold;
                    self.state.failure = None;
                }
            }
            Event::RecordUnreadable => self.record_unreadable(),
            Event::RecordGone => self.start_over(Why::RecordGone),
            Event::Verified { attempt, jitter } => self.verified(attempt, jitter),
            Event::Failed { attempt, kind, keks, jitter } => self.failed(attempt, kind, keks, jitter),
            Event::Persisted { revoked, ok } => self.persisted(revoked, ok),
            Event::Forgotten => self.forgotten(),
            Event::Displaced => {
                if self.held {
                    self.start_over(Why::Displaced);
                }
            }
            Event::Abandoned => self.abandoned(),
        }
    }

    /// What time alone changes.
    fn expire(&mut self) {
        match self.state.phase {
            Phase::Held { verified, grace } => {
                let bounds = Bounds::new(verified, None, self.state.pace(self.policy), self.policy);
                if reached(bounds.usable_until, self.now) {
                    if self.state.idle {
                        self.why = Why::Idle;
                        self.state.phase = Phase::Cold;
                        self.state.due = None;
                    } else {
                        self.why = Why::Expired;
                        self.state.phase = Phase::Unavailable;
                    }
                } else if reached(bounds.fresh_until, self.now)
                    && !grace
                    && let Some(failure) = self.state.failure
                {
                    self.why = why_failed(failure.kind);
                    self.state.phase = Phase::Held { verified, grace: true };
                }
            }
            Phase::Doubted { since } if reached(after(since, Policy::CONFIRM_WITHIN), self.now) => {
                self.why = Why::Unconfirmed;
                self.state.phase = Phase::Unavailable;
            }
            _ => {}
        }
    }

    fn wake(&mut self, wanted: bool, used: bool) {
        let due = self.state.due.is_some_and(|due| reached(due, self.now));
        let in_use = wanted || used;
        if in_use {
            self.state.idle = false;
        }
        if self.state.is_busy() {
            return;
        }
        match self.state.phase {
            Phase::Revoked(Revocation { persisted: false, .. }) => {
                if due || wanted {
                    self.persist(true);
                }
            }
            Phase::Doubted { .. } => {
                if due {
                    self.begin(false);
                }
            }
            _ => {
                let waits = self.state.serving(self.now, self.policy) == Serving::Wait;
                if (wanted && waits) || (due && in_use) {
                    self.begin(!self.state.holds_key());
                } else if due {
                    self.state.idle = true;
                    // Nobody asks any longer whether it still is so: who comes back waits for an answer.
                    self.state.failure = None;
                    if let Phase::Revoked(revocation) = &mut self.state.phase {
                        revocation.answered = false;
                    }
                }
            }
        }
    }

    fn paced(&mut self, refresh: Duration) {
        let before = self.state.pace(self.policy);
        self.state.pace = refresh;
        let now = self.state.pace(self.policy);
        let Phase::Held { verified, .. } = self.state.phase else { return };
        if now > before
            && self.state.failure.is_none()
            && let Some(due) = self.state.due
        {
            // The same share of a longer time, so that keys stay spread.
            let share = due.since(&verified.sent).as_secs_f64() / before.as_secs_f64();
            self.state.due = Some(after(verified.sent, now.mul_f64(share.clamp(0.0, 1.0))));
        }
    }

    fn spread(&mut self, jitter: Jitter) {
        if let Phase::Held { verified, .. } = self.state.phase
            && self.state.failure.is_none()
        {
            let refresh = jitter.spread(self.state.pace(self.policy), Policy::MIN_REFRESH);
            self.state.due = Some(after(verified.sent, refresh));
        }
    }

    fn fetch(&mut self) {
        if self.state.holds_key() && !self.state.is_busy() {
            self.begin(false);
        }
    }

    fn begin(&mut self, reread: bool) {
        self.state.last += 1;
        let attempt = Attempt { number: self.state.last, sent: self.now, bridged_until: None };
        self.state.flight = Some(attempt);
        self.state.asked = None;
        self.state.due = None;
        self.state.idle = false;
        self.effects.push(Effect::Attempt { attempt, reread });
    }

    fn record(&mut self, revoked: bool, changed: bool) {
        let Some(kind) = self.state.reading.take() else {
            self.state.asked = self.state.flight.map(|_| self.now);
            if revoked && self.state.flight.is_some() && !self.is_revoked() && !self.state.holds_key() {
                self.why = Why::RecordedAsRevoked;
                self.state.phase = Phase::Revoked(Revocation::RECORDED);
            }
            return;
        };
        if self.is_revoked() || self.state.holds_key() {
            return;
        }
        if changed {
            self.state.absent.clear();
            if revoked {
                self.why = Why::RecordedAsRevoked;
                self.state.phase = Phase::Revoked(Revocation::RECORDED);
            }
            if !self.state.is_busy() {
                self.begin(false);
            }
        } else if revoked {
            self.why = Why::RecordedAsRevoked;
            self.state.phase = Phase::Revoked(Revocation { answered: true, ..Revocation::RECORDED });
            self.due_after(self.now, self.policy.revoked_poll());
        } else if kind.meaning() == Meaning::Denial || is_planted(Bug::NotFoundAtOnce) || self.agree() {
            self.why = Why::Denied(kind);
            self.state.phase = Phase::Revoked(Revocation::DENIED);
            self.state.absent.clear();
            self.persist(true);
        } else {
            let asked = self.state.failure.map_or(self.now, |f| f.attempt.sent);
            self.due_after(asked, Policy::CONFIRM_EVERY);
        }
    }

    fn record_unreadable(&mut self) {
        let attempt = self.state.flight.take();
        let denied = self.state.reading.take();
        if attempt.is_none() && denied.is_none() {
            return;
        }
        let unknown = Attempt { number: self.state.last, sent: self.now, bridged_until: None };
        let attempt = attempt.unwrap_or(unknown);
        self.outage(attempt, None, Jitter::default());
    }

    fn verified(&mut self, attempt: Attempt, jitter: Jitter) {
        self.land(attempt);
        let attempt =
            if is_planted(Bug::VerifiedAtAnswer) { Attempt { sent: self.now, ..attempt } } else { attempt };
        if attempt.number <= self.state.barred && !is_planted(Bug::StaleSuccess) {
            self.due_now_unless_busy();
            return;
        }
        if let Phase::Revoked(revocation) = &mut self.state.phase {
            if revocation.restoring.is_none_or(|verified| verified.number < attempt.number) {
                revocation.restoring = Some(attempt);
                self.persist(false);
            }
        } else {
            self.hold(attempt, jitter);
        }
    }

    fn hold(&mut self, attempt: Attempt, jitter: Jitter) {
        match self.state.phase {
            Phase::Held { verified, .. } if verified.number >= attempt.number => return,
            Phase::Held { .. } => self.effects.push(Effect::Refreshed),
            _ => {}
        }
        self.why = Why::Verified;
        self.state.phase = Phase::Held { verified: attempt, grace: false };
        self.state.absent.clear();
        self.state.idle = false;
        self.state.asked = None;
        if self.state.failure.is_some_and(|failure| failure.attempt.number > attempt.number) {
            return;
        }
        self.state.failure = None;
        self.state.failures = 0;
        let pace = self.state.pace(self.policy);
        // A refresh that is stretched has no room for less.
        let jitter = if pace > self.policy.refresh() { Jitter::default() } else { jitter };
        let refresh = jitter.shorten(pace).max(Policy::MIN_REFRESH);
        self.state.due = Some(after(attempt.sent, refresh));
    }

    fn failed(&mut self, attempt: Attempt, kind: VaultErrorKind, keks: Keks, jitter: Jitter) {
        self.land(attempt);
        self.state.absent.retain(|&(kek, _)| keks.said_yes >> kek & 1 == 0);
        let meaning = match (self.state.provider, kind.meaning()) {
            (Provider::Service, Meaning::Denial | Meaning::UnconfirmedDenial) => {
                self.effects.push(Effect::Alarm(Alarm::ServiceDenied(kind)));
                Meaning::Outage
            }
            (_, meaning) if !is_planted(Bug::DenialAsOutage) => meaning,
            _ => Meaning::Outage,
        };
        if kind == VaultErrorKind::Corrupt {
            self.effects.push(Effect::Alarm(Alarm::Corrupt));
        }
        match meaning {
            Meaning::Outage if attempt.number <= self.state.barred => self.due_now_unless_busy(),
            Meaning::Outage => self.outage(attempt, Some(kind), jitter),
            Meaning::Denial | Meaning::UnconfirmedDenial => self.denied(attempt, kind, keks.failed, meaning),
        }
    }

    fn outage(&mut self, attempt: Attempt, kind: Option<VaultErrorKind>, jitter: Jitter) {
        self.note_failure(attempt, kind);
        self.why = why_failed(kind);
        match &mut self.state.phase {
            Phase::Revoked(revocation) => {
                revocation.answered = true;
                self.due_after(attempt.sent, self.policy.revoked_poll());
                return;
            }
            Phase::Cold => self.state.phase = Phase::Unavailable,
            Phase::Doubted { .. } if self.state.reading.is_none() => self.state.phase = Phase::Unavailable,
            Phase::Doubted { .. } | Phase::Held { .. } | Phase::Unavailable => {}
        }
        let backoff = self.backoff();
        match kind {
            // The vault counts from its answer.
            Some(VaultErrorKind::Throttled { retry_after: Some(wait) }) => {
                self.due_after(self.now, wait.clamp(backoff, self.policy.retry_max()));
            }
            // From when it was sent: so the next has failed, too, before this failure is no longer recent.
            _ => self.due_after(attempt.sent, jitter.shorten(backoff)),
        }
    }

    fn denied(&mut self, attempt: Attempt, kind: VaultErrorKind, kek: u8, meaning: Meaning) {
        self.state.barred = self.state.last;
        self.note_failure(attempt, Some(kind));
        self.why = Why::Denied(kind);
        if let Phase::Revoked(revocation) = &mut self.state.phase {
            revocation.answered = true;
            revocation.restoring = None;
            let again = revocation.persisted && revocation.unsure;
            self.due_after(attempt.sent, self.policy.revoked_poll());
            if again && !self.state.persisting {
                self.persist(true);
            }
            return;
        }
        if meaning == Meaning::UnconfirmedDenial {
            let now = self.now;
            self.state.absent.retain(|&(_, at)| !reached(after(at, Policy::CONFIRM_WITHIN), now));
            self.state.absent.push((kek, now));
        }
        match self.state.phase {
            Phase::Doubted { .. } => {}
            // Writes are being buffered: they go on until the answers agree.
            Phase::Unavailable if meaning == Meaning::UnconfirmedDenial => {}
            _ => self.state.phase = Phase::Doubted { since: self.now },
        }
        match self.state.reading {
            None => {
                self.state.reading = Some(kind);
                self.effects.push(Effect::ReadRecord);
            }
            Some(_) if meaning == Meaning::Denial => self.state.reading = Some(kind),
            Some(_) => {}
        }
    }

    /// Whether enough answers of "not found" are of one KEK.
    fn agree(&self) -> bool {
        let absent = &self.state.absent;
        let of = |kek: u8| absent.iter().filter(|(of, _)| *of == kek).count();
        absent.iter().any(|(kek, _)| of(*kek) >= Policy::ANSWERS_THAT_AGREE)
    }

    fn persist(&mut self, revoked: bool) {
        self.state.persisting = true;
        self.effects.push(Effect::Persist { revoked });
        self.due_after(self.now, self.policy.revoked_poll());
    }

    fn persisted(&mut self, revoked: bool, ok: bool) {
        self.state.persisting = false;
        let Phase::Revoked(revocation) = &mut self.state.phase else { return };
        if !ok {
            self.effects.push(Effect::Alarm(Alarm::NotPersisted { revoked }));
        }
        match (revoked, ok, revocation.restoring) {
            (false, true, Some(attempt)) => self.hold(attempt, Jitter::default()),
            // Denied anew meanwhile: the record says the wrong thing.
            (false, true, None) => {
                (revocation.persisted, revocation.unsure) = (false, false);
                self.persist(true);
            }
            (false, false, _) => {
                (revocation.unsure, revocation.answered, revocation.restoring) = (true, true, None);
            }
            (true, true, _) => {
                (revocation.persisted, revocation.unsure) = (true, false);
                if let Some(kind) = self.state.failure.and_then(|failure| failure.kind) {
                    self.why = Why::Denied(kind);
                }
            }
            (true, false, _) => {
                self.state.failures = self.state.failures.saturating_add(1);
                self.due_after(self.now, self.backoff());
            }
        }
    }

    fn forgotten(&mut self) {
        self.state.barred = self.state.last;
        self.state.flight = None;
        self.state.reading = None;
        if let Phase::Revoked(revocation) = &mut self.state.phase {
            (revocation.answered, revocation.restoring) = (false, None);
            self.state.due = Some(self.now);
        } else {
            self.start_over(Why::Forgotten);
        }
    }

    fn start_over(&mut self, why: Why) {
        self.why = why;
        let State { provider, last, persisting, pace, .. } = self.state;
        self.state = State { last, barred: last, persisting, pace, ..State::new(provider) };
    }

    fn abandoned(&mut self) {
        self.record_unreadable();
        if self.state.persisting {
            self.state.persisting = false;
            self.state.failures = self.state.failures.saturating_add(1);
            self.due_after(self.now, self.backoff());
            if let Phase::Revoked(revocation) = &mut self.state.phase {
                revocation.restoring = None;
                revocation.unsure |= revocation.persisted;
            }
        }
    }

    fn land(&mut self, attempt: Attempt) {
        if self.state.flight.is_some_and(|flight| flight.number == attempt.number) {
            self.state.flight = None;
        }
    }

    fn note_failure(&mut self, attempt: Attempt, kind: Option<VaultErrorKind>) {
        self.state.failures = self.state.failures.saturating_add(1);
        if self.state.failure.is_none_or(|failure| failure.attempt.number <= attempt.number) {
            let read = self.state.asked.filter(|_| attempt.number == self.state.last);
            let asked = read.filter(|read| read.boot > attempt.sent.boot).unwrap_or(attempt.sent);
            self.state.failure = Some(Failure { attempt, asked, kind });
        }
    }

    fn backoff(&self) -> Duration {
        let doublings = self.state.failures.saturating_sub(1).min(16);
        (Policy::FIRST_RETRY * (1 << doublings)).min(self.policy.retry_max())
    }

    fn due_after(&mut self, from: Timestamp, wait: Duration) {
        self.state.due = Some(after(from, wait));
    }

    fn due_now_unless_busy(&mut self) {
        if !self.state.is_busy() && self.state.due.is_none() {
            self.state.due = Some(self.now);
        }
    }

    fn is_revoked(&self) -> bool {
        self.state.is_revoked()
    }

    fn conclude(mut self, bounds: Option<Bounds>, reported: super::KeyState) -> (State, Vec<Effect>) {
        let now_bounds = self.state.bounds(self.policy);
        let serving = match now_bounds {
            Some(now) if Some(now) != bounds => Some(Effect::Publish(now)),
            None if bounds.is_some() => Some(Effect::Evict),
            _ => None,
        };
        let now_reported = self.state.reported();
        if now_reported != reported {
            self.effects.push(Effect::Announce { from: reported, to: now_reported, why: self.why });
        }
        if let Some(serving) = serving {
            self.effects.insert(0, serving);
        }
        (self.state, self.effects)
    }
}

fn why_failed(kind: Option<VaultErrorKind>) -> Why {
    kind.map_or(Why::RecordUnreadable, Why::Outage)
}
