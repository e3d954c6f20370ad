//! A process that ends at any write of an operation, before it or right after it: the next one finds the account as it was, or
//! goes on to the end; never neither.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::{
    crypto::KeyId,
    store::{
        AccountKey, Applied, BlockOp, BlockStore, Catalog, EmbeddedStore, Engine, EngineError, Forwarding,
        LinkTo, OperationHandle, OperationStatus, Reencrypt, Revision, StoreError, Stored,
    },
};
use tokio::time::timeout;

use crate::world::{self, NOTICED, World, id, name, stored};

const BLOCKS: usize = 12;

/// A store before which time stands still at its nth write.
#[derive(Clone, Debug)]
struct Stopping {
    store: EmbeddedStore,
    left: Arc<AtomicUsize>,
    /// Whether that write is still done.
    after: bool,
}

impl Stopping {
    async fn write<T>(&self, write: impl Future<Output = T>) -> T {
        let left =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
        match left.unwrap() {
            0 => std::future::pending().await,
            1 if self.after => {
                write.await;
                std::future::pending().await
            }
            1 => std::future::pending().await,
            _ => write.await,
        }
    }
}

#[async_trait]
impl Forwarding for Stopping {
    fn behind(&self) -> &dyn BlockStore {
        &self.store
    }

    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        self.write(self.store.commit(batch)).await
    }
}

#[async_trait]
impl Catalog for Stopping {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.store.load(key).await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError> {
        self.write(self.store.swap(key, expected, new)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        Catalog::list(&self.store, prefix, after, limit).await
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    RotateKek,
    AddKek,
    RemoveKek,
    RotateAek,
    Reencrypt,
    Link,
    Unlink,
    Delete,
    Recover,
    Purge,
}

impl What {
    const ALL: [Self; 10] = [
        Self::RotateKek,
        Self::AddKek,
        Self::RemoveKek,
        Self::RotateAek,
        Self::Reencrypt,
        Self::Link,
        Self::Unlink,
        Self::Delete,
        Self::Recover,
        Self::Purge,
    ];

    /// What it begins with.
    async fn prepare(self, world: &World, other: &KeyId) {
        let key = if self == Self::Link { AccountKey::Service } else { world.customer_key() };
        let account = world.engine.create_account(&name("contoso"), key).await.unwrap();
        for block in 0..BLOCKS {
            stored(account.put(&id(&format!("block-{block}")), content(block)).await);
        }
        if self == Self::RemoveKek {
            account.add_kek(World::principal(), other.clone()).await.unwrap().wait().await.unwrap();
        }
        if matches!(self, Self::Recover | Self::Purge) {
            account.delete_account().await.unwrap().wait().await.unwrap();
        }
    }

    async fn begin(
        self,
        engine: &Engine,
        kek: &KeyId,
        other: &KeyId,
    ) -> Result<OperationHandle, EngineError> {
        let contoso = name("contoso");
        match self {
            Self::Recover => return engine.recover_account(&contoso).await,
            Self::Purge => return engine.purge_account(&contoso).await,
            _ => {}
        }
        let account = engine.account(&contoso).await?;
        match self {
            Self::RotateKek => account.rotate_kek(None, other.clone(), None).await,
            Self::AddKek => account.add_kek(World::principal(), other.clone()).await,
            Self::RemoveKek => account.remove_kek(kek).await,
            Self::RotateAek => account.rotate_aek(Reencrypt::No).await,
            Self::Reencrypt => account.rotate_aek(Reencrypt::Yes).await,
            Self::Link => {
                let to =
                    LinkTo { principal: World::principal(), kek: kek.clone(), buffer: Default::default() };
                account.link(to, Reencrypt::Yes).await
            }
            Self::Unlink => account.unlink(Reencrypt::Yes).await,
            _ => account.delete_account().await,
        }
    }
}

fn content(block: usize) -> Bytes {
    format!("content {block}").into()
}

/// Whether it was stopped; else the operation came to its end before.
async fn stop_at(what: What, writes: usize, after: bool, seen: &mut BTreeMap<String, usize>) -> bool {
    let mut world = World::new(600 + writes as u64).await;
    let other = world.customer.create_key("other").await.unwrap();
    what.prepare(&world, &other).await;
    let kek = world.kek.clone();
    let stopping = Stopping { store: world.store.clone(), left: Arc::new(AtomicUsize::new(writes)), after };
    world.engine = world.engine_over(&stopping, world.clock.clone()).await;
    let whole = async {
        let handle = what.begin(&world.engine, &kek, &other).await.unwrap();
        handle.wait().await.unwrap()
    };
    let ended = timeout(Duration::from_secs(600), whole).await;
    if stopping.left.load(Ordering::SeqCst) > 0 {
        assert_eq!(ended.unwrap().status, OperationStatus::Succeeded);
        return false;
    }
    world.crash().await;
    tokio::time::sleep(NOTICED).await;
    world.engine.settle_operations().await;
    let operations = world.engine.operations().await.unwrap();
    let of = format!("{what:?}, stopped {} write {writes}", if after { "after" } else { "before" });
    let last = operations.first();
    let step = last.map_or("none", |last| last.step.name());
    *seen.entry(format!("{what:?}: {step}")).or_default() += 1;
    let unfinished = operations.iter().find(|operation| !operation.status.has_ended());
    assert_eq!(unfinished, None, "{of}");
    let is_done = last.is_some_and(|last| {
        assert_eq!(last.status, OperationStatus::Succeeded, "{of}: {last:?}");
        // What came before is not it.
        match what {
            What::Recover => last.kind.name() == "recover",
            What::Purge => last.kind.name() == "purge",
            What::RemoveKek => last.kind.name() == "remove-kek",
            _ => true,
        }
    });
    if is_done && matches!(what, What::RotateKek | What::RemoveKek) {
        world.customer.delete(&kek).await.unwrap();
        tokio::time::sleep(NOTICED).await;
    }
    if is_done && what == What::Unlink {
        world.customer.delete(&kek).await.unwrap();
    }
    let account = world.engine.account(&name("contoso")).await;
    let is_there = match what {
        What::Delete => !is_done,
        What::Recover => is_done,
        What::Purge => false,
        _ => true,
    };
    assert_eq!(account.is_ok(), is_there, "{of}: {account:?}");
    if let Ok(account) = account {
        for block in 0..BLOCKS {
            let got = account.get(&id(&format!("block-{block}"))).await;
            assert_eq!(got.unwrap(), content(block), "{of}");
        }
        stored(account.put(&id("after"), "more".into()).await);
    }
    true
}

#[tokio::test(start_paused = true)]
async fn whatever_is_stopped_wherever_goes_on_or_has_not_begun() {
    let mut seen = BTreeMap::new();
    for what in What::ALL {
        for after in [false, true] {
            // Each is stopped at other writes, and with COFFERDAM_FULL at all.
            let mut writes = 1 + world::scale(0, what as usize % 5);
            // Which write of the engine is the first of the operation does not matter.
            while stop_at(what, writes, after, &mut seen).await {
                writes += world::scale(1, 5);
            }
            assert!(writes > 3, "{what:?} has more writes than {writes}");
        }
    }
    for (at, times) in &seen {
        println!("{at:<40} stopped {times} times");
    }
}
