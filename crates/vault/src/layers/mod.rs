//! What can be put around a vault: decorators of [`KeyVault`], one file each.
//!
//! | layer | what it does |
//! | --- | --- |
//! | [`Timeout`] | bounds a call |
//! | [`Retry`] | asks again after an outage, never after a denial |
//! | [`Budget`] | keeps all users of a vault within what it takes |
//! | [`CircuitBreaker`] | spares a vault that is away, and its callers the wait |
//! | [`Metrics`] | counts calls |
//! | [`Audit`] | tells of every call: who asked what of which key, and what came |
//!
//! Guarantees: a layer passes on what the vault answers as it is; a denial is never held back, repeated or made from
//! anything else; no layer sees a key but to pass it on, and none prints one. Every layer implements every method of the trait, so that a new one
//! is not passed by.
//!
//! Not its job: to renew credentials ([`Reauthenticating`](crate::Reauthenticating), below all layers), to cache keys (the keyring).
//!
//! # The order
//!
//! [`VaultLayers`] puts them in this order, from the caller to the vault, whatever the order in which they were named:
//!
//! 1. **Audit**: one record for each question of the service, however often the vault was asked for it.
//! 2. **Retry**: what it repeats passes all that follow anew.
//! 3. **CircuitBreaker**: above the budget, so that a call that is not sent takes no turn; below retries, so that each try is evidence.
//! 4. **Budget**: every request takes a turn, retries too. Nobody's wait for a turn counts as the vault's.
//! 5. **Metrics**: requests as the vault gets them, and what it took, without the waits above; time-outs are among them.
//! 6. **Timeout**: each request by itself.
//! 7. the vault, with what renews its credential: a renewal and the second question are within one time-out.
//!
//! # Under a keyring
//!
//! `cofferdam-keyring` already bounds each call (`call_timeout`), asks again after a failure with a backoff for each account, and keeps each vault within its
//! [`VaultBudget`](crate::VaultBudget), those first whom callers wait for. So [`VaultLayers::under_keyring`] has three layers: audit, metrics, and
//! a time-out as long as the longest that a keyring can have, for those who ask without one. It leaves out, on purpose:
//!
//! - **Retry**: the keyring counts on hearing of each failure: it is the evidence that opens the grace, and "not found" three times within 5 s revokes.
//!   Tries inside of a call would use up its time-out, and multiply the calls that its budget allows for.
//! - **Budget**: the keyring's own is never mistaken for an outage. A wait in a layer would be, as it runs into the call's time-out.
//! - **CircuitBreaker**: the keyring makes one call at a time for each account and KEK, and at longer and longer intervals. A poll that a breaker
//!   answers in the vault's place is lost, and the next is up to `retry_max` away: a recovery, or a denial, would be heard later than it is promised.
//!
//! [`VaultLayers::on_its_own`] is for a vault that is asked without a keyring: all six.

#![deny(clippy::missing_trait_methods)]

/// Has each question that a layer is asked go through its `call`, on its way to the vault below.
macro_rules! layer {
    ($layer:ident) => {
        #[async_trait::async_trait]
        impl<V: $crate::KeyVault> $crate::KeyVault for $layer<V> {
            async fn wrap_key(
                &self,
                key_id: &cofferdam_crypto::KeyId,
                aek: &cofferdam_crypto::Aek,
                context: &$crate::WrapContext,
            ) -> Result<cofferdam_crypto::WrappedKey, $crate::VaultError> {
                self.call(
                    $crate::layers::Question::wrap(key_id, context),
                    self.vault.wrap_key(key_id, aek, context),
                )
                .await
            }

            async fn unwrap_key(
                &self,
                wrapped: &cofferdam_crypto::WrappedKey,
                context: &$crate::WrapContext,
            ) -> Result<cofferdam_crypto::Aek, $crate::VaultError> {
                self.call(
                    $crate::layers::Question::unwrap(wrapped, context),
                    self.vault.unwrap_key(wrapped, context),
                )
                .await
            }

            async fn key_properties(
                &self,
                key_id: &cofferdam_crypto::KeyId,
            ) -> Result<$crate::KeyProperties, $crate::VaultError> {
                self.call($crate::layers::Question::properties(key_id), self.vault.key_properties(key_id))
                    .await
            }

            async fn public_key(
                &self,
                key_id: &cofferdam_crypto::KeyId,
            ) -> Result<$crate::PublicKeyAnswer, $crate::VaultError> {
                self.call($crate::layers::Question::public_key(key_id), self.vault.public_key(key_id)).await
            }
        }
    };
}

mod audit;
mod budget;
mod circuit_breaker;
mod metrics;
mod retry;
mod stack;
mod timeout;

use std::fmt;

use cofferdam_crypto::{KeyId, KeyScope, WrappedKey};

pub use self::{
    audit::{Audit, AuditRecord, AuditResult, AuditSink, TracingAudit},
    budget::{Budget, CallBudget},
    circuit_breaker::{BreakerPolicy, CircuitBreaker, CoolDownTooLong},
    metrics::Metrics,
    retry::{Retry, RetryPolicy},
    stack::VaultLayers,
    timeout::Timeout,
};
#[cfg(doc)]
use crate::KeyVault;
use crate::WrapContext;

/// What a vault is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// To wrap a key.
    Wrap,
    /// To unwrap one.
    Unwrap,
    /// What it says of a KEK.
    Properties,
    /// The public half of a KEK.
    PublicKey,
}

impl Operation {
    /// Its name, as metrics and the audit log carry it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
            Self::Properties => "properties",
            Self::PublicKey => "public_key",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One call: what is asked, of which KEK, for which AEK.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    operation: Operation,
    key_id: &'a KeyId,
    scope: Option<KeyScope>,
}

impl<'a> Question<'a> {
    fn wrap(key_id: &'a KeyId, context: &WrapContext) -> Self {
        Self { operation: Operation::Wrap, key_id, scope: Some(context.scope) }
    }

    fn unwrap(wrapped: &'a WrappedKey, context: &WrapContext) -> Self {
        Self { operation: Operation::Unwrap, key_id: &wrapped.key_id, scope: Some(context.scope) }
    }

    fn properties(key_id: &'a KeyId) -> Self {
        Self { operation: Operation::Properties, key_id, scope: None }
    }

    fn public_key(key_id: &'a KeyId) -> Self {
        Self { operation: Operation::PublicKey, key_id, scope: None }
    }
}
