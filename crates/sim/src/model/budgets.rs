//! What each process asks of each vault: within its budget, and not before the vault said that it may.
//!
//! A budget is one process's and counts by its own time; where its clocks jump, its windows start anew.

use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

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
}

/// What all processes ask of all vaults, by node and vault.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    /// How many calls in a window, for each vault that has a budget; and how many while the alarm stands.
    limits: BTreeMap<usize, (u32, u32)>,
    asked: BTreeMap<(usize, usize), Asked>,
    /// Vaults whose process has said that its budget does not do.
    alarmed: BTreeMap<(usize, usize), bool>,
}

impl Budgets {
    /// What each process may ask of this vault: in general, and once it has raised the alarm.
    pub(crate) fn set(&mut self, vault: usize, budget: u32, most: u32) {
        self.limits.insert(vault, (budget, most));
    }

    /// The node's process is a new one, or its clocks jumped.
    pub(crate) fn start_over(&mut self, node: usize) {
        for ((of, _), asked) in &mut self.asked {
            if *of == node {
                asked.calls.clear();
                asked.not_before = None;
            }
        }
    }

    pub(crate) fn call_begins(&mut self, node: usize, vault: usize, now: Moment) -> Judged {
        let alarmed = self.alarmed.get(&(node, vault)).copied().unwrap_or_default();
        let limit = self.limits.get(&vault).map(|(budget, most)| if alarmed { *most } else { *budget });
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

    /// The vault refuses a call because of its limit.
    pub(crate) fn throttled(&mut self, node: usize, vault: usize, now: Moment, kind: VaultErrorKind) {
        let VaultErrorKind::Throttled { retry_after } = kind else { return };
        let asked = self.asked.entry((node, vault)).or_default();
        let until = now.at + retry_after.unwrap_or_default();
        asked.throttled = Some(asked.throttled.map_or(until, |earlier| earlier.max(until)));
        if retry_after.is_some() && asked.not_before.is_none_or(|(_, earlier)| earlier < until) {
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
        budgets.set(1, 2, 3);
        for second in [0, 5] {
            assert_eq!(budgets.call_begins(0, 1, at(second)), Ok(()));
        }
        assert_eq!(budgets.call_begins(1, 1, at(6)), Ok(()), "another process has its own");
        assert_eq!(budgets.call_begins(0, 2, at(6)), Ok(()), "another vault has none");
        assert_eq!(checks(budgets.call_begins(0, 1, at(9))), Some(Check::Budget));
        budgets.start_over(0);
        assert_eq!(budgets.call_begins(0, 1, at(9)), Ok(()));
    }

    #[test]
    fn a_vault_that_said_how_long_to_wait_is_left_alone_for_that_long() {
        let mut budgets = Budgets::default();
        budgets.set(1, 9, 9);
        let kind = VaultErrorKind::Throttled { retry_after: Some(Duration::from_secs(5)) };
        budgets.throttled(0, 1, at(2), kind);
        budgets.throttled(0, 1, at(3), VaultErrorKind::Throttled { retry_after: None });
        assert_eq!(budgets.call_begins(0, 1, at(2)), Ok(()), "it was begun before that was heard");
        assert_eq!(checks(budgets.call_begins(0, 1, at(6))), Some(Check::RetryAfter));
        assert_eq!(budgets.call_begins(1, 1, at(6)), Ok(()), "nobody told the other process");
        assert_eq!(budgets.call_begins(0, 1, at(7)), Ok(()));
        assert_eq!(budgets.throttled_until(0, 1), Duration::from_secs(7));
    }
}
