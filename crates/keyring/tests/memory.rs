//! What a cached account takes, everything counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests"
)]
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of the common module")]

mod common;

use std::time::Duration;

use allocation_counter::measure;
use cofferdam_crypto::{AccountId, Provider};
use common::{SECOND, World, scale};
use tokio::{runtime::Runtime, time::sleep};

const MOST: i64 = 1024;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Bytes that are taken after `work` and were not before.
fn taken(runtime: &Runtime, work: impl Future<Output = ()>) -> i64 {
    measure(|| runtime.block_on(work)).bytes_current
}

async fn use_all(world: &World, accounts: &[AccountId]) {
    for &account in accounts {
        world.key(account).await.unwrap();
    }
}

#[test]
fn a_cached_account_takes_less_than_a_kibibyte() {
    let runtime = runtime();
    let many = scale(2_000, 10_000);
    let (world, accounts) = runtime.block_on(async {
        let world = World::new();
        // What is taken once, whoever comes, is not the account's.
        let first = world.account(1).await;
        world.key(first).await.unwrap();
        let mut accounts = Vec::new();
        for _ in 0..many {
            accounts.push(world.account(1).await);
        }
        world.forget_calls();
        (world, accounts)
    });
    let many = i64::from(many);
    let started = taken(&runtime, async {
        use_all(&world, &accounts).await;
        world.forget_calls();
    });
    println!(
        "{many} accounts, just started, with the services' keys that authenticated their records: {} B each",
        started / many
    );
    // In use for some minutes: the services' keys have gone.
    let mut in_use = started;
    for minute in 1..=3 {
        in_use += taken(&runtime, async {
            for _ in 0..6 {
                use_all(&world, &accounts).await;
                sleep(10 * SECOND).await;
            }
            world.forget_calls();
        });
        println!("in use for {minute} min: {} B each", in_use / many);
    }
    // And the first one.
    assert_eq!(world.keyring.held_keys() as i64, many + 1);
    assert!(in_use / many <= MOST, "{} B for an account in use", in_use / many);

    let idle = in_use
        + taken(&runtime, async {
            sleep(300 * SECOND).await;
            world.forget_calls();
        });
    println!("idle for 5 min, its key held still: {} B each", idle / many);
    assert!(idle / many <= MOST, "{} B for an idle account", idle / many);

    let gone = idle
        + taken(&runtime, async {
            sleep(Duration::from_secs(3600)).await;
            world.forget_calls();
        });
    println!("known and not in use: {} B each, {gone} B in all", gone / many);
    assert_eq!(world.keyring.held_keys(), 0);
    // What lists keep for the next ones, however many there were.
    assert!(gone <= 256 << 10, "accounts that are not in use take {gone} B");
}

#[test]
fn a_handle_that_is_kept_takes_little_beside_the_key() {
    let runtime = runtime();
    let world = runtime.block_on(async { World::new() });
    let handles = measure(|| {
        let ids = (0..1_000_u32).map(|n| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            AccountId::from_random_bytes(bytes)
        });
        let handles: Vec<_> = ids.map(|id| world.keyring.handle(id, Provider::Customer)).collect();
        std::mem::forget(handles);
    });
    println!("a handle with its entry: {} B", handles.bytes_current / 1_000);
    assert!(handles.bytes_current / 1_000 <= 512);
}
