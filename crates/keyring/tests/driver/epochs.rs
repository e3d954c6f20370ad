//! An epoch is used only if it follows the one before it.

use std::time::Duration;

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyScope, Provider, WrappedAek};
use cofferdam_keyring::{KeyError, KeyState, RecordError};
use cofferdam_vault::{VaultErrorKind as Kind, testing::Answer};
use tokio::time::{Instant, sleep};

use crate::common::{MS, SECOND, World};

fn scope(account: AccountId, epoch: u32) -> KeyScope {
    KeyScope { account, epoch: Epoch::new(epoch), provider: Provider::Customer }
}

/// An AEK that somebody made who has the KEKs' public halves.
fn theirs() -> Aek {
    Aek::try_from_fn(|aek| {
        aek.fill(0x66);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

/// How an epoch is forged.
#[derive(Clone, Copy, Debug)]
enum Forged {
    /// It has no tag.
    Untagged,
    /// It has a tag under a key that they made.
    UnderTheirs,
    /// It has that of the epoch that it stands in for.
    TagOfAnother,
}

/// The newest epoch becomes one that somebody else made.
async fn forge(world: &World, account: AccountId, how: Forged) {
    let keks = world.keks(account);
    let mut newest = None;
    world.records.change(account, |record| newest = record.epochs.pop());
    let newest = newest.unwrap();
    let wraps = world.wrap(&keks, &theirs(), newest.scope).await;
    let forged = WrappedAek::new(&theirs(), newest.scope, wraps);
    let forged = match how {
        Forged::Untagged => forged,
        Forged::UnderTheirs => {
            forged.following(&cofferdam_crypto::RecordKey::derive(&theirs(), &newest.scope))
        }
        Forged::TagOfAnother => WrappedAek { follows: newest.follows, ..forged },
    };
    world.records.change(account, |record| record.epochs.push(forged));
}

fn assert_tampered(refused: &KeyError, epoch: u32) {
    let KeyError::Record(error) = refused else { panic!("{refused}") };
    let RecordError::Tampered(what) = &**error else { panic!("{error}") };
    assert!(what.contains(&format!("epoch {epoch} ")), "{what}");
}

const FORGED: [Forged; 3] = [Forged::Untagged, Forged::UnderTheirs, Forged::TagOfAnother];

#[tokio::test(start_paused = true)]
async fn a_forged_epoch_is_refused_by_who_comes_anew() {
    for how in FORGED {
        let world = World::new();
        let account = world.account(2).await;
        forge(&world, account, how).await;
        assert_tampered(&world.key(account).await.unwrap_err(), 2);
        let refused =
            world.keyring.opening_key(account, Provider::Customer, Epoch::new(2)).await.unwrap_err();
        assert_tampered(&refused, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_forged_epoch_is_refused_by_who_holds_the_one_before_it_which_serves_on_in_its_grace() {
    for how in FORGED {
        let world = World::new();
        let account = world.account(1).await;
        let held = world.key(account).await.unwrap();
        world.add_epoch(account, 2).await;
        forge(&world, account, how).await;
        let calls = world.customer.unwraps();
        assert_tampered(&world.keyring.reload(account).await.unwrap_err(), 2);
        assert_eq!(world.customer.unwraps() - calls, 1, "it is checked against what is held");
        assert!(held.still_usable());
        assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::FIRST);
        // The record is restored.
        world.records.change(account, |record| drop(record.epochs.pop()));
        world.keyring.reload(account).await.unwrap();
        world.add_epoch(account, 2).await;
        world.keyring.reload(account).await.unwrap();
        assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::new(2));
        assert_eq!(world.state(account), KeyState::Active);
    }
}

#[tokio::test(start_paused = true)]
async fn an_epoch_in_place_of_an_older_one_is_refused_where_it_is_asked_for_or_followed() {
    let world = World::new();
    let account = world.account(3).await;
    // The second of three: the third does not follow it.
    let keks = world.keks(account);
    let wraps = world.wrap(&keks, &theirs(), scope(account, 2)).await;
    let forged =
        WrappedAek::new(&theirs(), scope(account, 2), wraps).following(&world.record_key(scope(account, 1)));
    world.records.change(account, |record| record.epochs[1] = forged);
    assert_tampered(&world.key(account).await.unwrap_err(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_older_epoch_that_was_forged_takes_the_newest_from_nobody_who_holds_it() {
    let world = World::new();
    let account = world.account(3).await;
    world.key(account).await.unwrap();
    let keks = world.keks(account);
    let wraps = world.wrap(&keks, &theirs(), scope(account, 2)).await;
    let forged = WrappedAek::new(&theirs(), scope(account, 2), wraps);
    world.records.change(account, |record| record.epochs[1] = forged);
    world.keyring.reload(account).await.unwrap();
    let refused = world.keyring.opening_key(account, Provider::Customer, Epoch::new(2)).await.unwrap_err();
    assert_tampered(&refused, 2);
    assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::new(3));
    assert_eq!(world.state(account), KeyState::Active);
}

#[tokio::test(start_paused = true)]
async fn the_first_epoch_of_a_record_needs_no_tag_whatever_its_number() {
    let world = World::new();
    let account = world.account(3).await;
    for left in [2, 1] {
        world.records.change(account, |record| drop(record.epochs.remove(0)));
        world.keyring.forget(account);
        let before = world.customer.unwraps();
        assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::new(3));
        assert_eq!(world.customer.unwraps() - before, left);
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_many_epochs_takes_two_calls_whoever_waits_and_one_when_the_one_before_is_held() {
    let world = World::new();
    let account = world.account(9).await;
    let before = world.customer.unwraps();
    world.key(account).await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 2);
    world.add_epoch(account, 10).await;
    world.keyring.reload(account).await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 3);
    // What was unwrapped for a check alone is used once it is checked itself.
    world.keyring.opening_key(account, Provider::Customer, Epoch::new(8)).await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 5);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_epoch_makes_the_one_after_it_fail_as_corrupt_and_no_other() {
    let world = World::new();
    let account = world.account(3).await;
    world.records.change(account, |record| record.epochs[1].wraps[0].bytes[7] ^= 1);
    let refused = world.key(account).await.unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("epoch 3 can't be checked without epoch 2 before it: corrupt"), "{said}");
    assert!(!refused.is_outage(), "it was never verified: {said}");
    // Who holds it has checked it.
    let world = World::new();
    let account = world.account(3).await;
    world.key(account).await.unwrap();
    world.records.change(account, |record| record.epochs[1].wraps[0].bytes[7] ^= 1);
    world.keyring.reload(account).await.unwrap();
    assert_eq!(world.use_for(account, 600 * SECOND, SECOND).await, (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_outage_between_two_epochs_lets_neither_be_used_unchecked() {
    let world = World::new();
    let account = world.account(2).await;
    world.customer.answer_next([Answer::Work, Answer::Fail(Kind::Unavailable)]);
    assert!(world.key(account).await.unwrap_err().is_outage());
    let asked = Instant::now();
    world.use_for(account, 5 * SECOND, 100 * MS).await;
    assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::new(2));
    assert!(asked.elapsed() <= 6 * SECOND);
    sleep(MS).await;
    assert_eq!(world.state(account), KeyState::Active);
}
