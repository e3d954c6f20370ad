//! What was buffered for an account is discarded only after a revocation that was watched for as long as the retention
//! says, never because a clock jumped or nobody was there to watch; what is stored stays.

use std::time::Duration;

use cofferdam::{
    keyring::KeyState,
    store::{Account, BlockStore, BufferChange, EngineError, Moved},
};
use tokio::time::sleep;

use crate::world::{POLL, World, buffered, id, key_state, stored};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An account with something stored and something buffered, and then revoked.
async fn revoked(world: &World) -> Account {
    let account = world.contoso().await;
    stored(account.put(&id("stored"), "stored".into()).await);
    world.lose_key(&account).await;
    let batch = (0..300).map(|n| (id(&format!("buffered-{n}")), "buffered".into())).collect();
    for receipt in account.put_batch(batch).await.unwrap() {
        buffered(Ok(receipt));
    }
    world.customer.disable(&world.kek).await.unwrap();
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    assert_eq!(key_state(&account).await, KeyState::Revoked);
    account
}

async fn left(world: &World, account: &Account) -> u64 {
    world.store.buffer_usage(account.id()).await.unwrap().map_or(0, |usage| usage.blocks)
}

#[tokio::test(start_paused = true)]
async fn after_the_retention_what_was_buffered_is_discarded_and_what_is_stored_stays() {
    let world = World::set_up(101, |builder| builder.revoked_retention(2 * DAY)).await;
    let account = revoked(&world).await;
    let held = account.key_status().await.unwrap().buffer.bytes;
    let mut events = world.engine.buffer_events();
    sleep(2 * DAY - HOUR).await;
    assert_eq!(left(&world, &account).await, 300);
    sleep(4 * HOUR).await;
    assert_eq!(left(&world, &account).await, 0);
    let mut gone = Moved::default();
    loop {
        match events.recv().await.unwrap().what {
            BufferChange::Discarded { gone: some, revoked_for } => {
                gone.blocks += some.blocks;
                gone.bytes += some.bytes;
                assert!(revoked_for >= 2 * DAY, "{revoked_for:?}");
            }
            what => {
                assert_eq!(what, BufferChange::Finished { drained: Moved::default() });
                break;
            }
        }
    }
    assert_eq!(gone, Moved { blocks: 300, bytes: held });

    world.customer.enable(&world.kek).await.unwrap();
    // Nothing waits any longer that would ask for it: the first use does.
    sleep(POLL).await;
    let _ = account.check_key().await;
    sleep(POLL).await;
    assert_eq!(account.get(&id("stored")).await.unwrap(), "stored");
    assert!(matches!(account.get(&id("buffered-7")).await, Err(EngineError::NoBlock { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_a_sleeping_machine_and_time_without_an_engine_count_for_nothing() {
    let mut world = World::set_up(102, |builder| builder.revoked_retention(2 * DAY)).await;
    let account = revoked(&world).await;
    sleep(6 * HOUR).await;
    world.clock.set_wall_ahead(100 * DAY);
    sleep(6 * HOUR).await;
    assert_eq!(left(&world, &account).await, 300, "the wall clock jumped");
    world.clock.set_wall_back(200 * DAY);
    sleep(6 * HOUR).await;
    assert_eq!(left(&world, &account).await, 300, "and back");
    world.clock.suspend(100 * DAY);
    sleep(6 * HOUR).await;
    assert_eq!(left(&world, &account).await, 300, "the machine slept");
    world.engine.close().await.unwrap();
    sleep(100 * DAY).await;
    world.reopen().await;
    sleep(6 * HOUR).await;
    assert_eq!(left(&world, &account).await, 300, "nobody was there");
    // At most 30 hours were watched.
    sleep(17 * HOUR).await;
    assert_eq!(left(&world, &account).await, 300, "not yet");
    sleep(10 * HOUR).await;
    assert_eq!(left(&world, &account).await, 0, "the watched hours add up across restarts");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_vault_discards_nothing_however_long() {
    let world = World::set_up(103, |builder| builder.revoked_retention(DAY)).await;
    let account = revoked(&world).await;
    sleep(DAY - 2 * HOUR).await;
    world.customer.set_offline(true).await.unwrap();
    sleep(3 * DAY).await;
    assert_eq!(left(&world, &account).await, 300, "the vault does not say no any longer");
    world.customer.set_offline(false).await.unwrap();
    sleep(2 * HOUR).await;
    assert_eq!(left(&world, &account).await, 0);
}

#[tokio::test(start_paused = true)]
async fn access_that_comes_back_in_time_starts_the_count_anew() {
    let world = World::set_up(104, |builder| builder.revoked_retention(DAY)).await;
    let account = revoked(&world).await;
    sleep(DAY - 2 * HOUR).await;
    world.customer.enable(&world.kek).await.unwrap();
    sleep(POLL).await;
    assert_eq!(left(&world, &account).await, 0);
    assert_eq!(account.get(&id("buffered-7")).await.unwrap(), "buffered", "it was drained");

    world.lose_key(&account).await;
    buffered(account.put(&id("later"), "later".into()).await);
    world.customer.disable(&world.kek).await.unwrap();
    world.customer.set_offline(false).await.unwrap();
    sleep(DAY - 2 * HOUR).await;
    assert_eq!(left(&world, &account).await, 1);
}

#[tokio::test(start_paused = true)]
async fn two_engines_do_not_count_the_same_time_twice() {
    let world = World::set_up(105, |builder| builder.revoked_retention(DAY)).await;
    let account = revoked(&world).await;
    let twin = world.twin().await;
    sleep(DAY - 3 * HOUR).await;
    assert_eq!(left(&world, &account).await, 300);
    sleep(6 * HOUR).await;
    assert_eq!(left(&world, &account).await, 0);
    twin.close().await.ok();
}
