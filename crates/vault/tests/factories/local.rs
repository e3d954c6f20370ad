//! A local vault in a folder of its own.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    Clock, KeyKind, KeyVault, LocalVault, Recovery,
    conformance::{Factory, Hook, NotDone, Subject},
};

use crate::support::Fixture;

pub(crate) struct LocalFactory {
    fixture: Fixture,
    vault: LocalVault,
    kind: KeyKind,
    made: AtomicUsize,
}

impl LocalFactory {
    pub(crate) async fn new(kind: KeyKind, passphrase: Option<&'static str>) -> Self {
        let fixture = Fixture::new(passphrase);
        let vault = fixture.create().await;
        Self { fixture, vault, kind, made: AtomicUsize::new(0) }
    }

    /// A time that lies so far ahead, or behind.
    fn now(&self) -> Duration {
        self.fixture.clock.now().wall
    }
}

impl fmt::Debug for LocalFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalFactory({})", self.kind)
    }
}

fn parent(key: &KeyId) -> &str {
    key.as_str().rsplit_once('/').unwrap().0
}

#[async_trait]
impl Factory for LocalFactory {
    fn subject(&self) -> Subject {
        Subject::new(format!("LocalVault, {}", self.kind), self.kind).recoverable()
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        Ok(Arc::new(self.vault.clone()))
    }

    async fn new_key(&self) -> Hook<KeyId> {
        let name = format!("key-{}", self.made.fetch_add(1, Ordering::Relaxed));
        Ok(self.vault.create_key_of(&name, self.kind, Recovery::default()).await?)
    }

    async fn unversioned(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(KeyId::new(parent(key))?)
    }

    async fn new_version(&self, key: &KeyId) -> Hook<KeyId> {
        let name = parent(key).rsplit_once('/').unwrap().1;
        Ok(self.vault.new_version(name).await?)
    }

    async fn disable(&self, key: &KeyId) -> Hook {
        Ok(self.vault.disable(key).await?)
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        Ok(self.vault.enable(key).await?)
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        self.vault.delete(key).await?;
        Ok(())
    }

    async fn recover(&self, key: &KeyId) -> Hook {
        Ok(self.vault.recover(key).await?)
    }

    async fn expire(&self, key: &KeyId) -> Hook {
        Ok(self.vault.set_expiry(key, Some(self.now())).await?)
    }

    async fn defer(&self, key: &KeyId) -> Hook {
        Ok(self.vault.set_not_before(key, Some(self.now() + Duration::from_secs(3600))).await?)
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        Ok(KeyId::new(format!("local://acme/keys/never/{}", "0".repeat(32)))?)
    }

    async fn unknown_version(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(KeyId::new(format!("{}/{}", parent(key), "0".repeat(32)))?)
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        let version = "0".repeat(32);
        let ids = [
            format!("local://globex/keys/key-0/{version}"),
            format!("local://ACME/keys/key-0/{version}"),
            format!("https://acme.vault.azure.net/keys/key-0/{version}"),
            format!("local://acme/secrets/key-0/{version}"),
            format!("local://acme/keys/../keys/key-0/{version}"),
        ];
        Ok(ids.into_iter().map(KeyId::new).collect::<Result<_, _>>()?)
    }

    async fn outage(&self) -> Hook {
        Ok(self.vault.set_offline(true).await?)
    }

    async fn restore(&self) -> Hook {
        Ok(self.vault.set_offline(false).await?)
    }

    async fn deny(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("a file has no permissions of its own"))
    }

    async fn throttle(&self) -> Hook<Option<Duration>> {
        Err(NotDone::unsupported("a file has no limits"))
    }

    async fn expire_credential(&self) -> Hook {
        Err(NotDone::unsupported("a file needs no credential"))
    }

    async fn lose_credential(&self) -> Hook {
        Err(NotDone::unsupported("a file needs no credential"))
    }

    async fn untrust(&self) -> Hook {
        Err(NotDone::unsupported("there is no network in between"))
    }

    async fn sent(&self) -> Hook<u64> {
        Err(NotDone::unsupported("nobody counts the reads of a file"))
    }
}
