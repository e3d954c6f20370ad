//! While others work, drains take at most a fifth of the store's time, all of them together; while nobody does, they go
//! at full speed.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::store::{
    Account, Applied, BlockOp, BlockStore, Catalog, EmbeddedStore, Revision, StoreError, Stored,
};
use tokio::time::{Instant, sleep};

use crate::world::{POLL, World, buffered, id, name, stored};

/// How long a commit takes.
const COMMIT: Duration = Duration::from_millis(10);

/// A store whose commits take time, and which writes down when it was busy with drains.
#[derive(Clone, Debug)]
struct Slow {
    store: EmbeddedStore,
    drains: Arc<Mutex<Vec<Range<Instant>>>>,
}

impl Slow {
    fn drains(&self) -> Vec<Range<Instant>> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl cofferdam::store::Forwarding for Slow {
    fn behind(&self) -> &dyn BlockStore {
        &self.store
    }

    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        let is_drain = matches!(batch.first(), Some(BlockOp::Drain { .. }));
        let began = Instant::now();
        sleep(COMMIT).await;
        let applied = self.store.commit(batch).await;
        if is_drain {
            self.drains.lock().unwrap_or_else(PoisonError::into_inner).push(began..Instant::now());
        }
        applied
    }
}

#[async_trait]
impl Catalog for Slow {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.store.load(key).await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError> {
        self.store.swap(key, expected, new).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        Catalog::list(&self.store, prefix, after, limit).await
    }
}

/// Two accounts, each with twenty-five batches of blocks to drain, and the vault just back.
async fn set_up(world: &World, slow: &Slow) -> [Account; 2] {
    let engine = world.engine_over(slow, world.clock.clone()).await;
    let mut accounts = Vec::new();
    for account in ["contoso", "fabrikam"] {
        accounts.push(engine.create_account(&name(account), world.customer_key()).await.unwrap());
    }
    let [one, other]: [Account; 2] = accounts.try_into().unwrap();
    world.lose_key(&one).await;
    for account in [&one, &other] {
        for n in 0..25 {
            buffered(account.put(&id(&format!("block-{n:02}")), vec![n; 1_000_000].into()).await);
        }
    }
    world.customer.set_offline(false).await.unwrap();
    [one, other]
}

#[tokio::test(start_paused = true)]
async fn drains_take_at_most_a_fifth_of_the_time_while_others_work_and_none_at_once() {
    let world = World::new(121).await;
    let slow = Slow { store: world.store.clone(), drains: Arc::default() };
    let [one, other] = set_up(&world, &slow).await;
    // Somebody writes all the time, also between the vault's return and the first drain.
    for n in 0u32.. {
        let receipt = one.put(&id("busy"), n.to_be_bytes().to_vec().into()).await.unwrap();
        let left = slow.buffer_usage(one.id()).await.unwrap().is_some()
            || slow.buffer_usage(other.id()).await.unwrap().is_some();
        if !left {
            break;
        }
        assert!(n < 20_000, "{receipt:?}: it does not end");
    }
    let drains = slow.drains();
    assert!(drains.len() >= 50, "{}", drains.len());
    for two in drains.windows(2) {
        assert!(two[0].end <= two[1].start, "two drains at once: {two:?}");
    }
    let (first, last) = (drains[0].start, drains[drains.len() - 1].end);
    let busy: Duration = drains.iter().map(|drain| drain.end - drain.start).sum();
    let share = busy.as_secs_f64() / (last - first).as_secs_f64();
    println!("drains took {:.1} % of the time", 100.0 * share);
    assert!(share <= 0.2, "{share}");
    assert!(share > 0.1, "it does not dawdle: {share}");
}

#[tokio::test(start_paused = true)]
async fn with_nobody_else_there_drains_go_at_full_speed() {
    let world = World::new(122).await;
    let slow = Slow { store: world.store.clone(), drains: Arc::default() };
    let accounts = set_up(&world, &slow).await;
    sleep(2 * POLL).await;
    for account in &accounts {
        assert_eq!(slow.buffer_usage(account.id()).await.unwrap(), None);
    }
    let drains = slow.drains();
    let (first, last) = (drains[0].start, drains[drains.len() - 1].end);
    // The two accounts learn that the vault is back a poll apart at most: that gap, however long, is no rest. Each rests
    // once, as long as five commits take, for the writes before the vault's return.
    let gaps: Vec<_> = drains.windows(2).map(|two| two[1].start - two[0].end).collect();
    let rests = gaps.iter().filter(|gap| (COMMIT * 5..COMMIT * 50).contains(*gap)).count();
    assert!(last - first >= COMMIT * 50);
    assert!(rests <= 3 && gaps.iter().filter(|gap| !gap.is_zero()).count() <= 3, "{gaps:?}");
    stored(accounts[0].put(&id("later"), "content".into()).await);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_in_the_midst_of_a_drain_is_no_work_to_rest_for() {
    let world = World::new(123).await;
    let slow = Slow { store: world.store.clone(), drains: Arc::default() };
    let accounts = set_up(&world, &slow).await;
    for n in 0u32.. {
        accounts[0].put(&id("busy"), n.to_be_bytes().to_vec().into()).await.unwrap();
        if !slow.drains().is_empty() && n % 2 == 0 {
            // A drain is at work in every sixth of these moments.
            world.clock.suspend(Duration::from_secs(10));
        }
        if slow.drains().len() >= 25 {
            break;
        }
        assert!(n < 20_000, "it does not go on");
    }
    let drains = slow.drains();
    let took = drains[drains.len() - 1].end - drains[0].start;
    assert!(took < Duration::from_secs(30), "25 drains of {COMMIT:?} took {took:?}");
}
