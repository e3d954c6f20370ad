//! The record of a buffer's segment is there for exactly as long as one of its blocks is.

use std::sync::Arc;

use bytes::Bytes;
use cofferdam_crypto::{Provider, SegmentId};
use cofferdam_store::{
    Applied, BlockMeta, BlockOp, BlockStore, EmbeddedOptions, EmbeddedStore, FaultyFile, SegmentRow,
    StoreErrorKind,
};
use cofferdam_vault::Inline;

use crate::embedded_support::*;

fn new_store() -> EmbeddedStore {
    let options = EmbeddedOptions { executor: Arc::new(Inline), ..options() };
    EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap()
}

/// A block of account 1 in this segment.
fn of(segment: SegmentId, name: &str, version: u64, record: Option<Bytes>) -> BlockOp {
    let sealed = bytes_of(version, 100);
    let meta = BlockMeta { provider: Provider::Buffer(segment), ..meta(version, sealed.len()) };
    BlockOp::Buffer { account: account(1), id: id(name), meta, sealed, limit: UNBOUNDED, segment: record }
}

fn with_record(segment: SegmentId, name: &str, version: u64) -> BlockOp {
    of(segment, name, version, Some(record_of(segment)))
}

async fn blocks_of(store: &EmbeddedStore) -> Vec<(SegmentId, u64)> {
    assert!(store.verify().await.unwrap().is_sound());
    let rows = store.segments(account(1), None, 99).await.unwrap();
    rows.into_iter().map(|(segment, row)| (segment, row.blocks)).collect()
}

#[tokio::test]
async fn a_segment_comes_with_its_first_block_and_leaves_with_its_last_however_that_leaves() {
    let store = new_store();
    let (one, two) = (segment(1), segment(2));
    store.commit(vec![with_record(one, "a", 1), with_record(one, "b", 2)]).await.unwrap();
    store
        .commit(vec![with_record(one, "c", 3), with_record(one, "d", 4), with_record(one, "e", 5)])
        .await
        .unwrap();
    assert_eq!(blocks_of(&store).await, [(one, 5)]);
    let row = SegmentRow { blocks: 5, record: record_of(one) };
    assert_eq!(store.segment(account(1), one).await.unwrap(), Some(row));
    assert_eq!(store.segment(account(2), one).await.unwrap(), None, "another account has its own");

    store.commit(vec![drain(account(1), "a", 1, bytes_of(9, 10), 9)]).await.unwrap();
    store.commit(vec![with_record(two, "b", 10)]).await.unwrap();
    assert_eq!(blocks_of(&store).await, [(one, 3), (two, 1)], "written anew in another");
    store
        .commit(vec![delete(account(1), "c", 11), put(account(1), "d", 12, bytes_of(12, 10))])
        .await
        .unwrap();
    assert_eq!(blocks_of(&store).await, [(one, 1), (two, 1)]);
    store.commit(vec![discard(account(1), "e", 5)]).await.unwrap();
    assert_eq!(blocks_of(&store).await, [(two, 1)]);
    // Written anew in its own segment, and again in one batch with its removal.
    store.commit(vec![with_record(two, "b", 13)]).await.unwrap();
    assert_eq!(blocks_of(&store).await, [(two, 1)]);
    store.commit(vec![delete(account(1), "b", 14), with_record(two, "b", 15)]).await.unwrap();
    assert_eq!(blocks_of(&store).await, [(two, 1)]);
    store.commit(vec![with_record(one, "f", 16), delete(account(1), "f", 17)]).await.unwrap();
    store.commit(vec![drain(account(1), "b", 15, bytes_of(18, 10), 18)]).await.unwrap();
    assert_eq!(blocks_of(&store).await, []);
    store.commit(vec![with_record(one, "g", 19)]).await.unwrap();
    assert_eq!(blocks_of(&store).await, [(one, 1)], "it may come again");
}

#[tokio::test]
async fn a_late_drain_or_discard_takes_no_segment_along() {
    let store = new_store();
    let one = segment(1);
    store.commit(vec![with_record(one, "a", 1)]).await.unwrap();
    store.commit(vec![with_record(one, "a", 2)]).await.unwrap();
    let late = store.commit(vec![drain(account(1), "a", 1, bytes_of(3, 10), 3), discard(account(1), "a", 1)]);
    let by = cofferdam_crypto::Version::new(2);
    assert_eq!(late.await.unwrap(), [Applied::Superseded { by }; 2]);
    assert_eq!(blocks_of(&store).await, [(one, 1)]);
}

#[tokio::test]
async fn a_block_without_its_record_or_with_a_record_and_no_segment_is_refused() {
    let store = new_store();
    let one = segment(1);
    let kind = async |op| store.commit(vec![op]).await.unwrap_err().kind();
    assert_eq!(kind(of(one, "a", 1, None)).await, StoreErrorKind::Invalid);
    let BlockOp::Buffer { account, id, meta, sealed, limit, segment } = with_record(one, "a", 1) else {
        panic!()
    };
    let service = BlockMeta { provider: Provider::Service, ..meta };
    let not_one =
        BlockOp::Buffer { account, id: id.clone(), meta: service, sealed: sealed.clone(), limit, segment };
    assert_eq!(kind(not_one).await, StoreErrorKind::Invalid);
    let stored = BlockOp::Put { account, id: id.clone(), meta, sealed: sealed.clone() };
    assert_eq!(kind(stored).await, StoreErrorKind::Invalid, "it is for the buffer alone");
    let drained = BlockOp::Drain { account, id, meta, sealed, at: time(1) };
    assert_eq!(kind(drained).await, StoreErrorKind::Invalid);
    assert_eq!(blocks_of(&store).await, []);
}

#[tokio::test]
async fn a_block_that_comes_with_another_record_is_refused_and_leaves_what_is_there() {
    let store = new_store();
    let one = segment(1);
    store.commit(vec![with_record(one, "a", 1)]).await.unwrap();
    let refused = store.commit(vec![with_record(one, "b", 2), of(one, "c", 3, Some("another".into()))]).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.segment(account(1), one).await.unwrap().unwrap().record, record_of(one));
    assert_eq!(blocks_of(&store).await, [(one, 1)]);
}

#[tokio::test]
async fn a_record_is_replaced_from_the_one_that_was_read_only_and_blocks_may_bring_the_earlier_one_after_that()
 {
    let store = new_store();
    let one = segment(1);
    let (first, second, third) = (record_of(one), Bytes::from("rewrapped"), Bytes::from("rewrapped again"));
    assert!(!store.replace_segment(account(1), one, &first, second.clone()).await.unwrap(), "there is none");
    store.commit(vec![with_record(one, "a", 1)]).await.unwrap();
    assert!(!store.replace_segment(account(1), one, &second, third.clone()).await.unwrap());
    assert!(!store.replace_segment(account(2), one, &first, second.clone()).await.unwrap());
    assert!(store.replace_segment(account(1), one, &first, second.clone()).await.unwrap());
    assert!(
        !store.replace_segment(account(1), one, &first, third.clone()).await.unwrap(),
        "it was another's"
    );
    // Who fills the segment does not know of it.
    store.commit(vec![with_record(one, "b", 2)]).await.unwrap();
    store.compact().await.unwrap();
    store.commit(vec![with_record(one, "c", 3)]).await.unwrap();
    let row = SegmentRow { blocks: 3, record: second.clone() };
    assert_eq!(store.segment(account(1), one).await.unwrap(), Some(row));
    assert!(store.replace_segment(account(1), one, &second, third.clone()).await.unwrap());
    assert_eq!(blocks_of(&store).await, [(one, 3)]);
    store
        .commit(vec![discard(account(1), "a", 1), discard(account(1), "b", 2), discard(account(1), "c", 3)])
        .await
        .unwrap();
    assert!(!store.replace_segment(account(1), one, &third, first.clone()).await.unwrap(), "it is gone");
    store.commit(vec![with_record(one, "d", 4)]).await.unwrap();
    assert_eq!(store.segment(account(1), one).await.unwrap().unwrap().record, first);
    let other = store.commit(vec![of(one, "e", 5, Some("another".into()))]).await;
    assert_eq!(other.unwrap_err().kind(), StoreErrorKind::Corrupt, "nobody replaced it since");
}
