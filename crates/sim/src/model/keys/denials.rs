//! What follows from denials: who may be served after one, what may be buffered, and what may be refused as revoked.

use std::{collections::BTreeMap, time::Duration};

use cofferdam_crypto::{AccountId, KeyId, Provider};
use cofferdam_vault::VaultErrorKind;

use super::{
    AGREE_WITHIN, Answered, GRACE_OF_A_DENIAL, Keys, SAME_ATTEMPT, SETTLES_WITHIN, Verdict, is_whole,
};
use crate::{
    Check,
    hub::Moment,
    model::{Budgets, Judged, Use},
};

impl Keys {
    /// The last denial that this node may have taken for confirmed by these answers, unless an unwrap by the same KEK that
    /// began after that was verified. Where it `must` have: what a KEK said in an attempt that went half well counts for it.
    pub(super) fn confirmed(
        &self,
        node: usize,
        account: AccountId,
        must: bool,
        of: impl Fn(&Answered) -> bool,
    ) -> Option<Moment> {
        let calls = self.calls(node, account, Provider::Customer);
        let mut keks = BTreeMap::<&KeyId, (Option<Moment>, Vec<Moment>)>::new();
        let mut said_yes = BTreeMap::<&KeyId, Duration>::new();
        for call in calls.iter().filter(|call| of(call)) {
            let (confirmed, absent) = keks.entry(&call.kek).or_default();
            let again =
                said_yes.get(&call.kek).is_some_and(|at| call.sent.at.saturating_sub(*at) <= SAME_ATTEMPT);
            match call.verdict {
                Verdict::Verified => {
                    said_yes.insert(&call.kek, call.answered.at);
                    // An operation's the keyring has not heard, and of an attempt that fails it makes nothing.
                    let fails = calls.iter().any(|other| {
                        other.verdict != Verdict::Verified
                            && other.sent.at.abs_diff(call.sent.at) <= GRACE_OF_A_DENIAL
                    });
                    if must || !(call.is_doubtful || fails) {
                        absent.clear();
                    }
                    if confirmed.is_some_and(|denial| denial.seq < call.sent.seq) {
                        *confirmed = None;
                    }
                }
                // Of a wrap that the record has no longer: that is news of the record, not of the key.
                Verdict::Denied(_) if !call.is_current => {}
                // In one attempt it said yes to the newest epoch and no to an older one: that is neither.
                Verdict::Denied(VaultErrorKind::KeyNotFound) if must && again => {}
                Verdict::Denied(VaultErrorKind::KeyNotFound) => {
                    let now = call.answered.clock;
                    absent.retain(|earlier| now.since(&earlier.clock) < AGREE_WITHIN);
                    absent.push(call.answered);
                    if absent.len() >= 3 || confirmed.is_some() {
                        *confirmed = Some(call.answered);
                    }
                }
                Verdict::Denied(_) => *confirmed = Some(call.answered),
                _ => {}
            }
        }
        keks.into_values().filter_map(|(confirmed, _)| confirmed).max_by_key(|denial| denial.seq)
    }

    /// The last denial before this that holds still: no unwrap was verified that began after it, of the same KEK where the
    /// account has that all the time.
    pub(super) fn denied(&self, of: &Use, before: Duration, until: u64) -> Option<Moment> {
        let calls = self.calls(of.node, of.account, Provider::Customer);
        // What an operation was answered only it has heard.
        let denials = calls.iter().filter(|call| {
            matches!(call.verdict, Verdict::Denied(_))
                && call.answered.at + before < of.begun.at
                && !call.is_doubtful
        });
        // Said right after a yes to a newer epoch: that is neither.
        let said_yes = |denial: &Answered| {
            denial.verdict == Verdict::Denied(VaultErrorKind::KeyNotFound)
                && calls.iter().any(|call| {
                    call.kek == denial.kek
                        && call.verdict == Verdict::Verified
                        && call.answered.seq < denial.sent.seq
                        && denial.sent.at.saturating_sub(call.answered.at) <= SAME_ATTEMPT
                })
        };
        let lifted = |denial: &Answered| {
            let same = of.is_under(&denial.kek);
            calls.iter().any(|call| {
                call.verdict == Verdict::Verified
                    && call.sent.seq > denial.answered.seq
                    && call.answered.seq <= until
                    && (!same || call.kek == denial.kek)
            })
        };
        denials
            .filter(|denial| !lifted(denial) && !said_yes(denial))
            .map(|denial| denial.answered)
            .max_by_key(|at| at.seq)
    }

    /// How long ago this node had seen the last denial when an operation began that succeeded; for the record.
    pub(crate) fn since_denial(&self, of: &Use) -> Option<Duration> {
        let denial = self.denied(of, Duration::ZERO, u64::MAX)?;
        Some(of.begun.at.saturating_sub(denial.at))
    }

    /// Whether a write may have been buffered.
    pub(crate) fn judge_buffered(&self, of: &Use, budgets: &Budgets) -> Judged {
        let settled = |moment: Moment, within: Duration| moment.at + within < of.begun.at;
        if self.store_failed_since(of.node, of.begun, self.policy.failure_window()) {
            return Ok(());
        }
        // Another node's verified unwrap, which began later, lifts it for all who read the record again.
        let lifted = |denial: Moment| {
            let row = self.rows.get(&of.account);
            row.is_some_and(|row| row.set != Some(true) && row.changed.seq > denial.seq)
        };
        if let Some(denial) = self.confirmed(of.node, of.account, true, |call| {
            of.is_under(&call.kek) && (!call.is_doubtful || call.verdict == Verdict::Verified)
        }) && settled(denial, SETTLES_WITHIN)
            && !lifted(denial)
            && !self.record_unreadable(of, denial)
        {
            let what = format!(
                "node {} buffered a write of {} though it saw a denial at {:?}",
                of.node, of.account, denial.at
            );
            return Err((Check::BufferedUnderRevocation, what));
        }
        // Another node's, or an earlier process's: known after the next attempt that reads the record, which those do
        // that begin without a key.
        let turns = of.queue(budgets);
        let learnt = self.policy.retry_max() + 2 * self.policy.call_timeout() + SETTLES_WITHIN + turns;
        let calls = self.calls(of.node, of.account, Provider::Customer);
        let held = calls.iter().any(|call| {
            call.verdict == Verdict::Verified
                && of.begun.clock.since(&call.sent.clock) < self.policy.usable_for() + learnt
        });
        if let Some(row) = self.rows.get(&of.account)
            && row.set == Some(true)
            && settled(row.changed, learnt)
            && !of.changed_since(row.changed.seq)
            && !held
            && !calls.iter().any(|call| call.verdict == Verdict::Verified && call.sent.seq > row.changed.seq)
        {
            let what = format!(
                "node {} buffered a write of {} though it is written since {:?} that it is revoked",
                of.node, of.account, row.changed.at
            );
            return Err((Check::BufferedUnderRevocation, what));
        }
        Ok(())
    }

    /// Whether the record may have been closed to the node when it saw a denial: it takes the service's key to tell
    /// whether the wrap that was denied is still current, and only then is the account revoked.
    fn record_unreadable(&self, of: &Use, denial: Moment) -> bool {
        let window = self.policy.call_timeout() + SETTLES_WITHIN;
        self.calls(of.node, of.account, Provider::Service).iter().any(|call| {
            let (answered, denied) = (call.answered.at, denial.at);
            call.verdict != Verdict::Verified && answered + window >= denied && answered <= denied + window
        })
    }

    /// Whether an operation may have been refused because the key is revoked.
    pub(crate) fn judge_revoked(&self, of: &Use) -> Judged {
        // Who learns that a KEK was taken off asks the others first.
        let settles = self.policy.revoked_poll() + 2 * self.policy.call_timeout() + SETTLES_WITHIN;
        let changed =
            of.views.operating || of.views.changed.is_some_and(|changed| changed.at + settles >= of.begun.at);
        let counts = |call: &Answered| changed || of.views.any(|view| view.is_under(&call.kek));
        if self.confirmed(of.node, of.account, false, counts).is_some() {
            return Ok(());
        }
        let verified = self
            .calls(of.node, of.account, Provider::Customer)
            .iter()
            .rfind(|call| call.verdict == Verdict::Verified)
            .filter(|call| call.answered.at + SETTLES_WITHIN < of.begun.at)
            .filter(|call| of.only_kek().is_some_and(|kek| call.kek == *kek && !call.is_doubtful))
            .filter(|call| is_whole(self.calls(of.node, of.account, Provider::Customer), call))
            .filter(|call| !self.goes_on(of, &call.kek));
        match (self.rows.get(&of.account), verified) {
            (None, _) => {
                let what = format!("{} was refused as revoked; its vault had not said so", of.account);
                Err((Check::FalseRevocation, what))
            }
            (Some(row), Some(verified))
                if row.set == Some(false)
                    && verified.sent.seq > row.changed.seq
                    && row.changed.at + SETTLES_WITHIN < of.begun.at
                    && !self.store_failed_since(of.node, verified.sent, Duration::MAX / 2) =>
            {
                let what = format!(
                    "node {} refused {} as revoked though its unwrap of {:?} was verified",
                    of.node, of.account, verified.sent.at
                );
                Err((Check::FalseRevocation, what))
            }
            _ => Ok(()),
        }
    }
}
