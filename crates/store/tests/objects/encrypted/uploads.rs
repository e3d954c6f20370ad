//! Parts of any size become one object, and parts of one size for the store below.

use bytes::Bytes;
use cofferdam_crypto::{PageSize, sealed_len};
use futures_util::{FutureExt, StreamExt, future::try_join_all, stream::FuturesUnordered};
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutPayload, WriteMultipart, path::Path};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::world::{World, bytes, said};

const PART: usize = 5 << 20;

fn path() -> Path {
    Path::from("a")
}

async fn begin(world: &World) -> Box<dyn MultipartUpload> {
    world.store.put_multipart(&path()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn parts_of_any_size_are_recut_to_one_size() {
    let seed = 0xc0ff_e12f;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    for len in [0, 1, 4096, PART - 100, PART, 2 * PART + 17] {
        for most in [20_000, 8 << 20] {
            let plain = bytes(len as u64 + 1, len);
            let mut upload = begin(&world).await;
            let mut rest = &plain[..];
            let mut parts = Vec::new();
            while !rest.is_empty() {
                let (part, following) = rest.split_at(rng.random_range(0..=most).min(rest.len()));
                let cut = rng.random_range(0..=part.len());
                let pieces = [&part[..cut], &part[cut..]].map(Bytes::copy_from_slice);
                parts.push(upload.put_part(PutPayload::from_iter(pieces)));
                rest = following;
            }
            try_join_all(parts).await.unwrap();
            let put = upload.complete().await.unwrap();
            assert_eq!(put.e_tag, world.store.head(&path()).await.unwrap().e_tag);
            assert!(world.get("a").await.unwrap() == plain, "{len} bytes in parts of up to {most}");
            let parts = world.watched.parts();
            let (last, others) = parts.split_last().unwrap();
            assert!(others.iter().all(|part| *part == PART), "{parts:?}");
            assert!(*last <= PART && *last > 0, "{parts:?}");
            let stored: usize = parts.iter().sum();
            assert_eq!(stored as u64, sealed_len(len as u64, PageSize::MIN).unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_futures_of_parts_may_be_awaited_in_any_order() {
    let world = World::new().await;
    let plain = bytes(1, 30 << 20);
    let mut upload = begin(&world).await;
    let mut parts: Vec<_> =
        plain.chunks(6 << 20).map(|part| upload.put_part(Bytes::copy_from_slice(part).into())).collect();
    parts.reverse();
    for part in parts {
        part.await.unwrap();
    }
    upload.complete().await.unwrap();
    assert!(world.get("a").await.unwrap() == plain);

    let mut writer = WriteMultipart::new(begin(&world).await);
    for piece in plain.chunks(777_777) {
        writer.wait_for_capacity(2).await.unwrap();
        writer.write(piece);
    }
    writer.finish().await.unwrap();
    assert!(world.get("a").await.unwrap() == plain);
}

#[tokio::test(start_paused = true)]
async fn an_upload_holds_less_than_a_part_and_a_page_and_what_is_under_way() {
    let world = World::new().await;
    world.watched.hold_parts();
    let mut upload = begin(&world).await;
    let mut under_way = FuturesUnordered::new();
    let (mut taken, mut given, mut most) = (0, 0, 0);
    let part = bytes(1, 1 << 20);
    for _ in 0..64 {
        under_way.push(upload.put_part(Bytes::copy_from_slice(&part).into()));
        taken += part.len();
        let parts = world.watched.parts();
        given += parts.iter().sum::<usize>();
        most = most.max(taken.saturating_sub(given));
        // Who awaits them is held up while two are under way.
        while let Some(Some(part)) = under_way.next().now_or_never() {
            part.unwrap();
        }
        if under_way.len() == 2 {
            world.watched.let_parts_through(1);
            under_way.next().await.unwrap().unwrap();
        }
        assert!(under_way.len() < 2);
    }
    println!("of {taken} bytes at most {most} were held beside what was under way");
    assert!(most <= PART + 4096, "{most}");
    world.watched.let_parts_through(10);
    while let Some(part) = under_way.next().await {
        part.unwrap();
    }
    upload.complete().await.unwrap();
    assert_eq!(world.store.head(&path()).await.unwrap().size, 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_there_before_the_end_and_nothing_after_an_abort() {
    let world = World::new().await;
    for abort in [true, false] {
        let mut upload = begin(&world).await;
        upload.put_part(bytes(1, 6 << 20).into()).await.unwrap();
        let none = world.get("a").await.unwrap_err();
        assert!(matches!(none, Error::NotFound { .. }), "{none}");
        if abort {
            upload.abort().await.unwrap();
            assert_eq!(said(upload.put_part("x".into()).await).1, "UploadEnded");
            assert_eq!(said(upload.complete().await).1, "UploadEnded");
            assert_eq!(said(upload.abort().await).1, "UploadEnded");
        }
        drop(upload);
        let none = world.get("a").await.unwrap_err();
        assert!(matches!(none, Error::NotFound { .. }), "{none}");
    }
    let mut upload = begin(&world).await;
    upload.put_part("text".into()).await.unwrap();
    assert!(!format!("{upload:?}").contains("text"), "{upload:?}");
    upload.complete().await.unwrap();
    assert_eq!(said(upload.put_part("x".into()).await).1, "UploadEnded");
    assert_eq!(said(upload.complete().await).1, "UploadEnded");
    assert_eq!(world.get("a").await.unwrap(), "text");
}
