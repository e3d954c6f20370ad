//! How many requests each operation costs: the table of docs/object-stores.md.

use std::sync::Arc;

use cofferdam_crypto::Version;
use cofferdam_store::{BlockOp, BlockStore, Located, Place};
use object_store::ObjectStore;

use crate::{
    blocks_support::{Way, handle, memory, rows_in},
    embedded_support::*,
};

/// `row` for those of the catalog, `data` for blocks' bytes; how often each.
fn counted(mut requests: Vec<String>) -> String {
    requests.sort();
    let mut text: Vec<(String, usize)> = Vec::new();
    for request in requests {
        match text.last_mut() {
            Some((last, n)) if *last == request => *n += 1,
            _ => text.push((request, 1)),
        }
    }
    let text = text.into_iter().map(|(what, n)| if n == 1 { what } else { format!("{n} {what}") });
    text.collect::<Vec<_>>().join(", ")
}

#[tokio::test(start_paused = true)]
async fn each_operation_costs_as_many_requests_as_the_table_says() {
    let way = Way::to(memory());
    let store: Arc<dyn ObjectStore> = Arc::new(way.clone());
    let rows = rows_in(&store, 1).await;
    let blocks = handle(&store, &rows, 1);
    let (a, x) = (account(1), id("x"));
    let sealed = |seed| bytes_of(seed, 200_000);
    let costs = |what: &str, expected: &str| assert_eq!(counted(way.taken()), expected, "{what}");
    let commit = async |batch: Vec<BlockOp>| drop(blocks.commit(batch).await.unwrap());
    way.taken();

    blocks.reserve_versions(Version::new(1_000_000), 1000).await.unwrap();
    costs("the first versions", "get row versions, put row versions");
    blocks.reserve_versions(Version::new(1), 1000).await.unwrap();
    costs("the next versions", "put row versions");

    commit(vec![put(a, "x", 1, sealed(1))]).await;
    costs("put of a new block", "put data, put row b");
    commit(vec![put(a, "x", 2, sealed(2))]).await;
    costs("put of a block that this handle put or looked up", "delete data, put data, put row b");

    assert!(blocks.stat(a, &x).await.unwrap().is_some());
    costs("stat", "get row b");
    blocks.fetch(a, &x).await.unwrap();
    costs("fetch", "get data, get row b");
    let at = blocks.stat(a, &x).await.unwrap().unwrap();
    way.taken();
    blocks.read(a, &x, &at, &[0..96, 65_000..131_000]).await.unwrap().unwrap();
    costs("read of two ranges after a stat", "get bytes=0-95 of data, get bytes=65000-130999 of data");
    blocks.read(a, &x, &at, &[0..96, 96..70_000]).await.unwrap().unwrap();
    costs("read of ranges that meet", "get bytes=0-69999 of data");
    assert!(blocks.stat(a, &id("none")).await.unwrap().is_none());
    costs("stat of a block that there is not", "get row b");

    let other = handle(&store, &rows, 2);
    other.reserve_versions(Version::new(1_000_000), 1000).await.unwrap();
    way.taken();
    other.commit(vec![put(a, "x", 3, sealed(3))]).await.unwrap();
    costs("put of a block that this handle has not seen", "delete data, 2 get row b, put data, 2 put row b");
    commit(vec![put(a, "y", 4, sealed(4)), put(a, "z", 5, sealed(5))]).await;
    costs("two new blocks at once", "2 put data, 5 put row b");

    commit(vec![delete(a, "y", 6)]).await;
    costs("delete", "delete data, get row b, put row b");
    commit(vec![reseal(a, "z", 5, 2, sealed(6))]).await;
    costs("a block sealed anew", "delete data, get row b, put data, put row b");

    commit(vec![buffer(a, "b", 9, sealed(9))]).await;
    costs(
        "a new block buffered, the first of the account",
        "get row b, get row u, put data, 3 put row b, 2 put row f, 2 put row u",
    );
    commit(vec![buffer(a, "c", 12, sealed(12))]).await;
    costs("another", "get row b, get row u, put data, 3 put row b, 2 put row f, 2 put row u");
    commit(vec![drain(a, "b", 9, sealed(13), 13)]).await;
    costs(
        "a block drained",
        "delete data, get row b, get row f, get row u, put data, 3 put row b, 2 put row f, 2 put row u",
    );
    let located = blocks.stat(a, &id("c")).await.unwrap().unwrap();
    assert_eq!(located.place, Place::Buffer);
    way.taken();

    let listed: Vec<(_, Located)> = blocks.list(a, None, 100).await.unwrap();
    assert_eq!(listed.len(), 4);
    costs("list of four blocks", "4 get row b, list row b");
    assert_eq!(blocks.buffered(a, None, 100).await.unwrap().len(), 1);
    costs("list of what is buffered", "get row f, list row f");
    blocks.buffer_usage(a).await.unwrap();
    costs("usage of the buffer", "get row u");
}
