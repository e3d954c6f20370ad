//! Large blocks are sealed and opened on threads, where they may wait: a key that was taken away meanwhile is not used.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod world;

use std::sync::{Arc, Mutex, PoisonError};

use cofferdam::{
    crypto::BlockId,
    store::{BlockStore, EmbeddedOptions},
    vault::{Executor, Inline, Job},
};
use world::{NOTICED, World, is_revoked, name};

/// Keeps jobs back while it is told to.
#[derive(Default)]
struct Held(Mutex<Option<Vec<Job>>>);

impl Held {
    fn hold(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    fn release(&self) -> usize {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let held = jobs.len();
        jobs.into_iter().for_each(|job| job());
        held
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl Executor for Held {
    fn execute(&self, job: Job) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => jobs.push(job),
            None => job(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_and_a_put_that_waited_through_a_denial_are_refused() {
    let held = Arc::new(Held::default());
    let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let world = World::with(31, options, held.clone()).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let (id, other) = (BlockId::new("large").unwrap(), BlockId::new("other").unwrap());
    account.put(&id, vec![7; 900_000].into()).await.unwrap();

    held.hold();
    let get = tokio::spawn({
        let (account, id) = (account.clone(), id.clone());
        async move { account.get(&id).await }
    });
    let put = tokio::spawn({
        let (account, other) = (account.clone(), other.clone());
        async move { account.put(&other, vec![8; 900_000].into()).await }
    });
    tokio::task::yield_now().await;
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert!(is_revoked(&account.check_key().await));
    assert_eq!(held.release(), 2, "both waited");

    let get = get.await.unwrap();
    assert!(is_revoked(&get), "{:?}", get.map(|data| data.len()));
    let put = put.await.unwrap();
    assert!(is_revoked(&put), "{put:?}");
    assert_eq!(world.store.stat(account.id(), &other).await.unwrap(), None);

    world.customer.enable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id).await.unwrap(), vec![7; 900_000]);
}
