//! The machine alone: every row of the table in every state, every bound on the millisecond. Sequences of events
//! are in `tests/machine/`.

mod table;
mod timing;

use std::time::Duration;

use cofferdam_crypto::Provider;
use cofferdam_vault::{Timestamp, VaultErrorKind as Kind, testing::KINDS};

use super::{bounds::after, *};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NO_JITTER: Jitter = Jitter(0);

/// A machine with a clock.
#[derive(Clone)]
struct Machine {
    state: State,
    now: Timestamp,
    policy: Policy,
}

impl Machine {
    fn new(provider: Provider) -> Self {
        let now = Timestamp { boot: 1000 * SECOND, wall: 1_795_000_000 * SECOND };
        Self { state: State::new(provider), now, policy: Policy::default() }
    }

    fn feed(&mut self, event: Event) -> Vec<Effect> {
        let (state, effects) = step(self.state.clone(), event, self.now, &self.policy);
        self.state = state;
        effects
    }

    fn pass(&mut self, time: Duration) {
        self.now = after(self.now, time);
    }

    fn wake(&mut self) -> Vec<Effect> {
        self.feed(Event::Wake { wanted: false, used: true })
    }

    fn want(&mut self) -> Vec<Effect> {
        self.feed(Event::Wake { wanted: true, used: true })
    }

    /// The attempt under way, begun now if there is none.
    fn attempt(&mut self) -> Attempt {
        if self.state.flight.is_none() {
            self.want();
        }
        if self.state.flight.is_none() {
            self.feed(Event::Fetch);
        }
        self.state.flight.unwrap()
    }

    fn verify(&mut self) -> Vec<Effect> {
        let attempt = self.attempt();
        self.feed(Event::Verified { attempt, jitter: NO_JITTER })
    }

    fn fail(&mut self, kind: Kind) -> Vec<Effect> {
        let attempt = self.attempt();
        self.feed(Event::Failed { attempt, kind, keks: Keks::default(), jitter: NO_JITTER })
    }

    fn record(&mut self, changed: bool) -> Vec<Effect> {
        self.feed(Event::Record { revoked: false, changed })
    }

    fn serving(&self) -> Serving {
        self.state.serving(self.now, &self.policy)
    }

    fn reported(&self) -> KeyState {
        self.state.reported()
    }

    /// Until the next attempt is due, as the driver sleeps.
    fn next(&self) -> Duration {
        self.state.next_wake(self.now, &self.policy).unwrap()
    }

    fn cold(provider: Provider) -> Self {
        Self::new(provider)
    }

    fn active(provider: Provider) -> Self {
        let mut machine = Self::new(provider);
        machine.verify();
        assert_eq!(machine.reported(), KeyState::Active);
        machine
    }

    fn grace(provider: Provider) -> Self {
        let mut machine = Self::active(provider);
        machine.pass(66 * SECOND);
        machine.fail(Kind::Unavailable);
        assert_eq!(machine.reported(), KeyState::Grace);
        machine
    }

    fn unavailable(provider: Provider) -> Self {
        let mut machine = Self::new(provider);
        machine.fail(Kind::Unavailable);
        assert_eq!(machine.reported(), KeyState::Unavailable);
        machine
    }

    fn revoked() -> Self {
        let mut machine = Self::active(Provider::Customer);
        machine.fail(Kind::AccessDenied);
        machine.record(false);
        machine.feed(Event::Persisted { revoked: true, ok: true });
        assert_eq!(machine.reported(), KeyState::Revoked);
        machine
    }
}

fn work(effects: &[Effect]) -> Vec<Effect> {
    let is_work =
        |e: &&Effect| matches!(e, Effect::Attempt { .. } | Effect::ReadRecord | Effect::Persist { .. });
    effects.iter().filter(is_work).copied().collect()
}
