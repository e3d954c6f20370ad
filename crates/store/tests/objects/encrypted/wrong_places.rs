//! An object opens as what was written at its path, whole and unchanged, or not at all.

use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, path::Path};

use super::world::{World, bytes, said};

const STRIDE: usize = 4096 + 16;

/// That neither it nor any of its ranges gives a byte.
async fn is_refused(world: &World, path: &str, len: u64) -> String {
    let store = world.another().await;
    let path = Path::from(path);
    let whole = match store.get(&path).await {
        Ok(got) => got.bytes().await,
        Err(e) => Err(e),
    };
    let (_, name) = said(whole);
    if len > 0 {
        let ranges = said(store.get_ranges(&path, &[0..1, len - 1..len]).await);
        assert_eq!(ranges.1, name);
    }
    name
}

#[tokio::test(start_paused = true)]
async fn moved_and_swapped_objects_do_not_open() {
    let world = World::new().await;
    world.put("a", &bytes(1, 10_000)).await;
    world.put("b", &bytes(2, 10_000)).await;
    let (a, b) = (world.stored("a").await, world.stored("b").await);
    world.store_raw("moved/a", a.clone()).await;
    assert_eq!(is_refused(&world, "moved/a", 10_000).await, "Damaged");
    world.store_raw("a", b.clone()).await;
    world.store_raw("b", a.clone()).await;
    assert_eq!(is_refused(&world, "a", 10_000).await, "Damaged");
    assert_eq!(is_refused(&world, "b", 10_000).await, "Damaged");
    // A byte copy by the store below is a move too.
    world.store_raw("a", a.clone()).await;
    world.below.copy(&Path::from("a"), &Path::from("c")).await.unwrap();
    assert_eq!(is_refused(&world, "c", 10_000).await, "Damaged");
    assert!(world.get("a").await.unwrap() == bytes(1, 10_000));
}

#[tokio::test(start_paused = true)]
async fn the_header_of_another_writing_opens_nothing() {
    let world = World::new().await;
    world.put("a", &bytes(1, 10_000)).await;
    let first = world.stored("a").await;
    world.put("a", &bytes(2, 10_000)).await;
    let second = world.stored("a").await;
    world.store_raw("a", [&first[..76], &second[76..]].concat()).await;
    assert_eq!(is_refused(&world, "a", 10_000).await, "Damaged");
    // And pages of another writing don't stand in for its own.
    for page in 0..2 {
        let mut mixed = second.to_vec();
        let at = 76 + page * STRIDE;
        mixed[at..at + STRIDE].copy_from_slice(&first[at..at + STRIDE]);
        world.store_raw("a", mixed).await;
        let got = world.another().await.get(&Path::from("a")).await.unwrap().bytes().await;
        assert_eq!(said(got).1, "Damaged", "page {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_cut_off_at_a_pages_end_or_anywhere_does_not_open() {
    let world = World::new().await;
    let plain = bytes(1, 3 * 4096 + 100);
    world.put("a", &plain).await;
    let stored = world.stored("a").await;
    for pages in 1..=3 {
        world.store_raw("a", stored.slice(..76 + pages * STRIDE)).await;
        let store = world.another().await;
        let path = Path::from("a");
        let cut = store.get(&path).await.unwrap().bytes().await;
        assert_eq!(said(cut).1, "Damaged", "{pages} pages");
        let tail = GetOptions::new().with_range(Some(GetRange::Suffix(10)));
        let cut = store.get_opts(&path, tail).await.unwrap().bytes().await;
        assert_eq!(said(cut).1, "Damaged", "the end of {pages} pages");
        // A page before the new end opens as what it is; the length is not proved by that.
        if pages > 1 {
            assert_eq!(store.get_range(&path, 0..10).await.unwrap(), plain[..10]);
        }
    }
    for len in [0, 1, 75, 76, 91, 92, 100, stored.len() - 1] {
        world.store_raw("a", stored.slice(..len)).await;
        let name = is_refused(&world, "a", 0).await;
        assert!(["Damaged", "NotEncrypted"].contains(&&*name), "{len} bytes: {name}");
    }
    world.store_raw("a", [&stored[..], &[0]].concat()).await;
    assert_eq!(is_refused(&world, "a", 0).await, "Damaged");
}

#[tokio::test(start_paused = true)]
async fn pages_that_change_places_do_not_open() {
    let world = World::new().await;
    world.put("a", &bytes(1, 4 * 4096)).await;
    let stored = world.stored("a").await.to_vec();
    for (one, other) in [(0, 1), (1, 2), (0, 3), (2, 3)] {
        let mut swapped = stored.clone();
        let (a, b) = (76 + one * STRIDE, 76 + other * STRIDE);
        swapped[a..a + STRIDE].copy_from_slice(&stored[b..b + STRIDE]);
        swapped[b..b + STRIDE].copy_from_slice(&stored[a..a + STRIDE]);
        world.store_raw("a", swapped).await;
        let got = world.another().await.get(&Path::from("a")).await.unwrap().bytes().await;
        assert_eq!(said(got).1, "Damaged", "{one} and {other}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_flipped_byte_goes_unnoticed() {
    let world = World::new().await;
    world.put("a", b"a small object").await;
    let stored = world.stored("a").await;
    for at in 0..stored.len() {
        for bit in [1, 0x80] {
            let mut flipped = stored.to_vec();
            flipped[at] ^= bit;
            world.store_raw("a", flipped).await;
            let name = is_refused(&world, "a", 14).await;
            let expected: &[&str] = match at {
                // Of the header: kind of file, format, suite, provider, page size; then the epoch.
                0..8 => &["NotEncrypted", "Damaged", "UnknownEpoch"],
                8..12 => &["UnknownEpoch"],
                _ => &["Damaged"],
            };
            assert!(expected.contains(&&*name), "byte {at}: {name}");
        }
    }
    world.store_raw("a", stored).await;
    assert_eq!(world.get("a").await.unwrap(), "a small object");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_page_is_given_before_it_opened() {
    let world = World::new().await;
    let plain = bytes(1, 5 * 4096);
    world.put("a", &plain).await;
    let mut stored = world.stored("a").await.to_vec();
    let last = 76 + 3 * STRIDE - 1;
    stored[last] ^= 1;
    world.store_raw("a", stored).await;
    let mut stream = world.another().await.get(&Path::from("a")).await.unwrap().into_stream();
    let (mut given, mut error) = (Vec::new(), None);
    while let Some(chunk) = futures_util::StreamExt::next(&mut stream).await {
        match chunk {
            Ok(chunk) => given.extend_from_slice(&chunk),
            Err(e) => error = Some(e),
        }
    }
    assert!(given == plain[..2 * 4096], "two pages open before the one that does not, and nothing after it");
    assert_eq!(said::<()>(Err(error.unwrap())).1, "Damaged");
}
