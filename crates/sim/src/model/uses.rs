//! What used a key, and what it may have gone by.

use std::{collections::BTreeSet, time::Duration};

use cofferdam_crypto::{AccountId, KeyId, Provider};

use super::{Budgets, Views};
use crate::hub::Moment;

/// Something that used a key: on which node, whose, from when to when.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    pub(crate) node: usize,
    pub(crate) account: AccountId,
    /// The vaults of its own key.
    pub(crate) vaults: BTreeSet<usize>,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
    /// What its record may have said.
    pub(crate) views: Views,
}

impl Use {
    /// The vaults of its key of this provider.
    pub(super) fn vaults_of(&self, provider: Provider) -> Vec<usize> {
        if provider == Provider::Service { vec![0] } else { self.vaults.iter().copied().collect() }
    }

    /// Every vault that it may need.
    pub(super) fn all_vaults(&self) -> impl Iterator<Item = usize> {
        [0].into_iter().chain(self.vaults.iter().copied())
    }

    /// How late its key may be refreshed at the most, as it stands.
    pub(super) fn pace(&self, provider: Provider, budgets: &Budgets) -> Duration {
        let paces = self.vaults_of(provider).into_iter().map(|vault| budgets.pace(self.node, vault));
        paces.max().unwrap_or_default()
    }

    pub(crate) fn throttled_of_late(&self, budgets: &Budgets) -> bool {
        self.all_vaults().any(|vault| budgets.throttled_of_late(self.node, vault, self.ended))
    }

    /// How long somebody may wait for a turn at its vaults.
    pub(crate) fn queue(&self, budgets: &Budgets) -> Duration {
        self.vaults.iter().map(|vault| budgets.queue(*vault)).max().unwrap_or_default()
    }

    /// The KEK that it was under all the time, where that was one.
    pub(super) fn only_kek(&self) -> Option<&KeyId> {
        let of = self.views.of.first()?.as_ref()?;
        let (_, kek) = of.keks.first().filter(|_| of.keks.len() == 1)?;
        self.views.all(|view| view.keks.len() == 1 && view.is_under(kek)).then_some(kek)
    }

    /// Whether it was under this KEK all the time.
    pub(super) fn is_under(&self, kek: &KeyId) -> bool {
        self.views.all(|view| view.is_under(kek))
    }

    /// Whether its record changed after this.
    pub(super) fn changed_since(&self, seq: u64) -> bool {
        self.views.changed.is_some_and(|changed| changed.seq > seq)
    }
}
