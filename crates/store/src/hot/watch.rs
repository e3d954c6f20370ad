//! What goes on by itself: purges when a key is revoked, sweeps, what the recorder is told.
//!
//! Guarantees: an account is purged once the keyring has told of its revocation, and once the catalog says so, whichever
//! is first: an event that was missed, or another node's word, is found within a sweep. What could not be removed is tried
//! again until it is. When the task is ended, every event that was told before has been obeyed.
//!
//! Not its job: to keep anybody from reading: the key is gone before this hears of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, Provider};
use cofferdam_keyring::{KeyEvent, KeyState, What};
use tokio::{
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
    time::{Instant, sleep_until},
};

use super::HotCache;
use crate::EngineError;

/// How often the recorder is told, and what failed is tried again.
const TICK: Duration = Duration::from_secs(10);
/// How many of these a sweep comes after.
const SWEEP: u32 = 30;

/// What the catalog says of accounts.
#[async_trait]
pub(crate) trait Standing: Send + Sync {
    /// Those whose key is recorded as revoked.
    async fn revoked(&self) -> Result<BTreeSet<AccountId>, EngineError>;

    /// Those of these that have no record.
    async fn unknown(&self, of: &BTreeSet<AccountId>) -> Result<BTreeSet<AccountId>, EngineError>;
}

impl HotCache {
    /// Starts to listen to what happens to keys.
    pub(crate) async fn watch(self: &Arc<Self>, standing: Arc<dyn Standing>, events: Receiver<KeyEvent>) {
        let watch = Watch { cache: self.clone(), standing, events };
        *self.task.lock().await = Some(tokio::spawn(watch.run()));
    }

    /// Lets the task come to its end.
    pub(crate) fn stop(&self) {
        self.stop.close();
    }

    /// Lets the task come to its end, and waits for that.
    pub(super) async fn end(&self) {
        self.stop();
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            // A panic of it is the task's own loss.
            let _ = running.await;
        }
        *task = None;
    }
}

struct Watch {
    cache: Arc<HotCache>,
    standing: Arc<dyn Standing>,
    events: Receiver<KeyEvent>,
}

impl Watch {
    async fn run(mut self) {
        let (mut tick, mut ticks) = (Instant::now() + TICK, 0);
        let cache = self.cache.clone();
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Ok(event) => self.obey(vec![event]).await,
                    Err(RecvError::Lagged(_)) => self.compare().await,
                    Err(RecvError::Closed) => break,
                },
                // Never given, so this ends when it is closed.
                _ = cache.stop.acquire() => {
                    self.obey(Vec::new()).await;
                    break;
                }
                () = sleep_until(tick) => {
                    tick = Instant::now() + TICK;
                    ticks += 1;
                    self.tick(ticks).await;
                }
            }
        }
        self.tell();
    }

    /// Obeys these events and those that wait.
    async fn obey(&mut self, mut events: Vec<KeyEvent>) {
        let mut missed = false;
        loop {
            match self.events.try_recv() {
                Ok(event) => events.push(event),
                Err(TryRecvError::Lagged(_)) => missed = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let mut revoked = BTreeSet::new();
        for event in events.iter().filter(|event| event.provider == Provider::Customer) {
            match event.what {
                What::Changed { to: KeyState::Revoked, .. } => _ = revoked.insert(event.account),
                What::Changed { to: KeyState::Active | KeyState::Grace, .. } => {
                    self.cache.unbar(event.account);
                    // What was cached before the revocation goes all the same.
                    if revoked.remove(&event.account) {
                        self.purge_and_unbar(event.account).await;
                    }
                }
                _ => {}
            }
        }
        if !revoked.is_empty() {
            self.cache.purge(revoked, "revoked").await;
        }
        if missed {
            self.compare().await;
        }
    }

    async fn purge_and_unbar(&self, account: AccountId) {
        self.cache.purge(BTreeSet::from([account]), "revoked").await;
        self.cache.unbar(account);
    }

    async fn tick(&self, ticks: u32) {
        self.tell();
        let owed = std::mem::take(&mut *self.cache.owed());
        if !owed.is_empty() {
            self.purge_again(owed).await;
        }
        if ticks.is_multiple_of(SWEEP) {
            self.compare().await;
            self.cache.sweep().await;
        }
    }

    /// Removes what could not be removed before.
    async fn purge_again(&self, accounts: BTreeSet<AccountId>) {
        let barred: BTreeSet<_> =
            accounts.iter().copied().filter(|account| self.cache.rules.is_barred(*account)).collect();
        self.cache.purge(accounts.clone(), "tried again").await;
        for account in accounts.difference(&barred) {
            self.cache.unbar(*account);
        }
    }

    /// Holds what is barred against what is recorded.
    async fn compare(&self) {
        match self.standing.revoked().await {
            Ok(revoked) => {
                let new = self.cache.rules.bar_only(revoked);
                if !new.is_empty() {
                    self.cache.purge(new, "recorded as revoked").await;
                }
            }
            Err(error) => tracing::warn!(%error, "hot cache: revocations can't be looked up"),
        }
    }

    fn tell(&self) {
        let status = self.cache.status();
        self.cache.counts.tell(status.memory, status.disk);
    }
}
