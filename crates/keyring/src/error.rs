//! Why a keyring has no key to give.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, KeyId, KeyScope, Provider};
use cofferdam_vault::{Meaning, Principal, VaultErrorKind};
use thiserror::Error;

use crate::RecordError;

/// Why a keyring has no key to give. Cheap to clone: many callers can get the same.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The customer took the key away.
    #[error(
        "the {provider} key of account {account} is revoked{}: give the service access to it in its vault \
         again; it is asked for every {poll:?}", of_key(.key_id)
    )]
    Revoked {
        /// The account.
        account: AccountId,
        /// Whose key.
        provider: Provider,
        /// The KEK that was denied, where it is known.
        key_id: Option<KeyId>,
        /// How often it is asked for again.
        poll: Duration,
    },
    /// The vault can't be asked, and there is no key within its bounds.
    #[error(
        "the {provider} key of account {account} is unavailable: {fault}; it is tried again by itself, at \
         least every {retry:?}"
    )]
    Unavailable {
        /// The account.
        account: AccountId,
        /// Whose key.
        provider: Provider,
        /// What failed last.
        #[source]
        fault: Fault,
        /// Whether this keyring has verified this very key before: then its wrap was sound, and `Corrupt` tells
        /// of its vault; else of what was stored.
        proven: bool,
        /// The longest wait between two tries.
        retry: Duration,
    },
    /// There is no such account, or it has no key of that provider.
    #[error("account {account} has no {provider} key: create the account, or link a key to it")]
    UnknownAccount {
        /// The account.
        account: AccountId,
        /// Whose key.
        provider: Provider,
    },
    /// The account has no such epoch.
    #[error("there is no {0}: the block is of another account, or the record lost an epoch")]
    UnknownEpoch(KeyScope),
    /// No vault is registered for the account's principal.
    #[error("no vault is registered for principal {principal:?} of account {account}: register it")]
    NoVault {
        /// The account.
        account: AccountId,
        /// Whose vault is missing; `None`: the record of a customer's key names nobody.
        principal: Option<Principal>,
    },
    /// The account's record can't be read, written or believed, also that of its service key. What the store
    /// said is in [`RecordError::Storage`], to downcast.
    #[error("{0}")]
    Record(#[source] Arc<RecordError>),
    /// The keyring was closed.
    #[error("the keyring is closed: open a new one")]
    Closed,
}

impl KeyError {
    /// Whether it is an outage of a customer's vault and nothing else, so that new writes may wait, under the
    /// service's key, for its return.
    ///
    /// Not so when the customer took the key away, when the record can't be read or believed, when nothing says
    /// that the key ever worked (a `Corrupt` wrap that was never verified: what waits for it could wait for
    /// ever), or when the service's own vault is out: then nothing can be sealed. `docs/vault-errors.md` has the
    /// table.
    pub fn is_outage(&self) -> bool {
        let Self::Unavailable { provider: Provider::Customer, fault, proven, .. } = self else {
            return false;
        };
        match fault {
            Fault::Vault { kind: VaultErrorKind::Corrupt, .. } => *proven,
            // "Not found" that was not confirmed: a replica lags, or the answers stopped.
            Fault::Vault { kind, .. } => kind.meaning() != Meaning::Denial,
            Fault::Overdue | Fault::Panicked => true,
            Fault::ServiceKey(_) => false,
        }
    }
}

/// What failed last at an account's vault.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The vault.
    #[error("{kind}: {message}")]
    Vault {
        /// What kind of failure it was.
        kind: VaultErrorKind,
        /// The vault's words, with the KEK.
        message: Arc<str>,
        /// The KEK.
        key_id: Option<KeyId>,
    },
    /// The account's service key, which its record is authenticated by. Where the service's record failed, not
    /// its vault, callers get [`KeyError::Record`] instead.
    #[error("its record can't be authenticated: {0}")]
    ServiceKey(#[source] Box<KeyError>),
    /// The code of the vault or of the record store.
    #[error("the code of its vault or record store panicked: see the log, and mend it")]
    Panicked,
    /// Nothing has failed that is known of: the key reached its bound before it could be verified again.
    #[error("it could not be verified in time")]
    Overdue,
}

fn of_key(key_id: &Option<KeyId>) -> String {
    key_id.as_ref().map(|key_id| format!(", key {key_id}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> AccountId {
        AccountId::from_random_bytes([7; 16])
    }

    fn unavailable(provider: Provider, fault: Fault, proven: bool) -> KeyError {
        KeyError::Unavailable { account: account(), provider, fault, proven, retry: Duration::from_secs(30) }
    }

    fn vault(kind: VaultErrorKind) -> Fault {
        Fault::Vault { kind, message: "said".into(), key_id: None }
    }

    /// The table of `docs/vault-errors.md`: what is refused with, whether the key was proven, whether it is one.
    fn table() -> Vec<(String, KeyError, bool)> {
        use VaultErrorKind as Kind;
        let (account, provider) = (account(), Provider::Customer);
        let mut rows = Vec::new();
        for proven in [false, true] {
            for (kind, is_outage) in [
                (Kind::AccessDenied, false),
                (Kind::KeyDisabled, false),
                (Kind::KeyNotFound, true),
                (Kind::Throttled { retry_after: None }, true),
                (Kind::Unavailable, true),
                (Kind::Unauthenticated, true),
                (Kind::Untrusted, true),
                (Kind::Corrupt, proven),
                (Kind::Other, true),
            ] {
                let name = format!("{kind}, proven: {proven}");
                rows.push((name, unavailable(provider, vault(kind), proven), is_outage));
            }
            let service = Box::new(unavailable(Provider::Service, vault(Kind::Unavailable), true));
            rows.push((
                "service key".into(),
                unavailable(provider, Fault::ServiceKey(service), proven),
                false,
            ));
            rows.push(("panicked".into(), unavailable(provider, Fault::Panicked, proven), true));
            rows.push(("overdue".into(), unavailable(provider, Fault::Overdue, proven), true));
        }
        let poll = Duration::from_secs(30);
        rows.push(("revoked".into(), KeyError::Revoked { account, provider, key_id: None, poll }, false));
        rows.push(("unknown account".into(), KeyError::UnknownAccount { account, provider }, false));
        rows.push(("no vault".into(), KeyError::NoVault { account, principal: None }, false));
        rows.push(("record".into(), KeyError::Record(Arc::new(RecordError::Tampered("tag".into()))), false));
        rows.push(("closed".into(), KeyError::Closed, false));
        rows
    }

    #[test]
    fn writes_may_wait_for_the_customers_vault_alone() {
        for (name, error, is_outage) in table() {
            assert_eq!(error.is_outage(), is_outage, "{name}");
        }
    }

    #[test]
    fn no_failure_of_the_services_own_key_lets_writes_wait() {
        for kind in [VaultErrorKind::Unavailable, VaultErrorKind::AccessDenied, VaultErrorKind::Corrupt] {
            assert!(!unavailable(Provider::Service, vault(kind), true).is_outage(), "{kind}");
        }
    }
}
