//! Taking note that an account's record changed.
//!
//! Guarantees: once this has returned, nothing of the account is sealed, opened or drained by what its record said before, and
//! nothing that was sealed so is still to be committed. Until then it goes on as before: an outage in between takes nothing
//! away.
//!
//! Not its job: to learn of changes (`nodes`), to make them (`operations`).

use std::sync::{Arc, PoisonError, atomic::Ordering};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, Provider};
use cofferdam_keyring::{KeyError, LiveKey, RecordError};
use tokio::time::timeout;

use super::{
    AccountName, EngineError, Inner,
    account::Shared,
    account_record::{Stage, VerifiedRecord},
    current_key::{CurrentKey, key_error},
};

impl Inner {
    /// An account's record, found genuine, and the service's key that it was checked under.
    pub(super) async fn verified(
        &self,
        name: &AccountName,
    ) -> Result<(VerifiedRecord, LiveKey), EngineError> {
        let account = self.records.load(name).await?.unverified().id;
        let service =
            self.keyring.sealing_key(account, Provider::Service).await.map_err(|e| key_error(name, e))?;
        let verified = self.records.load_verified(name, service.record_key()).await?;
        Ok((verified, service))
    }

    /// The name that the catalog has for this account, if the account is there.
    pub(super) async fn name_in_catalog(
        &self,
        account: AccountId,
    ) -> Result<Option<AccountName>, EngineError> {
        loop {
            self.records.learn_names(&[account].into()).await?;
            let Some(name) = self.records.name_of(account) else { return Ok(None) };
            if self.records.has(&name, account).await? {
                return Ok(Some(name));
            }
            // It had that name once: all are looked at anew.
            self.records.unlearn(account);
        }
    }

    /// The account's record changed.
    pub(super) async fn reload(self: &Arc<Self>, account: AccountId) -> Result<(), EngineError> {
        let Some(name) = self.records.name_of(account) else { return Ok(()) };
        let stage = self.stage_of(&name, account).await?;
        if stage != Some(Stage::Live) {
            return self.retire(account, &name, stage.is_none()).await;
        }
        let limit = self.policy.call_timeout();
        let late = || Arc::new(RecordError::TimedOut(limit));
        match timeout(limit, self.keyring.reload(account))
            .await
            .unwrap_or_else(|_| Err(KeyError::Record(late())))
        {
            // What is not held is read anew when it is asked for.
            Ok(()) | Err(KeyError::UnknownAccount { .. }) => {}
            Err(e) => return Err(key_error(&name, e)),
        }
        self.segments.forget(account);
        if let Some(shared) = self.shared_of(&name, account) {
            // Whoever verifies an earlier record has stored its keys before these.
            let _verifying = shared.verifying.lock().await;
            let verified = timeout(limit, CurrentKey::verify(self, &shared)).await;
            let late = |_| Err(EngineError::Record { account: name.clone(), source: late() });
            let current = verified.unwrap_or_else(late)?;
            shared.deleted.store(false, Ordering::Release);
            shared.key.store(Some(Arc::new(current)));
        }
        #[cfg(feature = "hot-cache")]
        if let Some(hot) = &self.hot {
            hot.readmit(account);
        }
        if !is_planted(Bug::GateForgotten) {
            self.gates.of(account).turn().await;
        }
        if self.blocks.buffer_usage(account).await?.is_some() {
            self.drains.ensure(self, account);
        }
        Ok(())
    }

    /// The same where nothing may go on as before, not even while a vault is asked.
    pub(super) async fn reread(self: &Arc<Self>, account: AccountId) -> Result<(), EngineError> {
        let Some(name) = self.records.name_of(account) else { return Ok(()) };
        match self.stage_of(&name, account).await {
            Ok(Some(Stage::Live)) | Err(EngineError::BadRecord { .. }) => self.put_out_of_use(account).await,
            Ok(stage) => return self.retire(account, &name, stage.is_none()).await,
            Err(e) => return Err(e),
        }
        if self.blocks.buffer_usage(account).await?.is_some() {
            self.drains.ensure(self, account);
        }
        Ok(())
    }

    /// The account's record changed and can't be read for now: nothing of it is done until it can.
    pub(super) async fn put_out_of_use(&self, account: AccountId) {
        let name = self.records.name_of(account);
        if let Some(shared) = name.and_then(|name| self.shared_of(&name, account)) {
            let _verifying = shared.verifying.lock().await;
            shared.key.store(None);
        }
        self.keyring.forget(account);
        self.segments.forget(account);
        self.gates.of(account).turn().await;
    }

    /// Whose handles there are here of the account that had this name.
    fn shared_of(&self, name: &AccountName, account: AccountId) -> Option<Arc<Shared>> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.get(name).filter(|shared| shared.id == account).cloned()
    }

    /// The stage of the account that had this name, as its record says unchecked; `None` when it is gone.
    async fn stage_of(&self, name: &AccountName, account: AccountId) -> Result<Option<Stage>, EngineError> {
        match self.records.load(name).await {
            Ok(record) if record.unverified().id == account => Ok(Some(record.unverified().stage)),
            Ok(_) | Err(EngineError::NoAccount { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The account is deleted, or, where it is `gone`, purged.
    async fn retire(
        self: &Arc<Self>,
        account: AccountId,
        name: &AccountName,
        gone: bool,
    ) -> Result<(), EngineError> {
        let known = {
            let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
            let is_it = accounts.get(name).is_some_and(|shared| shared.id == account);
            if gone && is_it { accounts.remove(name) } else { accounts.get(name).filter(|_| is_it).cloned() }
        };
        if let Some(shared) = known {
            let _verifying = shared.verifying.lock().await;
            shared.deleted.store(true, Ordering::Release);
            shared.key.store(None);
        }
        self.keyring.forget(account);
        self.segments.forget(account);
        self.gates.of(account).turn().await;
        self.drains.cancel(account);
        #[cfg(feature = "hot-cache")]
        if let Some(hot) = &self.hot {
            hot.forget(account).await;
        }
        if gone {
            self.records.unlearn(account);
            self.gates.forget(account);
        }
        Ok(())
    }
}
