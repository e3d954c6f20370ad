//! Full disks, failed syncs, damage while the store is open, and writers that share commits.

use std::{
    io::ErrorKind,
    sync::{Arc, Mutex},
};

use cofferdam_store::{
    Applied, BlockStore, BufferLimit, Catalog, EmbeddedOptions, EmbeddedStore, FaultyFile, FileFault,
    FileLayer, FileOp, StoreErrorKind,
};
use cofferdam_vault::{Executor, Inline, Job};

use crate::embedded_support::{
    model::{Model, lay_open},
    *,
};

/// Keeps jobs until it is told to run them.
#[derive(Default)]
struct Deferred(Mutex<Vec<Job>>);

impl Deferred {
    fn run(&self) -> usize {
        let jobs = std::mem::take(&mut *self.0.lock().unwrap());
        let count = jobs.len();
        jobs.into_iter().for_each(|job| job());
        count
    }

    fn drop_all(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Executor for Deferred {
    fn execute(&self, job: Job) {
        self.0.lock().unwrap().push(job);
    }
}

impl std::fmt::Debug for Deferred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deferred")
    }
}

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { executor: Arc::new(Inline), ..options() }
}

fn new_store(options: EmbeddedOptions) -> (FaultyFile, EmbeddedStore) {
    let file = FaultyFile::new();
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), options).unwrap();
    (file, store)
}

fn deferred_store() -> (FaultyFile, EmbeddedStore, Arc<Deferred>) {
    let executor = Arc::new(Deferred::default());
    let (file, store) = new_store(EmbeddedOptions { executor: executor.clone(), ..options() });
    (file, store, executor)
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sixty_four_writers_share_one_commit() {
    let (file, store, executor) = deferred_store();
    let before = (store.activity(), file.asked(FileOp::Sync));
    let writers: Vec<_> = (0..64u64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store.commit(vec![put(account(n as u8 % 7), format!("{n}"), n + 1, bytes_of(n, 5000))]).await
            })
        })
        .collect();
    settle().await;
    assert_eq!(executor.run(), 1, "one leader");
    for writer in writers {
        assert_eq!(writer.await.unwrap().unwrap(), [Applied::Written]);
    }
    let commits = store.activity().commits - before.0.commits;
    let syncs = file.asked(FileOp::Sync) - before.1;
    println!("64 writers: {commits} transaction, {syncs} syncs");
    assert_eq!(commits, 1);
    // Two for the commit, the others because the file grew.
    assert!(syncs <= 6, "{syncs}");
}

#[tokio::test]
async fn one_callers_conflict_fails_that_caller_alone() {
    let (_file, store, executor) = deferred_store();
    let spawn = |op| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(vec![op]).await })
    };
    let good = spawn(put(account(1), "a", 1, bytes_of(1, 10)));
    settle().await;
    let clash = spawn(put(account(2), "b", 1, bytes_of(2, 10)));
    settle().await;
    let swapped = tokio::spawn({
        let store = store.clone();
        async move { store.swap("r", Some(&cofferdam_store::Revision::new("9")), Some("x".into())).await }
    });
    let last = spawn(put(account(1), "c", 3, bytes_of(3, 10)));
    settle().await;
    executor.run();
    assert!(good.await.unwrap().is_ok() && last.await.unwrap().is_ok());
    assert_eq!(clash.await.unwrap().unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(swapped.await.unwrap().unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(store.activity().commits, 1);
}

#[tokio::test]
async fn a_dropped_put_is_stored_whole_or_not_at_all() {
    let (file, store, executor) = deferred_store();
    let mut future = Box::pin(store.commit(vec![
        put(account(1), "a", 1, bytes_of(1, 100_000)),
        put(account(1), "b", 2, bytes_of(2, 100_000)),
    ]));
    tokio::select! { biased; _ = &mut future => panic!("nothing ran yet"), () = settle() => {} }
    drop(future);
    executor.run();
    let after = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 0)), inline()).unwrap();
    for (name, n) in [("a", 1), ("b", 2)] {
        assert_eq!(after.fetch(account(1), &id(name)).await.unwrap().unwrap().1, bytes_of(n, 100_000));
    }
    // Never polled: never begun.
    drop(store.commit(vec![put(account(1), "c", 3, bytes_of(3, 10))]));
    assert_eq!(executor.run(), 0);
}

#[tokio::test]
async fn a_runtime_that_drops_its_work_strands_nobody() {
    let (_file, store, executor) = deferred_store();
    let write = |n: u64| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(vec![put(account(1), "a", n, bytes_of(n, 10))]).await })
    };
    let stranded = [write(1), write(2)];
    settle().await;
    executor.drop_all();
    for write in stranded {
        let error = write.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Closed);
        assert!(error.to_string().contains("may be stored or not"), "{error}");
    }
    let next = write(3);
    settle().await;
    executor.run();
    assert!(next.await.unwrap().is_ok(), "it found nobody leading");
    let last = write(4);
    settle().await;
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    settle().await;
    executor.drop_all();
    settle().await;
    executor.run();
    closing.await.unwrap().unwrap();
    assert_eq!(last.await.unwrap().unwrap_err().kind(), StoreErrorKind::Closed);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    for nth in 0..2 {
        let (file, store) = new_store(inline());
        let mut version = 0;
        let mut write = |store: &EmbeddedStore| {
            version += 1;
            let op = put(account(1), format!("{version}"), version, bytes_of(version, 5000));
            let store = store.clone();
            async move { store.commit(vec![op]).await }
        };
        for _ in 0..10 {
            write(&store).await.unwrap();
        }
        file.fail(FileOp::Sync, nth, FileFault::Error(ErrorKind::Other));
        assert_eq!(write(&store).await.unwrap_err().kind(), StoreErrorKind::Io);
        let mut acknowledged = 0;
        for _ in 0..50 {
            match write(&store).await {
                Ok(_) => acknowledged += 1,
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Poisoned, "{error}"),
            }
        }
        assert_eq!(acknowledged, 0);
        assert_eq!(store.stat(account(1), &id("1")).await.unwrap_err().kind(), StoreErrorKind::Poisoned);
        store.close().await.unwrap();
        let after = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 0)), inline()).unwrap();
        for n in 1..=10u64 {
            let found = after.fetch(account(1), &id(format!("{n}"))).await.unwrap().unwrap();
            assert_eq!(found.1, bytes_of(n, 5000));
        }
    }
}

/// Whatever the failed sync left behind, and whichever sync of the commit it was.
#[tokio::test]
async fn after_a_sync_that_failed_in_a_buffer_or_a_drain_nothing_is_acknowledged() {
    let a = account(1);
    for (nth, fault) in [0, 1].into_iter().flat_map(|nth| {
        [FileFault::Error(ErrorKind::Other), FileFault::Short(ErrorKind::Other)].map(|fault| (nth, fault))
    }) {
        for failing in [
            buffer(a, "x", 50, bytes_of(50, 90_000)),
            drain(a, "y", 2, bytes_of(3, 80_000), 50),
            delete(a, "y", 50),
            discard(a, "y", 2),
            reseal(a, "x", 1, 2, bytes_of(50, 10)),
        ] {
            let what = format!("{failing:?}, sync {nth}, {fault:?}");
            let (file, store) = new_store(inline());
            let mut before = Model::default();
            for op in [
                put(a, "x", 1, bytes_of(1, 70_000)),
                buffer(a, "y", 2, bytes_of(2, 80_000)),
                buffer(a, "z", 4, bytes_of(4, 10)),
            ] {
                before.commit(std::slice::from_ref(&op)).unwrap();
                store.commit(vec![op]).await.unwrap();
            }
            let mut after = before.clone();
            after.commit(std::slice::from_ref(&failing)).unwrap();
            file.fail(FileOp::Sync, nth, fault);
            let error = store.commit(vec![failing]).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Io, "{what}: {error}");
            for op in [
                buffer(a, "w", 60, bytes_of(60, 10)),
                drain(a, "z", 4, bytes_of(4, 10), 60),
                put(a, "w", 61, bytes_of(61, 10)),
                discard(a, "z", 4),
            ] {
                let error = store.commit(vec![op]).await.unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::Poisoned, "{what}: {error}");
            }
            assert_eq!(store.buffer_usage(a).await.unwrap_err().kind(), StoreErrorKind::Poisoned);
            store.close().await.unwrap();
            for disk in [file.after_crash(|| 0), file.clone()] {
                let store = EmbeddedStore::open_on(Arc::new(disk), inline()).unwrap();
                assert!(store.verify().await.unwrap().is_sound(), "{what}");
                let found = lay_open(&store, &[a]).await;
                // A commit that was not acknowledged may have been kept; one that was can't be gone.
                assert!(found == before || found == after, "{what}: {found:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_full_buffer_fails_the_caller_who_fills_it_alone() {
    let (_file, store, executor) = deferred_store();
    let within = |n: u8, version, len| {
        let limit = BufferLimit { bytes: 1000, ..UNBOUNDED };
        buffer_within(limit, account(n), format!("{version}"), version, bytes_of(version, len))
    };
    let batches = [
        vec![within(1, 1, 900)],
        vec![put(account(1), "p", 2, bytes_of(2, 10)), within(1, 3, 101)],
        vec![within(1, 4, 100)],
        vec![within(2, 5, 900)],
        vec![put(account(2), "q", 6, bytes_of(6, 10))],
    ];
    let mut waiting = Vec::new();
    for batch in batches {
        let store = store.clone();
        waiting.push(tokio::spawn(async move { store.commit(batch).await }));
        settle().await;
    }
    executor.run();
    let mut answers = Vec::new();
    for answer in waiting {
        answers.push(answer.await.unwrap());
    }
    assert_eq!(store.activity().commits, 1, "they shared it");
    let refused = answers.remove(1).unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::BufferFull, "{refused}");
    assert!(answers.into_iter().all(|answer| answer.unwrap() == [Applied::Written]));
    let reading = tokio::spawn({
        let store = store.clone();
        async move {
            assert_eq!(store.stat(account(1), &id("p")).await.unwrap(), None);
            store
                .buffering(None, 9)
                .await
                .unwrap()
                .into_iter()
                .map(|(_, usage)| usage.bytes)
                .collect::<Vec<_>>()
        }
    });
    for _ in 0..2 {
        settle().await;
        executor.run();
    }
    assert_eq!(reading.await.unwrap(), [1000, 900]);
}

#[test]
fn what_a_crash_keeps_does_not_depend_on_the_order_of_the_writes() {
    let mut writes: Vec<(u64, u8)> = (0..40).map(|n| (n * 4096 + 24, n as u8 + 1)).collect();
    let write = |writes: &[(u64, u8)]| {
        let file = FaultyFile::from_bytes(vec![0; 41 * 4096]);
        for (at, byte) in writes {
            file.write_at(*at, &[*byte; 4096]).unwrap();
        }
        file
    };
    let forth = write(&writes);
    writes.reverse();
    let back = write(&writes);
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let crashed = |file: &FaultyFile| {
            let mut rng = Rng(seed);
            file.after_crash(|| rng.next()).bytes()
        };
        let (a, b) = (crashed(&forth), crashed(&back));
        assert!(a == b, "seed {seed}");
        kept.insert(a);
    }
    assert!(kept.len() > 20, "{} ways", kept.len());
}

#[tokio::test]
async fn a_disk_that_a_sync_finds_full_is_said_to_be_full_and_poisons_the_handle() {
    for full in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        let (file, store) = new_store(inline());
        store.commit(vec![put(account(1), "a", 1, bytes_of(1, 5000))]).await.unwrap();
        file.fail(FileOp::Sync, 0, FileFault::Error(full));
        let error = store.commit(vec![put(account(1), "b", 2, bytes_of(2, 5000))]).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Full, "{error}");
        assert!(!error.to_string().contains("nothing of this write was kept"), "{error}");
        let error = store.commit(vec![put(account(1), "c", 3, bytes_of(3, 5000))]).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Poisoned, "{error}");
    }
}

#[tokio::test]
async fn opening_after_a_failed_sync_reads_the_disk_and_not_what_memory_kept() {
    for nth in 0..2 {
        let (file, store) = new_store(inline());
        store.commit(vec![put(account(1), "a", 1, bytes_of(1, 5000))]).await.unwrap();
        file.fail(FileOp::Sync, nth, FileFault::Error(ErrorKind::Other));
        store.commit(vec![put(account(1), "b", 2, bytes_of(2, 5000))]).await.unwrap_err();
        store.close().await.unwrap();
        let again = EmbeddedStore::open_on(Arc::new(file.clone()), inline()).unwrap();
        assert!(again.stat(account(1), &id("b")).await.unwrap().is_none(), "it is not on the disk");
        again.commit(vec![put(account(1), "c", 3, bytes_of(3, 5000))]).await.unwrap();
        let after = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 0)), inline()).unwrap();
        for (name, n) in [("a", 1), ("c", 3)] {
            assert_eq!(after.fetch(account(1), &id(name)).await.unwrap().unwrap().1, bytes_of(n, 5000));
        }
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_space() {
    let (file, store) = new_store(EmbeddedOptions { cache_bytes: 256 << 10, ..inline() });
    file.set_capacity(Some(3 << 20));
    let (mut kept, mut refused) = (Vec::new(), 0);
    for version in 1..400u64 {
        let len = 1000 + (version as usize * 7919) % 60_000;
        match store.commit(vec![put(account(1), format!("{version}"), version, bytes_of(version, len))]).await
        {
            Ok(_) => kept.push((version, len)),
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Full, "{error}");
                refused += 1;
            }
        }
        if refused > 20 {
            break;
        }
    }
    assert!(refused > 20 && kept.len() > 20, "{refused} refused, {} kept", kept.len());
    for (version, len) in &kept {
        let found = store.fetch(account(1), &id(format!("{version}"))).await.unwrap().unwrap();
        assert_eq!(found.1, bytes_of(*version, *len));
    }
    file.set_capacity(Some(9 << 20));
    store.commit(vec![put(account(1), "more", 1000, bytes_of(5, 500_000))]).await.unwrap();
    assert_eq!(BlockStore::list(&store, account(1), None, 9999).await.unwrap().len(), kept.len() + 1);
    assert!(store.verify().await.unwrap().is_sound());
    assert_eq!(store.activity().panics_caught, 0);
    let after = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 0)), inline()).unwrap();
    for (version, len) in kept {
        let found = after.fetch(account(1), &id(format!("{version}"))).await.unwrap().unwrap();
        assert_eq!(found.1, bytes_of(version, len));
    }
}

#[tokio::test]
async fn a_write_that_fails_halfway_is_not_acknowledged_and_harms_nothing() {
    for nth in 0..12 {
        let (file, store) = new_store(inline());
        store.commit(vec![put(account(1), "a", 1, bytes_of(1, 200_000))]).await.unwrap();
        file.fail(FileOp::Write, nth, FileFault::Short(ErrorKind::Other));
        let result = store.commit(vec![put(account(1), "b", 2, bytes_of(2, 300_000))]).await;
        let after = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 1)), inline()).unwrap();
        assert_eq!(after.fetch(account(1), &id("a")).await.unwrap().unwrap().1, bytes_of(1, 200_000));
        if result.is_ok() {
            assert_eq!(after.fetch(account(1), &id("b")).await.unwrap().unwrap().1, bytes_of(2, 300_000));
        }
        assert!(after.verify().await.unwrap().is_sound());
    }
}

/// Where in the file these bytes are.
fn find(file: &FaultyFile, needle: &[u8]) -> u64 {
    file.bytes().windows(needle.len()).position(|window| window == needle).unwrap() as u64
}

#[tokio::test]
async fn damage_fails_the_block_that_has_it_and_no_other() {
    let (file, store) = new_store(EmbeddedOptions { cache_bytes: 0, ..inline() });
    for n in 1..=20u64 {
        store.commit(vec![put(account(1), format!("{n}"), n, bytes_of(n, 130_000))]).await.unwrap();
    }
    let at = find(&file, &bytes_of(7, 130_000)[70_000..70_016]);
    file.flip(at * 8 + 3);
    for _ in 0..3 {
        for n in 1..=20u64 {
            let name = id(format!("{n}"));
            match store.fetch(account(1), &name).await {
                Ok(found) => {
                    assert_ne!(n, 7);
                    assert_eq!(found.unwrap().1, bytes_of(n, 130_000));
                }
                Err(error) => assert_eq!((n, error.kind()), (7, StoreErrorKind::Corrupt), "{error}"),
            }
        }
        // Its other rows are sound.
        let part = store.read(account(1), &id("7"), &stored(7, 130_000), &[0..100]).await.unwrap().unwrap();
        assert_eq!(part[0], bytes_of(7, 130_000)[..100]);
    }
    for n in 21..=40u64 {
        store.commit(vec![put(account(1), format!("{n}"), n, bytes_of(n, 9000))]).await.unwrap();
    }
    let report = store.verify().await.unwrap();
    assert_eq!(report.damaged_blocks, [(account(1), id("7"))]);
    assert!(report.structure.is_some() && report.pages_damaged > 0 && report.blocks == 39);
    assert_eq!(store.activity().panics_caught, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_meet_damage_cost_writers_nothing() {
    let (file, store) = new_store(EmbeddedOptions { cache_bytes: 0, ..options() });
    for n in 0..20u64 {
        // Rows before and after it, so that writers need not touch its page.
        let name = if n == 9 { "bad".into() } else { format!("other {n}") };
        store.commit(vec![put(account(9), name, 1000 + n, bytes_of(n, 60_000))]).await.unwrap();
    }
    let at = find(&file, &bytes_of(9, 60_000)[30_000..30_016]);
    file.flip(at * 8);
    let writers: Vec<_> = (0..4u64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..40 {
                    let version = 2000 + writer * 100 + n;
                    let op = put(account(writer as u8), format!("{n}"), version, bytes_of(version, 3000));
                    assert_eq!(store.commit(vec![op]).await.unwrap(), [Applied::Written]);
                }
            })
        })
        .collect();
    let mut met = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let error = store.fetch(account(9), &id("bad")).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
        met += 1;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(met > 0);
    for writer in 0..4u64 {
        for n in 0..40 {
            let found = store.fetch(account(writer as u8), &id(format!("{n}"))).await.unwrap().unwrap();
            assert_eq!(found.1, bytes_of(2000 + writer * 100 + n, 3000));
        }
    }
    assert_eq!(store.activity().panics_caught, 0);
}

#[tokio::test]
async fn a_write_that_the_disk_lost_is_found_by_verify() {
    let mut found = 0;
    for nth in 0..6 {
        let (file, store) = new_store(inline());
        store.commit(vec![put(account(1), "a", 1, bytes_of(1, 100_000))]).await.unwrap();
        file.fail(FileOp::Write, nth, FileFault::Lost);
        let _ = store.commit(vec![put(account(1), "b", 2, bytes_of(2, 100_000))]).await;
        match store.verify().await {
            Ok(report) if report.is_sound() => {
                // Then it was a page that nothing needs, or has been written again since.
                assert_eq!(store.fetch(account(1), &id("b")).await.unwrap().unwrap().1, bytes_of(2, 100_000));
            }
            _ => found += 1,
        }
        assert_eq!(store.activity().panics_caught, 0);
    }
    assert!(found > 0);
}
