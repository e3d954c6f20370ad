//! Bounds a call.
//!
//! Guarantees: a call ends within the limit; one that did not is an outage. What reached the vault may still be done there, which
//! no call changes anything by. Not its job: to bound what callers wait for above it.

use std::time::Duration;

use tokio::time::timeout;

use super::Question;
use crate::{KeyVault, VaultError, VaultErrorKind as Kind};

/// A vault whose calls each end within a limit.
#[derive(Debug)]
pub struct Timeout<V> {
    vault: V,
    limit: Duration,
}

impl<V: KeyVault> Timeout<V> {
    /// The vault, each of whose calls may take so long.
    pub fn new(vault: V, limit: Duration) -> Self {
        Self { vault, limit }
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
        timeout(self.limit, asked).await.unwrap_or_else(|_| {
            let message = format!("the vault did not answer within {:?}", self.limit);
            Err(VaultError::new(Kind::Unavailable, message).about(question.key_id))
        })
    }
}

layer!(Timeout);
