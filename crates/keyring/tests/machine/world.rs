//! The machine in a world: a vault that changes its mind, a record that is written or not, clocks that jump.
//!
//! The reference is the world's own truth: what the vault said when each attempt was sent. Held to it are the promises of
//! the keyring, whatever the order: nothing is served that the vault did not unwrap, nor after a denial that was
//! heard of later, nor past a bound; and once the vault works and everybody does their part, the key is back
//! within one poll.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::{
    model::{Input, Model},
    *,
};

/// What the vault says to an attempt that is sent now; `None`: it works.
type Says = Option<Kind>;

#[derive(Clone, Debug)]
struct World {
    provider: Provider,
    policy: Policy,
    says: Says,
}

#[derive(Clone, Debug)]
enum Transition {
    Says(Says),
    Pass(Duration),
    WallSetBack(Duration),
    Wake {
        wanted: bool,
        used: bool,
    },
    Fetch,
    /// The attempt under way is answered, as the vault said when it was sent.
    Answer(Jitter),
    /// The same while a KEK does not answer that is bridged for so long still, where the vault works.
    AnswerBridged(Duration),
    /// The answer to an attempt that was given up comes after all.
    AnswerLate,
    GivenUp,
    Read {
        changed: bool,
    },
    ReadFails {
        gone: bool,
    },
    /// What is to be persisted is, or not, and the store says so, or not.
    Persist {
        done: bool,
        ok: bool,
    },
    Forget,
    Displace,
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        3 => Just(None),
        2 => Just(Some(Kind::Unavailable)),
        3 => prop::sample::select(&KINDS[..]).prop_map(Some),
    ]
}

impl ReferenceStateMachine for World {
    type State = Self;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Self> {
        let providers = prop::sample::select(vec![Provider::Customer, Provider::Customer, Provider::Service]);
        (providers, policies()).prop_map(|(provider, policy)| Self { provider, policy, says: None }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Transition> {
        let wakes = prop::sample::select(vec![(true, true), (false, true), (false, false)]);
        prop_oneof![
            3 => says().prop_map(Transition::Says),
            4 => (0..40_000_u32).prop_map(|ms| Transition::Pass(ms * MS)),
            1 => (0..4_000_u32).prop_map(|seconds| Transition::Pass(seconds * SECOND)),
            1 => (0..4_000_u32).prop_map(|seconds| Transition::WallSetBack(seconds * SECOND)),
            6 => wakes.prop_map(|(wanted, used)| Transition::Wake { wanted, used }),
            1 => Just(Transition::Fetch),
            8 => any::<u16>().prop_map(|jitter| Transition::Answer(Jitter(jitter))),
            3 => (0..100_000_u32).prop_map(|ms| Transition::AnswerBridged(ms * MS)),
            1 => Just(Transition::AnswerLate),
            1 => Just(Transition::GivenUp),
            4 => any::<bool>().prop_map(|changed| Transition::Read { changed }),
            1 => any::<bool>().prop_map(|gone| Transition::ReadFails { gone }),
            4 => (prop::bool::weighted(0.8), prop::bool::weighted(0.8))
                .prop_map(|(done, ok)| Transition::Persist { done: done || ok, ok }),
            1 => Just(Transition::Forget),
            1 => Just(Transition::Displace),
        ]
        .boxed()
    }

    fn apply(mut state: Self, transition: &Transition) -> Self {
        if let Transition::Says(says) = transition {
            state.says = *says;
        }
        state
    }
}

/// The machine with an obedient driver, and what is true of the world.
struct Keyring {
    model: Model,
    /// What the vault said to each attempt, by number.
    said: BTreeMap<u64, Says>,
    /// The number of the last attempt when a denial was last heard.
    denied: Option<u64>,
    recorded: bool,
}

impl Keyring {
    fn feed(&mut self, world: &World, event: Event) {
        self.happen(world, Input::Feed(event));
    }

    fn happen(&mut self, world: &World, input: Input) {
        let before = self.model.announced;
        self.model.happen(input, &world.policy).unwrap_or_else(|wrong| panic!("{wrong}, after {input:?}"));
        if let Some(attempt) = self.model.flight {
            self.said.entry(attempt.number).or_insert(world.says);
        }
        if self.model.announced == KeyState::Revoked && before != KeyState::Revoked {
            assert!(self.recorded, "a revocation is announced that is not on record");
        }
    }

    fn answer(&mut self, world: &World, jitter: Jitter) {
        let Some(attempt) = self.model.flight else { return };
        let event = match self.said[&attempt.number] {
            None => Event::Verified { attempt, jitter },
            Some(kind) => {
                let denies = kind.meaning() != Meaning::Outage && world.provider == Provider::Customer;
                if denies {
                    self.denied = Some(attempt.number);
                }
                Event::Failed { attempt, kind, keks: Keks::default(), jitter }
            }
        };
        self.feed(world, event);
    }

    fn apply(&mut self, world: &World, transition: &Transition) {
        match *transition {
            Transition::Says(_) => {}
            Transition::Pass(time) => self.happen(world, Input::Pass(time)),
            Transition::WallSetBack(by) => self.model.now.wall = self.model.now.wall.saturating_sub(by),
            Transition::Wake { wanted, used } => self.feed(world, Event::Wake { wanted, used }),
            Transition::Fetch => self.feed(world, Event::Fetch),
            Transition::Answer(jitter) => self.answer(world, jitter),
            Transition::AnswerBridged(time) => {
                if let Some(attempt) = self.model.flight.filter(|flight| self.said[&flight.number].is_none())
                {
                    let attempt = Attempt { bridged_until: Some(after(self.model.now, time)), ..attempt };
                    self.feed(world, Event::Verified { attempt, jitter: NO_JITTER });
                }
            }
            Transition::AnswerLate => {
                if let Some(attempt) = self.model.late.filter(|late| self.said[&late.number].is_none()) {
                    self.feed(world, Event::Verified { attempt, jitter: NO_JITTER });
                }
            }
            Transition::GivenUp => {
                if let Some(attempt) = self.model.flight {
                    self.feed(
                        world,
                        Event::Failed {
                            attempt,
                            kind: Kind::Unavailable,
                            keks: Keks::default(),
                            jitter: NO_JITTER,
                        },
                    );
                }
            }
            Transition::Read { changed } => {
                if self.model.reading {
                    self.feed(world, Event::Record { revoked: self.recorded, changed });
                }
            }
            Transition::ReadFails { gone } => {
                if self.model.reading {
                    self.feed(world, if gone { Event::RecordGone } else { Event::RecordUnreadable });
                }
            }
            Transition::Persist { done, ok } => {
                if let Some(revoked) = self.model.persisting {
                    if done {
                        self.recorded = revoked;
                    }
                    self.feed(world, Event::Persisted { revoked, ok });
                }
            }
            Transition::Forget => self.feed(world, Event::Forgotten),
            Transition::Displace => self.feed(world, Event::Displaced),
        }
    }

    fn serves(&self) -> bool {
        self.model.published.is_some_and(|bounds| bounds.serves(self.model.now))
    }

    /// Everybody does their part from now on: how long until the key serves.
    fn recover(&mut self, world: &World) -> Duration {
        let world = &World { says: None, ..world.clone() };
        let start = self.model.now;
        for _ in 0..100 {
            // What was sent before is over by now.
            self.apply(world, &Transition::GivenUp);
            self.apply(world, &Transition::Read { changed: false });
            self.apply(world, &Transition::Persist { done: true, ok: true });
            self.feed(world, Event::Wake { wanted: true, used: true });
            for _ in 0..3 {
                self.answer(world, NO_JITTER);
                self.apply(world, &Transition::Persist { done: true, ok: true });
            }
            if self.serves() {
                break;
            }
            let wait = self.model.state.next_wake(self.model.now, &world.policy);
            self.happen(world, Input::Pass(wait.unwrap_or(SECOND)));
        }
        self.model.now.since(&start)
    }
}

struct Promises;

impl StateMachineTest for Promises {
    type SystemUnderTest = Keyring;
    type Reference = World;

    fn init_test(world: &World) -> Keyring {
        Keyring { model: Model::new(world.provider), said: BTreeMap::new(), denied: None, recorded: false }
    }

    fn apply(mut keyring: Keyring, world: &World, transition: Transition) -> Keyring {
        Keyring::apply(&mut keyring, world, &transition);
        keyring
    }

    fn check_invariants(keyring: &Keyring, world: &World) {
        let Some(bounds) = keyring.model.published.filter(|_| keyring.serves()) else { return };
        let verified = bounds.verified;
        assert_eq!(keyring.said[&verified.number], None, "the vault did not unwrap what is served");
        assert!(keyring.denied.is_none_or(|denied| denied < verified.number), "served after a denial");
        let age = keyring.model.now.since(&verified.sent);
        assert!(age < world.policy.usable_for(), "{age:?} old");
    }

    fn teardown(mut keyring: Keyring, world: World) {
        let policy = &world.policy;
        let longest = policy.retry_max().max(policy.revoked_poll()).max(7 * SECOND);
        let took = keyring.recover(&world);
        assert!(keyring.serves(), "it never serves again: {:?}", keyring.model.state);
        assert!(took <= longest, "it takes {took:?} to serve again");
    }
}

/// How many sequences, by default and under `COFFERDAM_FULL=1`.
fn cases() -> u32 {
    if is_full() { 100_000 } else { 1_000 }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn every_promise_holds_in_every_world(sequential 1..120 => Promises);
}
