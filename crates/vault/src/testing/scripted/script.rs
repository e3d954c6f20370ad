//! What a scripted vault answers, and what it has answered.
//!
//! What is more particular applies first: the next answers, then the network (an account that is cut off, a link
//! that flaps), then the vault's limit, then the credential, then answers by chance or by number, then what is said of a KEK, then what
//! is said of all. So a denial of a KEK is hidden by an outage, and heard when that ends.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use cofferdam_crypto::{AccountId, KeyId};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::ScriptedCredential;
use crate::VaultErrorKind as Kind;

/// What the vault does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// What it was asked.
    Work,
    /// It fails with an error of this kind.
    Fail(Kind),
    /// It never answers.
    Hang,
    /// It unwraps to a key that is not the one that was wrapped.
    WrongKey,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It did what it was asked.
    Worked,
    /// It failed.
    Failed(Kind),
    /// It gave a wrong key.
    WrongKey,
    /// The caller gave up before it was answered.
    GivenUp,
}

/// A call that reached the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was sent, by tokio's clock.
    pub sent: Instant,
    /// The KEK it was about.
    pub key_id: KeyId,
    /// The account it was made for; `None`: a question for properties or for a public half.
    pub account: Option<AccountId>,
    /// Whether it was an unwrap; otherwise a wrap or a question.
    pub unwrap: bool,
    /// When and how it ended; `None`: it is under way.
    pub ended: Option<(Instant, Outcome)>,
}

impl Call {
    /// Whether it was answered by throttling.
    pub fn is_throttled(&self) -> bool {
        matches!(self.ended, Some((_, Outcome::Failed(Kind::Throttled { .. }))))
    }
}

/// How many calls a vault takes within a time.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) most: usize,
    pub(super) within: Duration,
    pub(super) retry_after: Option<Duration>,
    /// Those of late, that were taken.
    pub(super) sent: VecDeque<Instant>,
}

impl Limit {
    fn answer(&mut self, now: Instant) -> Option<Answer> {
        while self.sent.front().is_some_and(|&sent| now.duration_since(sent) >= self.within) {
            self.sent.pop_front();
        }
        if self.sent.len() >= self.most {
            return Some(Answer::Fail(Kind::Throttled { retry_after: self.retry_after }));
        }
        self.sent.push_back(now);
        None
    }
}

#[derive(Debug)]
pub(super) struct Script {
    pub(super) answer: Answer,
    pub(super) next: VecDeque<Answer>,
    pub(super) by_account: BTreeMap<AccountId, Answer>,
    pub(super) by_key: BTreeMap<KeyId, Answer>,
    pub(super) flapping: Option<Flapping>,
    pub(super) limit: Option<Limit>,
    /// Every so many calls, this.
    pub(super) every: Option<(usize, Answer)>,
    /// Of a hundred calls so many, drawn from the seed, get this.
    pub(super) chance: Option<(u32, Answer)>,
    pub(super) latency: RangeInclusive<Duration>,
    pub(super) credential: Option<Arc<ScriptedCredential>>,
    random: StdRng,
}

/// A link that is up and down by turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flapping {
    pub(super) since: Instant,
    pub(super) up: Duration,
    pub(super) down: Duration,
    pub(super) answer: Answer,
}

impl Flapping {
    fn answer(&self, now: Instant) -> Option<Answer> {
        let turn = (self.up + self.down).as_nanos().max(1);
        let at = now.duration_since(self.since).as_nanos() % turn;
        (at >= self.up.as_nanos()).then_some(self.answer)
    }
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            answer: Answer::Work,
            next: VecDeque::new(),
            by_account: BTreeMap::new(),
            by_key: BTreeMap::new(),
            flapping: None,
            limit: None,
            every: None,
            chance: None,
            latency: Duration::ZERO..=Duration::ZERO,
            credential: None,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// The answer to the call of this number, and how long it takes.
    pub(super) fn decide(&mut self, number: usize, call: &Call) -> (Answer, Duration) {
        let latency = self.draw_latency();
        let drawn = self.random.next_u32() % 100;
        let by_chance = self.chance.filter(|&(of_hundred, _)| drawn < of_hundred).map(|(_, answer)| answer);
        let answer = self
            .next
            .pop_front()
            .or_else(|| call.account.and_then(|account| self.by_account.get(&account).copied()))
            .or_else(|| self.flapping.and_then(|flapping| flapping.answer(call.sent)))
            .or_else(|| self.limit.as_mut().and_then(|limit| limit.answer(call.sent)))
            .or_else(|| self.credential.as_ref().and_then(|c| c.token().refused()).map(Answer::Fail))
            .or_else(|| {
                self.every.filter(|&(every, _)| number.is_multiple_of(every.max(1))).map(|(_, answer)| answer)
            })
            .or(by_chance)
            .or_else(|| self.by_key.get(&call.key_id).copied())
            .unwrap_or(self.answer);
        (answer, latency)
    }

    fn draw_latency(&mut self) -> Duration {
        let (least, most) = (*self.latency.start(), *self.latency.end());
        let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
        // Drawn also where there is nothing to choose: a test that changes the range keeps its later draws.
        let drawn = self.random.next_u64();
        least + Duration::from_nanos(if span == 0 { 0 } else { drawn % (span + 1) })
    }
}
