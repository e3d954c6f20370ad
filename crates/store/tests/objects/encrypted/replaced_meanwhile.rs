//! An object that is replaced while it is read is read as one or the other, never as a mixture.

use bytes::Bytes;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, path::Path};

use super::world::{World, bytes, said};

/// Two objects that were stored at the same path, as they are stored.
async fn two(world: &World, one: usize, other: usize) -> (Bytes, Bytes) {
    world.put("a", &bytes(1, one)).await;
    let first = world.stored("a").await;
    world.put("a", &bytes(2, other)).await;
    let second = world.stored("a").await;
    world.store_raw("a", first.clone()).await;
    (first, second)
}

#[tokio::test(start_paused = true)]
async fn a_header_that_was_kept_of_another_is_not_used() {
    for (one, other) in [(200_000, 200_000), (200_000, 120_000), (120_000, 200_000)] {
        let world = World::new().await;
        world.put("a", &bytes(1, one)).await;
        let path = Path::from("a");
        let reader = world.another().await;
        assert!(reader.get_range(&path, 100_000..100_010).await.unwrap() == bytes(1, one)[100_000..100_010]);
        assert!(
            reader.get_ranges(&path, &[100_000..100_010]).await.unwrap()[0]
                == bytes(1, one)[100_000..100_010]
        );
        world.put("a", &bytes(2, other)).await;
        let second = bytes(2, other);
        assert!(reader.get_range(&path, 100_000..100_010).await.unwrap() == second[100_000..100_010]);
        let world_path = Path::from("a");
        assert!(
            reader.get_ranges(&world_path, &[0..5, 100_000..100_010]).await.unwrap()[1]
                == second[100_000..100_010]
        );
        world.put("a", &bytes(3, one)).await;
        let third = bytes(3, one);
        // A range that only the new one has, asked of who remembers the old one.
        let most = one as u64;
        assert!(reader.get_ranges(&path, &[most - 10..most]).await.unwrap()[0] == third[one - 10..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_whose_header_is_another_objects_by_then_is_read_again() {
    let world = World::new().await;
    let (_, second) = two(&world, 200_000, 200_000).await;
    let reader = world.another().await;
    world.watched.read();
    // The pages come first, then the header.
    let replace = second.clone();
    world.watched.before_get(1, move |below| {
        futures_util::FutureExt::now_or_never(below.put(&Path::from("a"), replace.clone().into()))
            .unwrap()
            .unwrap();
    });
    let got = reader.get_range(&Path::from("a"), 100_000..100_010).await.unwrap();
    assert!(got == bytes(2, 200_000)[100_000..100_010]);
    assert_eq!(world.watched.read().0, 4);
}

#[tokio::test(start_paused = true)]
async fn several_ranges_are_of_one_object() {
    let world = World::new().await;
    let (_, second) = two(&world, 200_000, 150_000).await;
    let reader = world.another().await;
    let replace = second.clone();
    world.watched.before_get(1, move |below| {
        futures_util::FutureExt::now_or_never(below.put(&Path::from("a"), replace.clone().into()))
            .unwrap()
            .unwrap();
    });
    let got = reader.get_ranges(&Path::from("a"), &[10..20, 140_000..140_010]).await.unwrap();
    let plain = bytes(2, 150_000);
    assert!(got[0] == plain[10..20] && got[1] == plain[140_000..140_010]);
}

#[tokio::test(start_paused = true)]
async fn who_asked_for_one_object_is_told_that_it_is_another() {
    let world = World::new().await;
    let (_, second) = two(&world, 200_000, 200_000).await;
    let path = Path::from("a");
    let reader = world.another().await;
    let tag = reader.head(&path).await.unwrap().e_tag;
    world.watched.before_get(1, move |below| {
        futures_util::FutureExt::now_or_never(below.put(&Path::from("a"), second.clone().into()))
            .unwrap()
            .unwrap();
    });
    let options = GetOptions::new().with_range(Some(100_000..100_010)).with_if_match(tag);
    let gone = reader.get_opts(&path, options).await.unwrap_err();
    assert!(matches!(gone, object_store::Error::Precondition { .. }), "{gone}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_never_stays_is_given_up() {
    let world = World::new().await;
    let (first, second) = two(&world, 200_000, 200_000).await;
    let reader = world.another().await;
    for i in 0..64 {
        let next = if i % 2 == 0 { second.clone() } else { first.clone() };
        world.watched.before_get(i, move |below| {
            futures_util::FutureExt::now_or_never(below.put(&Path::from("a"), next.clone().into()))
                .unwrap()
                .unwrap();
        });
    }
    assert_eq!(said(reader.get_range(&Path::from("a"), 100_000..100_010).await).1, "Replaced");
}
