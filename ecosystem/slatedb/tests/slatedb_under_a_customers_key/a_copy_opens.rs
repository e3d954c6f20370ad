use slatedb::{
    CloneSourceSpec, Db,
    admin::AdminBuilder,
    config::{CheckpointOptions, CheckpointScope},
};

use super::{PATH, key, memory, open, settings, value, world::*};

/// A clone's log is copied by the store, from one path to another: paths are bound, so each is sealed anew.
#[tokio::test(start_paused = true)]
async fn a_clone_whose_log_the_store_copied() {
    let world = World::new(7011).await;
    let store = world.over(memory()).await;
    let db = open(&store, settings()).await.unwrap();
    for n in 0..50 {
        db.put_bytes(key(n), value(n, 0)).await.unwrap();
    }
    db.put_bytes(key(50), value(50, 0)).await.unwrap().await_durable().await.unwrap();
    let scope = CheckpointScope::Durable;
    let checkpoint = db.create_checkpoint(scope, &CheckpointOptions::default()).await.unwrap();
    drop(db);

    let admin = AdminBuilder::new("clone", store.clone()).build();
    admin
        .create_clone_builder_from_source(CloneSourceSpec::with_checkpoint(PATH, checkpoint.id))
        .build()
        .await
        .unwrap();
    let copied = objects(&*store).await.into_keys().filter(|path| path.as_ref().starts_with("clone/wal"));
    assert!(copied.count() > 0, "the log was copied");
    let clone = Db::builder("clone", store.clone()).with_settings(settings()).build().await.unwrap();
    clone.put_bytes(key(0), "changed".into()).await.unwrap();
    assert_eq!(clone.get(key(0)).await.unwrap().unwrap(), "changed");
    for n in 1..=50 {
        assert_eq!(clone.get(key(n)).await.unwrap().unwrap(), value(n, 0), "key {n}");
    }
    clone.close().await.unwrap();
}
