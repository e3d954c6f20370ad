//! Why a keyring has no key to give.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, KeyId, KeyScope, Provider};
use cofferdam_vault::{Principal, VaultErrorKind};
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
