//! An account's buffer takes so many bytes for so long and no more, across restarts; what it took is kept.

use std::time::Duration;

use cofferdam::store::{BlockStore, EngineError, EngineErrorKind};
use tokio::time::sleep;

use crate::world::{self, World, buffered, id, is_unavailable, name, stored};

const HOUR: Duration = Duration::from_secs(3600);

fn is_full<T: std::fmt::Debug>(answer: &Result<T, EngineError>) -> bool {
    match answer {
        Err(e @ EngineError::BufferFull { .. }) => e.kind() == EngineErrorKind::Unavailable,
        _ => false,
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_are_bounded_across_a_restart_and_for_each_account() {
    let mut world = World::set_up(71, |builder| builder.buffer_bytes(100_000)).await;
    let account = world.contoso().await;
    world.engine.create_account(&name("fabrikam"), world.customer_key()).await.unwrap();
    world.lose_key(&account).await;
    for n in 0..3 {
        buffered(account.put(&id(&format!("block-{n}")), vec![n; 30_000].into()).await);
    }
    let answer = account.put(&id("one-more"), vec![9; 30_000].into()).await;
    assert!(is_full(&answer), "{answer:?}");
    let said = answer.unwrap_err().to_string();
    for part in ["contoso", "3 blocks", "90", "since", "100000 bytes", "vault"] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    let batch = vec![(id("a"), "small".into()), (id("b"), vec![9; 30_000].into())];
    let answer = account.put_batch(batch).await;
    assert!(is_full(&answer), "all of a batch or none: {answer:?}");
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap().unwrap().blocks, 3);
    buffered(account.put(&id("block-0"), vec![0; 29_000].into()).await);

    world.restart().await;
    let account = world.contoso_again().await;
    let answer = account.put(&id("one-more"), vec![9; 30_000].into()).await;
    assert!(is_full(&answer), "after a restart: {answer:?}");
    let other = world.engine.account(&name("fabrikam")).await.unwrap();
    buffered(other.put(&id("block"), vec![1; 90_000].into()).await);
    assert!(account.delete(&id("block-2")).await.unwrap(), "a delete makes room");
    buffered(account.put(&id("one-more"), vec![9; 30_000].into()).await);

    world.regain_key(&account).await;
    assert_eq!(account.get(&id("block-0")).await.unwrap(), vec![0; 29_000]);
    assert_eq!(account.get(&id("one-more")).await.unwrap(), vec![9; 30_000]);
    stored(account.put(&id("block"), vec![1; 1 << 20].into()).await);
}

#[tokio::test(start_paused = true)]
async fn time_is_bounded_across_a_restart_and_what_was_taken_is_kept() {
    let mut world = World::set_up(72, |builder| builder.buffer_time(2 * HOUR)).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("first"), "first".into()).await);
    sleep(2 * HOUR - Duration::from_secs(1)).await;
    buffered(account.put(&id("second"), "second".into()).await);
    sleep(Duration::from_secs(2)).await;
    let answer = account.put(&id("late"), "late".into()).await;
    assert!(is_full(&answer), "{answer:?}");
    world.restart().await;
    let account = world.contoso_again().await;
    let answer = account.put(&id("late"), "late".into()).await;
    assert!(is_full(&answer), "after a restart: {answer:?}");

    sleep(100 * HOUR).await;
    world.regain_key(&account).await;
    assert_eq!(account.get(&id("first")).await.unwrap(), "first");
    assert_eq!(account.get(&id("second")).await.unwrap(), "second");
    // The next outage has its own time.
    world.lose_key(&account).await;
    buffered(account.put(&id("next"), "next".into()).await);
}

#[tokio::test(start_paused = true)]
async fn turned_off_it_takes_nothing() {
    let world = World::set_up(73, |builder| builder.buffer_time(Duration::ZERO)).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    let answer = account.put(&id("block"), "content".into()).await;
    assert!(is_unavailable(&answer), "{answer:?}");
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn settings_out_of_their_range_are_refused() {
    let world = World::new(74).await;
    for settings in [
        (|b| b.buffer_time(48 * HOUR + Duration::from_millis(1))) as world::Settings,
        |b| b.buffer_bytes(4095),
        |b| b.revoked_retention(Duration::from_secs(59)),
    ] {
        let error = world.try_open(settings).await.unwrap_err();
        assert!(matches!(error, EngineError::BadSetting { .. }), "{error}");
        assert_eq!(error.kind(), EngineErrorKind::Invalid);
    }
    world.try_open(|b| b.buffer_time(48 * HOUR).buffer_bytes(4096)).await.unwrap();
}
