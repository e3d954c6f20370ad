//! A process that ends at any of its requests loses no acknowledged block and tears none; what it left behind is swept.

use std::sync::Arc;

use cofferdam_crypto::AccountId;
use cofferdam_store::{BlockOp, BlockStore, Catalog};
use object_store::ObjectStore;

use crate::{
    blocks_support::{Last, Way, data_objects, handle, memory, rows_in, sweeper},
    embedded_support::{model::Model, *},
};

/// What the process does, one after the other.
enum Do {
    Commit(Vec<BlockOp>),
    Remove(AccountId),
}

fn script() -> Vec<Do> {
    let (a, b) = (account(1), account(2));
    let of = |seed: u64| bytes_of(seed, 300);
    [
        vec![put(a, "new", 1, of(1))],
        vec![put(a, "new", 2, of(2))],
        vec![put(a, "one", 3, of(3)), put(a, "two", 4, of(4)), put(b, "three", 5, of(5))],
        vec![buffer(a, "one", 7, of(7))],
        vec![buffer(a, "four", 8, of(8)), buffer(b, "five", 10, of(10)), delete(a, "two", 11)],
        vec![buffer(a, "four", 13, of(13))],
        vec![reseal(a, "new", 2, 2, of(14))],
        vec![drain(a, "one", 7, of(15), 16)],
        vec![put(a, "four", 17, of(17)), discard(b, "five", 10)],
        vec![buffer(b, "six", 20, of(20))],
        vec![delete(b, "six", 21)],
        vec![buffer(b, "six", 22, of(22))],
    ]
    .into_iter()
    .map(Do::Commit)
    .chain([Do::Remove(b)])
    .collect()
}

/// Does all of it, as far as it gets. What was acknowledged, and what it would have been with the one that was not.
async fn run(store: &Arc<dyn ObjectStore>, seed: u64) -> (Model, Option<Vec<Model>>) {
    let rows = rows_in_if_it_opens(store, seed).await;
    let Some(rows) = rows else { return (Model::default(), Some(vec![])) };
    let blocks = handle(store, &rows, seed);
    let mut model = Model::default();
    for step in script() {
        let mut next = model.clone();
        let (done, mut may_be) = match step {
            Do::Commit(batch) => {
                let expected = next.commit(&batch).unwrap();
                let done = blocks.commit(batch).await.map(|applied| assert_eq!(applied, expected));
                (done.is_ok(), vec![])
            }
            // One block after the other.
            Do::Remove(of) => {
                let mut between = vec![];
                while next.remove_blocks(of, 1) > 0 {
                    between.push(next.clone());
                }
                let mut gone = Ok(1);
                while let Ok(1..) = gone {
                    gone = blocks.remove_blocks(of, 10).await;
                }
                (gone.is_ok(), between)
            }
        };
        if !done {
            may_be.push(next);
            return (model, Some(may_be));
        }
        model = next;
    }
    (model, None)
}

async fn rows_in_if_it_opens(store: &Arc<dyn ObjectStore>, seed: u64) -> Option<Arc<dyn Catalog>> {
    use cofferdam_store::objects::{ObjectCatalog, RequestOptions};
    use cofferdam_vault::testing::SeededEntropy;
    let entropy = Arc::new(SeededEntropy::new(seed));
    let prefix = crate::blocks_support::prefix();
    let catalog = ObjectCatalog::open(store.clone(), prefix, entropy, RequestOptions::default()).await;
    Some(Arc::new(catalog.ok()?))
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_at_any_request_leaves_what_was_acknowledged_and_the_rest_whole_or_not_at_all() {
    let accounts = [account(1), account(2)];
    let whole = Way::to(memory());
    let way: Arc<dyn ObjectStore> = Arc::new(whole.clone());
    let (_, stopped) = run(&way, 1).await;
    assert!(stopped.is_none());
    let requests = whole.taken().len();
    assert!(requests > 100, "{requests}");
    let (mut torn_batches, mut orphans) = (0, 0);
    for end in 0..requests {
        for last in [Last::NotDone, Last::Done] {
            let what = format!("ended at request {end} of {requests}, {last:?}");
            let store = memory();
            let way = Way::to(store.clone());
            way.ends_after(end, last);
            let way: Arc<dyn ObjectStore> = Arc::new(way);
            let (acknowledged, stopped) = run(&way, 1).await;

            // Another process, which finds what that one left.
            let rows = rows_in(&store, 2).await;
            let blocks = handle(&store, &rows, 2);
            let may_be: Vec<Model> = stopped.into_iter().flatten().chain([acknowledged.clone()]).collect();
            let found = seen(&blocks, &accounts).await;
            let before = data_objects(&store).await.len();
            sweeper(&store, &rows, 3).compact().await.unwrap();
            let objects = data_objects(&store).await;
            assert_eq!(objects.len(), found.stored.len() + found.buffered.len(), "{what}: {objects:?}");
            orphans += before - objects.len();
            let is = may_be.iter().position(|model| Model { highest: 0, ..model.clone() } == found);
            let Some(is) = is else { panic!("{what}: found {found:?}, acknowledged {acknowledged:?}") };
            torn_batches += usize::from(is + 1 < may_be.len());
            // It takes writes, and reads as any other.
            let mut model = may_be[is].clone();
            let batch = vec![buffer(accounts[0], "later", 1001, "x"), put(accounts[1], "later", 1003, "y")];
            let expected = model.commit(&batch).unwrap();
            assert_eq!(blocks.commit(batch).await.unwrap(), expected, "{what}");
            model.highest = 1003;
            model.assert_same_in(&blocks, &accounts, &what).await;
            while blocks.remove_blocks(accounts[0], 10).await.unwrap() > 0 {}
            while blocks.remove_blocks(accounts[1], 10).await.unwrap() > 0 {}
            assert_eq!(data_objects(&store).await, [], "{what}");
        }
    }
    assert!(torn_batches > 10 && orphans > 10, "{torn_batches} {orphans}: the test meets what it is about");
}

/// All that there is, by reading alone.
async fn seen(blocks: &dyn BlockStore, accounts: &[AccountId]) -> Model {
    let mut model = Model::default();
    for account in accounts {
        for (id, meta) in blocks.stored(*account, None, usize::MAX).await.unwrap() {
            let (found, sealed) = blocks.fetch_stored(*account, &id).await.unwrap().unwrap();
            assert_eq!(found, meta);
            model.stored.insert((*account, id), (meta, sealed));
        }
        for (id, meta) in blocks.buffered(*account, None, usize::MAX).await.unwrap() {
            let (at, sealed) = blocks.fetch(*account, &id).await.unwrap().unwrap();
            assert_eq!(at.meta, meta);
            model.buffered.insert((*account, id), (meta, sealed));
        }
        if let Some(usage) = blocks.buffer_usage(*account).await.unwrap() {
            model.since.insert(*account, usage.since);
        }
        assert_eq!(blocks.buffer_usage(*account).await.unwrap(), model.usage(*account));
        assert_eq!(blocks.segments(*account, None, usize::MAX).await.unwrap(), model.segments(*account));
    }
    model
}
