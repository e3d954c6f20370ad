//! The simulated service: its accounts, its vaults, and what all nodes have in common.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use cofferdam_crypto::{AccountId, KeyId, rsa::RsaPublicKey};
use cofferdam_keyring::Policy;
use cofferdam_store::AccountName;
use cofferdam_vault::{KeyKind, Principal, VaultBudget};
use tokio::sync::Notify;

use crate::{SimVault, hub::Hub, meter::Meter};

/// An account of the simulated service.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) name: AccountName,
    pub(crate) id: AccountId,
    /// The KEK that it was made under; `None` under the service's.
    pub(crate) kek: Option<KeyId>,
    /// The vault that this is in.
    pub(crate) vault: usize,
    /// Of what kind its KEKs are.
    pub(crate) kind: KeyKind,
    /// The public half of the first, where it is RSA.
    pub(crate) public: Option<RsaPublicKey>,
    /// What it buffers can be read by its own vault alone.
    pub(crate) writes_only: bool,
    /// One of many on one vault: it is kept in use, and has few blocks.
    pub(crate) is_of_crowd: bool,
}

/// How many blocks an account has.
pub(crate) const BLOCKS: u64 = 6;
/// The same of an account of a crowd.
const BLOCKS_IN_CROWD: u64 = 2;

impl Seat {
    /// How many blocks it has.
    pub(crate) fn blocks(&self) -> u64 {
        if self.is_of_crowd { BLOCKS_IN_CROWD } else { BLOCKS }
    }
}

/// A vault and its limit. Its number names it; 0 is the service's.
#[derive(Clone)]
pub(crate) struct House {
    pub(crate) number: usize,
    pub(crate) vault: Arc<dyn SimVault>,
    meter: Arc<Mutex<Meter>>,
}

impl House {
    pub(crate) fn new(number: usize, vault: Arc<dyn SimVault>, meter: Meter) -> Self {
        Self { number, vault, meter: Arc::new(Mutex::new(meter)) }
    }

    pub(crate) fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for House {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vault {}", self.number)
    }
}

/// What all nodes have in common.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) hub: Hub,
    pub(crate) seats: Arc<Vec<Seat>>,
    pub(crate) service: House,
    pub(crate) service_kek: KeyId,
    /// What the weather calls the way to the service that tokens come from.
    pub(crate) token_service: KeyId,
    /// One for each principal.
    pub(crate) tenants: Vec<(Principal, House)>,
    pub(crate) policy: Policy,
    pub(crate) buffer: (Duration, u64),
    /// What a process may ask of each customer's vault, where it is not what it is by default.
    pub(crate) budget: Option<VaultBudget>,
    /// For how long a segment of a write-only buffer is written to.
    pub(crate) segment_time: Duration,
    /// How many bytes each node's hot cache holds, if it has one.
    pub(crate) hot: Arc<Vec<Option<u64>>>,
    pub(crate) clients: usize,
    /// How long it takes from one operation on an account to the next on each node, on average, if there are any.
    pub(crate) operations: Option<Duration>,
    /// For how long a deleted account can be recovered.
    pub(crate) retention: Duration,
    pub(crate) think: Duration,
    /// Tells clients that an account can be used again.
    pub(crate) back: Arc<Back>,
    /// Set when clients are to come to an end.
    pub(crate) closing_time: Arc<AtomicBool>,
}

impl Site {
    /// For how long others wait for a node that says nothing, and twice that for what it does then.
    pub(crate) fn lease(&self) -> Duration {
        9 * self.policy.refresh()
    }

    /// Every vault.
    pub(crate) fn houses(&self) -> impl Iterator<Item = &House> {
        [&self.service].into_iter().chain(self.tenants.iter().map(|(_, house)| house))
    }
}

/// The account that could be used again last, for those who waited for it.
#[derive(Debug, Default)]
pub(crate) struct Back {
    account: Mutex<Option<AccountId>>,
    told: Notify,
}

impl Back {
    pub(crate) fn tell(&self, account: AccountId) {
        *self.account.lock().unwrap_or_else(PoisonError::into_inner) = Some(account);
        self.told.notify_waiters();
    }

    /// The next account that can be used again.
    pub(crate) async fn next(&self) -> Option<AccountId> {
        self.told.notified().await;
        *self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
