//! Any sequence of writes and reopenings reads as a map says, through two handles in turn, and leaves no object that no row
//! names.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use cofferdam_crypto::AccountId;
use cofferdam_store::{BlockStore, Catalog, EmbeddedOptions, EmbeddedStore, objects::ObjectBlocks};
use cofferdam_vault::Inline;
use object_store::{ObjectStore, local::LocalFileSystem};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    blocks_support::{data_objects, handle, memory, rows_in},
    embedded_support::{
        model::{Model, lay_open_blocks},
        steps::{Step, Subject, accounts, play, step},
    },
    support::scale,
};

/// Where the rows are.
enum Rows {
    /// In the same store.
    Here,
    /// In a file beside it.
    File(EmbeddedStore),
}

struct Two {
    data: Arc<dyn ObjectStore>,
    rows: Rows,
    handles: [(ObjectBlocks, Arc<dyn Catalog>); 2],
    /// Whose turn it is.
    turn: AtomicUsize,
    /// No two handles draw the same.
    seed: u64,
}

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { cache_bytes: 1 << 20, executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

async fn handles(
    data: &Arc<dyn ObjectStore>,
    rows: &Rows,
    seed: u64,
) -> [(ObjectBlocks, Arc<dyn Catalog>); 2] {
    let one = async |seed| {
        let catalog = match rows {
            Rows::Here => rows_in(data, seed).await,
            Rows::File(store) => Arc::new(store.clone()),
        };
        (handle(data, &catalog, seed), catalog)
    };
    [one(seed).await, one(seed + 1).await]
}

impl Two {
    async fn over(data: Arc<dyn ObjectStore>, rows: Rows) -> Self {
        let handles = handles(&data, &rows, 0).await;
        Self { data, rows, handles, turn: AtomicUsize::new(0), seed: 2 }
    }

    fn next(&self) -> &(ObjectBlocks, Arc<dyn Catalog>) {
        &self.handles[self.turn.fetch_add(1, Ordering::Relaxed) % 2]
    }
}

#[async_trait]
impl Subject for Two {
    fn blocks(&self) -> &dyn BlockStore {
        &self.next().0
    }

    fn catalog(&self) -> &dyn Catalog {
        &*self.next().1
    }

    async fn assert_like(&self, model: &Model, accounts: &[AccountId], what: &str) {
        model.assert_same_in(self.blocks(), accounts, what).await;
        let objects = data_objects(&self.data).await;
        assert_eq!(objects.len(), model.stored.len() + model.buffered.len(), "{what}: {objects:?}");
    }

    async fn reopen(mut self, closed: bool) -> Self {
        if closed {
            for (blocks, _) in &self.handles {
                blocks.close().await.unwrap();
            }
        }
        self.seed += 2;
        self.handles = handles(&self.data, &self.rows, self.seed).await;
        self
    }
}

async fn check(two: Two, steps: Vec<Step>) {
    let (two, model) = play(two, steps).await;
    let blocks = lay_open_blocks(two.blocks(), &accounts()).await;
    assert_eq!(Model { highest: 0, ..blocks }, Model { highest: 0, records: Default::default(), ..model });
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: scale(32, 512), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_writes_reads_as_a_map_says_with_blocks_and_rows_in_one_object_store(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        run(async { check(Two::over(memory(), Rows::Here).await, steps).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: scale(12, 256), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_writes_reads_as_a_map_says_with_blocks_in_files_and_rows_in_an_embedded_store(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        run(async {
            let folder = TempDir::new().unwrap();
            let data = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
            let rows = EmbeddedStore::create(folder.path().join("rows.store"), inline()).unwrap();
            check(Two::over(Arc::new(data), Rows::File(rows)).await, steps).await;
        });
    }
}
