//! Another factory's world with something around its vault.

use std::{borrow::Cow, future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    KeyVault,
    conformance::{Factory, Hook, Subject},
};
use tokio::time::sleep;

type Wrapping = Box<dyn Fn(Arc<dyn KeyVault>) -> Arc<dyn KeyVault> + Send + Sync>;

pub(crate) struct Around {
    base: Box<dyn Factory>,
    wrapping: Wrapping,
    subject: fn(Subject) -> Subject,
    excused: &'static [&'static str],
    settle: Duration,
    patience: Option<Duration>,
}

impl Around {
    pub(crate) fn new(base: impl Factory + 'static) -> Self {
        Self {
            base: Box::new(base),
            wrapping: Box::new(|vault| vault),
            subject: |subject| subject,
            excused: &[],
            settle: Duration::ZERO,
            patience: None,
        }
    }

    /// This around the vault.
    pub(crate) fn vault(
        self,
        wrapping: impl Fn(Arc<dyn KeyVault>) -> Arc<dyn KeyVault> + Send + Sync + 'static,
    ) -> Self {
        Self { wrapping: Box::new(wrapping), ..self }
    }

    pub(crate) fn subject(self, subject: fn(Subject) -> Subject) -> Self {
        Self { subject, ..self }
    }

    pub(crate) fn excused(self, excused: &'static [&'static str]) -> Self {
        Self { excused, ..self }
    }

    pub(crate) fn settle(self, settle: Duration) -> Self {
        Self { settle, ..self }
    }

    pub(crate) fn patience(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }
}

#[async_trait]
impl Factory for Around {
    fn subject(&self) -> Subject {
        (self.subject)(self.base.subject())
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        Ok((self.wrapping)(self.base.vault().await?))
    }

    fn excuse(&self, check: &str) -> Option<Cow<'static, str>> {
        if self.excused.contains(&check) { Some("on purpose".into()) } else { self.base.excuse(check) }
    }

    async fn settle(&self) {
        if !self.settle.is_zero() {
            sleep(self.settle).await;
        }
    }

    async fn patience(&self) {
        match self.patience {
            Some(patience) => sleep(patience).await,
            None => pending().await,
        }
    }

    async fn new_key(&self) -> Hook<KeyId> {
        self.base.new_key().await
    }

    async fn unversioned(&self, key: &KeyId) -> Hook<KeyId> {
        self.base.unversioned(key).await
    }

    async fn new_version(&self, key: &KeyId) -> Hook<KeyId> {
        self.base.new_version(key).await
    }

    async fn unknown_version(&self, key: &KeyId) -> Hook<KeyId> {
        self.base.unknown_version(key).await
    }

    async fn disable(&self, key: &KeyId) -> Hook {
        self.base.disable(key).await
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        self.base.enable(key).await
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        self.base.delete(key).await
    }

    async fn recover(&self, key: &KeyId) -> Hook {
        self.base.recover(key).await
    }

    async fn expire(&self, key: &KeyId) -> Hook {
        self.base.expire(key).await
    }

    async fn defer(&self, key: &KeyId) -> Hook {
        self.base.defer(key).await
    }

    async fn deny(&self, key: &KeyId) -> Hook {
        self.base.deny(key).await
    }

    async fn allow(&self, key: &KeyId) -> Hook {
        self.base.allow(key).await
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        self.base.unknown_key().await
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        self.base.foreign_keys().await
    }

    async fn outage(&self) -> Hook {
        self.base.outage().await
    }

    async fn restore(&self) -> Hook {
        self.base.restore().await
    }

    async fn throttle(&self) -> Hook<Option<Duration>> {
        self.base.throttle().await
    }

    async fn unthrottle(&self) -> Hook {
        self.base.unthrottle().await
    }

    async fn expire_credential(&self) -> Hook {
        self.base.expire_credential().await
    }

    async fn lose_credential(&self) -> Hook {
        self.base.lose_credential().await
    }

    async fn regain_credential(&self) -> Hook {
        self.base.regain_credential().await
    }

    async fn untrust(&self) -> Hook {
        self.base.untrust().await
    }

    async fn trust(&self) -> Hook {
        self.base.trust().await
    }

    async fn sent(&self) -> Hook<u64> {
        self.base.sent().await
    }
}
