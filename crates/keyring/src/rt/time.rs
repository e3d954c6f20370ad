//! Virtual time for tests: it passes when the test says so.
//!
//! Guarantees: a sleep ends once its deadline is reached, whatever runs meanwhile; sleeps that end together end in
//! the order in which they were begun. One time for each thread, and so for each schedule that it runs.
//!
//! Not its job: to decide when time passes. [`first_deadline`] tells whoever does.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::point;

#[derive(Default)]
struct Timers {
    now: Duration,
    begun: u64,
    waiting: BTreeMap<(Duration, u64), Waker>,
    /// Who lets time pass, while no sleep is under way.
    pace: Option<Waker>,
}

thread_local! {
    static TIMERS: RefCell<Timers> = RefCell::default();
}

fn timers<T>(work: impl FnOnce(&mut Timers) -> T) -> T {
    TIMERS.with_borrow_mut(work)
}

/// Begins another time, at zero.
pub fn restart() {
    // Dropped outside the borrow: a waker may do anything.
    drop(TIMERS.take());
}

/// The time since [`restart`].
pub fn now() -> Duration {
    timers(|timers| timers.now)
}

/// Waits until a sleep is under way; returns the deadline of the first to end.
pub async fn first_deadline() -> Duration {
    poll_fn(|context| {
        timers(|timers| match timers.waiting.first_key_value() {
            Some(((deadline, _), _)) => Poll::Ready(*deadline),
            None => {
                timers.pace = Some(context.waker().clone());
                Poll::Pending
            }
        })
    })
    .await
}

/// Lets time pass until `then`, unless it has already, and ends the sleeps that are due.
pub fn pass_until(then: Duration) {
    let due = timers(|timers| {
        timers.now = timers.now.max(then);
        let later = timers.waiting.split_off(&(timers.now, u64::MAX));
        std::mem::replace(&mut timers.waiting, later)
    });
    due.into_values().for_each(Waker::wake);
}

/// As tokio's.
#[derive(Debug)]
pub struct Sleep {
    deadline: Duration,
    number: u64,
}

/// As tokio's.
pub fn sleep(time: Duration) -> Sleep {
    timers(|timers| {
        timers.begun += 1;
        Sleep { deadline: timers.now.saturating_add(time), number: timers.begun }
    })
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        point();
        let pace = timers(|timers| {
            if timers.now >= self.deadline {
                return None;
            }
            timers.waiting.insert((self.deadline, self.number), context.waker().clone());
            Some(timers.pace.take())
        });
        let Some(pace) = pace else { return Poll::Ready(()) };
        pace.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        timers(|timers| timers.waiting.remove(&(self.deadline, self.number)));
    }
}

/// What was to be done in time was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

/// As tokio's.
///
/// # Errors
/// When `work` has not ended in time.
pub async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    let mut late = pin!(sleep(limit));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => late.as_mut().poll(context).map(|()| Err(Elapsed(()))),
    })
    .await
}
