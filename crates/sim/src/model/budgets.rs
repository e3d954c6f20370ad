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
