//! The real thing.

use std::{future::poll_fn, task::Poll};

pub(crate) use arc_swap::{ArcSwap, ArcSwapOption};
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
pub(crate) use tokio::{
    sync::{Notify, broadcast, futures::Notified, watch},
    time::{sleep, timeout},
};

/// Starts a task that nobody waits for.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(work));
}

/// Comes back when the runtime has looked at the others.
pub(crate) async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A point at which another task may run, for what is none by itself.
#[inline(always)]
pub(crate) const fn point() {}

/// Is counted while it lives, under `--cfg cofferdam_shuttle`: goes into what must not outlive something.
pub(crate) struct Counted(());

impl Counted {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self(())
    }
}
