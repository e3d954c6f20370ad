//! A swap whose answer was lost was done or was not, and the catalog knows which.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_store::{
    Catalog, Revision, StoreError, StoreErrorKind,
    objects::{FaultRates, FaultyObjects, ObjectCatalog, ObjectFault, ObjectRequest},
};
use object_store::ObjectStore;

use crate::support::*;

/// Every way in which an answer is lost or late although the request is, or will be, done.
const LOST: [ObjectFault; 5] = [
    ObjectFault::LoseAnswer,
    ObjectFault::Hang,
    ObjectFault::Repeat,
    // Arrives before the time-out of 10 s, and is answered after it.
    ObjectFault::Delay { there: Duration::from_secs(9), back: Duration::from_secs(9) },
    // Arrives after the time-out, and maybe after what is sent next.
    ObjectFault::Delay { there: Duration::from_secs(11), back: Duration::ZERO },
];

struct World {
    way: FaultyObjects,
    ours: ObjectCatalog,
    other: ObjectCatalog,
}

async fn world() -> World {
    let store = memory();
    let (way, ours) = faulty(&store, 1).await;
    World { way, ours, other: catalog(&store, 2).await }
}

impl World {
    async fn overwrite(&self, key: &str, times: usize) {
        for _ in 0..times {
            increment(&self.other, key).await.unwrap();
        }
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn a_swap_whose_answer_was_lost_is_known_to_be_done() {
    for fault in LOST {
        let World { way, ours, other } = world().await;
        way.fail(ObjectRequest::Put, 0, fault);
        let first = ours.swap("a", None, Some("1".into())).await.unwrap().unwrap();
        way.fail(ObjectRequest::Put, 0, fault);
        let second = ours.swap("a", Some(&first), Some("2".into())).await.unwrap().unwrap();
        let stored = other.load("a").await.unwrap().unwrap();
        assert_eq!((&stored.bytes[..], &stored.revision), (&b"2"[..], &second), "{fault:?}");
        way.fail(ObjectRequest::Put, 0, fault);
        assert_eq!(ours.swap("a", Some(&second), None).await.unwrap(), None, "{fault:?}");
        assert_eq!(read(&other, "a").await, None, "{fault:?}");
        // Over what a removal left.
        way.fail(ObjectRequest::Put, 1, fault);
        let third = ours.swap("a", None, Some("3".into())).await.unwrap().unwrap();
        assert_eq!(other.load("a").await.unwrap().unwrap().revision, third, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_done_is_sent_again() {
    let World { way, ours, .. } = world().await;
    for nth in 0..5 {
        way.fail(ObjectRequest::Put, nth, ObjectFault::Refuse);
    }
    ours.swap("a", None, Some("1".into())).await.unwrap();
    assert_eq!(read(&ours, "a").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_reached_gives_an_unknown_outcome_and_no_conflict() {
    let World { way, ours, other } = world().await;
    way.cut();
    let error = ours.swap("a", None, Some("1".into())).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Io);
    assert!(error.to_string().contains("unknown outcome"), "{error}");
    assert!(error.to_string().contains("one/c/a"), "{error}");
    let error = ours.load("a").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Io);
    assert!(!error.to_string().contains("unknown outcome"), "{error}");
    assert_eq!(kind(ours.list("", None, 10).await), StoreErrorKind::Io);
    way.heal();
    assert_eq!(read(&other, "a").await, None);
    ours.swap("a", None, Some("1".into())).await.unwrap();
}

/// Starts our swap of a record at `expected`, lets it be done with its answer under way for 9 s, and meanwhile has the other
/// handle overwrite it this often.
async fn overwritten(
    times: usize,
    expected: Option<&Revision>,
    world: &World,
) -> Result<Option<Revision>, StoreError> {
    let back = Duration::from_secs(30);
    world.way.fail(ObjectRequest::Put, 0, ObjectFault::Delay { there: Duration::from_secs(1), back });
    let swap = world.ours.swap("a", expected, Some("100".into()));
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.overwrite("a", times).await;
    };
    tokio::join!(swap, meanwhile).0
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_was_done_and_overwritten_by_another_was_done() {
    for times in [1, 2, 8, 9, 50] {
        let world = world().await;
        let first = overwritten(times, None, &world).await.unwrap().unwrap();
        assert_eq!(read(&world.ours, "a").await, Some((100 + times).to_string()));
        // What is known to be overwritten is replaced by nobody.
        let error = world.ours.swap("a", Some(&first), Some("x".into())).await;
        assert_eq!(kind(error), StoreErrorKind::Conflict);

        let now = world.ours.load("a").await.unwrap().unwrap().revision;
        overwritten(times, Some(&now), &world).await.unwrap().unwrap();
        assert_eq!(read(&world.ours, "a").await, Some((100 + times).to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_came_too_late_is_a_conflict_however_often_the_record_was_overwritten() {
    for times in [1, 2, 8, 9, 50] {
        let world = world().await;
        world.overwrite("a", 1).await;
        let old = world.ours.load("a").await.unwrap().unwrap().revision;
        // The request arrives after the others' writings, and its answer is lost.
        let there = Duration::from_secs(5);
        let fault = ObjectFault::Delay { there, back: Duration::from_secs(60) };
        world.way.fail(ObjectRequest::Put, 0, fault);
        let swap = world.ours.swap("a", Some(&old), Some("x".into()));
        let meanwhile = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.overwrite("a", times).await;
        };
        let (swapped, ()) = tokio::join!(swap, meanwhile);
        assert_eq!(kind(swapped), StoreErrorKind::Conflict, "{times}");
        assert_eq!(kind(world.ours.swap("a", None, Some("x".into())).await), StoreErrorKind::Conflict);
        assert_eq!(read(&world.ours, "a").await, Some((1 + times).to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_another_removed_again_was_done() {
    let world = world().await;
    world.way.fail(
        ObjectRequest::Put,
        0,
        ObjectFault::Delay { there: Duration::from_secs(1), back: Duration::from_secs(60) },
    );
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let stored = world.other.load("a").await.unwrap().unwrap();
        assert_eq!(stored.bytes[..], b"1"[..]);
        world.other.swap("a", Some(&stored.revision), None).await.unwrap();
    };
    let (created, ()) = tokio::join!(world.ours.swap("a", None, Some("1".into())), meanwhile);
    created.unwrap().unwrap();
    assert_eq!(read(&world.ours, "a").await, None, "it was not done a second time");
}

#[tokio::test(start_paused = true)]
async fn what_more_writers_overwrote_than_a_record_remembers_has_an_unknown_outcome() {
    // Whether our writing was done before theirs or was not: the record is the same.
    for (arrives, others) in [(1, 32), (30, 33)] {
        let store = memory();
        let (way, ours) = faulty(&store, 1).await;
        increment(&ours, "a").await.unwrap();
        let now = ours.load("a").await.unwrap().unwrap().revision;
        let there = Duration::from_secs(arrives);
        way.fail(ObjectRequest::Put, 0, ObjectFault::Delay { there, back: Duration::from_secs(60) });
        let meanwhile = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            for seed in 0..others {
                increment(&catalog(&store, 100 + seed).await, "a").await.unwrap();
            }
        };
        let (swapped, ()) = tokio::join!(ours.swap("a", Some(&now), Some("100".into())), meanwhile);
        let error = swapped.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Io, "{error}");
        assert!(error.to_string().contains("unknown outcome"), "{error}");
        // Who made the object is always known.
        let now = ours.load("a").await.unwrap().unwrap().revision;
        let error = ours.swap("a", None, Some("x".into())).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Conflict);
        ours.swap("a", Some(&now), None).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_after_its_swap_was_given_up_overwrites_nothing_newer() {
    for there in [70, 90, 200] {
        let world = world().await;
        world.overwrite("a", 1).await;
        let old = world.ours.load("a").await.unwrap().unwrap().revision;
        // Dropped while the request travels.
        let fault = ObjectFault::Delay { there: Duration::from_secs(there), back: Duration::ZERO };
        world.way.fail(ObjectRequest::Put, 0, fault);
        let swap = world.ours.swap("a", Some(&old), Some("late".into()));
        assert!(tokio::time::timeout(Duration::from_secs(5), swap).await.is_err());
        world.overwrite("a", 3).await;
        tokio::time::sleep(Duration::from_secs(there)).await;
        assert_eq!(read(&world.ours, "a").await.as_deref(), Some("4"));
    }
}

#[tokio::test(start_paused = true)]
async fn one_handle_that_swaps_a_record_twice_at_once_knows_of_each_what_came_of_it() {
    let world = world().await;
    let first = world.ours.swap("a", None, Some("1".into())).await.unwrap().unwrap();
    // The first is done, and learns so only when the second could have been done too.
    world.way.fail(ObjectRequest::Put, 0, ObjectFault::Hang);
    let one = world.ours.swap("a", Some(&first), Some("2".into()));
    let two = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = world.other.load("a").await.unwrap().unwrap().revision;
        world.ours.swap("a", Some(&now), Some("3".into())).await
    };
    let (one, two) = tokio::join!(one, two);
    one.unwrap();
    two.unwrap();
    assert_eq!(read(&world.ours, "a").await.as_deref(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn whatever_the_network_does_no_increment_is_lost_or_done_twice() {
    for seed in 0..scale(20, 2000) {
        let store: Arc<dyn ObjectStore> = memory();
        let rates = FaultRates {
            refuse: 60,
            lose_answer: 60,
            hang: 30,
            repeat: 60,
            delay: 200,
            longest: Duration::from_secs(15),
        };
        let mut tasks = Vec::new();
        for node in 0..4 {
            let (way, catalog) = faulty(&store, 1000 * seed + node).await;
            way.set_rates(rates);
            tasks.push(tokio::spawn(async move {
                let (mut done, mut unknown) = (0, 0);
                for _ in 0..12 {
                    match increment(&catalog, "a").await {
                        Ok(()) => done += 1,
                        // Also of the load, which changes nothing.
                        Err(StoreErrorKind::Io) => unknown += 1,
                        Err(kind) => panic!("seed {seed}: {kind:?}"),
                    }
                }
                (done, unknown)
            }));
        }
        let (mut done, mut unknown) = (0, 0);
        for task in tasks {
            let (of_done, of_unknown) = task.await.unwrap();
            done += of_done;
            unknown += of_unknown;
        }
        // What still travels arrives.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let check = catalog(&store, u64::MAX - seed).await;
        let stored: u64 = read(&check, "a").await.map_or(0, |number| number.parse().unwrap());
        assert!(
            (done..=done + unknown).contains(&stored),
            "seed {seed}: {stored} of {done} and {unknown} unknown"
        );
        assert!(done > 30, "seed {seed}: only {done} were done");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_is_asked_for_again() {
    let World { way, ours, .. } = world().await;
    for number in 0..40 {
        ours.swap(&format!("a/{number:02}"), None, Some(Bytes::from_static(b"1"))).await.unwrap();
    }
    way.fail(ObjectRequest::List, 0, ObjectFault::Refuse);
    way.fail(ObjectRequest::List, 1, ObjectFault::Hang);
    way.fail(ObjectRequest::Get, 7, ObjectFault::LoseAnswer);
    way.fail(ObjectRequest::Get, 9, ObjectFault::Hang);
    assert_eq!(ours.list("a/", None, 100).await.unwrap().len(), 40);
}
