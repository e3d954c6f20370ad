use slatedb::{CloseReason, ErrorKind};

use super::{key, memory, open, settings, value, world::*};

#[tokio::test(start_paused = true)]
async fn by_opening_the_same_database() {
    let world = World::new(7021).await;
    // As two processes have it: a decorator each, over one store.
    let inner = memory();
    let (ours, theirs) = (world.over(inner.clone()).await, world.over(inner).await);
    let first = open(&ours, settings()).await.unwrap();
    first.put_bytes(key(1), value(1, 0)).await.unwrap().await_durable().await.unwrap();
    let second = open(&theirs, settings()).await.unwrap();
    assert_eq!(second.get(key(1)).await.unwrap().unwrap(), value(1, 0));
    second.put_bytes(key(2), value(2, 1)).await.unwrap().await_durable().await.unwrap();

    let late = match first.put_bytes(key(2), value(2, 0)).await {
        Ok(write) => write.await_durable().await,
        Err(refusal) => Err(refusal),
    };
    let refusal = late.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Closed(CloseReason::Fenced), "{refusal}");
    assert_eq!(second.get(key(2)).await.unwrap().unwrap(), value(2, 1));
    second.close().await.unwrap();
    let third = open(&ours, settings()).await.unwrap();
    assert_eq!(third.get(key(2)).await.unwrap().unwrap(), value(2, 1));
    third.close().await.unwrap();
}

/// SlateDB marks each conditional put by an attribute, and looks for it where a put that it sends again finds the object there.
#[tokio::test(start_paused = true)]
async fn and_is_not_taken_for_one_whose_answer_was_lost() {
    let world = World::new(7022).await;
    let watched = Watched::near(memory());
    let store = world.over(watched.clone()).await;
    let db = open(&store, settings()).await.unwrap();
    for n in 0..20 {
        watched.lose_the_next_answer();
        db.put_bytes(key(n), value(n, 0)).await.unwrap().await_durable().await.unwrap();
        assert!(watched.has_lost_it(), "put {n}");
    }
    db.close().await.unwrap();
    let db = open(&store, settings()).await.unwrap();
    for n in 0..20 {
        assert_eq!(db.get(key(n)).await.unwrap().unwrap(), value(n, 0), "key {n}");
    }
    db.close().await.unwrap();
}

/// What the test before shows: where attributes are dropped on the way, it fences itself.
#[tokio::test(start_paused = true)]
async fn as_it_is_over_a_store_that_drops_attributes() {
    let world = World::new(7023).await;
    let watched = Watched::near(memory());
    let store = world.over(watched.clone()).await;
    let db = open(&store, settings()).await.unwrap();
    watched.drop_attributes();
    watched.lose_the_next_answer();
    let refusal = db.put_bytes(key(1), value(1, 0)).await.unwrap().await_durable().await.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Closed(CloseReason::Fenced), "{refusal}");
}
