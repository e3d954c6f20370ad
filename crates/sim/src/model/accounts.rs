//! What accounts' records said, and from when to when; which operations changed them.
//!
//! Guarantees: what may have been in effect at some time is never left out: a write whose answer nobody heard counts from
//! when it was begun until a later one is known to be there. Not its job: to judge what was done because of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cofferdam_crypto::AccountId;

use super::Judged;
use crate::{
    Check,
    hub::Moment,
    record::{AccountState, OperationState},
};

/// A record as it was written at some time; `None` where there was none.
pub(crate) type Written = Option<Arc<AccountState>>;

/// One writing of an account's record.
#[derive(Clone, Debug)]
struct Version {
    state: Written,
    /// When its write began.
    begun: u64,
    /// By when it was there.
    settled: Moment,
    /// From when on every node goes by it, or by a later one.
    announced: Option<u64>,
}

/// A write under way, or one whose answer nobody heard.
#[derive(Debug)]
struct Intent {
    account: AccountId,
    state: Written,
    begun: u64,
    heard: bool,
}

#[derive(Debug, Default)]
struct History {
    versions: Vec<Version>,
    /// Its last operation, and what the record said when that began.
    operation: Option<(OperationState, Written)>,
    /// Calls of administrators under way that may ask vaults.
    asking: u32,
    /// When the last of them ended, or an operation did.
    asked: Option<Duration>,
    /// Every operation that it had, and when it ended.
    ran: BTreeMap<String, Option<u64>>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Refused,
    Unknown,
}

/// Every account.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    of: BTreeMap<AccountId, History>,
    names: BTreeMap<String, AccountId>,
    intents: BTreeMap<u64, Intent>,
    next: u64,
}

/// What a node may have gone by while it did something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Views {
    pub(crate) of: Vec<Written>,
    /// When the last of them came to be there.
    pub(crate) changed: Option<Moment>,
    /// Whether an operation may ask vaults at the same time.
    pub(crate) operating: bool,
}

impl Views {
    pub(crate) fn all(&self, holds: impl Fn(&AccountState) -> bool) -> bool {
        !self.of.is_empty() && self.of.iter().all(|view| view.as_ref().is_some_and(|view| holds(view)))
    }

    pub(crate) fn any(&self, holds: impl Fn(&AccountState) -> bool) -> bool {
        self.of.iter().any(|view| view.as_ref().is_some_and(|view| holds(view)))
    }

    /// Whether the account may have been one that is not there.
    pub(crate) fn may_be_gone(&self) -> bool {
        self.of.iter().any(Option::is_none)
    }

    /// Whether it is deleted or gone, for certain.
    pub(crate) fn is_closed(&self) -> bool {
        !self.of.is_empty()
            && self.of.iter().all(|view| view.as_ref().is_none_or(|view| view.deleted_until.is_some()))
    }
}

impl Accounts {
    /// A node begins to write a record under this name.
    pub(crate) fn write_begins(&mut self, name: &str, state: Option<AccountState>, now: u64) -> Option<u64> {
        let account = match &state {
            Some(state) => state.id,
            None => *self.names.get(name)?,
        };
        self.next += 1;
        let state = state.map(Arc::new);
        self.intents.insert(self.next, Intent { account, state, begun: now, heard: true });
        Some(self.next)
    }

    /// What became of it: it is not there, or it may be; who reads the record next sees which.
    pub(crate) fn write_ends(&mut self, token: u64, end: End) {
        match (end, self.intents.get_mut(&token)) {
            (End::Refused, _) => drop(self.intents.remove(&token)),
            (End::Unknown, Some(intent)) => intent.heard = false,
            (End::Unknown, None) => {}
        }
    }

    /// The record was read, and said this. Whether that was news.
    pub(crate) fn seen(&mut self, name: &str, state: Option<AccountState>, now: Moment) -> bool {
        let account = match &state {
            Some(state) => state.id,
            None => match self.names.get(name) {
                Some(account) => *account,
                None => return false,
            },
        };
        self.settle(name, account, state.map(Arc::new), now.seq, now)
    }

    fn settle(&mut self, name: &str, account: AccountId, state: Written, begun: u64, now: Moment) -> bool {
        self.names.insert(name.to_owned(), account);
        let history = self.of.entry(account).or_default();
        if history.versions.last().is_some_and(|last| last.state == state) {
            return false;
        }
        // The one that was written may be among those whose answer nobody heard; others may have been there before it.
        let begun = {
            let same = self.intents.values().filter(|of| of.account == account && of.state == state);
            same.map(|of| of.begun).min().unwrap_or(begun).min(begun)
        };
        self.intents.retain(|_, intent| {
            let lost = intent.account == account && !intent.heard;
            if lost && intent.state != state {
                let (state, begun) = (intent.state.clone(), intent.begun);
                history.versions.push(Version { state, begun, settled: now, announced: None });
            }
            !lost
        });
        let is_first = history.versions.is_empty();
        let announced = is_first.then_some(now.seq);
        history.versions.push(Version { state, begun, settled: now, announced });
        true
    }

    /// What the record is known to say, unless a write is under way or unheard of.
    pub(crate) fn settled(&self, account: AccountId) -> Option<&Written> {
        if self.intents.values().any(|intent| intent.account == account) {
            return None;
        }
        self.of.get(&account)?.versions.last().map(|version| &version.state)
    }

    /// What the record was last known to say.
    pub(crate) fn latest(&self, account: AccountId) -> Option<&Arc<AccountState>> {
        self.of.get(&account)?.versions.last()?.state.as_ref()
    }

    /// Every account that is there, as it was last known.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<AccountState>> {
        self.of.values().filter_map(|history| history.versions.last()?.state.as_ref())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = AccountId> {
        self.of.keys().copied()
    }

    fn states(&self, account: AccountId, first: usize, until: u64) -> (Vec<Written>, Option<Moment>) {
        let versions = self.of.get(&account).map_or(&[][..], |of| &of.versions);
        let later = versions.iter().skip(first).filter(|version| version.begun <= until);
        let mut states: Vec<Written> = later.clone().map(|version| version.state.clone()).collect();
        let changed = later.map(|version| version.settled).max_by_key(|settled| settled.seq);
        let intents = self.intents.values().filter(|of| of.account == account && of.begun <= until);
        states.extend(intents.map(|intent| intent.state.clone()));
        (states, changed)
    }

    /// What a node may have gone by that did something between these.
    pub(crate) fn views(&self, account: AccountId, from: u64, until: u64) -> Views {
        let Some(history) = self.of.get(&account) else { return Views::default() };
        let announced = |version: &Version| version.announced.is_some_and(|announced| announced <= from);
        let first = history.versions.iter().rposition(announced).unwrap_or_default();
        let (of, changed) = self.states(account, first, until);
        Views { of, changed, operating: self.is_operating(account) }
    }

    /// What may have been there at some time between these.
    pub(crate) fn possible(&self, account: AccountId, from: u64, until: u64) -> Vec<Written> {
        let Some(history) = self.of.get(&account) else { return Vec::new() };
        let first = history.versions.iter().rposition(|version| version.settled.seq <= from);
        self.states(account, first.unwrap_or_default(), until).0
    }

    /// Whether an operation of this account goes on, or somebody is about to begin one: vaults may be asked because of it.
    pub(crate) fn is_operating(&self, account: AccountId) -> bool {
        self.of.get(&account).is_some_and(|history| {
            history.asking > 0 || history.operation.as_ref().is_some_and(|(of, _)| !of.has_ended())
        })
    }

    /// How many accounts' records changed after this.
    pub(crate) fn changed_since(&self, at: Duration) -> u32 {
        let changed =
            |history: &&History| history.versions.iter().skip(1).any(|version| version.settled.at >= at);
        self.of.values().filter(changed).count() as u32
    }

    /// When an operation last ended, or a call of an administrator.
    pub(crate) fn operated_until(&self, account: AccountId) -> Option<Duration> {
        self.of.get(&account)?.asked
    }

    pub(crate) fn asking_begins(&mut self, account: AccountId) {
        self.of.entry(account).or_default().asking += 1;
    }

    pub(crate) fn asking_ends(&mut self, account: AccountId, at: Duration) {
        let history = self.of.entry(account).or_default();
        history.asking = history.asking.saturating_sub(1);
        history.asked = Some(at);
    }

    /// Operations that have not ended, by account.
    pub(crate) fn open(&self) -> impl Iterator<Item = (AccountId, &OperationState)> {
        self.of.iter().filter_map(|(account, history)| {
            let (operation, _) = history.operation.as_ref()?;
            (!operation.has_ended()).then_some((*account, operation))
        })
    }

    /// Whether this operation had been begun, and had not ended before this.
    pub(crate) fn ran(&self, account: AccountId, operation: &str, since: u64) -> bool {
        let ended = self.of.get(&account).and_then(|history| history.ran.get(operation));
        ended.is_some_and(|ended| ended.is_none_or(|ended| ended >= since))
    }

    pub(crate) fn operation(&self, account: AccountId) -> Option<&OperationState> {
        self.of.get(&account)?.operation.as_ref().map(|(operation, _)| operation)
    }

    /// An account's last operation stands so. `Ok(None)` if that is known; else what it was before.
    pub(crate) fn operates(
        &mut self,
        account: AccountId,
        now: OperationState,
        moment: Moment,
    ) -> Result<Option<Option<OperationState>>, (Check, String)> {
        let settled = self.settled(account).cloned();
        let history = self.of.entry(account).or_default();
        let known = history.operation.clone();
        if known.as_ref().is_some_and(|(known, _)| *known == now) {
            return Ok(None);
        }
        let before = match &known {
            Some((known, base)) if known.id == now.id => {
                if known.has_ended() {
                    let what =
                        format!("operation {} of {account} had ended {known:?}, and is {now:?}", now.id);
                    return Err((Check::Operation, what));
                }
                base.clone()
            }
            Some((known, _)) if !known.has_ended() => {
                let what = format!("operation {now:?} of {account} is begun while {known:?} goes on");
                return Err((Check::Operation, what));
            }
            _ => settled.clone().flatten(),
        };
        history.operation = Some((now.clone(), before.clone()));
        history.ran.insert(now.id.clone(), now.has_ended().then_some(moment.seq));
        if now.has_ended() {
            history.asked = Some(moment.at);
        }
        // The versions that it wrote.
        let by_it = |version: &&mut Version| match &version.state {
            Some(state) => state.written_by.as_ref() == Some(&now.id),
            None => now.kind == "purge",
        };
        let mut written = history.versions.iter_mut().filter(by_it);
        if now.is_announced_again() {
            written.for_each(|version| version.announced = version.announced.or(Some(moment.seq)));
        } else if now.is_announced()
            && let Some(first) = written.next()
        {
            first.announced = first.announced.or(Some(moment.seq));
        }
        if now.has_ended()
            && let Some(settled) = settled
        {
            judge_end(account, &now, &before, &settled)?;
        }
        Ok(Some(known.map(|(known, _)| known).filter(|known| known.id == now.id)))
    }
}

/// Whether an operation that ended left what it should.
fn judge_end(account: AccountId, ended: &OperationState, before: &Written, after: &Written) -> Judged {
    let wrong = |what: &str| {
        let brief = |of: &Written| of.as_ref().map_or("no record".to_owned(), |of| of.brief());
        let what = format!(
            "operation {} ({}) of {account} {}, and {what}: before {}; after {}",
            ended.id,
            ended.what,
            ended.status,
            brief(before),
            brief(after)
        );
        Err((Check::Operation, what))
    };
    let same = |one: &AccountState, other: &AccountState| {
        let one = AccountState { written_by: None, ..one.clone() };
        one == AccountState { written_by: None, ..other.clone() }
    };
    if !ended.succeeded() {
        return match (before, after) {
            (Some(before), Some(after)) if same(before, after) => Ok(()),
            (None, None) => Ok(()),
            _ => wrong("the account is not as it was"),
        };
    }
    let named = |field: &str| ended.what.get(field).and_then(|value| value.as_str()).unwrap_or_default();
    // Named with a version or without.
    let is_under = |of: &AccountState, kek: &str| {
        of.keks.iter().any(|(_, id)| {
            id.as_str() == kek || id.as_str().strip_prefix(kek).is_some_and(|rest| rest.starts_with("/v"))
        })
    };
    let after = match (ended.kind.as_str(), after) {
        ("purge", None) => return Ok(()),
        ("purge", Some(_)) | (_, None) => return wrong("the record is there, or is not"),
        (_, Some(after)) => after,
    };
    let reencrypted = ended.what.get("reencrypt").and_then(|value| value.as_bool()) == Some(true);
    let customer = cofferdam_crypto::Provider::Customer;
    let epochs = |of: &AccountState| of.aeks.iter().filter(|((by, _), _)| *by == customer).count();
    let newest_before = before.as_ref().and_then(|before| before.newest(customer));
    let right = match ended.kind.as_str() {
        "rotate-kek" => {
            is_under(after, named("to")) && !after.keks.iter().any(|(_, id)| id.as_str() == named("from"))
        }
        "add-kek" => is_under(after, named("kek")),
        "remove-kek" => !after.keks.iter().any(|(_, id)| id.as_str() == named("kek")),
        "rotate-aek" => after.newest(customer) > newest_before && (!reencrypted || epochs(after) == 1),
        "link" => after.linked && is_under(after, named("kek")),
        "unlink" => !after.linked && (!reencrypted || epochs(after) == 0),
        "delete" => after.deleted_until.is_some(),
        "recover" => after.deleted_until.is_none(),
        _ => true,
    };
    if right { Ok(()) } else { wrong("the account is not as it should be") }
}
