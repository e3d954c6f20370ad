//! The objects of an account are as reachable as its key.

use std::time::Duration;

use cofferdam_store::encrypted::EncryptedError;
use cofferdam_vault::{VaultErrorKind, testing::Answer};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{Error, ObjectStore, ObjectStoreExt, path::Path};
use tokio::time::sleep;

use super::world::{NOTICED, PAST_GRACE, World, bytes, said};

const LEN: usize = 40 * 4096;
const DENIED: Answer = Answer::Fail(VaultErrorKind::AccessDenied);
const AWAY: Answer = Answer::Fail(VaultErrorKind::Unavailable);

fn path() -> Path {
    Path::from("a")
}

/// What each way of reading and writing says.
async fn all_are_refused(world: &World, what: &str) {
    let store = &world.store;
    let (a, b) = (path(), Path::from("b"));
    for refused in [
        store.get(&a).await.map(drop),
        store.get_range(&a, 100_000..100_001).await.map(drop),
        store.get_ranges(&a, &[0..1]).await.map(drop),
        store.put(&b, "x".into()).await.map(drop),
        store.put_multipart(&b).await.map(drop),
        store.copy(&a, &b).await,
        store.rename(&a, &b).await,
    ] {
        let (error, name) = said(refused);
        assert_eq!(name, what);
        let denied = matches!(error, Error::PermissionDenied { .. });
        assert_eq!(denied, what == "KeyRevoked", "{error}");
        assert!(denied || matches!(error, Error::Generic { .. }), "{error}");
    }
    assert!(world.below.head(&b).await.is_err(), "nothing is kept");
    // These need no key.
    assert_eq!(store.head(&a).await.unwrap().size, LEN as u64);
    assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_reads_and_writes_nothing_until_it_is_restored() {
    let world = World::new().await;
    world.put("a", &bytes(1, LEN)).await;
    world.vault.answer(DENIED);
    sleep(NOTICED).await;
    all_are_refused(&world, "KeyRevoked").await;
    world.vault.answer(Answer::Work);
    sleep(Duration::from_secs(40)).await;
    assert!(world.get("a").await.unwrap() == bytes(1, LEN));
    world.store.delete(&path()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_bridged_by_grace_and_then_an_error() {
    let world = World::new().await;
    world.put("a", &bytes(1, LEN)).await;
    world.vault.answer(AWAY);
    sleep(Duration::from_secs(20 * 60)).await;
    assert!(world.get("a").await.unwrap() == bytes(1, LEN));
    world.put("within", b"grace").await;
    world.store.delete(&Path::from("within")).await.unwrap();
    sleep(PAST_GRACE).await;
    all_are_refused(&world, "KeyUnavailable").await;
    let error = world.store.put(&Path::from("b"), "x".into()).await.unwrap_err();
    let Some(EncryptedError::KeyUnavailable { path, source }) = EncryptedError::of(&error) else {
        panic!("{error}");
    };
    assert_eq!(path.as_ref(), "b");
    assert!(source.to_string().contains("payroll"), "{source}");
    world.vault.answer(Answer::Work);
    sleep(Duration::from_secs(40)).await;
    assert!(world.get("a").await.unwrap() == bytes(1, LEN));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_where_it_is_when_the_key_is_taken_away_or_its_grace_is_over() {
    for (answer, time, what) in [(DENIED, NOTICED, "KeyRevoked"), (AWAY, PAST_GRACE, "KeyUnavailable")] {
        let world = World::new().await;
        let plain = bytes(1, LEN);
        world.put("a", &plain).await;
        let mut stream = world.store.get(&path()).await.unwrap().into_stream();
        let mut given = Vec::new();
        for _ in 0..7 {
            given.extend_from_slice(&stream.next().await.unwrap().unwrap());
        }
        world.vault.answer(answer);
        sleep(time).await;
        let end = stream.next().await.unwrap();
        assert_eq!(said(end).1, what);
        assert!(stream.next().await.is_none());
        assert!(given == plain[..7 * 4096]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_rests_for_an_hour_goes_on() {
    let world = World::new().await;
    let plain = bytes(1, LEN);
    world.put("a", &plain).await;
    let mut stream = world.store.get(&path()).await.unwrap().into_stream();
    let mut given = stream.next().await.unwrap().unwrap().to_vec();
    sleep(Duration::from_secs(3600)).await;
    while let Some(page) = stream.next().await {
        given.extend_from_slice(&page.unwrap());
    }
    assert!(given == plain);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_rests_for_an_hour_goes_on() {
    let world = World::new().await;
    let plain = bytes(1, 12 << 20);
    let mut upload = world.store.put_multipart(&path()).await.unwrap();
    for part in plain.chunks(3 << 20) {
        // The key has to be asked for again, which a call that is not async can't wait for.
        sleep(Duration::from_secs(3600)).await;
        let (half, rest) = part.split_at(1 << 20);
        let parts = [half, rest].map(|part| upload.put_part(part.to_vec().into()));
        // The second is awaited first.
        for part in parts.into_iter().rev() {
            part.await.unwrap();
        }
    }
    sleep(Duration::from_secs(3600)).await;
    upload.complete().await.unwrap();
    assert!(world.get("a").await.unwrap() == plain);
}

#[tokio::test(start_paused = true)]
async fn an_upload_fails_when_the_key_is_taken_away_or_its_grace_is_over() {
    for (answer, time, what) in [(DENIED, NOTICED, "KeyRevoked"), (AWAY, PAST_GRACE, "KeyUnavailable")] {
        for at_the_end in [false, true] {
            let world = World::new().await;
            let mut upload = world.store.put_multipart(&path()).await.unwrap();
            upload.put_part(bytes(1, 6 << 20).into()).await.unwrap();
            world.vault.answer(answer);
            sleep(time).await;
            if !at_the_end {
                assert_eq!(said(upload.put_part(bytes(2, 6 << 20).into()).await).1, what);
                assert_eq!(said(upload.put_part("x".into()).await).1, "UploadEnded");
            } else {
                assert_eq!(said(upload.complete().await).1, what);
            }
            // It is lost, also once the key is back: what was to follow would leave a gap.
            world.vault.answer(Answer::Work);
            sleep(Duration::from_secs(40)).await;
            assert_eq!(said(upload.complete().await).1, "UploadEnded");
            upload.abort().await.unwrap();
            assert!(matches!(world.get("a").await.unwrap_err(), Error::NotFound { .. }));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_engine_and_a_deleted_account_say_so() {
    let world = World::new().await;
    world.put("a", &bytes(1, LEN)).await;
    world.engine.close().await.unwrap();
    assert_eq!(said(world.get("a").await).1, "Account");
    assert_eq!(said(world.store.put(&path(), "x".into()).await).1, "Account");
}
