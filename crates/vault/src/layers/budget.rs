//! Keeps all users of a vault within what it takes.
//!
//! Guarantees: in any [`VaultBudget::PER`] at most as many calls are sent as the budget says, by all who hold a clone of one
//! [`CallBudget`] together; whoever came first is sent first; who gives up leaves the queue and takes nothing.
//!
//! Not its job: to refuse. A call waits as long as its caller does.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync,
    time::{Instant, sleep_until},
};

use super::{Question, metrics};
use crate::{KeyVault, VaultBudget, VaultError};

/// How often one vault may be called. Clones share it.
#[derive(Clone, Debug)]
pub struct CallBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    allowed: usize,
    /// Held by who is next: tokio's lock is given in the order of asking.
    next: sync::Mutex<()>,
    /// When the calls of the last window were sent, the oldest first.
    sent: Mutex<VecDeque<Instant>>,
}

impl CallBudget {
    /// The budget of this vault: as many calls within any [`VaultBudget::PER`] as [`VaultBudget::budget`] says.
    pub fn new(settings: VaultBudget) -> Self {
        let allowed = usize::try_from(settings.budget()).unwrap_or(usize::MAX);
        Self(Arc::new(Shared { allowed, next: sync::Mutex::new(()), sent: Mutex::default() }))
    }

    /// Waits for a turn, which is taken when this comes back.
    async fn turn(&self) {
        let _next = self.0.next.lock().await;
        while let Err(until) = self.0.send(Instant::now()) {
            sleep_until(until).await;
        }
    }
}

impl Shared {
    /// Counts a call that is sent now.
    ///
    /// # Errors
    /// When there is room for one.
    fn send(&self, now: Instant) -> Result<(), Instant> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        while sent.front().is_some_and(|&first| now.duration_since(first) > VaultBudget::PER) {
            sent.pop_front();
        }
        match sent.front() {
            Some(&first) if sent.len() >= self.allowed => {
                // A window has both its ends.
                Err(first + VaultBudget::PER + std::time::Duration::from_nanos(1))
            }
            _ => {
                sent.push_back(now);
                Ok(())
            }
        }
    }
}

/// A vault whose calls take turns.
#[derive(Debug)]
pub struct Budget<V> {
    vault: V,
    budget: CallBudget,
}

impl<V: KeyVault> Budget<V> {
    /// The vault, called within this budget: a clone of the one that all others who call it have.
    pub fn new(vault: V, budget: CallBudget) -> Self {
        Self { vault, budget }
    }

    /// The vault as it is without this.
    pub fn inner(&self) -> &V {
        &self.vault
    }

    async fn call<T>(
        &self,
        question: Question<'_>,
        asked: impl Future<Output = Result<T, VaultError>>,
    ) -> Result<T, VaultError> {
        let came = Instant::now();
        self.budget.turn().await;
        metrics::count_wait(question.operation, Instant::now().duration_since(came));
        asked.await
    }
}

layer!(Budget);
