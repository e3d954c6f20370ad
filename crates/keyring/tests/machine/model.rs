//! What must hold after every event, whatever came before: checked against what really happened.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Input {
    Pass(Duration),
    Feed(Event),
}

/// The machine, a driver that obeys it, and the truth about what the vault said.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Model {
    pub(super) state: State,
    pub(super) now: Timestamp,
    provider: Provider,
    /// The last attempt begun.
    last: u64,
    /// What the driver serves.
    pub(super) published: Option<Bounds>,
    pub(super) flight: Option<Attempt>,
    /// An attempt whose answer comes late, against all rules.
    pub(super) late: Option<Attempt>,
    pub(super) reading: bool,
    pub(super) persisting: Option<bool>,
    pub(super) announced: KeyState,
    /// The last attempt begun when the vault last denied, or the owner forgot.
    denied_through: u64,
    /// The last verified attempt that began after that.
    verified: Option<Attempt>,
    /// The last attempt that failed since.
    failed: Option<(Attempt, Timestamp)>,
    /// When the attempt under way had read its record.
    asked: Option<Timestamp>,
    /// How far the refresh was stretched.
    pace: Duration,
}

impl Model {
    pub(super) fn new(provider: Provider) -> Self {
        Self {
            state: State::new(provider),
            now: Timestamp { boot: 1000 * SECOND, wall: 1_795_000_000 * SECOND },
            provider,
            last: 0,
            published: None,
            flight: None,
            late: None,
            reading: false,
            persisting: None,
            announced: KeyState::Cold,
            denied_through: 0,
            verified: None,
            failed: None,
            asked: None,
            pace: Duration::ZERO,
        }
    }

    /// What can happen next.
    pub(super) fn inputs(&self, passes: &[Duration], kinds: &[Kind]) -> Vec<Input> {
        let jitter = NO_JITTER;
        let mut events = vec![
            Event::Wake { wanted: false, used: false },
            Event::Wake { wanted: false, used: true },
            Event::Wake { wanted: true, used: true },
            Event::Fetch,
            Event::Forgotten,
            Event::Displaced,
            Event::LetGo,
            Event::Spread(jitter),
            Event::Paced(Duration::from_secs(45)),
        ];
        if let Some(attempt) = self.flight {
            events.push(Event::Verified { attempt, jitter });
            // A KEK did not answer, and is bridged for so long still.
            let bridged_until = Some(after(self.now, 40 * SECOND));
            events.push(Event::Verified { attempt: Attempt { bridged_until, ..attempt }, jitter });
            events.extend(kinds.iter().map(|&kind| Event::Failed {
                attempt,
                kind,
                keks: Keks::default(),
                jitter,
            }));
            events.push(Event::Abandoned);
        }
        if let Some(attempt) = self.late {
            events.push(Event::Verified { attempt, jitter });
        }
        if self.flight.is_some() || self.reading {
            for revoked in [false, true] {
                events.extend([false, true].map(|changed| Event::Record { revoked, changed }));
            }
            events.extend([Event::RecordUnreadable, Event::RecordGone, Event::Outdated]);
        }
        if let Some(revoked) = self.persisting {
            events.extend([false, true].map(|ok| Event::Persisted { revoked, ok }));
        }
        let passes = passes.iter().map(|&time| Input::Pass(time));
        passes.chain(events.into_iter().map(Input::Feed)).collect()
    }

    /// Whether something is under way that must end before an attempt begins.
    fn is_busy(&self) -> bool {
        self.flight.is_some() || self.reading || self.persisting.is_some()
    }

    /// Lets it happen, and checks everything. Says what is wrong.
    pub(super) fn happen(&mut self, input: Input, policy: &Policy) -> Result<(), String> {
        match input {
            Input::Pass(time) => self.now = after(self.now, time),
            Input::Feed(event) => self.feed(event, policy)?,
        }
        self.check(policy)
    }

    fn feed(&mut self, event: Event, policy: &Policy) -> Result<(), String> {
        self.observe(event, policy);
        let before = self.announced;
        let (state, effects) = step(self.state.clone(), event, self.now, policy);
        self.state = state;
        if self.state.is_idle() {
            // Nobody tries again: what failed says nothing of later.
            self.failed = None;
        }
        self.obey(&effects)?;
        if self.announced != self.state.reported() {
            return Err(format!("{} is not announced", self.state.reported()));
        }
        self.check_revocation(event, before)?;
        let waits = self.state.serving(self.now, policy) == Serving::Wait;
        if waits && !self.is_busy() {
            let want = Event::Wake { wanted: true, used: true };
            let (wanted, effects) = step(self.state.clone(), want, self.now, policy);
            if !effects.iter().any(is_work) && wanted.next_wake(self.now, policy).is_none() {
                return Err("a caller would wait for ever".into());
            }
        }
        Ok(())
    }

    /// Notes the truth, before the machine hears of it.
    fn observe(&mut self, event: Event, policy: &Policy) {
        let last = self.last;
        match event {
            Event::Verified { attempt, .. } => {
                if self.flight.is_some_and(|flight| flight.number == attempt.number) {
                    self.flight = None;
                }
                let newer = self.verified.is_none_or(|verified| verified.number < attempt.number);
                if attempt.number > self.denied_through && newer {
                    self.verified = Some(attempt);
                }
            }
            Event::Failed { attempt, kind, .. } => {
                self.flight = None;
                self.failed = Some((attempt, self.asked.unwrap_or(attempt.sent)));
                self.late = Some(attempt);
                if kind.meaning() != Meaning::Outage && self.provider == Provider::Customer {
                    self.denied_through = last;
                    self.verified = None;
                }
            }
            Event::Record { .. } => {
                if !self.reading && self.flight.is_some() {
                    self.asked = Some(self.now);
                }
                self.reading = false;
            }
            Event::RecordUnreadable => {
                self.failed =
                    self.flight.map(|flight| (flight, self.asked.unwrap_or(flight.sent))).or(self.failed);
                (self.flight, self.reading) = (None, false);
            }
            Event::Persisted { .. } => self.persisting = None,
            Event::Abandoned => {
                self.failed =
                    self.flight.map(|flight| (flight, self.asked.unwrap_or(flight.sent))).or(self.failed);
                (self.flight, self.reading, self.persisting) = (None, false, None);
            }
            Event::Forgotten | Event::RecordGone => {
                (self.flight, self.reading) = (None, false);
                self.denied_through = last;
                self.verified = None;
            }
            Event::Outdated => {
                if self.published.is_some() {
                    (self.verified, self.failed) = (None, None);
                }
            }
            Event::Displaced | Event::LetGo if self.published.is_some() => {
                self.flight = None;
                self.denied_through = last;
                self.verified = None;
            }
            Event::Paced(pace) => self.pace = pace.clamp(policy.refresh(), policy.ceiling()),
            Event::Wake { .. } | Event::Fetch | Event::Displaced | Event::LetGo | Event::Spread(_) => {}
            unknown => panic!("{unknown:?} is not modelled"),
        }
    }

    fn obey(&mut self, effects: &[Effect]) -> Result<(), String> {
        for effect in effects {
            match *effect {
                Effect::Evict => self.published = None,
                Effect::Publish(bounds) => {
                    self.published = Some(bounds);
                    // Not before: a success that can't be served, as the end of a revocation is not persisted, makes up for
                    // nothing.
                    self.failed = self.failed.filter(|(failed, _)| failed.number > bounds.verified.number);
                }
                Effect::Attempt { attempt, .. } => {
                    self.asked = None;
                    self.last = attempt.number;
                    if self.flight.replace(attempt).is_some() || self.reading || self.persisting.is_some() {
                        return Err("an attempt begins while something is under way".into());
                    }
                }
                Effect::ReadRecord => {
                    if std::mem::replace(&mut self.reading, true) || self.flight.is_some() {
                        return Err("a record is read while something is under way".into());
                    }
                }
                Effect::Persist { revoked } => self.persisting = Some(revoked),
                Effect::Announce { from, to, .. } => {
                    if from != self.announced || from == to {
                        return Err(format!("{from} to {to} is announced in {}", self.announced));
                    }
                    self.announced = to;
                }
                Effect::Alarm(_) | Effect::Refreshed => {}
                unknown => panic!("{unknown:?} is not modelled"),
            }
        }
        Ok(())
    }

    fn check_revocation(&self, event: Event, before: KeyState) -> Result<(), String> {
        let is = self.announced == KeyState::Revoked;
        match (before == KeyState::Revoked, is, event) {
            (false, true, Event::Persisted { revoked: true, ok: true })
            | (false, true, Event::Record { revoked: true, .. })
            | (true, false, Event::RecordGone) => Ok(()),
            (true, false, Event::Persisted { revoked: false, ok: true }) if self.verified.is_some() => Ok(()),
            // Denied anew while the end of a revocation was being persisted: persisted again first.
            (true, false, Event::Persisted { revoked: false, ok: true }) if self.persisting == Some(true) => {
                Ok(())
            }
            (false, true, _) => Err(format!("revoked by {event:?}")),
            (true, false, _) => Err(format!("no longer revoked by {event:?}")),
            _ => Ok(()),
        }
    }

    fn check(&self, policy: &Policy) -> Result<(), String> {
        let served = self.published.is_some_and(|bounds| bounds.serves(self.now));
        let uses = self.state.serving(self.now, policy) == Serving::Use;
        if served != uses {
            return Err(format!("the driver serves: {served}; the machine lets it: {uses}"));
        }
        let Some(bounds) = self.published else { return Ok(()) };
        // An answer that came late may be served although a newer one was lost: that is only more careful.
        if self.verified.is_none_or(|verified| verified.number < bounds.verified.number) {
            return Err(format!("serves {:?}, verified is {:?}", bounds.verified, self.verified));
        }
        let verified = self.verified.filter(|verified| verified.number == bounds.verified.number);
        if verified.is_some_and(|verified| verified.bridged_until != bounds.verified.bridged_until) {
            return Err("serves by another bridge than it was verified with".into());
        }
        let bridge = bounds.verified.bridged_until;
        if served && bridge.is_some_and(|end| self.now.boot >= end.boot || self.now.wall >= end.wall) {
            return Err("serves past the end of a bridge".into());
        }
        if served && self.now.since(&bounds.verified.sent) >= policy.usable_for() {
            return Err("serves past its bound".into());
        }
        let pace = self.pace.max(policy.refresh());
        // A refresh that is stretched stretches the wait between two tries.
        let retry = if pace > policy.refresh() { policy.retry_max().max(pace) } else { policy.retry_max() };
        let window = retry + policy.call_timeout();
        let retried = self.failed.is_some_and(|(_, asked)| self.now.since(&asked) < window);
        let age = self.now.since(&bounds.verified.sent);
        if served && age >= policy.fresh_for() && !retried {
            return Err("serves without a question past the ceiling".into());
        }
        if served && age >= pace + policy.call_timeout() && !retried {
            return Err("serves without a question what was verified too long ago".into());
        }
        if served && bounds.verified.number <= self.denied_through {
            return Err("serves what was verified before a denial".into());
        }
        Ok(())
    }
}

fn is_work(effect: &Effect) -> bool {
    matches!(effect, Effect::Attempt { .. } | Effect::ReadRecord | Effect::Persist { .. })
}
