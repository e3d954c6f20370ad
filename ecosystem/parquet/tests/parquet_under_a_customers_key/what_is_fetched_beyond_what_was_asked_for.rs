use std::{ops::Range, sync::Arc};

use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetObjectReader};

use super::{COLUMNS, GROUPS, path, read_and_check, world::*, write};

/// The page size that a store is given by itself, and the tag of a page.
const PAGE: u64 = 64 << 10;
const TAG: u64 = 16;

/// What is read of the file, and how much may be fetched beyond it, in percent.
const READS: [(&str, Range<usize>, Range<usize>, u64); 4] = [
    ("the whole file", 0..COLUMNS.len(), 0..GROUPS, 4),
    ("one row group", 0..COLUMNS.len(), 2..3, 10),
    ("a wide column of all row groups", 4..5, 0..GROUPS, 6),
    ("a narrow column of one row group", 3..4, 1..2, 150),
];

#[tokio::test(start_paused = true)]
async fn is_at_most_three_pages_a_request() {
    let world = World::new(7071).await;
    let inner = Arc::new(InMemory::new());
    write(&world.over(inner.clone()).await).await.unwrap();
    let plain = Arc::new(InMemory::new());
    write(&(plain.clone() as Arc<dyn ObjectStore>)).await.unwrap();
    let len = plain.head(&path()).await.unwrap().size;
    println!("a file of {len} bytes, {GROUPS} row groups, {} columns, pages of {PAGE} bytes", COLUMNS.len());

    let far = Watched::far(inner);
    let asking = Watched::near(world.over(far.clone()).await);
    let far_plain = Watched::far(plain);
    let (encrypted, plain): (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>) =
        (asking.clone(), far_plain.clone());
    // The first read of a store also reads its marker.
    read_and_check(&encrypted, 0..1, 0..1).await.unwrap();
    for (what, columns, groups, most) in READS {
        for watched in [&asking, &far, &far_plain] {
            watched.taken();
        }
        read_and_check(&encrypted, columns.clone(), groups.clone()).await.unwrap();
        read_and_check(&plain, columns, groups).await.unwrap();
        let (asked, fetched, fetched_plain) = (asking.taken(), far.taken(), far_plain.taken());
        let beyond = |fetched: u64| (fetched as f64 / asked.bytes as f64 - 1.0) * 100.0;
        println!(
            "{what}: asked for {} bytes in {} ranges; fetched {} in {} requests, {:.1}% beyond; of the plain store {} in {}, {:.1}%",
            asked.bytes,
            asked.gets,
            fetched.bytes,
            fetched.gets,
            beyond(fetched.bytes),
            fetched_plain.bytes,
            fetched_plain.gets,
            beyond(fetched_plain.bytes),
        );
        assert!(beyond(fetched.bytes) <= most as f64, "{what}: more than {most}% beyond");
        // Each request is for whole pages with their tags, after less than a page before them.
        let pages = fetched.bytes / PAGE + 1;
        let bound = fetched_plain.bytes + fetched.gets * 3 * (PAGE + TAG) + pages * TAG;
        assert!(fetched.bytes <= bound, "{what}: {} bytes, at most {bound}", fetched.bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_footer_asked_for_by_the_page_costs_one_request_and_no_more_bytes() {
    let world = World::new(7072).await;
    let far = Watched::far(Arc::new(InMemory::new()));
    let store = world.over(far.clone()).await;
    write(&store).await.unwrap();
    let plain = ParquetObjectReader::new(store, path());
    let mut costs = Vec::new();
    for mut reader in [plain.clone().with_footer_size_hint(PAGE as usize), plain] {
        // The first time the object's header is fetched as well.
        reader.get_metadata(None).await.unwrap();
        far.taken();
        reader.get_metadata(None).await.unwrap();
        costs.push(far.taken());
    }
    println!("by the page {:?}, by itself {:?}", costs[0], costs[1]);
    assert_eq!(costs[0].gets, 1);
    assert!(costs[1].gets > 1 && costs[0].bytes <= costs[1].bytes, "{costs:?}");
}
