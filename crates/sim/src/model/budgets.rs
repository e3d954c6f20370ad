//! What each process asks of each vault: within its budget, and not before the vault said that it may.
//!
//! A budget is one process's and counts by its own time; where its clocks jump, its windows start anew.

use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

use cofferdam_keyring::Policy;
use cofferdam_vault::VaultErrorKind;

use super::Judged;
use crate::{Check, hub::Moment, meter::WINDOW};

/// How exactly a wait must be kept.
const EXACT: Duration = Duration::from_millis(1);

/// What a process may ask of a vault, and has.
#[derive(Debug, Default)]
struct Asked {
    /// When, in the last window.
    calls: VecDeque<Duration>,
    /// The vault said at the first when it may be asked again: at the second.
    not_before: Option<(Duration, Duration)>,
    /// Until when it is known to have refused calls because of its limit.
    throttled: Option<Duration>,
    /// When the last of those was sent.
    refused: Option<Moment>,
}

/// What is set for a vault.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// How many accounts each process has there.
    accounts: u32,
    /// How many calls a process plans with in a window.
    budget: u32,
    limit: u32,
}

impl Terms {
    /// How many calls each refresh of all accounts within this time takes of a window.
    fn needed(&self, within: Duration) -> u32 {
        (u128::from(self.accounts) * WINDOW.as_nanos()).div_ceil(within.as_nanos().max(1)) as u32
    }

    /// How many calls a process may send in a window: more than its budget only where that does not do.
    fn most(&self, policy: &Policy) -> u32 {
        self.needed(policy.ceiling()).clamp(self.budget, self.limit)
    }
}

/// What all processes ask of all vaults, by node and vault.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    policy: Policy,
    terms: BTreeMap<usize, Terms>,
    asked: BTreeMap<(usize, usize), Asked>,
}

impl Budgets {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// What each process may ask of a vault that so many accounts are at. Judged from here on.
    pub(crate) fn set(&mut self, vault: usize, accounts: u32, budget: u32, limit: u32) {
        self.terms.insert(vault, Terms { accounts, budget, limit });
    }

    /// How late a process may refresh keys of this vault at the most, as it stands.
    pub(crate) fn pace(&self, node: usize, vault: usize) -> Duration {
        let (refresh, ceiling) = (self.policy.refresh(), self.policy.ceiling());
        let Some(terms) = self.terms.get(&vault) else { return refresh };
        if self.throttled_until(node, vault) > Duration::ZERO {
            return ceiling;
        }
        // A twentieth to spare.
        let all = WINDOW * terms.accounts * 21 / 20 / terms.budget.max(1);
        all.clamp(refresh, ceiling)
    }

    /// How long somebody may wait for a turn at the most, if the vault refuses nothing.
    pub(crate) fn queue(&self, vault: usize) -> Duration {
        let Some(terms) = self.terms.get(&vault) else { return Duration::ZERO };
        // Each account asks a few times where its key is denied, or fails.
        let windows = 4 * terms.accounts / terms.budget.max(1);
        // Retries that are due each second, and a call for each segment, use a small budget up by themselves.
        WINDOW * windows.max(u32::from(terms.budget <= 16 * terms.accounts))
    }

    /// By when a process that was refused calls has made those that it owes, as it dares to make ever more.
    pub(crate) fn settled_by(&self, node: usize, vault: usize) -> Duration {
        let until = self.throttled_until(node, vault);
        match self.terms.get(&vault) {
            Some(terms) if until > Duration::ZERO => {
                let step = f64::from((terms.limit / 50).max(1));
                let windows = (4.0 * f64::from(terms.accounts) / step).sqrt() as u32 + 2;
                until + WINDOW * windows
            }
            _ => until,
        }
    }

    /// The latest of these, of all nodes and vaults.
    pub(crate) fn all_settled_by(&self) -> Duration {
        let settled =
            self.asked.keys().map(|&(node, vault)| self.settled_by(node, vault) + self.queue(vault));
        settled.max().unwrap_or_default()
    }

    /// Whether the vault has refused a call of this node, and this may still ask less of it than it needs because of that:
    /// that counts for all keys there as if they had been refused.
    pub(crate) fn throttled_of_late(&self, node: usize, vault: usize, now: Moment) -> bool {
        let Some(refused) = self.asked.get(&(node, vault)).and_then(|asked| asked.refused) else {
            return false;
        };
        let window = self.policy.retry_max().max(self.policy.ceiling()) + self.policy.call_timeout();
        // What it dares to ask grows by a fiftieth of the limit in each window.
        let dares = self.terms.get(&vault).map_or(Duration::ZERO, |terms| {
            WINDOW * (terms.most(&self.policy) / (terms.limit / 50).max(1) + 2)
        });
        // Known for that long, and then the failure that it stands for.
        // By the clock that nobody can set.
        now.clock.boot.saturating_sub(refused.clock.boot) < dares.max(window) + window
    }

    /// The node's clocks jumped: its windows start anew.
    pub(crate) fn clock_jumped(&mut self, node: usize) {
        for ((of, _), asked) in &mut self.asked {
            if *of == node {
                asked.calls.clear();
                asked.not_before = None;
            }
        }
    }

    /// The node's process is a new one.
    pub(crate) fn start_over(&mut self, node: usize) {
        for ((of, _), asked) in &mut self.asked {
            if *of == node {
                asked.calls.clear();
                asked.not_before = None;
                (asked.throttled, asked.refused) = (None, None);
            }
        }
    }

    pub(crate) fn call_begins(&mut self, node: usize, vault: usize, now: Moment) -> Judged {
        let limit = self.terms.get(&vault).map(|terms| terms.most(&self.policy));
        let asked = self.asked.entry((node, vault)).or_default();
        // Who begins a call in the moment of the answer has not heard of it.
        if let Some((said, until)) = asked.not_before
            && now.at > said + EXACT
            && now.at + EXACT < until
            && limit.is_some()
        {
            let what = format!(
                "node {node} asks vault {vault}, which had said at {said:?} that it may not before {until:?}"
            );
            return Err((Check::RetryAfter, what));
        }
        while asked.calls.front().is_some_and(|at| *at + WINDOW <= now.at) {
            asked.calls.pop_front();
        }
        asked.calls.push_back(now.at);
        match limit {
            Some(limit) if asked.calls.len() > limit as usize => {
                let what = format!(
                    "node {node} has asked vault {vault} {} times within {WINDOW:?}; it may {limit} times",
                    asked.calls.len()
                );
                Err((Check::Budget, what))
            }
            _ => Ok(()),
        }
    }

    /// The vault refuses a call that was sent then, because of its limit; one that is `counted` is known to the budget.
    pub(crate) fn throttled(
        &mut self,
        node: usize,
        vault: usize,
        (sent, now): (Moment, Moment),
        kind: VaultErrorKind,
        is_counted: bool,
    ) {
        let VaultErrorKind::Throttled { retry_after } = kind else { return };
        let asked = self.asked.entry((node, vault)).or_default();
        // No longer than between two tries at the most.
        let until = now.at + retry_after.unwrap_or_default().min(self.policy.retry_max());
        asked.refused = Some(sent);
        asked.throttled = Some(asked.throttled.map_or(until, |earlier| earlier.max(until)));
        if retry_after.is_some() && is_counted && asked.not_before.is_none_or(|(_, earlier)| earlier < until)
        {
            asked.not_before = Some((now.at, until));
        }
    }

    /// Until when this node has known that the vault takes no more; zero if it never refused.
    pub(crate) fn throttled_until(&self, node: usize, vault: usize) -> Duration {
        self.asked.get(&(node, vault)).and_then(|asked| asked.throttled).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_vault::Timestamp;

    use super::*;

    fn at(seconds: u64) -> Moment {
        let at = Duration::from_secs(seconds);
        Moment { seq: seconds, at, clock: Timestamp { boot: at, wall: at } }
    }

    fn checks(judged: Judged) -> Option<Check> {
        judged.err().map(|(check, _)| check)
    }

    #[test]
    fn a_process_asks_a_vault_as_often_in_a_window_as_its_budget_allows() {
        let mut budgets = Budgets::default();
        budgets.set(1, 5, 2, 3);
        for second in [0, 5] {
            assert_eq!(budgets.call_begins(0, 1, at(second)), Ok(()));
        }
        assert_eq!(budgets.call_begins(1, 1, at(6)), Ok(()), "another process has its own");
        assert_eq!(budgets.call_begins(0, 2, at(6)), Ok(()), "another vault has none");
        assert_eq!(checks(budgets.call_begins(0, 1, at(9))), Some(Check::Budget));
        budgets.start_over(0);
        assert_eq!(budgets.call_begins(0, 1, at(9)), Ok(()));
        assert_eq!(budgets.pace(0, 1), Policy::default().refresh());
    }

    #[test]
    fn who_needs_more_than_its_budget_at_the_ceiling_may_take_more_and_no_more_than_the_limit() {
        let mut budgets = Budgets::default();
        // At one refresh a minute, 5 calls in ten seconds.
        budgets.set(1, 30, 4, 8);
        budgets.set(2, 60, 4, 8);
        assert!((0..5).all(|_| budgets.call_begins(0, 1, at(1)).is_ok()));
        assert_eq!(checks(budgets.call_begins(0, 1, at(2))), Some(Check::Budget));
        assert!((0..8).all(|_| budgets.call_begins(0, 2, at(1)).is_ok()));
        assert_eq!(checks(budgets.call_begins(0, 2, at(2))), Some(Check::Budget));
        assert_eq!(budgets.pace(0, 1), Policy::default().ceiling());
    }

    #[test]
    fn a_vault_that_said_how_long_to_wait_is_left_alone_for_that_long() {
        let mut budgets = Budgets::default();
        budgets.set(1, 1, 9, 9);
        let kind = VaultErrorKind::Throttled { retry_after: Some(Duration::from_secs(5)) };
        budgets.throttled(0, 1, (at(1), at(2)), kind, true);
        budgets.throttled(0, 1, (at(2), at(3)), VaultErrorKind::Throttled { retry_after: None }, true);
        assert_eq!(budgets.call_begins(0, 1, at(2)), Ok(()), "it was begun before that was heard");
        assert_eq!(checks(budgets.call_begins(0, 1, at(6))), Some(Check::RetryAfter));
        assert_eq!(budgets.call_begins(1, 1, at(6)), Ok(()), "nobody told the other process");
        assert_eq!(budgets.call_begins(0, 1, at(7)), Ok(()));
        assert_eq!(budgets.throttled_until(0, 1), Duration::from_secs(7));
    }
}
