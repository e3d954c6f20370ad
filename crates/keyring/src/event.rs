//! What happens to keys, told to whoever listens and written to the audit log.
//!
//! Guarantees: a revocation is told only after it is persisted; no event holds a secret. Not its job: to keep
//! events for who listens too slowly.

use std::fmt;

use cofferdam_crypto::{AccountId, KeyId, Provider};
use cofferdam_vault::Timestamp;

use crate::machine::{Alarm, KeyState, Why};

/// Something happened to an account's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// The account.
    pub account: AccountId,
    /// Whose key.
    pub provider: Provider,
    /// The KEK that it is about; else the account's first, once its record was read.
    pub key_id: Option<KeyId>,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Its state changed.
    Changed {
        /// From this.
        from: KeyState,
        /// To this.
        to: KeyState,
        /// Because of this.
        why: Why,
    },
    /// It was verified again.
    Refreshed,
    /// A KEK does not answer and others do: they stand in for it, as is persisted. The event names that KEK.
    BridgeBegan,
    /// That KEK answers again, as is persisted.
    BridgeEnded,
    /// Somebody should look.
    Alarm(Alarm),
}

impl KeyEvent {
    /// Writes the event to the log, under the target `cofferdam::audit`.
    pub(crate) fn log(&self) {
        let account = &self.account as &dyn fmt::Display;
        let key_id = self.key_id.as_ref().map_or("", KeyId::as_str);
        let provider = &self.provider as &dyn fmt::Display;
        match &self.what {
            What::Changed { from, to, why } => tracing::info!(
                target: "cofferdam::audit", %account, %provider, key_id, %from, %to, ?why, "key state changed"
            ),
            What::Refreshed => tracing::debug!(
                target: "cofferdam::audit", %account, %provider, key_id, "key refreshed"
            ),
            What::BridgeBegan => tracing::warn!(
                target: "cofferdam::audit", %account, %provider, key_id, "kek bridged"
            ),
            What::BridgeEnded => tracing::info!(
                target: "cofferdam::audit", %account, %provider, key_id, "kek answers again"
            ),
            What::Alarm(alarm) => tracing::warn!(
                target: "cofferdam::audit", %account, %provider, key_id, ?alarm, "key alarm"
            ),
        }
    }
}
