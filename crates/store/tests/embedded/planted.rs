//! Each defect that can be planted in the embedded store does what its name says: so a simulator that does not find
//! it has missed it. Without `--cfg cofferdam_planted` there is nothing to test.
#![cfg(cofferdam_planted)]

use std::{io::ErrorKind, sync::Arc};

use cofferdam_crypto::planted::{Bug, plant};
use cofferdam_store::{
    Applied, BlockStore, BufferLimit, Catalog, EmbeddedOptions, EmbeddedStore, FaultyFile, FileFault, FileOp,
};
use cofferdam_vault::Inline;

use crate::embedded_support::*;

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { executor: Arc::new(Inline), ..options() }
}

/// Whether the store shows the defect.
async fn shows(bug: Bug) -> bool {
    let (file, a, x) = (FaultyFile::new(), account(1), id("x"));
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), inline()).unwrap();
    let limit = BufferLimit { bytes: 10, ..UNBOUNDED };
    match bug {
        Bug::AckBeforeSync => {
            store.commit(vec![put(a, "x", 1, bytes_of(1, 10))]).await.unwrap();
            let after = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 0)), inline()).unwrap();
            after.stat(a, &x).await.unwrap().is_none()
        }
        Bug::SyncFailureIgnored => {
            file.fail(FileOp::Sync, 0, FileFault::Error(ErrorKind::Other));
            store.commit(vec![put(a, "x", 1, bytes_of(1, 10))]).await.is_ok()
        }
        Bug::DrainIgnoresVersion => {
            store.commit(vec![buffer(a, "x", 1, bytes_of(1, 10))]).await.unwrap();
            store.commit(vec![put(a, "x", 2, bytes_of(2, 10))]).await.unwrap();
            store.commit(vec![drain(a, "x", 1, bytes_of(1, 10), 3)]).await.unwrap() == [Applied::Written]
        }
        Bug::DrainKeepsCopy => {
            store.commit(vec![buffer(a, "x", 1, bytes_of(1, 10))]).await.unwrap();
            store.commit(vec![drain(a, "x", 1, bytes_of(1, 10), 3)]).await.unwrap();
            !store.buffered(a, None, 9).await.unwrap().is_empty()
        }
        Bug::BufferReadLast => {
            store.commit(vec![put(a, "x", 1, bytes_of(1, 10))]).await.unwrap();
            store.commit(vec![buffer(a, "x", 2, bytes_of(2, 10))]).await.unwrap();
            store.stat(a, &x).await.unwrap() == Some(stored(1, 10))
        }
        Bug::DeleteMissesBuffer => {
            store.commit(vec![buffer(a, "x", 1, bytes_of(1, 10))]).await.unwrap();
            store.commit(vec![delete(a, "x", 2)]).await.unwrap();
            store.stat(a, &x).await.unwrap().is_some()
        }
        Bug::BufferUnbounded => {
            store.commit(vec![buffer_within(limit, a, "x", 1, bytes_of(1, 11))]).await.is_ok()
        }
        Bug::SegmentRemovedEarly => {
            let two = vec![buffer(a, "x", 1, bytes_of(1, 10)), buffer(a, "y", 2, bytes_of(2, 10))];
            store.commit(two).await.unwrap();
            store.commit(vec![drain(a, "x", 1, bytes_of(1, 10), 3)]).await.unwrap();
            let gone = store.segments(a, None, 9).await.unwrap().is_empty();
            gone && !store.verify().await.unwrap().is_sound()
        }
        Bug::ResealIgnoresVersion => {
            store.commit(vec![put(a, "x", 2, bytes_of(2, 10))]).await.unwrap();
            store.commit(vec![reseal(a, "x", 1, 2, bytes_of(1, 10))]).await.unwrap() == [Applied::Written]
        }
        Bug::CompactKeepsFreedPages => {
            // Every other one is removed, of records and of blocks of all sizes.
            let needle = bytes_of(5, 32);
            for n in 0..60u64 {
                let len = [200, 3000, 70_000][(n / 2 % 3) as usize];
                let bytes = if n % 2 == 1 { needle.repeat(len / 32).into() } else { bytes_of(n, len) };
                store.commit(vec![put(a, format!("{n}"), n + 1, bytes.clone())]).await.unwrap();
                store.swap(&format!("account/{n}"), None, Some(bytes)).await.unwrap();
            }
            let deletes = (0..60).skip(1).step_by(2).map(|n| delete(a, format!("{n}"), n + 100));
            store.commit(deletes.collect()).await.unwrap();
            for n in (0..60).skip(1).step_by(2) {
                let key = format!("account/{n}");
                let revision = store.load(&key).await.unwrap().map(|record| record.revision);
                store.swap(&key, revision.as_ref(), None).await.unwrap();
            }
            store.compact().await.unwrap();
            let left = |file: &Vec<u8>| file.windows(32).filter(|window| *window == needle).count();
            let left: usize = file.all_bytes().iter().map(left).sum();
            println!("{left} needles left");
            left > 0
        }
        Bug::CompactRenamesBeforeSync => {
            store.commit(vec![put(a, "x", 1, bytes_of(1, 10))]).await.unwrap();
            drop(store);
            let whole = file.bytes();
            for (step, seed) in (0..120).flat_map(|step| (0..8).map(move |seed| (step, seed))) {
                let file = FaultyFile::from_bytes(whole.clone());
                let store = EmbeddedStore::open_on(Arc::new(file.clone()), inline()).unwrap();
                file.power_off_after(step);
                let _ = store.compact().await;
                let mut rng = Rng(seed);
                match EmbeddedStore::open_on(Arc::new(file.after_crash(|| rng.next())), inline()) {
                    Ok(after) if after.stat(a, &x).await.unwrap() == Some(stored(1, 10)) => {}
                    _ => return true,
                }
            }
            false
        }
        other => panic!("{other:?} is not planted in the embedded store"),
    }
}

#[tokio::test]
async fn each_planted_defect_shows_and_only_while_it_is_planted() {
    for bug in [
        Bug::AckBeforeSync,
        Bug::SyncFailureIgnored,
        Bug::DrainIgnoresVersion,
        Bug::DrainKeepsCopy,
        Bug::BufferReadLast,
        Bug::DeleteMissesBuffer,
        Bug::BufferUnbounded,
        Bug::SegmentRemovedEarly,
        Bug::ResealIgnoresVersion,
        Bug::CompactKeepsFreedPages,
        Bug::CompactRenamesBeforeSync,
    ] {
        plant(Some(bug));
        let shown = shows(bug).await;
        plant(None);
        assert!(shown, "{} does not show", bug.name());
        assert!(!shows(bug).await, "{} shows without being planted", bug.name());
    }
}
