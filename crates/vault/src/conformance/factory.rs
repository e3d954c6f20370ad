//! What a vault's own tests tell the kit: how to make keys, and how to put the vault into each state.
//!
//! Every hook but two has a default that says "unsupported": a check that needs it is then reported as not applicable,
//! with the reason. Not its job: to wait. Where a change takes a while to be felt, the hook waits, or
//! [`settle`](Factory::settle).

use std::{borrow::Cow, error::Error, future, num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::KeyId;

use crate::{KeyKind, KeyVault};

/// What a hook did, or why not.
pub type Hook<T = ()> = Result<T, NotDone>;

/// Why a hook did not do what it is for. Any error becomes [`NotDone::Failed`] by `?`.
#[derive(Debug)]
pub enum NotDone {
    /// The vault can't be put into that state, for this reason: what needs it is not applicable.
    Unsupported(Cow<'static, str>),
    /// It went wrong: what needs it fails.
    Failed(Box<dyn Error + Send + Sync>),
}

impl NotDone {
    /// The vault can't be put into that state, for this reason.
    pub fn unsupported(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unsupported(reason.into())
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for NotDone {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What is checked, and what it is expected to be.
#[derive(Clone, Debug)]
pub struct Subject {
    pub(super) name: Cow<'static, str>,
    pub(super) kind: KeyKind,
    pub(super) recoverable: bool,
    pub(super) binds_context: bool,
    pub(super) flips: Option<NonZeroUsize>,
}

impl Subject {
    /// A vault of this name, as the report prints it, whose keys that the factory makes are of this kind. They are not
    /// recoverable, and wraps are not bound to their context.
    pub fn new(name: impl Into<Cow<'static, str>>, kind: KeyKind) -> Self {
        Self { name: name.into(), kind, recoverable: false, binds_context: false, flips: None }
    }

    /// The same whose keys are recoverable: soft delete and purge protection are on.
    #[must_use]
    pub fn recoverable(mut self) -> Self {
        self.recoverable = true;
        self
    }

    /// The same that binds a wrap to its account, epoch and provider.
    #[must_use]
    pub fn binds_context(mut self) -> Self {
        self.binds_context = true;
        self
    }

    /// The same where at most so many bits of a wrap are flipped, evenly spread, each in a call of its own. Default: every
    /// bit. For vaults whose calls cost money.
    #[must_use]
    pub fn flips(mut self, most: NonZeroUsize) -> Self {
        self.flips = Some(most);
        self
    }
}

const NO_HOOK: &str = "the factory has no hook for it";

fn no_hook<T>() -> Hook<T> {
    Err(NotDone::unsupported(NO_HOOK))
}

/// Makes a vault's keys, and puts the vault into each state.
///
/// Hooks act as the customer or the vault's operator would, past the [`KeyVault`] under test. What a hook did must be felt
/// by the next call when it and [`settle`](Self::settle) have returned. Checks run one after the other; each begins with
/// the vault up, reachable and permitted, and undoes what it did to the vault as a whole.
#[async_trait]
pub trait Factory: Send + Sync {
    /// What is checked.
    fn subject(&self) -> Subject;

    /// The vault as the service would use it. Asked once for each check; may be the same each time.
    async fn vault(&self) -> Hook<Arc<dyn KeyVault>>;

    /// Makes a key that is enabled and never expires. Answers with the id of its first version; without a version where
    /// the vault's ids have none.
    async fn new_key(&self) -> Hook<KeyId>;

    /// Why this check, by its name, can't be made in this world although its hooks exist; for stand-ins that are laxer than the
    /// vault that they stand in for. It is reported as not applicable.
    fn excuse(&self, _check: &str) -> Option<Cow<'static, str>> {
        None
    }

    /// The id of a key without its version, which means the latest.
    async fn unversioned(&self, _key: &KeyId) -> Hook<KeyId> {
        no_hook()
    }

    /// Makes a new version of a key, the latest from now on. Answers with its id.
    async fn new_version(&self, _key: &KeyId) -> Hook<KeyId> {
        no_hook()
    }

    /// Disables a version, or its key where the vault can't disable single versions.
    async fn disable(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// Enables it again.
    async fn enable(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// Deletes a version, or its key where the vault can't delete single versions.
    async fn delete(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// Recovers what was deleted, so that it is enabled again.
    async fn recover(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// Ends a key's time now.
    async fn expire(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// Lets a key's time begin later than now.
    async fn defer(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// The id of a key that this vault could have and never had, with a version where its ids have one.
    async fn unknown_key(&self) -> Hook<KeyId> {
        no_hook()
    }

    /// The id of a version that this key could have and never had.
    async fn unknown_version(&self, _key: &KeyId) -> Hook<KeyId> {
        no_hook()
    }

    /// Ids that this vault must refuse without asking anybody: of another vault, tenant, region, host, kind of vault.
    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        no_hook()
    }

    /// Takes away the service's permission to use a key.
    async fn deny(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// Grants it again.
    async fn allow(&self, _key: &KeyId) -> Hook {
        no_hook()
    }

    /// The vault can't be reached, or can't work: stopped, cut off, sealed.
    async fn outage(&self) -> Hook {
        no_hook()
    }

    /// It can again.
    async fn restore(&self) -> Hook {
        no_hook()
    }

    /// The vault answers every call by throttling. Answers with how long it asks to wait, if it says so.
    async fn throttle(&self) -> Hook<Option<Duration>> {
        no_hook()
    }

    /// It does no longer.
    async fn unthrottle(&self) -> Hook {
        no_hook()
    }

    /// The credential in use is over its time; a renewal brings a good one.
    async fn expire_credential(&self) -> Hook {
        no_hook()
    }

    /// The credential in use is no longer taken, and there is none to be had.
    async fn lose_credential(&self) -> Hook {
        no_hook()
    }

    /// There is a good one to be had again.
    async fn regain_credential(&self) -> Hook {
        no_hook()
    }

    /// Who answers in the vault's place has a certificate that is not to be trusted.
    async fn untrust(&self) -> Hook {
        no_hook()
    }

    /// The vault answers itself again.
    async fn trust(&self) -> Hook {
        no_hook()
    }

    /// How many requests about keys have reached the vault so far, those that it refused included.
    async fn sent(&self) -> Hook<u64> {
        no_hook()
    }

    /// Comes back when what the hooks did is felt. Asked after each of them.
    async fn settle(&self) {}

    /// Comes back when a call that began now has taken too long: it is dropped and counts as failed. Default: never, so a vault
    /// that hangs holds up the kit.
    async fn patience(&self) {
        future::pending().await
    }
}
