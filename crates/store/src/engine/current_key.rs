//! The keys of an account, as its record says: which one new blocks are sealed under, and which one a block opens with.
//!
//! Guarantees: nothing is done under a record whose tag was not found right. While an account is linked, nothing of it is read
//! without its customer's key, whatever key a block is sealed under; what is buffered is never read without that.
//!
//! Not its job: whether a key may be used (the keyring's), what is done with it (`blocks`).

use std::sync::{Arc, atomic::Ordering};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{BlockId, Epoch, Provider};
use cofferdam_keyring::{KeyError, KeyHandle, LiveKey, RecordError};

use super::{
    Account, AccountName, BufferMode, EngineError, Inner, Outcome,
    account::Shared,
    account_record::Stage,
    segments::{SegmentFault, SegmentKek, Segments},
    work_key::WorkKey,
};
use crate::{BlockMeta, Located, Place};

/// The keys of an account's record.
pub(super) struct CurrentKey {
    /// Whose key new blocks are sealed under.
    pub(super) provider: Provider,
    handle: KeyHandle,
    /// What the keys of its write-only buffer are wrapped to; none where the buffer is under the service's key.
    segments: Option<SegmentKek>,
}

impl CurrentKey {
    /// Whose key the account is under, from a record that was found genuine: who can write to the catalog must
    /// not be able to move an account off its customer's key.
    pub(super) async fn verify(engine: &Inner, shared: &Shared) -> Result<Self, EngineError> {
        let (verified, _) = engine.verified(&shared.name).await?;
        let record = verified.record;
        if record.id != shared.id {
            // Purged, and another account has its name.
            return Err(EngineError::NoAccount { account: shared.name.clone() });
        }
        if let Stage::Deleted { until, .. } = record.stage {
            shared.deleted.store(true, Ordering::Release);
            return Err(EngineError::AccountDeleted { account: shared.name.clone(), until });
        }
        let provider = record.provider();
        let segments = record.segment_kek().map_err(|reason| shared.bad_record(reason))?;
        Ok(Self { provider, handle: engine.keyring.handle(shared.id, provider), segments })
    }

    pub(super) fn buffer_mode(&self) -> Option<BufferMode> {
        match (self.provider, &self.segments) {
            (Provider::Customer, Some(_)) => Some(BufferMode::WriteOnly),
            (Provider::Customer, None) => Some(BufferMode::ServiceManaged),
            _ => None,
        }
    }
}

impl Account {
    async fn current_key(&self) -> Result<Arc<CurrentKey>, EngineError> {
        if let Some(current) = self.shared.key.load_full() {
            return Ok(current);
        }
        let _verifying = self.shared.verifying.lock().await;
        if let Some(current) = self.shared.key.load_full() {
            return Ok(current);
        }
        let current = Arc::new(CurrentKey::verify(&self.engine, &self.shared).await?);
        self.shared.key.store(Some(current.clone()));
        Ok(current)
    }

    /// Whether the account is still under the keys that these are.
    fn is_current(&self, keys: &Arc<CurrentKey>) -> bool {
        self.shared.key.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, keys))
    }

    pub(super) async fn sealing_key(&self) -> Result<LiveKey, EngineError> {
        loop {
            let current = self.current_key().await?;
            match current.handle.sealing_key().await {
                Ok(key) => return Ok(key),
                // The account was moved to another key while this one was waited for.
                Err(_) if !self.is_current(&current) => {}
                Err(e) => return Err(self.refused(e).await),
            }
        }
    }

    /// A key to seal a write under, and where the write goes. For a write-only buffer it is the service's, which
    /// [`Self::buffering_key`] makes another of.
    pub(super) async fn writing_key(&self) -> Result<(LiveKey, Outcome), EngineError> {
        loop {
            let current = self.current_key().await?;
            let buffers = self.engine.buffer.is_on() && current.provider == Provider::Customer;
            let mut own = std::pin::pin!(current.handle.sealing_key());
            let mut service = None;
            let own = tokio::select! {
                biased;
                own = &mut own => own,
                // Asked for at the same time: who writes in an outage waits for one time-out, not for two.
                key = self.service_key(), if buffers => {
                    service = Some(key);
                    own.await
                }
            };
            let refusal = match own {
                Ok(key) => return Ok((key, Outcome::Stored)),
                Err(_) if !self.is_current(&current) => continue,
                Err(refusal) => refusal,
            };
            if !buffers || !may_buffer(&refusal) {
                self.engine.segments.forget(self.shared.id);
                return Err(self.refused(refusal).await);
            }
            let service = match service {
                Some(Ok(key)) if key.still_usable() => Ok(key),
                _ => self.service_key().await,
            };
            return Ok((service.map_err(|e| self.key_error(e))?, Outcome::Buffered));
        }
    }

    /// What a write is sealed under that is buffered.
    pub(super) async fn buffering_key(&self, service: LiveKey) -> Result<WorkKey, EngineError> {
        match &self.current_key().await?.segments {
            None => Ok(WorkKey::Live(service)),
            Some(kek) => Segments::current(&self.engine.0, &self.shared, kek, &service).map(WorkKey::Written),
        }
    }

    async fn service_key(&self) -> Result<LiveKey, KeyError> {
        self.engine.keyring.sealing_key(self.shared.id, Provider::Service).await
    }

    /// The key that a block was sealed under; `None` when that is gone, or its segment: then the block is where it was, and
    /// as it was, no longer.
    pub(super) async fn opening_key(
        &self,
        id: &BlockId,
        meta: &BlockMeta,
    ) -> Result<Option<WorkKey>, EngineError> {
        let Provider::Buffer(segment) = meta.provider else {
            let key = self.key_of(meta.provider, meta.epoch).await?;
            return Ok(key.map(|(key, _)| WorkKey::Live(key)));
        };
        self.current_key().await?;
        match self.engine.segment_key(self.shared.id, segment).await? {
            Ok(key) => Ok(Some(WorkKey::Unwrapped(key))),
            Err(SegmentFault::Gone) => Ok(None),
            Err(SegmentFault::Damaged(_)) => Err(self.damaged(id)),
            Err(SegmentFault::Key(e) | SegmentFault::ServiceKey(e)) => {
                self.found(Err(e)).await.map(|key| key.map(WorkKey::Live))
            }
        }
    }

    /// The customer's or the service's key of an epoch, and whose key the account is under; `None` when there is none such.
    pub(super) async fn key_of(
        &self,
        provider: Provider,
        epoch: Epoch,
    ) -> Result<Option<(LiveKey, Provider)>, EngineError> {
        let current = self.current_key().await?;
        let key = if current.provider == provider {
            current.handle.opening_key(epoch).await
        } else {
            self.engine.keyring.opening_key(self.shared.id, provider, epoch).await
        };
        Ok(self.found(key).await?.map(|key| (key, current.provider)))
    }

    async fn found(&self, key: Result<LiveKey, KeyError>) -> Result<Option<LiveKey>, EngineError> {
        match key {
            // Sealed anew since it was looked up, and its AEK destroyed; or no such AEK was ever made. Who looks again knows.
            Err(KeyError::UnknownEpoch(_)) => Ok(None),
            Err(e @ KeyError::UnknownAccount { .. }) => match self.refused(e).await {
                deleted @ EngineError::AccountDeleted { .. } => Err(deleted),
                _ => Ok(None),
            },
            key => key.map(Some).map_err(|e| self.key_error(e)),
        }
    }

    /// The account's own key, which every read needs, whatever key it opens with.
    pub(super) async fn owner(&self) -> Result<Option<LiveKey>, EngineError> {
        if is_planted(Bug::BufferReadWithoutKey) || is_planted(Bug::LinkedReadWithoutKey) {
            return Ok(None);
        }
        self.sealing_key().await.map(Some)
    }

    /// The key without which this block may not be opened, beside the one that opens it.
    pub(super) async fn owner_of(&self, at: &Located) -> Result<Option<LiveKey>, EngineError> {
        let current = self.current_key().await?;
        match (at.place, at.meta.provider, current.provider) {
            (Place::Store, Provider::Service, Provider::Customer)
                if !is_planted(Bug::LinkedReadWithoutKey) =>
            {
                self.owner().await
            }
            (Place::Store, ..) => Ok(None),
            (Place::Buffer, _, Provider::Customer) => self.owner().await,
            // It stays the customer's after an unlink.
            (Place::Buffer, ..) => {
                let key = self.engine.keyring.sealing_key(self.shared.id, Provider::Customer).await;
                key.map(Some).map_err(|e| self.key_error(e))
            }
        }
    }

    /// What a refusal means: where there is no such key, the account may be deleted, and this engine not have heard of it.
    async fn refused(&self, e: KeyError) -> EngineError {
        if matches!(e, KeyError::UnknownAccount { .. })
            && let Ok(record) = self.engine.records.load(&self.shared.name).await
            && let Stage::Deleted { until, .. } = record.unverified().stage
        {
            return EngineError::AccountDeleted { account: self.shared.name.clone(), until };
        }
        self.key_error(e)
    }

    pub(super) fn key_error(&self, e: KeyError) -> EngineError {
        key_error(&self.shared.name, e)
    }
}

/// What a key that can't be had means for an account.
pub(super) fn key_error(account: &AccountName, e: KeyError) -> EngineError {
    let account = account.clone();
    match e {
        e @ KeyError::Revoked { .. } => EngineError::KeyRevoked { account, source: e.into() },
        KeyError::NoVault { principal, .. } => EngineError::NoVault { account, principal },
        KeyError::UnknownAccount { .. } => EngineError::NoAccount { account },
        KeyError::Record(e) => match &*e {
            RecordError::NotFound => EngineError::NoAccount { account },
            RecordError::Tampered(reason) => EngineError::BadRecord { account, reason: reason.clone() },
            _ => EngineError::Record { account, source: e },
        },
        KeyError::Closed => EngineError::Closed,
        e => EngineError::KeyUnavailable { account, source: e.into() },
    }
}

/// Whether a write may be buffered that was refused the account's key so: only in an outage.
fn may_buffer(refusal: &KeyError) -> bool {
    refusal.is_outage()
        || (is_planted(Bug::BufferedWhileRevoked) && matches!(refusal, KeyError::Revoked { .. }))
}
