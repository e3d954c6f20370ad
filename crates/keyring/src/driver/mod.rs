//! The driver: keeps keys, calls vaults, and lets the machine decide.
//!
//! Guarantees: the hot path takes no lock and allocates nothing; while something is under way for an account and
//! provider, one task does all its calls, one after another, so nothing is asked twice; a caller who gives up cancels
//! nothing; time comes from the [`Clock`] alone, and every use of a key asks it, so bounds hold even if no timer runs.
//! Keys that rest share one task (`agenda`), and each vault has one queue for its calls (`lane`).
//!
//! Not its job: to decide what an event means: that is [`crate::machine`]'s.

mod agenda;
mod ask;
mod attempt;
mod bridge;
mod call;
mod chain;
mod desk;
mod due;
mod entry;
mod kept;
mod lane;
mod live;
mod map;
#[cfg(cofferdam_shuttle)]
mod observed;
#[cfg(cofferdam_planted)]
mod planted;
mod reload;
mod seats;
mod segment;
mod signal;
mod slot;
mod steps;
mod task;
mod tell;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use cofferdam_crypto::{
    AccountId, Epoch, KeyId, Provider, SaltSource,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{Clock, Entropy, Timestamp, VaultErrorKind, VaultRegistry};

use self::{
    agenda::Hub,
    entry::{Entry, For},
    kept::Names,
    lane::Lanes,
    map::Entries,
    seats::{Claim, Claimed, Seats},
    signal::{Count, Flag},
};
pub use self::{live::LiveKey, segment::LiveSegment};
use crate::{
    KeyError, KeyEvent, KeyRecords, KeyState, Policy, Salts, VaultEvent, VaultStatus,
    rt::{atomic::AtomicBool, broadcast, watch},
    telemetry,
};

/// How many events a slow listener can be behind before it misses some.
const EVENTS_KEPT: usize = 1024;

/// What a keyring is made of.
#[derive(Clone, Debug)]
pub struct KeyringParts {
    /// The service's vault and its customers'.
    pub vaults: VaultRegistry,
    /// Where the wrapped keys are.
    pub records: Arc<dyn KeyRecords>,
    /// Tells the age of keys.
    pub clock: Arc<dyn Clock>,
    /// Gives salts and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// The settings.
    pub policy: Policy,
}

/// The keys of all accounts in use. Cheap to clone; all clones are one keyring.
///
/// Its methods that wait must be called within a tokio runtime. When the last clone is dropped, its keys are
/// wiped and its tasks end; [`Self::close`] waits for that.
#[derive(Clone)]
pub struct Keyring {
    shared: Arc<Shared>,
    _closes: Arc<CloseOnDrop>,
}

pub(super) struct Shared {
    parts: KeyringParts,
    salts: Salts,
    entries: Entries,
    seats: Arc<Seats>,
    hub: Arc<Hub>,
    lanes: Lanes,
    names: Names,
    events: broadcast::Sender<KeyEvent>,
    vault_events: broadcast::Sender<VaultEvent>,
    closing: Flag,
    /// What was to be persisted at the end is being persisted.
    left: AtomicBool,
    /// How many tasks there are.
    tasks: Count,
    /// Held across calls by a planted defect alone.
    #[cfg(cofferdam_planted)]
    one_call: tokio::sync::Mutex<()>,
}

impl Keyring {
    /// A keyring that holds no key yet. Asks no vault.
    pub fn new(parts: KeyringParts) -> Self {
        #[cfg(cofferdam_planted)]
        let parts = KeyringParts { clock: planted::Monotonic::over(parts.clock), ..parts };
        telemetry::describe();
        let hub = Hub::new(parts.clock.clone());
        let shared = Arc::new(Shared {
            lanes: Lanes::new(&parts.vaults, &parts.policy, &hub),
            hub,
            names: Names::default(),
            salts: Salts::new(parts.entropy.clone(), parts.clock.clone()),
            seats: Seats::new(parts.policy.max_keys()),
            parts,
            entries: Entries::new(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            vault_events: broadcast::Sender::new(EVENTS_KEPT),
            closing: Flag::default(),
            left: AtomicBool::new(false),
            tasks: Count::default(),
            #[cfg(cofferdam_planted)]
            one_call: tokio::sync::Mutex::default(),
        });
        Self { _closes: Arc::new(CloseOnDrop(shared.clone())), shared }
    }

    /// The key of the account's newest epoch, to seal with.
    ///
    /// # Errors
    /// [`KeyError`]: why there is none to use now.
    pub async fn sealing_key(&self, account: AccountId, provider: Provider) -> Result<LiveKey, KeyError> {
        self.shared.key(account, provider, None, For::Caller).await
    }

    /// The key of one epoch, to open with.
    ///
    /// # Errors
    /// [`KeyError`]: why there is none to use now.
    pub async fn opening_key(
        &self,
        account: AccountId,
        provider: Provider,
        epoch: Epoch,
    ) -> Result<LiveKey, KeyError> {
        self.shared.key(account, provider, Some(epoch), For::Caller).await
    }

    /// A short way to the keys of one account, for who asks often. It lasts as long as the keyring, through idle
    /// times and revocations.
    pub fn handle(&self, account: AccountId, provider: Provider) -> KeyHandle {
        KeyHandle { entry: self.shared.entry(account, provider), keyring: self.clone() }
    }

    /// Where the salts of sealed blocks come from.
    pub fn salts(&self) -> &dyn SaltSource {
        &self.shared.salts
    }

    /// How an account's key is, now.
    pub fn status(&self, account: AccountId, provider: Provider) -> KeyStatus {
        self.shared
            .entries
            .with((account, provider), |entry| entry.status(&self.shared))
            .unwrap_or_else(KeyStatus::unknown)
    }

    /// How many keys are held, one for each account and provider: never more than the policy's `max_keys`.
    pub fn held_keys(&self) -> usize {
        self.shared.seats.taken()
    }

    /// Everything that happens from now on, to all accounts.
    pub fn subscribe(&self) -> broadcast::Receiver<KeyEvent> {
        self.shared.events.subscribe()
    }

    /// How the calls to each vault stand: the service's own first, then the customers'. Only calls of this keyring count,
    /// to unwrap keys.
    pub fn vaults(&self) -> Vec<VaultStatus> {
        self.shared.lanes.all().iter().map(|lane| lane.status()).collect()
    }

    /// Everything that happens from now on to the calls to vaults.
    pub fn subscribe_vaults(&self) -> broadcast::Receiver<VaultEvent> {
        self.shared.vault_events.subscribe()
    }

    /// The state of one account's key. While somebody watches, a key that is unavailable or revoked and was
    /// asked for is tried again, whether or not it is asked for still.
    pub fn watch(&self, account: AccountId, provider: Provider) -> watch::Receiver<KeyState> {
        self.shared.entry(account, provider).watch()
    }

    /// Evicts an account's keys and forgets its records: they changed, or the account is gone.
    ///
    /// The next use reads the records again and asks the vault. A revocation stands until then.
    pub fn forget(&self, account: AccountId) {
        for provider in [Provider::Customer, Provider::Service] {
            if let Some(entry) = self.shared.entries.with((account, provider), Arc::clone) {
                entry.forget(&self.shared);
            }
        }
    }

    /// Wipes every key and waits until all tasks have ended. Whoever waits for a key gets
    /// [`KeyError::Closed`], and so does whoever asks later.
    pub async fn close(&self) {
        self.shared.shut();
        self.shared.leave_all();
        self.shared.tasks.wait_for_none().await;
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("policy", &self.shared.parts.policy).finish_non_exhaustive()
    }
}

impl Shared {
    async fn key(
        self: &Arc<Self>,
        account: AccountId,
        provider: Provider,
        epoch: Option<Epoch>,
        whose: For,
    ) -> Result<LiveKey, KeyError> {
        let current = self.entries.with((account, provider), |entry| entry.current(epoch, whose));
        if let Some(key) = current.flatten() {
            return Ok(key);
        }
        self.entry(account, provider).ask(self, epoch, whose).await
    }

    /// The account's entry, in use: it is not retired for as long as it is held.
    fn entry(&self, account: AccountId, provider: Provider) -> Arc<Entry> {
        let key = (account, provider);
        loop {
            let new = || Arc::new(Entry::new(account, provider, self.hub.clone()));
            let entry = self.entries.ensure(key, new);
            if !entry.is_retired() || is_planted(Bug::RetiredUsed) {
                return entry;
            }
            // Who retired it is about to do the same.
            self.entries.remove(key, &entry);
        }
    }

    /// Room for one more key, made by taking one away where there is none. No desk's lock may be held.
    async fn make_room(&self) -> Claim {
        loop {
            let changed = self.seats.changed();
            match self.seats.claim() {
                Claimed::Free(claim) => return claim,
                Claimed::From(claim, entry, seat) => {
                    entry.displace(self, seat);
                    return claim;
                }
                Claimed::Later => changed.await,
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.is_up()
    }

    fn shut(&self) {
        self.closing.raise();
        for entry in self.entries.all() {
            entry.shut();
        }
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

/// A short way to the keys of one account and provider: it skips the look-up. While there is one, the account's
/// entry stays.
#[derive(Clone)]
pub struct KeyHandle {
    keyring: Keyring,
    entry: Arc<Entry>,
}

impl KeyHandle {
    /// The key of the account's newest epoch, to seal with.
    ///
    /// # Errors
    /// [`KeyError`]: why there is none to use now.
    pub async fn sealing_key(&self) -> Result<LiveKey, KeyError> {
        self.key(None).await
    }

    /// The key of one epoch, to open with.
    ///
    /// # Errors
    /// [`KeyError`]: why there is none to use now.
    pub async fn opening_key(&self, epoch: Epoch) -> Result<LiveKey, KeyError> {
        self.key(Some(epoch)).await
    }

    async fn key(&self, epoch: Option<Epoch>) -> Result<LiveKey, KeyError> {
        if let Some(key) = self.entry.current(epoch, For::Caller) {
            return Ok(key);
        }
        self.entry.ask(&self.keyring.shared, epoch, For::Caller).await
    }
}

impl fmt::Debug for KeyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHandle(account {}, {} key)", self.entry.account, self.entry.provider)
    }
}

/// How an account's key is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// Its state.
    pub state: KeyState,
    /// When the last verified attempt was begun, if a key is held.
    pub verified_at: Option<Timestamp>,
    /// Until when the key is used without a question.
    pub unasked_until: Option<Timestamp>,
    /// Until when it counts as active; it is in Grace from then on if its vault fails.
    pub fresh_until: Option<Timestamp>,
    /// From when on the key is not used.
    pub usable_until: Option<Timestamp>,
    /// The KEK of the newest epoch, once its record was read.
    pub key_id: Option<KeyId>,
    /// What failed since the last verified attempt.
    pub last_failure: Option<LastFailure>,
    /// The KEKs that do not answer and that others stand in for, as far as that is persisted.
    pub bridged: Vec<BridgedKek>,
}

/// A KEK that does not answer and that the account's others stand in for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgedKek {
    /// Which one.
    pub key_id: KeyId,
    /// Since when.
    pub since: Timestamp,
    /// Until when at most; then the key is unavailable until it answers, or is removed from the account.
    pub until: Timestamp,
}

impl KeyStatus {
    fn unknown() -> Self {
        Self {
            state: KeyState::Cold,
            verified_at: None,
            unasked_until: None,
            fresh_until: None,
            usable_until: None,
            key_id: None,
            last_failure: None,
            bridged: Vec::new(),
        }
    }
}

/// The last failure of an account's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastFailure {
    /// How the vault failed; `None` if it was the account's record that failed.
    pub kind: Option<VaultErrorKind>,
    /// What was said, without secrets.
    pub message: String,
    /// When.
    pub at: Timestamp,
}
