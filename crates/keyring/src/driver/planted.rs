//! What planted defects do that takes more than a line. Only in builds with `--cfg cofferdam_planted`.

use std::{fmt, pin::Pin, sync::Arc};

use async_trait::async_trait;
use cofferdam_crypto::{
    Aek, KeyId, WrappedAek, WrappedKey,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{Clock, KeyProperties, KeyVault, PublicKeyAnswer, Timestamp, VaultError, WrapContext};
use tokio::time::Instant;

use super::{
    Shared,
    ask::{Asked, Way},
    entry::Entry,
    live::Material,
    task::Task,
};
use crate::{budget::Kind, machine::Attempt, rt::spawn};

/// A clock that stops while the machine is suspended: [`Bug::MonotonicClock`].
#[derive(Debug)]
pub(super) struct Monotonic {
    clock: Arc<dyn Clock>,
    start: (Instant, Timestamp),
}

impl Monotonic {
    pub(super) fn over(clock: Arc<dyn Clock>) -> Arc<dyn Clock> {
        let start = (Instant::now(), clock.now());
        Arc::new(Self { clock, start })
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Timestamp {
        if !is_planted(Bug::MonotonicClock) {
            return self.clock.now();
        }
        let (instant, start) = self.start;
        let passed = instant.elapsed();
        Timestamp { boot: start.boot + passed, wall: start.wall + passed }
    }
}

/// A vault whose answers are delivered also when nobody waits for them any longer: [`Bug::StaleSuccess`].
pub(super) struct Outliving {
    vault: Arc<dyn KeyVault>,
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    attempt: Attempt,
    of: Vec<WrappedAek>,
}

impl Task {
    /// The vaults as this attempt asks them.
    pub(super) fn outliving<'a>(
        &self,
        ways: Vec<Way<'a>>,
        attempt: Attempt,
        of: &[WrappedAek],
    ) -> Vec<Way<'a>> {
        if !is_planted(Bug::StaleSuccess) {
            return ways;
        }
        let outliving = |Way { vault, lane }| {
            let (shared, entry, of) = (self.shared.clone(), self.entry.clone(), of.to_vec());
            Way { vault: Arc::new(Outliving { vault, shared, entry, attempt, of }), lane }
        };
        ways.into_iter().map(outliving).collect()
    }

    /// A caller asks the vault by itself, whoever else does: [`Bug::NoSingleFlight`].
    pub(super) fn ask_alone(self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let Ok(record) = self.read().await else { return };
            let Ok(ways) = self.ways(&record) else { return };
            let generation = self.entry.desk().ticket();
            let asked = Asked::new(ways, Kind::Cold, Vec::new());
            drop(self.unwrap_all(&asked, &record, generation).await);
        })
    }
}

impl fmt::Debug for Outliving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outliving({:?})", self.vault)
    }
}

#[async_trait]
impl KeyVault for Outliving {
    async fn wrap_key(
        &self,
        key: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        self.vault.wrap_key(key, aek, context).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        let (vault, wrapped, context) = (self.vault.clone(), wrapped.clone(), *context);
        let (give, mut take) = tokio::sync::oneshot::channel();
        let late = Late {
            task: Task::extra(self.shared.clone(), self.entry.clone()),
            attempt: self.attempt,
            of: self.of.iter().find(|of| of.scope == context.scope).cloned(),
        };
        spawn(async move {
            let answer = vault.unwrap_key(&wrapped, &context).await;
            if let Err(Ok(aek)) = give.send(answer) {
                late.deliver(&aek).await;
            }
        });
        match (&mut take).await {
            Ok(answer) => answer,
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        }
    }

    async fn key_properties(&self, key: &KeyId) -> Result<KeyProperties, VaultError> {
        self.vault.key_properties(key).await
    }

    async fn public_key(&self, key: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.vault.public_key(key).await
    }
}

struct Late {
    task: Task,
    attempt: Attempt,
    of: Option<WrappedAek>,
}

impl Late {
    async fn deliver(self, aek: &Aek) {
        let Some(of) = self.of.filter(|of| of.verify(aek).is_ok()) else { return };
        let key = Arc::new(Material::new(aek, &of));
        let generation = self.task.entry.desk().ticket();
        let work = self.task.verified(generation, self.attempt, vec![key]).await;
        if let Some(work) = work {
            self.task.perform(work).await;
        }
    }
}
