//! An account's record changed: it is read again, and what it has now is unwrapped.
//!
//! Guarantees: the record is read again before a vault is asked for the account; a key that is held goes on serving within its
//! bounds meanwhile, unless the record has it no longer; whoever reloads at the same time shares one attempt that began after
//! they came, and nothing that is under way is cancelled.
//!
//! Not its job: who changed the record, and what other processes know of it.

use std::sync::Arc;

use cofferdam_crypto::{AccountId, Provider};

use super::{
    Keyring, Shared,
    desk::{Desk, Ticket},
    entry::Entry,
    live::{Live, Material},
    task::Task,
};
use crate::{KeyError, KeyRecord, machine::Event};

impl Keyring {
    /// Reads the account's records again, because they changed, and has what they have now unwrapped: a new epoch is sealed
    /// under from then on, and an epoch that is gone is dropped. Keys that are held go on serving within their bounds meanwhile.
    ///
    /// Returns once the records were read after the call and their newest epochs are held, or no key is held: then the next
    /// use reads them. A caller who gives up cancels nothing.
    ///
    /// # Errors
    /// [`KeyError`]: why the attempt failed. It is tried again by itself while the key is in use; to hear of it, call this
    /// again.
    pub async fn reload(&self, account: AccountId) -> Result<(), KeyError> {
        // The service's first: it authenticates the customer's record.
        let providers = [Provider::Service, Provider::Customer];
        let entries = providers.map(|provider| self.shared.entries.with((account, provider), Arc::clone));
        for reload in entries.map(|entry| entry.map(Reload::new)).iter().flatten() {
            reload.done(&self.shared).await?;
        }
        Ok(())
    }
}

/// Somebody who was told that the record changed, and waits.
struct Reload {
    entry: Arc<Entry>,
    /// Tells this change from earlier ones.
    number: u64,
}

impl Reload {
    fn new(entry: Arc<Entry>) -> Self {
        let mut desk = entry.desk();
        desk.reloads += 1;
        desk.reloading += 1;
        let number = desk.reloads;
        drop(desk);
        Self { entry, number }
    }

    async fn done(&self, shared: &Arc<Shared>) -> Result<(), KeyError> {
        loop {
            let notify;
            let round_ended = {
                let mut desk = self.entry.desk();
                if let Some(answer) = self.judge(&desk, shared) {
                    return answer;
                }
                // Made under the lock that ends rounds: told of the end of this one.
                notify = desk.round_ended();
                notify.notified()
            };
            shared.attend(&self.entry);
            round_ended.await;
        }
    }

    fn judge(&self, desk: &Desk, shared: &Shared) -> Option<Result<(), KeyError>> {
        if shared.is_closing() {
            return Some(Err(KeyError::Closed));
        }
        if !desk.machine.holds_key() {
            // What is under way may have read the record before it changed.
            let may_hold = desk.machine.is_asking() || desk.machine.is_restoring();
            return if may_hold { None } else { Some(Ok(())) };
        }
        let newest = desk.record.as_ref().and_then(|record| record.newest());
        let held = desk.keys.last().map(|key| (key.epoch(), key.check()));
        if desk.read >= self.number && held.is_some() && held == newest {
            return Some(Ok(()));
        }
        let failure = desk.failure.as_ref().filter(|_| desk.failed >= self.number);
        failure.map(|(error, _)| Err(error.clone()))
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        let mut desk = self.entry.desk();
        desk.reloading -= 1;
        let is_given_up = desk.is_to_reload();
        drop(desk);
        if is_given_up {
            self.entry.hub().agenda.call(Arc::downgrade(&self.entry));
        }
    }
}

impl Task {
    /// The record was read, by an attempt that began after this change.
    pub(super) fn note_reread(&self, generation: Ticket, reload: u64) {
        let mut desk = self.entry.desk();
        if desk.admits(generation) {
            desk.read = desk.read.max(reload);
        }
    }

    /// Drops what the record, which was just read, has no longer.
    pub(super) fn drop_outdated(&self, generation: Ticket, record: &KeyRecord) {
        let has = |key: &Arc<Material>| record.epochs.iter().any(|of| key.is_of(of));
        let mut told = Vec::new();
        let mut desk = self.entry.desk();
        if !desk.admits(generation) || desk.keys.iter().all(has) {
            return;
        }
        desk.keys.retain(has);
        match desk.machine.bounds(&self.shared.parts.policy) {
            Some(bounds) if !desk.keys.is_empty() => {
                let live = Live::new(&desk.keys, &bounds, Arc::downgrade(&self.entry));
                self.entry.live.store(live.map(Arc::new));
            }
            _ => drop(self.entry.feed(&mut desk, &self.shared, Event::Outdated, &mut told)),
        }
        self.entry.end_round(&mut desk);
        self.entry.tell(&self.shared, desk, told);
    }
}
