//! After a compaction nothing that was removed is in the store's files, whatever fails amid it nothing is lost, and
//! readers go on.

use std::{
    io::{BufRead, BufReader, ErrorKind},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cofferdam_crypto::{Provider, SegmentId, Version};
use cofferdam_store::{
    Applied, BlockMeta, BlockOp, BlockStore, Catalog, EmbeddedOptions, EmbeddedStore, FaultyFile, FileFault,
    FileOp, StoreErrorKind,
};
use cofferdam_vault::Inline;
use tempfile::TempDir;

use crate::embedded_support::{
    model::{Model, lay_open},
    *,
};

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { executor: Arc::new(Inline), ..options() }
}

/// What is written nowhere else.
fn needle(n: u64) -> Bytes {
    bytes_of(0x6e65_6564_6c65_0000 + n, 32)
}

/// Bytes with a needle in the middle of them.
fn around(n: u64, len: usize) -> Bytes {
    let mut bytes = bytes_of(n, len).to_vec();
    let at = (len - 32) / 2;
    bytes[at..at + 32].copy_from_slice(&needle(n));
    bytes.into()
}

fn in_segment(segment: SegmentId, name: &str, version: u64, record: Bytes) -> BlockOp {
    let sealed = around(version, 5000);
    let meta = BlockMeta { provider: Provider::Buffer(segment), ..meta(version, sealed.len()) };
    let (account, id) = (account(1), id(name));
    BlockOp::Buffer { account, id, meta, sealed, limit: UNBOUNDED, segment: Some(record) }
}

/// Writes needles of every kind, calling `look` now and then, and removes the odd ones; how many there are.
async fn fill_and_remove(store: &EmbeddedStore, mut look: impl FnMut()) -> u64 {
    let (a, b) = (account(1), account(2));
    let swap = async |key: &str, new: Option<Bytes>| {
        let expected = store.load(key).await.unwrap().map(|stored| stored.revision);
        store.swap(key, expected.as_ref(), new).await.unwrap();
    };
    // A record that is removed, one that is replaced and comes again, and a large one.
    swap("account/one", Some(around(1, 300))).await;
    swap("account/two", Some(around(3, 300))).await;
    look();
    swap("account/two", Some(around(2, 300))).await;
    swap("account/large", Some(around(5, 50_000))).await;
    // Blocks that are deleted, written anew, sealed anew, drained, discarded.
    store.commit(vec![put(a, "deleted", 7, around(7, 130_000))]).await.unwrap();
    store.commit(vec![put(a, "anew", 9, around(9, 700))]).await.unwrap();
    look();
    store.commit(vec![put(a, "anew", 10, around(10, 70_000))]).await.unwrap();
    store.commit(vec![put(a, "resealed", 11, around(11, 200_000))]).await.unwrap();
    look();
    store.commit(vec![reseal(a, "resealed", 11, 2, around(12, 100_000))]).await.unwrap();
    store.commit(vec![buffer(a, "drained", 15, around(15, 100_000))]).await.unwrap();
    look();
    store.commit(vec![drain(a, "drained", 15, around(16, 100_000), 17)]).await.unwrap();
    store.commit(vec![buffer(a, "discarded", 21, around(21, 5000))]).await.unwrap();
    look();
    store.commit(vec![discard(a, "discarded", 21)]).await.unwrap();
    // Written and deleted in one transaction.
    store.commit(vec![put(a, "brief", 23, around(23, 400)), delete(a, "brief", 25)]).await.unwrap();
    // Segments' records: replaced, and gone with the last block.
    let (kept, gone) = (segment(1), segment(2));
    store.commit(vec![in_segment(kept, "in segment", 26, around(27, 100))]).await.unwrap();
    look();
    assert!(store.replace_segment(a, kept, &around(27, 100), around(28, 100)).await.unwrap());
    store.commit(vec![in_segment(gone, "was in segment", 29, around(31, 100))]).await.unwrap();
    look();
    store.commit(vec![delete(a, "was in segment", 33)]).await.unwrap();
    // An account that goes whole.
    for (n, len) in [(35, 100), (37, 61_440), (39, 300_000)] {
        store.commit(vec![put(b, format!("{n}"), n, around(n, len))]).await.unwrap();
    }
    store.commit(vec![buffer(b, "41", 41, around(41, 90_000))]).await.unwrap();
    // Small ones that share pages with others which stay.
    for n in 43..123 {
        store.commit(vec![put(a, format!("small {n}"), n, around(n, 200))]).await.unwrap();
    }
    look();
    swap("account/one", None).await;
    swap("account/large", None).await;
    store.commit(vec![delete(a, "deleted", 124)]).await.unwrap();
    let removals = (43..123).step_by(2).map(|n| delete(a, format!("small {n}"), 125 + n));
    store.commit(removals.collect()).await.unwrap();
    while store.remove_blocks(b, 2).await.unwrap() > 0 {}
    123
}

/// The needles that are in these bytes, of all that there were.
fn found_in(files: &[Vec<u8>], needles: u64) -> Vec<u64> {
    let all: Vec<Bytes> = (0..needles).map(needle).collect();
    let begins = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    let mut beginnings = vec![false; 1 << 16];
    all.iter().for_each(|needle| beginnings[begins(needle)] = true);
    let mut found = std::collections::BTreeSet::new();
    for file in files {
        // As it is, and without the checksums that part the pages of one row.
        let pages = file.get(12_288..).unwrap_or_default().chunks(4104);
        let joined: Vec<u8> = pages.flat_map(|page| &page[..page.len().min(4096)]).copied().collect();
        for window in file.windows(32).chain(joined.windows(32)).filter(|window| beginnings[begins(window)]) {
            found.extend(all.iter().position(|needle| needle == window).map(|n| n as u64));
        }
    }
    found.into_iter().collect()
}

fn files_in(folder: &Path) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

fn assert_only_live(before: &[u64], after: &[u64]) {
    // Freed pages are used again, so not all of them.
    let left = before.iter().filter(|n| *n % 2 == 1).count();
    assert!(left > 10 && [5, 7, 37].iter().all(|n| before.contains(n)), "nothing to remove: {before:?}");
    assert!(after.iter().all(|n| n % 2 == 0), "left: {after:?}");
    let live = |found: &[u64]| found.iter().copied().filter(|n| n % 2 == 0).collect::<Vec<_>>();
    assert_eq!(live(before), live(after), "what was not removed");
    assert!(after.len() >= 46, "{after:?}");
}

#[tokio::test]
async fn nothing_that_was_removed_is_in_the_file_after_a_compaction() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.store");
    let store = EmbeddedStore::create(&path, inline()).unwrap();
    let needles = fill_and_remove(&store, || {}).await;
    let (before, size) =
        (found_in(&files_in(folder.path()), needles), std::fs::metadata(&path).unwrap().len());
    let version = store.last_version().await.unwrap();
    let mut all = lay_open_without_change(&store).await;
    store.compact().await.unwrap();
    let after = found_in(&files_in(folder.path()), needles);
    println!("{} needles before, {} after", before.len(), after.len());
    assert_only_live(&before, &after);
    assert!(std::fs::metadata(&path).unwrap().len() < size);
    assert_eq!(files_in(folder.path()).len(), 1);
    assert_eq!(store.last_version().await.unwrap(), version);
    assert_eq!(lay_open_without_change(&store).await, all);
    assert!(store.verify().await.unwrap().is_sound());
    // It goes on, and is the same when it is opened again.
    store.commit(vec![put(account(1), "new", 1000, bytes_of(1, 90_000))]).await.unwrap();
    all = lay_open_without_change(&store).await;
    store.close().await.unwrap();
    let store = EmbeddedStore::open(&path, inline()).unwrap();
    assert_eq!(lay_open_without_change(&store).await, all);
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn nothing_that_was_removed_is_in_a_file_layer_after_a_compaction() {
    let file = FaultyFile::new();
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), inline()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let needles = fill_and_remove(&store, || seen.extend(found_in(&file.all_bytes(), 200))).await;
    let odd: Vec<u64> = seen.into_iter().filter(|n| n % 2 == 1).collect();
    let all = [1, 3, 5, 7, 9, 11, 15, 21, 27, 29, 31, 35, 37, 39, 41].into_iter().chain((43..123).step_by(2));
    assert_eq!(odd, all.collect::<Vec<_>>(), "each was in the file once");
    let before = found_in(&file.all_bytes(), needles);
    store.compact().await.unwrap();
    assert_only_live(&before, &found_in(&file.all_bytes(), needles));
    assert_eq!(file.all_bytes().len(), 1);
    // Not even the power brings it back.
    let after = file.after_crash(|| 0);
    assert_only_live(&before, &found_in(&after.all_bytes(), needles));
}

/// All that two accounts have, with the records, as a reader sees it.
async fn lay_open_without_change(store: &EmbeddedStore) -> Vec<String> {
    let mut all = Vec::new();
    for account in [account(1), account(2)] {
        for (id, meta) in store.stored(account, None, usize::MAX).await.unwrap() {
            let fetched = store.fetch_stored(account, &id).await.unwrap();
            all.push(format!("{id} {meta:?} {fetched:?}"));
        }
        for (id, at) in BlockStore::list(store, account, None, usize::MAX).await.unwrap() {
            all.push(format!("{id} {at:?} {:?}", store.fetch(account, &id).await.unwrap()));
        }
        all.push(format!("{:?}", store.buffer_usage(account).await.unwrap()));
        for (segment, row) in store.segments(account, None, usize::MAX).await.unwrap() {
            all.push(format!("{segment} {} {:?}", row.blocks, row.record));
        }
    }
    for (key, stored) in Catalog::list(store, "", None, usize::MAX).await.unwrap() {
        all.push(format!("{key} {:?} {:?}", stored.revision, stored.bytes));
    }
    all
}

fn batches() -> Vec<BlockOp> {
    let (a, b) = (account(1), account(2));
    vec![
        put(a, "x", 1, bytes_of(1, 70_000)),
        put(b, "x", 2, bytes_of(2, 300)),
        buffer(a, "x", 3, bytes_of(3, 80_000)),
        buffer(b, "y", 4, bytes_of(4, 10)),
        put(a, "z", 6, bytes_of(6, 200_000)),
        delete(a, "z", 7),
        reseal(b, "x", 2, 9, bytes_of(8, 30)),
    ]
}

/// A store with a little of everything, and the file that it is in.
async fn small_store() -> (FaultyFile, EmbeddedStore, Model) {
    let file = FaultyFile::new();
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), inline()).unwrap();
    let mut model = Model::default();
    for op in batches() {
        model.commit(std::slice::from_ref(&op)).unwrap();
        store.commit(vec![op]).await.unwrap();
    }
    store.swap("record", None, Some("a record".into())).await.unwrap();
    model.records.insert("record".into(), "a record".into());
    (file, store, model)
}

async fn assert_holds(file: FaultyFile, model: &Model, what: &str) {
    let store = EmbeddedStore::open_on(Arc::new(file.clone()), inline())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(file.all_bytes().len(), 1, "{what}: what the compaction left is removed");
    model.assert_seen_in(&store, &[account(1), account(2)], what).await;
    model.assert_verifies(&store, what).await;
    assert!(lay_open(&store, &[account(1), account(2)]).await == *model, "{what}");
    assert_eq!(store.activity().panics_caught, 0, "{what}");
}

#[tokio::test]
async fn a_power_failure_at_any_step_of_a_compaction_leaves_the_old_file_or_the_new_one_whole() {
    let ways = if std::env::var_os("COFFERDAM_FULL").is_some() { 200 } else { 12 };
    let (mut steps, mut crashes, mut rng) = (0, 0, Rng(17));
    loop {
        let (file, store, model) = small_store().await;
        file.power_off_after(steps);
        let done = store.compact().await.is_ok();
        for way in 0..ways {
            let after = match way {
                // Nothing that was not synced, and all of it.
                0 => file.after_crash(|| 0),
                1 => file.after_crash(|| 4 * 5 + 1),
                _ => file.after_crash(|| rng.next()),
            };
            assert_holds(after, &model, &format!("step {steps}, way {way}")).await;
            crashes += 1;
        }
        if done && !file.is_off() {
            break;
        }
        steps += 1;
    }
    println!("{steps} steps of a compaction, {crashes} power failures, 0 lost");
    assert!(steps > 10, "{steps}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_the_old_file_in_use() {
    let (file, store, mut model) = small_store().await;
    let (allocated, what) = (file.allocated(), "on a full disk");
    let mut refused = 0;
    for room in (0..).map(|n| n * 8 * 4096) {
        file.set_capacity(Some(allocated + room));
        match store.compact().await {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Full, "{error}"),
        }
        refused += 1;
        assert_eq!(file.all_bytes().len(), 1, "the new file is removed");
        model.assert_seen_in(&store, &[account(1), account(2)], what).await;
    }
    assert!(refused > 3, "{refused}");
    file.set_capacity(None);
    let op = put(account(1), "new", 100, bytes_of(100, 90_000));
    model.commit(std::slice::from_ref(&op)).unwrap();
    store.commit(vec![op]).await.unwrap();
    assert_holds(file.after_crash(|| 0), &model, what).await;
}

/// Which of its operations fails, and whether the store goes on after it.
#[tokio::test]
async fn a_failure_before_the_change_of_files_leaves_the_old_one_in_use_and_one_after_it_poisons_the_handle()
{
    let io = FileFault::Error(ErrorKind::Other);
    for (op, nth, fault) in [
        (FileOp::Beside, 0, io),
        (FileOp::Write, 0, io),
        (FileOp::Write, 7, FileFault::Short(ErrorKind::Other)),
        (FileOp::SetLen, 1, io),
        (FileOp::Sync, 0, io),
        (FileOp::Sync, 0, FileFault::Short(ErrorKind::Other)),
        (FileOp::Read, 2, io),
        (FileOp::Replace, 0, io),
        (FileOp::Replace, 0, FileFault::Error(ErrorKind::StorageFull)),
        (FileOp::SyncPlace, 0, io),
    ] {
        let what = format!("{op:?} {nth}, {fault:?}");
        let (file, store, mut model) = small_store().await;
        file.fail(op, nth, fault);
        let error = match store.compact().await {
            Err(error) => error,
            // A read of what is in memory fails nobody.
            Ok(()) if op == FileOp::Read => continue,
            Ok(()) => panic!("{what}: it did not fail"),
        };
        let full = fault == FileFault::Error(ErrorKind::StorageFull);
        let kind = if full { StoreErrorKind::Full } else { StoreErrorKind::Io };
        assert_eq!(error.kind(), kind, "{what}: {error}");
        let op_after = put(account(1), "new", 100, bytes_of(100, 90_000));
        if op == FileOp::SyncPlace {
            let refused = store.commit(vec![op_after]).await.unwrap_err();
            assert_eq!(refused.kind(), StoreErrorKind::Poisoned, "{what}");
            assert_eq!(store.compact().await.unwrap_err().kind(), StoreErrorKind::Poisoned, "{what}");
        } else {
            assert_eq!(file.all_bytes().len(), 1, "{what}: the new file is removed");
            model.assert_seen_in(&store, &[account(1), account(2)], &what).await;
            model.commit(std::slice::from_ref(&op_after)).unwrap();
            store.commit(vec![op_after]).await.unwrap();
            store.compact().await.unwrap();
            model.assert_seen_in(&store, &[account(1), account(2)], &what).await;
        }
        for keep in [0, 1] {
            assert_holds(file.after_crash(|| keep), &model, &what).await;
        }
    }
}

#[tokio::test]
async fn a_compaction_of_an_empty_store_or_a_closed_one_is_no_trouble() {
    let store = EmbeddedStore::create_on(Arc::new(FaultyFile::new()), inline()).unwrap();
    store.compact().await.unwrap();
    store.commit(vec![put(account(1), "x", 1, bytes_of(1, 10))]).await.unwrap();
    store.compact().await.unwrap();
    assert_eq!(store.fetch(account(1), &id("x")).await.unwrap(), Some((stored(1, 10), bytes_of(1, 10))));
    assert_eq!(store.last_version().await.unwrap(), Version::new(1));
    store.close().await.unwrap();
    assert_eq!(store.compact().await.unwrap_err().kind(), StoreErrorKind::Closed);
}

#[tokio::test]
async fn damage_is_refused_and_the_old_file_stays() {
    let (file, store, _) = small_store().await;
    let sealed = bytes_of(1, 70_000);
    let bytes = file.bytes();
    let at = bytes.windows(32).position(|window| window == &sealed[30_000..30_032]).unwrap();
    file.flip(at as u64 * 8);
    store.close().await.unwrap();
    let store = EmbeddedStore::open_on(Arc::new(file.clone()), inline()).unwrap();
    assert_eq!(store.compact().await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(file.all_bytes().len(), 1);
    assert_eq!(store.fetch_stored(account(2), &id("x")).await.unwrap().unwrap().1, bytes_of(8, 30));
    assert_eq!(
        store.commit(vec![put(account(1), "new", 100, bytes_of(100, 9))]).await.unwrap(),
        [Applied::Written]
    );
    assert_eq!(store.activity().panics_caught, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_go_on_through_compactions_and_no_write_is_lost() {
    let folder = TempDir::new().unwrap();
    let store = EmbeddedStore::create(folder.path().join("a.store"), options()).unwrap();
    for n in 1..=100u64 {
        store.commit(vec![put(account(9), format!("{n}"), n, bytes_of(n, 20_000))]).await.unwrap();
    }
    let (done, versions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1000)));
    let mut tasks = Vec::new();
    for reader in 0..2u64 {
        let (store, done) = (store.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let n = 1 + (reads * 7 + reader) % 100;
                let found = store.fetch(account(9), &id(format!("{n}"))).await.unwrap().unwrap();
                assert_eq!(found.1, bytes_of(n, 20_000));
                reads += 1;
            }
            reads
        }));
    }
    for writer in 0..2u8 {
        let (store, done, versions) = (store.clone(), done.clone(), versions.clone());
        tasks.push(tokio::spawn(async move {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                let version = versions.fetch_add(1, Ordering::Relaxed);
                let op = put(account(writer), format!("{written}"), version, bytes_of(version, 1000));
                assert_eq!(store.commit(vec![op]).await.unwrap(), [Applied::Written]);
                let found = store.fetch(account(writer), &id(format!("{written}"))).await.unwrap().unwrap();
                assert_eq!(found.1, bytes_of(version, 1000));
                written += 1;
            }
            written
        }));
    }
    for _ in 0..20 {
        let both = tokio::join!(store.compact(), store.compact());
        both.0.and(both.1).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let mut counts = Vec::new();
    for task in tasks {
        counts.push(task.await.unwrap());
    }
    println!("reads and writes through 20 compactions: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0));
    for writer in 0..2 {
        let blocks = store.stored(account(writer), None, usize::MAX).await.unwrap();
        assert_eq!(blocks.len() as u64, counts[2 + usize::from(writer)]);
    }
    assert!(store.verify().await.unwrap().is_sound());
    assert_eq!(files_in(folder.path()).len(), 1);
}

const CHILD: &str = "COFFERDAM_TEST_COMPACTING_STORE";

/// The other process: this test, run again. It writes, compacts and says so until it is killed.
#[cfg(unix)]
#[tokio::test]
async fn a_process_that_is_killed_amid_compactions_leaves_all_that_it_acknowledged_and_one_file() {
    if let Some(path) = std::env::var_os(CHILD) {
        let store = EmbeddedStore::open(path, inline()).unwrap();
        let first = store.last_version().await.unwrap().number() + 1;
        for version in first.. {
            let name = format!("{}", version % 40);
            store.commit(vec![put(account(1), name, version, bytes_of(version, 5000))]).await.unwrap();
            println!("\nwrote {version}");
            store.compact().await.unwrap();
        }
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.store");
    EmbeddedStore::create(&path, inline()).unwrap().close().await.unwrap();
    let (mut rng, mut left_behind) = (Rng(23), 0);
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "compaction::a_process_that_is_killed_amid_compactions_leaves_all_that_it_acknowledged_and_one_file",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut wrote = lines.filter_map(|line| line.strip_prefix("wrote ")?.parse::<u64>().ok());
        let last = wrote.nth(rng.below(30) as usize).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        left_behind += files_in(folder.path()).len() - 1;
        let store = EmbeddedStore::open(&path, inline()).unwrap();
        assert_eq!(files_in(folder.path()).len(), 1, "round {round}");
        let highest = store.last_version().await.unwrap().number();
        assert!(highest >= last, "round {round}: {last} was acknowledged and {highest} is there");
        for version in highest.saturating_sub(39).max(1)..=highest {
            let found = store.fetch(account(1), &id(format!("{}", version % 40))).await.unwrap().unwrap();
            assert_eq!(found, (stored(version, 5000), bytes_of(version, 5000)), "round {round}");
        }
        assert!(store.verify().await.unwrap().is_sound());
        store.close().await.unwrap();
    }
    println!("12 kills, {left_behind} amid a compaction");
}

#[cfg(unix)]
#[tokio::test]
async fn the_new_file_is_locked_as_the_old_one_was_and_has_its_permissions_and_a_link_to_it_stays() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = TempDir::new().unwrap();
    let (real, link) = (folder.path().join("real.store"), folder.path().join("link.store"));
    EmbeddedStore::create(&real, inline()).unwrap().close().await.unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&real, &link).unwrap();
    // What an earlier process left.
    std::fs::write(folder.path().join(".real.store.compacting"), b"left").unwrap();
    let store = EmbeddedStore::open(&link, inline()).unwrap();
    assert_eq!(files_in(folder.path()).len(), 2);
    store.commit(vec![put(account(1), "x", 1, bytes_of(1, 10))]).await.unwrap();
    for _ in 0..3 {
        store.compact().await.unwrap();
        for path in [&real, &link] {
            let other = EmbeddedStore::open(path, inline()).unwrap_err();
            assert_eq!(other.kind(), StoreErrorKind::Locked);
        }
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    }
    store.close().await.unwrap();
    let store = EmbeddedStore::open(&real, inline()).unwrap();
    assert_eq!(store.fetch(account(1), &id("x")).await.unwrap().unwrap().1, bytes_of(1, 10));
}
