//! The truth of every vault call, and what may be done with a key because of it.
//!
//! Each node judges by its own clocks; a node that starts anew knows nothing of what it saw before.

mod denials;
mod outages;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cofferdam_crypto::{AccountId, KeyId, KeyScope, Provider, WrappedKey};
use cofferdam_keyring::Policy;
use cofferdam_vault::{Meaning, VaultErrorKind};

use super::{Budgets, Judged, Use};
use crate::{Check, hub::Moment, record::AccountState};

/// How long after a denial was seen an operation may still begin.
const GRACE_OF_A_DENIAL: Duration = Duration::from_millis(100);
/// Sooner than this after the first, the third answer of "not found" must have come.
const AGREE_WITHIN: Duration = Duration::from_secs(5);
/// How long what was learnt may take to take effect where a store is asked in between.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// How long it takes within an attempt from one answer to the next question.
const SAME_ATTEMPT: Duration = Duration::from_millis(2);

/// What came of a call to a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The right key.
    Verified,
    /// Another key.
    Wrong,
    /// A failure that counts as an outage.
    Outage(VaultErrorKind),
    /// No, or perhaps no.
    Denied(VaultErrorKind),
    /// Given up before there was an answer.
    Unanswered,
}

impl Verdict {
    pub(crate) fn of(kind: VaultErrorKind) -> Self {
        match kind.meaning() {
            Meaning::Outage => Self::Outage(kind),
            Meaning::Denial | Meaning::UnconfirmedDenial => Self::Denied(kind),
        }
    }
}

#[derive(Clone, Debug)]
struct Answered {
    kek: KeyId,
    sent: Moment,
    answered: Moment,
    verdict: Verdict,
    /// Whether the account's record may have had the wrap when the answer came.
    is_current: bool,
    /// Whether it may be an operation's, and not a refresh of what the node has in use.
    is_doubtful: bool,
}

/// A call to a vault: whose key, and by which KEK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) scope: &'a KeyScope,
    pub(crate) kek: &'a KeyId,
    pub(crate) is_current: bool,
    pub(crate) is_doubtful: bool,
}

/// What one process of a node has seen.
#[derive(Debug, Default)]
struct Node {
    started: u64,
    calls: BTreeMap<(AccountId, Provider), Vec<Answered>>,
    under_way: BTreeMap<(AccountId, Provider, KeyId), u32>,
    /// Since when an account is told of as revoked.
    told: BTreeMap<AccountId, Duration>,
    /// Calls to the store that failed.
    store_failures: Vec<Moment>,
    /// When its wall clock was set back, or its clocks jumped at all.
    set_back: Vec<u64>,
    jumped: Vec<u64>,
}

/// The persisted row that says that an account is revoked.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// `None` while nobody knows: a write of it was begun and not answered.
    set: Option<bool>,
    changed: Moment,
}

/// Whether an attempt went well in which a KEK said yes: not if it was asked for an older epoch at once, and failed.
fn is_whole(calls: &[Answered], yes: &Answered) -> bool {
    let next = calls.iter().filter(|call| call.kek == yes.kek && call.sent.seq > yes.answered.seq);
    next.min_by_key(|call| call.sent.seq).is_none_or(|next| {
        next.verdict == Verdict::Verified || next.sent.at.saturating_sub(yes.answered.at) > SAME_ATTEMPT
    })
}

/// All that is known of keys.
#[derive(Debug)]
pub(crate) struct Keys {
    policy: Policy,
    nodes: BTreeMap<usize, Node>,
    rows: BTreeMap<AccountId, Row>,
    /// Every AEK that was made for a scope; the one of the record is the first.
    aeks: BTreeMap<KeyScope, Vec<[u8; 32]>>,
    /// What a vault was given to wrap, by what it answered.
    wraps: BTreeMap<Vec<u8>, [u8; 32]>,
    /// Wraps that hold something else than what the vault was given.
    wrong: BTreeSet<Vec<u8>>,
    /// When each KEK last said yes or no, to any node.
    answered: BTreeMap<(AccountId, KeyId), u64>,
}

impl Keys {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            nodes: BTreeMap::new(),
            rows: BTreeMap::new(),
            aeks: BTreeMap::new(),
            wraps: BTreeMap::new(),
            wrong: BTreeSet::new(),
            answered: BTreeMap::new(),
        }
    }

    /// The node's process is a new one.
    pub(crate) fn node_starts(&mut self, node: usize, now: Moment) {
        self.nodes.insert(node, Node { started: now.seq, ..Node::default() });
    }

    pub(crate) fn learn_aek(&mut self, scope: KeyScope, aek: [u8; 32]) {
        let aeks = self.aeks.entry(scope).or_default();
        if !aeks.contains(&aek) {
            aeks.push(aek);
        }
    }

    /// A vault was given this to wrap.
    pub(crate) fn learn_wrap(&mut self, scope: KeyScope, wrapped: &WrappedKey, aek: [u8; 32]) {
        self.learn_aek(scope, aek);
        self.wraps.insert(wrapped.bytes.clone(), aek);
    }

    /// A vault has wrapped something else than it was given.
    pub(crate) fn wraps_wrong(&mut self, wrapped: &WrappedKey) {
        self.wrong.insert(wrapped.bytes.clone());
    }

    /// An account's record is written: of the AEKs that were made for a scope, its own is the right one.
    pub(crate) fn judge_record(&mut self, record: &AccountState) -> Judged {
        for ((provider, epoch), wraps) in &record.aeks {
            let scope = KeyScope { account: record.id, epoch: *epoch, provider: *provider };
            let mut of_all = wraps.iter().filter_map(|wrap| self.wraps.get(&wrap.bytes));
            let first = of_all.next().copied();
            if of_all.any(|aek| Some(*aek) != first) {
                let what = format!("the record of {} has wraps of two AEKs as those of {scope}", record.id);
                return Err((Check::Wraps, what));
            }
            if let Some(wrong) = wraps.iter().find(|wrap| self.wrong.contains(&wrap.bytes)) {
                let what = format!(
                    "the record of {} has a wrap of {scope} under {} that does not unwrap to it",
                    record.id, wrong.key_id
                );
                return Err((Check::Wraps, what));
            }
            if let (Some(first), Some(aeks)) = (first, self.aeks.get_mut(&scope))
                && let Some(at) = aeks.iter().position(|aek| *aek == first)
            {
                aeks.swap(0, at);
            }
        }
        Ok(())
    }

    pub(crate) fn aek(&self, scope: KeyScope) -> Option<&[u8; 32]> {
        self.aeks.get(&scope)?.first()
    }

    /// The service's AEKs for an account.
    pub(crate) fn service_aeks(&self, account: AccountId) -> impl Iterator<Item = &[u8; 32]> {
        let of = move |scope: &KeyScope| scope.account == account && scope.provider == Provider::Service;
        self.aeks.iter().filter(move |(scope, _)| of(scope)).flat_map(|(_, aeks)| aeks)
    }

    /// Whether this is what was wrapped so.
    pub(crate) fn is_right(&self, scope: KeyScope, wrapped: &WrappedKey, aek: &[u8; 32]) -> bool {
        match self.wraps.get(&wrapped.bytes) {
            Some(wrapped) => wrapped == aek,
            // By the public half of an RSA KEK.
            None => self.aeks.get(&scope).is_some_and(|aeks| aeks.contains(aek)),
        }
    }

    pub(crate) fn call_begins(&mut self, node: usize, call: &Call<'_>) -> Judged {
        let Call { scope, kek, is_doubtful, .. } = call;
        let node_of = self.nodes.entry(node).or_default();
        let under_way = node_of.under_way.entry((scope.account, scope.provider, (*kek).clone())).or_default();
        *under_way += 1;
        // An operation asks beside a refresh, and what begins another one beside that.
        let most = if *is_doubtful { 4 } else { 1 };
        if *under_way > most {
            let what = format!("node {node} asks {under_way} times at once for the key of {scope}");
            return Err((Check::SingleFlight, what));
        }
        Ok(())
    }

    pub(crate) fn call_ends(
        &mut self,
        node: usize,
        call: &Call<'_>,
        sent: Moment,
        answered: Moment,
        verdict: Verdict,
    ) {
        let Call { scope, kek, is_current, is_doubtful } = *call;
        if matches!(verdict, Verdict::Verified | Verdict::Denied(_))
            && scope.provider == Provider::Customer
            && scope.epoch.number() > 0
        {
            self.answered.insert((scope.account, kek.clone()), answered.seq);
        }
        let node = self.nodes.entry(node).or_default();
        let kek = kek.clone();
        if let Some(under_way) = node.under_way.get_mut(&(scope.account, scope.provider, kek.clone())) {
            *under_way = under_way.saturating_sub(1);
        }
        // Not a call that the process before this one sent, nor one with a key that is made up to try a KEK out.
        if sent.seq >= node.started && scope.epoch.number() > 0 {
            let calls = node.calls.entry((scope.account, scope.provider)).or_default();
            calls.push(Answered { kek, sent, answered, verdict, is_current, is_doubtful });
        }
    }

    /// A node tells that an account is revoked since then, or no longer is.
    pub(crate) fn revocation_told(&mut self, node: usize, account: AccountId, since: Option<Duration>) {
        let told = &mut self.nodes.entry(node).or_default().told;
        match since {
            Some(since) => told.insert(account, since),
            None => told.remove(&account),
        };
    }

    /// Whether a node has told before this that an account is revoked, so that whoever is to obey it has.
    pub(crate) fn is_revoked_since(&self, node: usize, account: AccountId, at: Duration) -> bool {
        let told = self.nodes.get(&node).and_then(|node| node.told.get(&account));
        told.is_some_and(|since| *since + SETTLES_WITHIN < at)
    }

    pub(crate) fn store_failed(&mut self, node: usize, now: Moment) {
        self.nodes.entry(node).or_default().store_failures.push(now);
    }

    pub(crate) fn clock_jumped(&mut self, node: usize, now: Moment, set_back: bool) {
        let node = self.nodes.entry(node).or_default();
        node.jumped.push(now.seq);
        if set_back {
            node.set_back.push(now.seq);
        }
    }

    /// Whether a node's clocks jumped after a moment.
    pub(crate) fn jumped_since(&self, node: usize, begun: Moment) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.jumped.last().is_some_and(|&seq| seq > begun.seq))
    }

    pub(crate) fn store_failed_since(&self, node: usize, begun: Moment, window: Duration) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|node| node.store_failures.last().is_some_and(|last| last.at + window >= begun.at))
    }

    /// A node begins to write down that an account is revoked, or no longer is.
    pub(crate) fn row_changes(&mut self, node: usize, account: AccountId, set: bool, now: Moment) -> Judged {
        self.rows.insert(account, Row { set: None, changed: now });
        if set && self.confirmed(node, account, false, |_| true).is_none() {
            let what = format!("node {node} writes that {account} is revoked; its vault had not said so");
            return Err((Check::FalseRevocation, what));
        }
        Ok(())
    }

    /// It is written.
    pub(crate) fn row_changed(&mut self, account: AccountId, set: bool, now: Moment) {
        self.rows.insert(account, Row { set: Some(set), changed: now });
    }

    /// Whether an attempt goes on at this KEK: the newest epoch may be known, and the older ones asked for.
    fn goes_on(&self, of: &Use, kek: &KeyId) -> bool {
        let under_way = |node: &Node| {
            let calls = node.under_way.get(&(of.account, Provider::Customer, kek.clone()));
            calls.is_some_and(|calls| *calls > 0)
        };
        self.nodes.get(&of.node).is_some_and(under_way)
    }

    fn calls(&self, node: usize, account: AccountId, provider: Provider) -> &[Answered] {
        let calls = self.nodes.get(&node).and_then(|node| node.calls.get(&(account, provider)));
        calls.map_or(&[], Vec::as_slice)
    }

    /// Whether a key of this provider may have served an operation that succeeded; how old it was then.
    pub(crate) fn judge_use(
        &self,
        of: &Use,
        provider: Provider,
        budgets: &Budgets,
    ) -> Result<Duration, (Check, String)> {
        let calls = self.calls(of.node, of.account, provider);
        let verified = calls
            .iter()
            .filter(|call| call.verdict == Verdict::Verified && call.answered.seq <= of.ended.seq)
            .max_by_key(|call| call.sent.seq);
        let who = || format!("node {}, account {}, {provider} key", of.node, of.account);
        let Some(verified) = verified else {
            return Err((Check::Bounds, format!("{}: served without a verified unwrap", who())));
        };
        if provider == Provider::Customer
            && let Some(denial) = self.denied(of, GRACE_OF_A_DENIAL, of.ended.seq)
        {
            let late = of.begun.at.saturating_sub(denial.at);
            let what = format!("{}: served an operation that began {late:?} after a denial", who());
            return Err((Check::Denial, what));
        }
        if provider == Provider::Customer {
            self.judge_bridge(of)?;
        }
        if verified.sent.seq > of.begun.seq {
            return Ok(Duration::ZERO);
        }
        let set_back = self
            .nodes
            .get(&of.node)
            .is_some_and(|node| node.set_back.iter().any(|seq| (of.begun.seq..=of.ended.seq).contains(seq)));
        let age = if set_back {
            of.begun.clock.boot.saturating_sub(verified.sent.clock.boot)
        } else {
            of.begun.clock.since(&verified.sent.clock)
        };
        if age >= self.policy.usable_for() {
            let limit = self.policy.usable_for();
            return Err((Check::Bounds, format!("{}: served at an age of {age:?}, past {limit:?}", who())));
        }
        let unasked_for = of.pace(provider, budgets) + self.policy.call_timeout();
        if age >= unasked_for && !self.failed_of_late(of, provider, budgets) {
            let what = format!("{}: served at an age of {age:?} though nothing had failed", who());
            return Err((Check::Freshness, what));
        }
        Ok(age)
    }

    /// How long an operation may have waited for keys: an answer of each vault, and what confirms a denial.
    pub(crate) fn longest_wait(&self, of: &Use) -> Duration {
        let one = self.policy.call_timeout();
        let denied = self.calls(of.node, of.account, Provider::Customer).iter().any(|call| {
            matches!(call.verdict, Verdict::Denied(_))
                && call.answered.at + AGREE_WITHIN + 2 * one + SETTLES_WITHIN >= of.begun.at
        });
        // Of a segment, the vault is asked for its key as well; that takes a turn of its own.
        // While a denial is confirmed, callers wait; an answer that begins within that time may come later.
        3 * one + SETTLES_WITHIN + if denied { AGREE_WITHIN + 2 * one } else { Duration::ZERO }
    }

    /// From when on every operation must succeed: when the ways to the service's vault and to its own were last bad.
    ///
    /// The account's own key may be asked for only once the service's is there, to authenticate its record.
    pub(crate) fn recovered_at(&self, service: Duration, own: Duration) -> Duration {
        let (retry, poll) = (self.policy.retry_max(), self.policy.revoked_poll());
        let service = service + retry + self.policy.call_timeout();
        service.max(own) + retry.max(poll) + 2 * self.policy.call_timeout() + SETTLES_WITHIN
    }
}
