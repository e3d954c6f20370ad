//! What an outage allows, and for how long.

use super::*;

impl Keys {
    /// Whether every KEK of the account has answered lately enough, on some node: for those that did not others may stand in.
    pub(super) fn judge_bridge(&self, of: &Use) -> Judged {
        let longest = self.policy.max_bridge() + self.policy.usable_for() + 2 * self.policy.call_timeout();
        let longest = longest + self.policy.retry_max().max(self.policy.ceiling()) + SETTLES_WITHIN;
        let Some(view) = of.views.of.first().and_then(Option::as_ref).filter(|view| view.keks.len() > 1)
        else {
            return Ok(());
        };
        for (_, kek) in view.keks.iter().filter(|(_, kek)| of.is_under(kek)) {
            let answered = self.answered.get(&(of.account, kek.clone())).copied().unwrap_or_default();
            let together = |one: &Answered, other: &Answered| {
                one.sent.at.abs_diff(other.sent.at) <= self.policy.call_timeout()
            };
            // From when another has stood in for it, as far as it is known.
            let mut since = None::<Moment>;
            for node in self.nodes.values() {
                let calls = node.calls.get(&(of.account, Provider::Customer)).map_or(&[][..], Vec::as_slice);
                let failed = calls.iter().filter(|call| {
                    call.kek == *kek
                        && call.answered.seq > answered
                        && matches!(call.verdict, Verdict::Outage(_) | Verdict::Wrong)
                });
                let bridged = |call: &&Answered| {
                    calls.iter().any(|other| {
                        other.kek != *kek && other.verdict == Verdict::Verified && together(call, other)
                    })
                };
                if let Some(first) = failed.filter(bridged).map(|call| call.answered).next()
                    && since.is_none_or(|since| first.seq < since.seq)
                {
                    since = Some(first);
                }
            }
            let Some(since) = since else { continue };
            let jumped = self.nodes.keys().any(|node| self.jumped_since(*node, since));
            if since.at + longest < of.begun.at && !jumped {
                let what = format!(
                    "node {}, account {}: served though {kek} has not answered since {:?}; it may be bridged for {:?}",
                    of.node,
                    of.account,
                    since.at,
                    self.policy.max_bridge()
                );
                return Err((Check::Bridge, what));
            }
        }
        Ok(())
    }

    /// Whether an operation may have gone without the account's own key, because that was unavailable.
    pub(crate) fn judge_unavailable(&self, of: &Use, budgets: &Budgets) -> Judged {
        let calls = self.calls(of.node, of.account, Provider::Customer);
        let denied = calls.iter().any(|call| matches!(call.verdict, Verdict::Denied(_)));
        let is_revoked = self.rows.get(&of.account).is_some_and(|row| row.set != Some(false));
        let Some(kek) = of.only_kek() else { return Ok(()) };
        if denied || is_revoked || self.jumped_since(of.node, of.begun) {
            return Ok(());
        }
        let served = |call: &&Answered| {
            call.verdict == Verdict::Verified
                && call.answered.seq < of.begun.seq
                && call.kek == *kek
                && is_whole(calls, call)
        };
        // Or it is not the older epochs' turn, as the vault has asked for a pause.
        if self.goes_on(of, kek)
            || (of.throttled_of_late(budgets) && of.views.any(|view| view.aeks.len() > 2))
        {
            return Ok(());
        }
        let verified = calls.iter().filter(served).max_by_key(|call| call.sent.seq);
        // An operation's is of no use to others, and a key that changed meanwhile is another one.
        let verified = verified.filter(|call| !call.is_doubtful && !of.changed_since(call.sent.seq));
        // A clock that was set ahead has ended it, also where it was set back after that.
        let verified = verified.filter(|call| !self.jumped_since(of.node, call.sent));
        match verified.map(|call| of.ended.clock.since(&call.sent.clock)) {
            Some(age) if age < self.policy.usable_for() => {
                let what = format!(
                    "node {}: the key of {} was unavailable {age:?} after it was verified, though it may serve for {:?}",
                    of.node,
                    of.account,
                    self.policy.usable_for()
                );
                Err((Check::Grace, what))
            }
            _ => Ok(()),
        }
    }

    /// Whether a key may have entered its grace: only since something failed, and never because its turn did not come.
    pub(crate) fn judge_grace(&self, of: &Use, provider: Provider, budgets: &Budgets) -> Judged {
        let (node, account) = (of.node, of.account);
        if of.throttled_of_late(budgets) {
            return Ok(());
        }
        // What is answered in this moment may not have been heard of; and an operation's is of no use to others.
        let verified = |call: &&Answered| {
            call.verdict == Verdict::Verified && call.answered.at < of.begun.at && !call.is_doubtful
        };
        let calls = self.calls(node, account, provider);
        let since = calls.iter().filter(verified).map(|call| call.sent.seq).max().unwrap_or_default();
        // Of several KEKs each has to answer.
        let failed = |provider| {
            let calls = self.calls(node, account, provider);
            calls.iter().any(|call| {
                // By an attempt that was over a while ago; one that goes on may still fail.
                let renewed = |other: &&Answered| {
                    other.kek == call.kek
                        && verified(other)
                        && other.sent.seq > call.answered.seq
                        && other.answered.at + self.policy.call_timeout() < of.begun.at
                        && is_whole(calls, other)
                };
                call.verdict != Verdict::Verified && !calls.iter().any(|other| renewed(&other))
            })
        };
        let stores = self.nodes.get(&node).map_or(&[][..], |node| &node.store_failures);
        if failed(provider) || failed(Provider::Service) || stores.iter().any(|at| at.seq > since) {
            return Ok(());
        }
        let what =
            format!("node {node}: the {provider} key of {account} is in its grace though nothing failed");
        Err((Check::Freshness, what))
    }

    /// Whether this node has seen a failure that lets a key serve past its freshness.
    pub(super) fn failed_of_late(&self, of: &Use, provider: Provider, budgets: &Budgets) -> bool {
        // Where the refresh is stretched, so is the wait between two tries.
        let retry = self.policy.retry_max().max(of.pace(provider, budgets));
        let window = retry + self.policy.call_timeout();
        let recent = |sent: &Moment| sent.seq > of.begun.seq || of.begun.clock.since(&sent.clock) < window;
        if of.throttled_of_late(budgets) {
            return true;
        }
        let failed = |provider| {
            self.calls(of.node, of.account, provider)
                .iter()
                .any(|call| call.verdict != Verdict::Verified && recent(&call.sent))
        };
        let store = self.nodes.get(&of.node).is_some_and(|node| node.store_failures.iter().any(recent));
        failed(provider) || failed(Provider::Service) || store
    }
}
