//! Asks again after an outage.
//!
//! Guarantees: a denial, an unconfirmed one too, is passed on at once, and so is what asking again can't mend: a vault that is not the vault
//! (`Untrusted`), a wrap that is damaged (`Corrupt`), what nobody foresaw (`Other`). A vault is never asked before the time that it named. There are
//! at most so many tries, and a call takes at most so long in all, the tries included. Waits are jittered, so that callers who failed together
//! don't come back together.
//!
//! Not its job: to bound a single try ([`Timeout`](super::Timeout), below it), to remember failures from one call to the next.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Question, metrics};
use crate::{
    Entropy, KeyProperties, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind as Kind, WrapContext,
};

/// How often and how long a call is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    tries: NonZeroU32,
    first: Duration,
    longest: Duration,
    retry_after: Duration,
    total: Duration,
}

impl Default for RetryPolicy {
    /// Four tries within 10 s, the first wait about 100 ms and each the double of the one before, up to 2 s. A vault that asks for more than 5 s is not
    /// asked again.
    fn default() -> Self {
        const TRIES: NonZeroU32 = NonZeroU32::new(4).unwrap();
        Self {
            tries: TRIES,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(2),
            retry_after: Duration::from_secs(5),
            total: Duration::from_secs(10),
        }
    }
}

impl RetryPolicy {
    /// The same with so many tries, the first included. Default 4.
    #[must_use]
    pub fn with_tries(self, tries: NonZeroU32) -> Self {
        Self { tries, ..self }
    }

    /// The same with these waits: the first, which each further one doubles, and the longest. A wait is drawn between a half and the whole of that.
    /// Default 100 ms and 2 s.
    #[must_use]
    pub fn with_waits(self, first: Duration, longest: Duration) -> Self {
        Self { first, longest, ..self }
    }

    /// The same where a vault that throttles is asked again if it asks for at most such a wait. Default 5 s.
    #[must_use]
    pub fn with_retry_after(self, longest: Duration) -> Self {
        Self { retry_after: longest, ..self }
    }

    /// The same where a call takes at most so long in all. Default 10 s.
    #[must_use]
    pub fn with_total(self, total: Duration) -> Self {
        Self { total, ..self }
    }
}

/// A vault that is asked again after an outage.
#[derive(Debug)]
pub struct Retry<V> {
    vault: V,
    policy: RetryPolicy,
    entropy: Arc<dyn Entropy>,
}

impl<V: KeyVault> Retry<V> {
    /// The vault, asked again by this policy; waits are jittered from there.
    pub fn new(vault: V, policy: RetryPolicy, entropy: Arc<dyn Entropy>) -> Self {
        Self { vault, policy, entropy }
    }

    /// The vault as it is without this.
    pub fn inner(&self) -> &V {
        &self.vault
    }

    async fn call<T, F>(&self, question: Question<'_>, ask: impl Fn() -> F) -> Result<T, VaultError>
    where
        F: Future<Output = Result<T, VaultError>>,
    {
        let deadline = Instant::now() + self.policy.total;
        let mut tries = 1;
        loop {
            let failed = match timeout_at(deadline, ask()).await {
                Ok(Err(failed)) => failed,
                Ok(answered) => return answered,
                Err(_) => {
                    let message = format!("no answer within {:?}, by {tries} tries", self.policy.total);
                    return Err(VaultError::new(Kind::Unavailable, message).about(question.key_id));
                }
            };
            let Some(wait) = self.wait(tries, failed.kind()) else { return Err(failed) };
            if tries >= self.policy.tries.get() || Instant::now() + wait >= deadline {
                return Err(failed);
            }
            tracing::debug!(operation = %question.operation, tries, ?wait, %failed, "asking the vault again");
            metrics::count_retry(question.operation);
            sleep(wait).await;
            tries += 1;
        }
    }

    /// How long to wait after so many tries, if another may help.
    fn wait(&self, tries: u32, kind: Kind) -> Option<Duration> {
        let least = match kind {
            Kind::Unavailable | Kind::Unauthenticated => Duration::ZERO,
            Kind::Throttled { retry_after } => {
                let asked = retry_after.unwrap_or_default();
                if asked > self.policy.retry_after {
                    return None;
                }
                asked
            }
            _ => return None,
        };
        let doubled = 1_u32.checked_shl(tries - 1).unwrap_or(u32::MAX);
        let wait = self.policy.first.saturating_mul(doubled).min(self.policy.longest);
        // What the vault asked for is a floor, and those who wait for it come back apart too.
        Some(least + self.jittered(wait))
    }

    /// Between a half and the whole of it.
    fn jittered(&self, wait: Duration) -> Duration {
        let mut drawn = [0; 4];
        // Without randomness there is no jitter: that is no reason to fail.
        let drawn = self.entropy.fill(&mut drawn).map_or(u32::MAX, |()| u32::from_le_bytes(drawn));
        wait / 2 + (wait / 2).mul_f64(f64::from(drawn) / f64::from(u32::MAX))
    }
}

#[async_trait]
impl<V: KeyVault> KeyVault for Retry<V> {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        self.call(Question::wrap(key_id, context), || self.vault.wrap_key(key_id, aek, context)).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        self.call(Question::unwrap(wrapped, context), || self.vault.unwrap_key(wrapped, context)).await
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.call(Question::properties(key_id), || self.vault.key_properties(key_id)).await
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.call(Question::public_key(key_id), || self.vault.public_key(key_id)).await
    }
}
