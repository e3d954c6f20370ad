//! The owners of KEKs: they disable or delete versions that they need no longer, and give back what they took away for a while.

use std::time::Duration;

use cofferdam_crypto::KeyId;

use crate::{
    Check, KekState,
    director::{Director, Due},
    model::Written,
    record::OperationState,
    weather::base_of,
};

/// How often KEKs' owners look for versions that they need no longer.
pub(crate) const RETIRES_EVERY: Duration = Duration::from_secs(20);

/// How long it may take to be told whether a version is safe to disable.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

impl Director {
    /// Owners of KEKs disable or delete versions for good: once they are told that it is safe, and some without asking, where
    /// no account is under them any longer.
    pub(crate) async fn retire_versions(&mut self) {
        let hub = self.site.hub.clone();
        let now = hub.at();
        let given_back: Vec<KeyId> = {
            let mut state = hub.state();
            let due = state.given_back.extract_if(.., |(until, _)| *until <= now);
            due.map(|(_, kek)| kek).collect()
        };
        given_back.iter().for_each(|kek| self.set_kek(kek, KekState::Enabled));
        let versions: Vec<KeyId> = {
            let state = hub.state();
            state.used.difference(&state.retired).cloned().collect()
        };
        for kek in versions {
            let asks = self.dice.percent(40);
            let said = if asks { self.ask_whether_safe(&kek).await } else { None };
            if said == Some(true) && self.is_in_use(&kek) {
                let what = format!("{kek} is said to be safe to disable, and an account needs it");
                hub.fail(Check::SafeToDisable, what);
            }
            let rash = !asks && self.dice.percent(25) && !self.is_needed(&kek);
            if said == Some(true) || rash {
                let how = self.dice.pick(&[KekState::Disabled, KekState::Deleted, KekState::Denied]);
                self.set_kek(&kek, how);
                let mut state = hub.state();
                state.counts.versions_retired += 1;
                state.counts.said_to_be_safe += u64::from(!rash);
                state.retired.insert(kek);
            }
        }
        self.at(RETIRES_EVERY, Due::RetireVersions);
    }

    /// What a node says of a version, if one can be asked.
    async fn ask_whether_safe(&mut self, kek: &KeyId) -> Option<bool> {
        let hub = self.site.hub.clone();
        let number = self.dice.below(self.nodes.len() as u64) as usize;
        let engine = self.nodes[number].engine()?;
        let said = tokio::select! {
            biased;
            said = engine.safe_to_disable(kek) => said.ok()?,
            // What happened is seen to first.
            () = hub.woken() => {
                hub.wake();
                return None;
            }
            () = tokio::time::sleep(ANSWERS_WITHIN) => return None,
        };
        hub.note(format_args!("node {number}: {kek} is safe to disable: {}", said.is_safe()));
        Some(said.is_safe())
    }

    /// Whether an account may be under this version, or go to it.
    fn is_needed(&self, kek: &KeyId) -> bool {
        let goes_on = |(_, open): (_, &OperationState)| open.what.to_string().contains(base_of(kek));
        self.is_in_use(kek) || self.site.hub.state().accounts.open().any(goes_on)
    }

    fn is_in_use(&self, kek: &KeyId) -> bool {
        let state = self.site.hub.state();
        let mut ids = state.accounts.ids();
        let is_under = |record: &Written| record.as_ref().is_some_and(|record| record.is_under(kek));
        ids.any(|id| state.accounts.possible(id, u64::MAX, u64::MAX).iter().any(is_under))
    }
}
