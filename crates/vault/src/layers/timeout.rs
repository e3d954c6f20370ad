//! Bounds a call.
//!
//! Guarantees: a call ends within the limit; one that did not is an outage. What reached the vault may still be done there, which
//! no call changes anything by. Not its job: to bound what callers wait for above it.

use std::time::Duration;

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use tokio::time::timeout;

use super::Question;
use crate::{KeyProperties, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind as Kind, WrapContext};

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

#[async_trait]
impl<V: KeyVault> KeyVault for Timeout<V> {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        self.call(Question::wrap(key_id, context), self.vault.wrap_key(key_id, aek, context)).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        self.call(Question::unwrap(wrapped, context), self.vault.unwrap_key(wrapped, context)).await
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.call(Question::properties(key_id), self.vault.key_properties(key_id)).await
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.call(Question::public_key(key_id), self.vault.public_key(key_id)).await
    }
}
