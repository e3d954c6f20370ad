//! A flag and a count that tasks wait for.
//!
//! Guarantees: who waits misses nothing, and is woken in the order of waiting, so that a run under a simulator
//! repeats: `tokio::sync::watch` would wake in a random order.

use cofferdam_crypto::planted::{Bug, is_planted};

use crate::rt::{
    Notify,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Is raised once and stays up.
#[derive(Default)]
pub(super) struct Flag {
    up: AtomicBool,
    raised: Notify,
}

impl Flag {
    pub(super) fn raise(&self) {
        self.up.store(true, Ordering::SeqCst);
        self.raised.notify_waiters();
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    pub(super) async fn wait(&self) {
        if is_planted(Bug::FlagLookedAtFirst) {
            if !self.is_up() {
                self.raised.notified().await;
            }
            return;
        }
        // Made before the look: told of whatever is raised after it.
        let raised = self.raised.notified();
        if !self.is_up() {
            raised.await;
        }
    }
}

/// How many there are of something.
#[derive(Default)]
pub(super) struct Count {
    many: AtomicUsize,
    none: Notify,
}

impl Count {
    pub(super) fn add(&self) {
        self.many.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn remove(&self) {
        if self.many.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.none.notify_waiters();
        }
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> usize {
        self.many.load(Ordering::SeqCst)
    }

    /// Waits until there is none.
    pub(super) async fn wait_for_none(&self) {
        loop {
            let none = self.none.notified();
            if self.many.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_flag_is_woken_in_order_and_who_comes_later_does_not_wait() {
        let (flag, woken) = (Arc::new(Flag::default()), Arc::new(Mutex::new(Vec::new())));
        let waiters: Vec<_> = (0..100)
            .map(|n| {
                let (flag, woken) = (flag.clone(), woken.clone());
                tokio::spawn(async move {
                    flag.wait().await;
                    woken.lock().unwrap().push(n);
                })
            })
            .collect();
        // More often than the runtime looks at who yields.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!flag.is_up());
        flag.raise();
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert!(woken.lock().unwrap().iter().copied().eq(0..100));
        flag.wait().await;
    }

    #[tokio::test]
    async fn none_is_waited_for_however_often_there_is_one_again() {
        let count = Arc::new(Count::default());
        count.wait_for_none().await;
        count.add();
        let waiter = tokio::spawn({
            let count = count.clone();
            async move { count.wait_for_none().await }
        });
        tokio::task::yield_now().await;
        count.add();
        count.remove();
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        count.remove();
        waiter.await.unwrap();
    }
}
