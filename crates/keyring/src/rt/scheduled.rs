//! Stand-ins whose every operation is a scheduling point of shuttle, for tests.
//!
//! Guarantees: one operation runs at a time, whole, and another task may run before each. What blocks is
//! shuttle's own; the rest is the real thing behind a [`point`], since between two points there is one thread.
//!
//! Not their job: weak memory. Every ordering counts as `SeqCst`, so what relaxed atomics could reorder is not found.

use std::{
    cell::Cell,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::{Guard, RefCnt};
pub use shuttle::sync::{Mutex, MutexGuard, atomic};

pub use super::time::{sleep, timeout};

/// Starts a task that nobody waits for.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    drop(shuttle::future::spawn(work));
}

/// Comes back when the others that can run have run.
pub async fn let_others_run() {
    shuttle::future::yield_now().await;
}

/// A point at which another task may run.
pub fn point() {
    // The one operation of shuttle that is that and nothing else.
    shuttle::thread::sleep(Duration::ZERO);
}

thread_local! {
    static COUNTED: Cell<usize> = const { Cell::new(0) };
}

/// Is counted while it lives.
#[derive(Debug)]
pub struct Counted(());

impl Counted {
    /// How many there are, of the schedules that this thread runs.
    pub fn now() -> usize {
        COUNTED.get()
    }

    /// One more.
    pub(crate) fn new() -> Self {
        COUNTED.set(COUNTED.get() + 1);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COUNTED.set(COUNTED.get() - 1);
    }
}

/// As `arc_swap::ArcSwap`.
pub type ArcSwap<T> = ArcSwapAny<Arc<T>>;
/// As `arc_swap::ArcSwapOption`.
pub type ArcSwapOption<T> = ArcSwapAny<Option<Arc<T>>>;

/// As `arc_swap::ArcSwapAny`.
#[derive(Default)]
pub struct ArcSwapAny<T: RefCnt>(arc_swap::ArcSwapAny<T>);

impl<T: RefCnt> ArcSwapAny<T> {
    /// One that points to this.
    pub fn new(to: T) -> Self {
        Self(arc_swap::ArcSwapAny::new(to))
    }

    /// What it points to, in the step that is under way: for who looks from outside.
    pub fn peek(&self) -> Guard<T> {
        self.0.load()
    }

    /// What it points to, without counting as a holder.
    pub fn load(&self) -> Guard<T> {
        point();
        self.0.load()
    }

    /// What it points to.
    pub fn load_full(&self) -> T {
        point();
        self.0.load_full()
    }

    /// Lets it point to something else.
    pub fn store(&self, to: T) {
        point();
        self.0.store(to);
    }

    /// Lets it point to something else, and returns what it pointed to.
    pub fn swap(&self, to: T) -> T {
        point();
        self.0.swap(to)
    }
}

impl<T> ArcSwapAny<Option<Arc<T>>> {
    /// One that points to nothing.
    pub fn empty() -> Self {
        Self(arc_swap::ArcSwapAny::empty())
    }
}

impl<T: RefCnt> fmt::Debug for ArcSwapAny<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArcSwapAny")
    }
}

/// As tokio's.
#[derive(Debug, Default)]
pub struct Notify(tokio::sync::Notify);

impl Notify {
    /// One that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends when it is told, from now on.
    pub fn notified(&self) -> Notified<'_> {
        point();
        Notified(Box::pin(self.0.notified()))
    }

    /// Tells one that waits, or the next to come.
    pub fn notify_one(&self) {
        point();
        self.0.notify_one();
    }

    /// Tells all that wait.
    pub fn notify_waiters(&self) {
        point();
        self.0.notify_waiters();
    }
}

/// As tokio's.
#[derive(Debug)]
pub struct Notified<'a>(Pin<Box<tokio::sync::futures::Notified<'a>>>);

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        point();
        self.0.as_mut().poll(context)
    }
}

/// As tokio's.
pub mod watch {
    use tokio::sync::watch;
    pub use watch::{Receiver, Ref};

    use super::point;

    /// As tokio's.
    #[derive(Debug)]
    pub struct Sender<T>(watch::Sender<T>);

    impl<T> Sender<T> {
        /// One that says this.
        pub fn new(said: T) -> Self {
            Self(watch::Sender::new(said))
        }

        /// Says something else; returns what was said before.
        pub fn send_replace(&self, said: T) -> T {
            point();
            self.0.send_replace(said)
        }

        /// Somebody listens.
        pub fn subscribe(&self) -> Receiver<T> {
            point();
            self.0.subscribe()
        }

        /// How many listen.
        pub fn receiver_count(&self) -> usize {
            point();
            self.0.receiver_count()
        }

        /// What is said now. Hold it across no operation of this module.
        pub fn borrow(&self) -> Ref<'_, T> {
            point();
            self.0.borrow()
        }
    }
}

/// As tokio's.
pub mod broadcast {
    pub use broadcast::{Receiver, error};
    use tokio::sync::broadcast;

    use super::point;

    /// As tokio's.
    #[derive(Debug)]
    pub struct Sender<T>(broadcast::Sender<T>);

    impl<T: Clone> Sender<T> {
        /// One that keeps this many for who is slow.
        pub fn new(kept: usize) -> Self {
            Self(broadcast::Sender::new(kept))
        }

        /// Says something.
        ///
        /// # Errors
        /// When nobody listens.
        pub fn send(&self, said: T) -> Result<usize, error::SendError<T>> {
            point();
            self.0.send(said)
        }

        /// Somebody listens.
        pub fn subscribe(&self) -> Receiver<T> {
            point();
            self.0.subscribe()
        }
    }
}
