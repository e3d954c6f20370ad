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
    use std::collections::{BTreeMap, BTreeSet};

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

    /// What is refused with, by the row of `docs/vault-errors.md` that it falls under.
    fn refusals() -> Vec<(&'static str, KeyError)> {
        use VaultErrorKind as Kind;
        let (account, provider) = (account(), Provider::Customer);
        let poll = Duration::from_secs(30);
        let mut refusals = vec![
            ("it is revoked", KeyError::Revoked { account, provider, key_id: None, poll }),
            ("its record fails", KeyError::Record(Arc::new(RecordError::Tampered("tag".into())))),
            ("there is no such account", KeyError::UnknownAccount { account, provider }),
            ("no vault is registered", KeyError::NoVault { account, principal: None }),
            ("the keyring is closed", KeyError::Closed),
        ];
        for proven in [false, true] {
            let corrupt = if proven {
                "its wrap is corrupt, of a key verified before"
            } else {
                "its wrap is corrupt, and the key was never verified"
            };
            let outage = "its vault fails as an outage";
            for (row, kind) in [
                ("its vault says \"not found\", unconfirmed", Kind::KeyNotFound),
                (outage, Kind::Throttled { retry_after: None }),
                (outage, Kind::Unavailable),
                (outage, Kind::Unauthenticated),
                (outage, Kind::Untrusted),
                (corrupt, Kind::Corrupt),
                (outage, Kind::Other),
            ] {
                refusals.push((row, unavailable(provider, vault(kind), proven)));
            }
            let service = Box::new(unavailable(Provider::Service, vault(Kind::Unavailable), true));
            refusals.extend([
                ("the service's vault fails", (*service).clone()),
                ("the service's vault fails", unavailable(provider, Fault::ServiceKey(service), proven)),
                ("foreign code panicked", unavailable(provider, Fault::Panicked, proven)),
                ("it could not be verified in time", unavailable(provider, Fault::Overdue, proven)),
            ]);
        }
        refusals
    }

    #[test]
    fn the_documented_table_says_when_writes_may_wait() {
        let text = include_str!("../../../docs/vault-errors.md");
        let table = text.split("| writes may wait | why |").nth(1).unwrap();
        let rows: BTreeMap<&str, &str> = table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                (cells[0], cells[1])
            })
            .collect();
        let refusals = refusals();
        for (row, error) in &refusals {
            let documented = rows.get(row).unwrap_or_else(|| panic!("no row {row:?}"));
            assert_eq!(error.is_outage(), *documented == "yes", "{row}: {error:?}");
        }
        let said: BTreeSet<&str> = refusals.iter().map(|(row, _)| *row).collect();
        assert_eq!(said, rows.into_keys().collect());
    }

    #[test]
    fn no_failure_of_the_services_own_key_lets_writes_wait() {
        for kind in [VaultErrorKind::Unavailable, VaultErrorKind::AccessDenied, VaultErrorKind::Corrupt] {
            assert!(!unavailable(Provider::Service, vault(kind), true).is_outage(), "{kind}");
        }
    }
}
