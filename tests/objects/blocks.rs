//! Engines over an object store: the life of blocks from end to end, on one node and on two.

use std::sync::Arc;

use bytes::Bytes;
use cofferdam::{
    crypto::Epoch,
    store::{
        Account, AccountKey, BlockStore, Catalog, Engine, EngineErrorKind, OperationStatus, Outcome,
        Reencrypt,
        objects::{ObjectBlocks, ObjectBlocksOptions, ObjectCatalog, RequestOptions},
    },
    vault::testing::SeededEntropy,
};
use data_encoding::HEXLOWER;
use futures_util::{TryStreamExt, future::join_all};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

use crate::world::{NOTICED, POLL, World, id, name, stored};

/// A store, and the vaults and the clock of a world.
struct Shared {
    world: World,
    store: Arc<dyn ObjectStore>,
}

/// One process.
struct Node {
    engine: Engine,
    blocks: ObjectBlocks,
}

impl Shared {
    async fn new(seed: u64) -> Self {
        Self { world: World::new(seed).await, store: Arc::new(InMemory::new()) }
    }

    /// No two may have one seed.
    async fn node(&self, seed: u64) -> Node {
        let (entropy, prefix) = (Arc::new(SeededEntropy::new(seed)), Path::from("deployment"));
        let options = RequestOptions::default();
        let opened = ObjectCatalog::open(self.store.clone(), prefix.clone(), entropy.clone(), options).await;
        let catalog: Arc<dyn Catalog> = Arc::new(opened.unwrap());
        let (clock, options) = (self.world.clock.clone(), ObjectBlocksOptions::default());
        let blocks =
            ObjectBlocks::new(self.store.clone(), prefix, catalog.clone(), clock, entropy, options).unwrap();
        let engine = self.world.engine_on(Arc::new(blocks.clone()), catalog).await;
        Node { engine, blocks }
    }

    /// The names of all that is in the store, and all its bytes.
    async fn everything(&self) -> Vec<(Path, Bytes)> {
        let found: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let mut all = Vec::new();
        for object in found {
            let bytes = self.store.get(&object.location).await.unwrap().bytes().await.unwrap();
            all.push((object.location, bytes));
        }
        all
    }
}

impl Node {
    async fn contoso(&self, shared: &Shared) -> Account {
        self.engine.create_account(&name("contoso"), shared.world.customer_key()).await.unwrap()
    }

    async fn contoso_again(&self) -> Account {
        self.engine.account(&name("contoso")).await.unwrap()
    }
}

fn large() -> Bytes {
    (0..500_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

#[tokio::test(start_paused = true)]
async fn blocks_are_put_read_in_ranges_listed_replaced_deleted_and_there_after_a_restart() {
    let shared = Shared::new(701).await;
    let node = shared.node(1).await;
    let account = node.contoso(&shared).await;
    stored(account.put(&id("small"), "data".into()).await);
    stored(account.put(&id("large"), large()).await);
    stored(account.put(&id("none"), "".into()).await);
    account
        .put_batch(vec![(id("one"), "1".into()), (id("two"), "2".into()), (id("one"), "11".into())])
        .await
        .unwrap();
    assert_eq!(account.get(&id("one")).await.unwrap(), "11");
    assert_eq!(
        account.get_range(&id("large"), 70_000..400_001).await.unwrap(),
        large().slice(70_000..400_001)
    );
    stored(account.put(&id("small"), "other".into()).await);
    assert!(account.delete(&id("two")).await.unwrap());
    assert!(!account.delete(&id("two")).await.unwrap());
    node.engine.close().await.unwrap();

    let node = shared.node(2).await;
    let account = node.contoso_again().await;
    let listed = account.list(None, 10).await.unwrap().blocks;
    let listed: Vec<_> = listed.into_iter().map(|block| (block.id.to_string(), block.len)).collect();
    let expected = [("large", 500_000), ("none", 0), ("one", 2), ("small", 5)];
    assert_eq!(listed, expected.map(|(id, len)| (id.to_owned(), len)));
    assert_eq!(account.get(&id("small")).await.unwrap(), "other");
    assert_eq!(account.get(&id("large")).await.unwrap(), large());
    assert_eq!(account.get(&id("none")).await.unwrap(), "");
    assert_eq!(account.get(&id("two")).await.unwrap_err().kind(), EngineErrorKind::NotFound);
    let clear = large();
    for (name, bytes) in shared.everything().await {
        let is_clear = |part: &[u8]| memchr::memmem::find(&bytes, part).is_some();
        assert!(!is_clear(&clear[1000..1064]) && !is_clear(b"other"), "{name} has plaintext");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_in_an_outage_is_buffered_and_drained_once_by_whichever_node_is_there() {
    let shared = Shared::new(702).await;
    let (one, two) = (shared.node(1).await, shared.node(2).await);
    let account = one.contoso(&shared).await;
    let there = two.contoso_again().await;
    stored(account.put(&id("before"), "old".into()).await);
    shared.world.lose_key(&account).await;
    let buffered = |receipt: cofferdam::store::PutReceipt| assert_eq!(receipt.outcome, Outcome::Buffered);
    buffered(account.put(&id("before"), "new".into()).await.unwrap());
    buffered(account.put(&id("here"), "here".into()).await.unwrap());
    buffered(there.put(&id("there"), large()).await.unwrap());
    buffered(there.put(&id("gone"), "gone".into()).await.unwrap());
    assert!(account.delete(&id("gone")).await.unwrap());
    assert_eq!(account.key_status().await.unwrap().buffer.blocks, 3);
    assert_eq!(there.get(&id("here")).await.unwrap_err().kind(), EngineErrorKind::Unavailable);
    // The one that buffered most is gone when the key is back.
    drop((account, one));
    shared.world.customer.set_offline(false).await.unwrap();
    tokio::time::sleep(2 * POLL).await;
    there.check_key().await.unwrap();
    let report = there.drain().await.unwrap();
    assert!(report.left.is_none() && report.blocked.is_none(), "{report:?}");
    assert_eq!(two.blocks.buffer_usage(there.id()).await.unwrap(), None);
    assert_eq!(there.get(&id("before")).await.unwrap(), "new");
    assert_eq!(there.get(&id("here")).await.unwrap(), "here");
    assert_eq!(there.get(&id("there")).await.unwrap(), large());
    assert_eq!(there.get(&id("gone")).await.unwrap_err().kind(), EngineErrorKind::NotFound);
    let kept = two.blocks.stored(there.id(), None, 10).await.unwrap();
    assert_eq!(kept.len(), 3);
    let objects = shared.everything().await;
    let data = objects.iter().filter(|(name, _)| name.as_ref().starts_with("deployment/d/"));
    assert_eq!(data.count(), 3, "what was drained is there once");
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_and_blocks_sealed_anew_where_they_are() {
    let shared = Shared::new(703).await;
    let node = shared.node(1).await;
    let account = node.contoso(&shared).await;
    for n in 0..20 {
        stored(account.put(&id(&format!("{n}")), format!("data {n}").into()).await);
    }
    let new = shared.world.customer.new_version("payroll").await.unwrap();
    let rotated = account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
    assert_eq!(rotated.status, OperationStatus::Succeeded, "{rotated:?}");
    shared.world.customer.disable(&shared.world.kek).await.unwrap();
    let rotated = account.rotate_aek(Reencrypt::Yes).await.unwrap().wait().await.unwrap();
    assert_eq!(rotated.status, OperationStatus::Succeeded, "{rotated:?}");
    for (block, meta) in node.blocks.stored(account.id(), None, 100).await.unwrap() {
        assert_eq!(meta.epoch, Epoch::new(2), "{block}");
    }
    tokio::time::sleep(NOTICED).await;
    for n in 0..20 {
        assert_eq!(account.get(&id(&format!("{n}"))).await.unwrap(), format!("data {n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_purged_account_leaves_no_object_that_says_anything_of_it() {
    let shared = Shared::new(704).await;
    let node = shared.node(1).await;
    let account = node.contoso(&shared).await;
    let other = node.engine.create_account(&name("fabrikam"), AccountKey::Service).await.unwrap();
    stored(other.put(&id("other"), "stays".into()).await);
    for n in 0..30 {
        stored(account.put(&id(&format!("stored-{n}")), "data".into()).await);
    }
    account.delete(&id("stored-3")).await.unwrap();
    shared.world.lose_key(&account).await;
    for n in 0..5 {
        account.put(&id(&format!("buffered-{n}")), "data".into()).await.unwrap();
    }
    let of_account = HEXLOWER.encode(account.id().as_bytes());
    let left = async || -> Vec<String> {
        let all = shared.everything().await;
        let of = all.into_iter().map(|(name, _)| name.to_string());
        of.filter(|name| name.contains(&of_account)).collect()
    };
    assert!(left().await.len() > 60);
    let deleted = account.delete_account().await.unwrap().wait().await.unwrap();
    assert_eq!(deleted.status, OperationStatus::Succeeded, "{deleted:?}");
    let purged = node.engine.purge_account(&name("contoso")).await.unwrap().wait().await.unwrap();
    assert_eq!(purged.status, OperationStatus::Succeeded, "{purged:?}");
    assert_eq!(left().await, Vec::<String>::new());
    assert_eq!(other.get(&id("other")).await.unwrap(), "stays");
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_write_the_same_blocks_give_no_version_twice_and_the_last_write_is_read_on_both() {
    let shared = Shared::new(705).await;
    let (one, two) = (shared.node(1).await, shared.node(2).await);
    let here = one.contoso(&shared).await;
    let there = two.contoso_again().await;
    let mut versions = Vec::new();
    for round in 0..30 {
        let (here, there) = (&here, &there);
        let writes = (0..6).map(|n| async move {
            let (block, data) = (id(&format!("block-{}", n % 3)), format!("{round} {n}"));
            let receipt = if n % 2 == 0 { here } else { there }.put(&block, data.into()).await.unwrap();
            assert_eq!(receipt.outcome, Outcome::Stored);
            receipt.version
        });
        versions.extend(join_all(writes).await);
        // One after the other, the later one wins, whoever wrote it.
        for (n, (writer, reader)) in [(here, there), (there, here)].into_iter().enumerate() {
            let data = format!("{round} last {n}");
            versions.push(writer.put(&id("block-0"), data.clone().into()).await.unwrap().version);
            assert_eq!(reader.get(&id("block-0")).await.unwrap(), data);
        }
    }
    for n in 0..3 {
        let block = id(&format!("block-{n}"));
        assert_eq!(here.get(&block).await.unwrap(), there.get(&block).await.unwrap());
    }
    let given = versions.len();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), given, "no version twice");
    assert_eq!(one.blocks.stored(here.id(), None, 10).await.unwrap().len(), 3);
    assert!(here.delete(&id("block-0")).await.unwrap());
    assert_eq!(there.get(&id("block-0")).await.unwrap_err().kind(), EngineErrorKind::NotFound);
}
