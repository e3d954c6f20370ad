//! A range of an object is what the plain store gives, and costs the pages that it lies in.

use std::{mem::discriminant, sync::Arc};

use bytes::Bytes;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::world::{PAGE, World, bytes};

#[tokio::test(start_paused = true)]
async fn ranges_of_every_form_are_those_of_the_plain_store() {
    let seed = 0xc0ff_e12d;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    let plain = Arc::new(InMemory::new());
    for len in [0, 1, 100, 4095, 4096, 4097, 12_288, 70_000, 200_001] {
        let path = Path::from("a");
        let content = Bytes::from(bytes(len, len as usize));
        plain.put(&path, content.clone().into()).await.unwrap();
        world.put("a", &content).await;
        for _ in 0..200 {
            // Every other time by who has no header yet.
            let store = if rng.random() { world.store.clone() } else { world.another().await };
            let at = |rng: &mut StdRng| match rng.random_range(0..3) {
                0 => rng.random_range(0..=len + 2),
                1 => rng.random_range(0..=len / PAGE + 1) * PAGE + rng.random_range(0..3),
                _ => (rng.random_range(0..=len / PAGE + 1) * PAGE).saturating_sub(rng.random_range(0..3)),
            };
            let range = match rng.random_range(0..3) {
                0 => GetRange::Bounded(at(&mut rng)..at(&mut rng)),
                1 => GetRange::Offset(at(&mut rng)),
                _ => GetRange::Suffix(at(&mut rng)),
            };
            let options = GetOptions::new().with_range(Some(range.clone()));
            let what = format!("{range:?} of {len}");
            match (plain.get_opts(&path, options.clone()).await, store.get_opts(&path, options).await) {
                (Ok(plain), Ok(opened)) => {
                    assert_eq!(
                        (plain.range.clone(), plain.meta.size),
                        (opened.range.clone(), opened.meta.size),
                        "{what}"
                    );
                    assert!(plain.bytes().await.unwrap() == opened.bytes().await.unwrap(), "{what}");
                }
                (Err(plain), Err(opened)) => {
                    assert_eq!(discriminant(&plain), discriminant(&opened), "{what}: {plain} {opened}");
                    // In terms of the plaintext.
                    assert_eq!(
                        plain.to_string().rsplit(": ").next(),
                        opened.to_string().rsplit(": ").next(),
                        "{what}"
                    );
                }
                (plain, opened) => panic!("{what}: {plain:?} and {opened:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn several_ranges_are_those_of_the_plain_store() {
    let seed = 0xc0ff_e12e;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    let plain = Arc::new(InMemory::new());
    for len in [1, 4096, 70_000, 200_001] {
        let path = Path::from("a");
        let content = Bytes::from(bytes(len, len as usize));
        plain.put(&path, content.clone().into()).await.unwrap();
        world.put("a", &content).await;
        for _ in 0..100 {
            let store = if rng.random() { world.store.clone() } else { world.another().await };
            let ranges: Vec<_> = (0..rng.random_range(0..8))
                .map(|_| {
                    let start = rng.random_range(0..=len);
                    start..start + rng.random_range(0..10_000)
                })
                .collect();
            match (plain.get_ranges(&path, &ranges).await, store.get_ranges(&path, &ranges).await) {
                (Ok(plain), Ok(opened)) => assert!(plain == opened, "{ranges:?} of {len}"),
                (Err(plain), Err(opened)) => {
                    assert_eq!(discriminant(&plain), discriminant(&opened), "{ranges:?} of {len}");
                }
                (plain, opened) => panic!("{ranges:?} of {len}: {plain:?} and {opened:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_costs_its_pages_and_the_header_once() {
    let world = World::new().await;
    let content = bytes(1, 1 << 20);
    world.put("a", &content).await;
    let path = Path::from("a");
    let store = world.another().await;
    let read = async |range: std::ops::Range<u64>| {
        let expected = content[range.start as usize..range.end as usize].to_vec();
        assert!(store.get_range(&path, range).await.unwrap() == expected);
        world.watched.read()
    };
    world.watched.read();
    let (far, page) = (500_000, 4096 + 16);
    assert_eq!(read(far..far + 1).await, (2, page + 76), "the header is not known yet");
    assert_eq!(read(far..far + 1).await, (1, page));
    // 122 * 4096 = 499,712.
    assert_eq!(read(499_712..499_712 + 8192).await, (1, 2 * page));
    assert_eq!(read(499_711..499_713).await, (1, 2 * page));
    assert_eq!(read(0..10).await, (1, page + 76), "together with the header");
    let tail = store.get_opts(&path, GetOptions::new().with_range(Some(GetRange::Suffix(8)))).await.unwrap();
    assert!(tail.bytes().await.unwrap() == content[content.len() - 8..]);
    let (requests, fetched) = world.watched.read();
    assert_eq!(requests, 1);
    assert!(fetched < 2 * page + 76 + 32, "{fetched}");

    // Close ones share a page, and none is read twice.
    let ranges = [0..1, 2..3, 0..5, 500_000..500_001, 499_999..500_003];
    let parts = store.get_ranges(&path, &ranges).await.unwrap();
    for (range, part) in ranges.into_iter().zip(parts) {
        assert!(part == content[range.start as usize..range.end as usize]);
    }
    assert_eq!(world.watched.read(), (1, 2 * page));

    // Who wrote it knows its header.
    let got = world.store.get_range(&path, far..far + 1).await.unwrap();
    assert!(got == content[far as usize..far as usize + 1]);
    assert_eq!(world.watched.read(), (1, page));
}
