//! An account's keys for what is sealed under them and kept outside the engine's own store.
//!
//! Guarantees: the same as for blocks. A key is asked for at each use, so grace ends it and a revocation takes it away; what
//! had to wait for a thread is used only if the key still may be; while an account is linked, nothing is opened without its
//! customer's key. Of an account that has such objects no epoch is ever given up, since no pass can find what is sealed under it.
//!
//! Not its job: names, bytes, and where they are (`encrypted`). Objects are never buffered: that is the engine's store's.

use std::{ops::Deref, sync::Arc};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{Epoch, Provider, SaltSource, Sealer};
use cofferdam_keyring::LiveKey;

use super::{
    Account, EngineError,
    blocks::{LAPSES, Used},
    work_key::WorkKey,
};

/// A key that objects may be sealed or opened with now, and that of their owner where that is another.
pub(crate) struct ObjectKey {
    key: LiveKey,
    owner: Option<LiveKey>,
}

impl ObjectKey {
    /// Whether it may still be used.
    pub(crate) fn still_usable(&self) -> bool {
        self.key.still_usable() && self.owner.as_ref().is_none_or(LiveKey::still_usable)
    }
}

impl Deref for ObjectKey {
    type Target = Sealer;

    fn deref(&self) -> &Sealer {
        &self.key
    }
}

impl Account {
    /// Takes note that objects are sealed under its keys: from here on all of its epochs are kept. Needs no key.
    pub(crate) async fn note_objects(&self) -> Result<(), EngineError> {
        self.check_open().await?;
        Ok(self.engine.records.note_objects(self.shared.id).await?)
    }

    /// The account's own key of now.
    pub(crate) async fn object_sealing_key(&self) -> Result<ObjectKey, EngineError> {
        self.check_open().await?;
        self.engine.be_live().await?;
        Ok(ObjectKey { key: self.sealing_key().await?, owner: None })
    }

    /// The key that an object is sealed under; `None` when the account has none such.
    pub(crate) async fn object_key(
        &self,
        provider: Provider,
        epoch: Epoch,
    ) -> Result<Option<ObjectKey>, EngineError> {
        self.check_open().await?;
        self.engine.be_live().await?;
        let Some((key, current)) = self.key_of(provider, epoch).await? else { return Ok(None) };
        let linked = provider == Provider::Service && current == Provider::Customer;
        let owner = if linked && !is_planted(Bug::LinkedReadWithoutKey) { self.owner().await? } else { None };
        Ok(Some(ObjectKey { key, owner }))
    }

    /// Works on an object of this many bytes, here or on a thread, with the account's own key or that of an epoch; `None` where
    /// there is none such.
    pub(crate) async fn with_object_key<T: Send + 'static>(
        &self,
        epoch: Option<(Provider, Epoch)>,
        len: usize,
        work: impl Fn(&Sealer) -> T + Send + Sync + 'static,
    ) -> Result<Option<T>, EngineError> {
        let work = Arc::new(work);
        for _ in 0..LAPSES {
            let key = match epoch {
                None => Some(self.object_sealing_key().await?),
                Some((provider, epoch)) => self.object_key(provider, epoch).await?,
            };
            let Some(ObjectKey { key, owner }) = key else { return Ok(None) };
            let work = work.clone();
            let used = self.engine.with_keys(WorkKey::Live(key), owner, len, move |key| work(key)).await?;
            if let Used::Done(done) = used {
                return Ok(Some(done));
            }
        }
        // Each time there was a key, and each time it was gone before its use.
        Err(self.overdue(epoch.map_or(Provider::Customer, |(provider, _)| provider)))
    }

    /// Where salts come from.
    pub(crate) fn salts(&self) -> &dyn SaltSource {
        self.engine.keyring.salts()
    }

    /// Random bytes for a name.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N], EngineError> {
        let mut bytes = [0; N];
        self.engine.entropy.fill(&mut bytes)?;
        Ok(bytes)
    }
}
