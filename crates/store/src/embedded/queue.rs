//! The queue before the group commit: bounded in bytes, fair by account.
//!
//! Guarantees: at most `capacity` bytes are admitted at a time (one larger batch is admitted alone); whoever
//! does not fit waits, and is admitted, and later taken, in turns between lanes, so that an account that
//! writes much does not hold up one that writes little. A waiter that gives up leaves nothing behind.
//!
//! Not its job: running anything.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cofferdam_crypto::AccountId;
use tokio::sync::oneshot;

use crate::error::{StoreError, StoreErrorKind};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Catalog,
    Account(AccountId),
}

/// First in, first out within a lane; in turns between lanes.
#[derive(Debug)]
struct Lanes<T> {
    queues: BTreeMap<Lane, VecDeque<T>>,
    turns: VecDeque<Lane>,
}

impl<T> Lanes<T> {
    fn new() -> Self {
        Self { queues: BTreeMap::new(), turns: VecDeque::new() }
    }

    fn push(&mut self, lane: Lane, item: T) {
        let queue = self.queues.entry(lane).or_default();
        if queue.is_empty() {
            self.turns.push_back(lane);
        }
        queue.push_back(item);
    }

    /// The next item, if `fits` says so of it.
    fn pop_if(&mut self, fits: impl FnOnce(&T) -> bool) -> Option<T> {
        let lane = *self.turns.front()?;
        let queue = self.queues.get_mut(&lane)?;
        if !fits(queue.front()?) {
            return None;
        }
        let item = queue.pop_front();
        self.turns.pop_front();
        if queue.is_empty() {
            self.queues.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        item
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

struct Inner<T> {
    waiting: Lanes<(u64, oneshot::Sender<Permit<T>>)>,
    admitted: Lanes<(u64, T)>,
    /// Bytes of permits that are out.
    used: u64,
    /// Whether somebody is taking from the queue.
    led: bool,
    closed: bool,
    /// Told once the queue is closed and empty and nobody leads.
    idle: Vec<oneshot::Sender<()>>,
}

/// The queue; clones are the same one.
pub(crate) struct Queue<T> {
    inner: Arc<Mutex<Inner<T>>>,
    capacity: u64,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), capacity: self.capacity }
    }
}

/// Room for one batch; given back when dropped.
pub(crate) struct Permit<T> {
    queue: Option<Queue<T>>,
    bytes: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: u64) -> Self {
        let inner = Inner {
            waiting: Lanes::new(),
            admitted: Lanes::new(),
            used: 0,
            led: false,
            closed: false,
            idle: Vec::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), capacity: capacity.max(1) }
    }

    /// Waits for room for `bytes`.
    pub(crate) async fn admit(&self, lane: Lane, bytes: u64) -> Result<Permit<T>, StoreError> {
        let bytes = bytes.min(self.capacity);
        let granted = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(StoreError::new(StoreErrorKind::Closed));
            }
            if inner.waiting.is_empty() && inner.used + bytes <= self.capacity {
                inner.used += bytes;
                return Ok(Permit { queue: Some(self.clone()), bytes });
            }
            let (grant, granted) = oneshot::channel();
            inner.waiting.push(lane, (bytes, grant));
            granted
        };
        granted.await.map_err(|_| StoreError::new(StoreErrorKind::Closed))
    }

    /// Puts a batch in; `true` if the caller must see to it that somebody leads now.
    pub(crate) fn push(&self, lane: Lane, bytes: u64, item: T) -> Result<bool, StoreError> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(StoreError::new(StoreErrorKind::Closed));
        }
        inner.admitted.push(lane, (bytes, item));
        Ok(!std::mem::replace(&mut inner.led, true))
    }

    /// Takes what waits, in turns, up to `bytes` but at least one; nothing ends the lead.
    pub(crate) fn take(&self, bytes: u64) -> Vec<T> {
        let mut inner = self.lock();
        let mut taken = Vec::new();
        let mut sum = 0;
        while let Some((size, item)) =
            inner.admitted.pop_if(|(size, _)| taken.is_empty() || sum + size <= bytes)
        {
            sum += size;
            taken.push(item);
        }
        if taken.is_empty() {
            inner.led = false;
            tell(std::mem::take(&mut inner.idle));
        }
        taken
    }

    /// The leader stops before its time. What waits is dropped, so that whoever waits for it learns of it, and
    /// the next batch finds nobody leading.
    pub(crate) fn resign(&self) {
        let (stranded, idle) = {
            let mut inner = self.lock();
            inner.led = false;
            (std::mem::replace(&mut inner.admitted, Lanes::new()), std::mem::take(&mut inner.idle))
        };
        // Unlocked, since giving back the room locks it.
        drop(stranded);
        tell(idle);
    }

    /// Refuses everything new and everybody who waits; resolves once what was admitted is done.
    pub(crate) fn close(&self) -> oneshot::Receiver<()> {
        let (told, idle) = oneshot::channel();
        let mut inner = self.lock();
        inner.closed = true;
        inner.waiting = Lanes::new();
        if inner.led {
            inner.idle.push(told);
        } else {
            let _ = told.send(());
        }
        idle
    }

    fn release(&self, bytes: u64) {
        let mut inner = self.lock();
        inner.used -= bytes;
        loop {
            let room = self.capacity - inner.used;
            let Some((bytes, grant)) = inner.waiting.pop_if(|(bytes, _)| *bytes <= room) else { return };
            inner.used += bytes;
            if let Err(mut unwanted) = grant.send(Permit { queue: Some(self.clone()), bytes }) {
                // Dropping it as it is would lock what is locked.
                unwanted.queue = None;
                inner.used -= bytes;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(idle: Vec<oneshot::Sender<()>>) {
    for told in idle {
        let _ = told.send(());
    }
}

impl<T> Drop for Permit<T> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.release(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(n: u8) -> Lane {
        Lane::Account(AccountId::from_bytes([n; 16]))
    }

    #[test]
    fn lanes_take_turns() {
        let queue = Queue::new(100);
        for item in ["a1", "a2", "a3"] {
            queue.push(lane(1), 1, item).unwrap();
        }
        queue.push(lane(2), 1, "b1").unwrap();
        queue.push(lane(3), 1, "c1").unwrap();
        queue.push(lane(2), 1, "b2").unwrap();
        assert_eq!(queue.take(4), ["a1", "b1", "c1", "a2"]);
        assert_eq!(queue.take(0), ["b2"], "one is taken whatever its size");
        assert_eq!(queue.take(10), ["a3"]);
        assert!(queue.take(10).is_empty());
        assert!(queue.push(lane(1), 1, "again").unwrap(), "nobody leads any more");
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_a_greedy_lane_waits_longest() {
        let queue = Queue::<()>::new(10);
        let first = queue.admit(lane(1), 8).await.unwrap();
        let mut greedy = Vec::new();
        for _ in 0..3 {
            let queue = queue.clone();
            greedy.push(tokio::spawn(async move { queue.admit(lane(1), 8).await }));
            tokio::task::yield_now().await;
        }
        let small = tokio::spawn({
            let queue = queue.clone();
            async move { queue.admit(lane(2), 8).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = greedy.remove(0).await.unwrap().unwrap();
        assert!(!small.is_finished());
        drop(second);
        let third = small.await.unwrap().unwrap();
        assert!(greedy.iter().all(|waiter| !waiter.is_finished()));
        drop(third);
        for waiter in greedy {
            drop(waiter.await.unwrap().unwrap());
        }
        assert_eq!(queue.lock().used, 0);
    }

    #[tokio::test]
    async fn one_larger_than_the_queue_is_admitted_alone() {
        let queue = Queue::<()>::new(10);
        let large = queue.admit(lane(1), 1000).await.unwrap();
        let mut small = Box::pin(queue.admit(lane(2), 1));
        assert!(futures_pending(&mut small).await);
        drop(large);
        drop(small.await.unwrap());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let queue = Queue::<()>::new(10);
        let first = queue.admit(lane(1), 10).await.unwrap();
        let mut quitter = Box::pin(queue.admit(lane(1), 10));
        assert!(futures_pending(&mut quitter).await);
        let mut granted = Box::pin(queue.admit(lane(2), 10));
        assert!(futures_pending(&mut granted).await);
        drop(quitter);
        drop(first);
        // Granted, but dropped before it is looked at.
        drop(granted);
        assert_eq!(queue.lock().used, 0);
        drop(queue.admit(lane(3), 10).await.unwrap());
    }

    #[tokio::test]
    async fn closing_refuses_the_new_and_the_waiting() {
        let queue = Queue::<()>::new(10);
        let first = queue.admit(lane(1), 10).await.unwrap();
        let mut waiting = Box::pin(queue.admit(lane(1), 10));
        assert!(futures_pending(&mut waiting).await);
        queue.close().await.unwrap();
        assert_eq!(waiting.await.err().unwrap().kind(), StoreErrorKind::Closed);
        assert_eq!(queue.admit(lane(1), 1).await.err().unwrap().kind(), StoreErrorKind::Closed);
        assert_eq!(queue.push(lane(1), 1, ()).unwrap_err().kind(), StoreErrorKind::Closed);
        drop(first);
    }

    #[tokio::test]
    async fn a_leader_that_resigns_gives_back_what_waited_and_closing_does_not_hang() {
        struct Held {
            _room: Permit<Option<Held>>,
            _told: oneshot::Sender<()>,
        }
        let queue = Queue::<Option<Held>>::new(10);
        let room = queue.admit(lane(1), 10).await.unwrap();
        let (held, dropped) = oneshot::channel();
        assert!(queue.push(lane(1), 10, Some(Held { _room: room, _told: held })).unwrap());
        let mut waiting = Box::pin(queue.admit(lane(2), 10));
        assert!(futures_pending(&mut waiting).await);
        queue.resign();
        dropped.await.unwrap_err();
        drop(waiting.await.unwrap());
        assert_eq!(queue.lock().used, 0);
        assert!(queue.push(lane(2), 1, None).unwrap(), "nobody leads any more");
        let closed = queue.close();
        queue.resign();
        closed.await.unwrap();
    }

    async fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }
}
