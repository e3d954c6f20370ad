//! Where work that blocks a thread runs.
//!
//! Guarantees: no async task is held up by a file or by a long computation, as all of those go through an
//! [`Executor`] that is passed in; a simulator runs the same work in place, so that a run has one order. Not its job: to
//! bound or to cancel work: what was started is finished, also when the caller has given up.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use thiserror::Error;
use tokio::{runtime::Handle, sync::oneshot};

/// A piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs blocking work.
pub trait Executor: fmt::Debug + Send + Sync {
    /// Runs the job now or soon; drops it only when it will never run.
    fn execute(&self, job: Job);
}

/// Runs work that answers, and waits for the answer. A dropped future lets started work go on to its end.
///
/// # Errors
/// [`WorkLost`] when the work was dropped before its end, or panicked.
pub async fn run<T: Send + 'static>(
    executor: &dyn Executor,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkLost> {
    let (reply, done) = oneshot::channel();
    executor.execute(Box::new(move || {
        // Nobody may listen any more: then the work was for its effect.
        let _ = reply.send(work());
    }));
    done.await.map_err(|_| WorkLost)
}

/// Work was dropped before its end: its executor is shutting down, or it panicked, which is a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "work was dropped before its end: the runtime is shutting down, or it panicked, which is a defect to report"
)]
pub struct WorkLost;

/// Runs jobs on a few threads of its own, started as they are needed and kept until it is dropped.
///
/// Few, because each thread's allocator keeps about the largest block that it ever held: on tokio's threads
/// for blocking work, reading blocks of 16 MiB one after another took 280 MiB, on four threads it does not.
pub struct Threads {
    pool: Arc<Pool>,
    most: usize,
}

#[derive(Default)]
struct Pool {
    state: Mutex<PoolState>,
    changed: Condvar,
}

#[derive(Default)]
struct PoolState {
    jobs: VecDeque<Job>,
    started: usize,
    idle: usize,
    stopped: bool,
}

impl Threads {
    /// At most this many threads, at least one.
    pub fn new(most: usize) -> Self {
        Self { pool: Arc::default(), most: most.max(1) }
    }
}

impl Executor for Threads {
    fn execute(&self, job: Job) {
        let mut state = self.pool.state();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.started == self.most {
            self.pool.changed.notify_one();
            return;
        }
        let pool = self.pool.clone();
        let started = thread::Builder::new().name("cofferdam".into()).spawn(move || pool.work());
        if started.is_ok() {
            state.started += 1;
        } else if state.started == 0 {
            // No thread at all: better here than never.
            let job = state.jobs.pop_back();
            drop(state);
            job.into_iter().for_each(|job| job());
        }
    }
}

impl Drop for Threads {
    /// What was given is still run; nobody waits for it.
    fn drop(&mut self) {
        self.pool.state().stopped = true;
        self.pool.changed.notify_all();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({})", self.most)
    }
}

impl Pool {
    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A panic is the job's own loss: whoever waits for it is told, and the thread goes on.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state();
            } else if state.stopped {
                return;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs jobs on tokio's threads for blocking work; without a runtime, where it is called.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpawnBlocking;

impl Executor for SpawnBlocking {
    fn execute(&self, job: Job) {
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(job)),
            Err(_) => job(),
        }
    }
}

/// Runs jobs where it is called, in the order of the calls: for simulations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Executor for Inline {
    fn execute(&self, job: Job) {
        job();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn every_executor_answers_the_same() {
        let threads = Threads::new(1);
        for executor in [&SpawnBlocking as &dyn Executor, &Inline, &threads] {
            assert_eq!(run(executor, || 6 * 7).await, Ok(42), "{executor:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_on_a_thread_is_an_error_and_costs_no_thread() {
        let threads = Threads::new(1);
        for executor in [&SpawnBlocking as &dyn Executor, &threads] {
            assert_eq!(run(executor, || panic!("on purpose")).await, Err::<(), _>(WorkLost), "{executor:?}");
            assert_eq!(run(executor, || 1).await, Ok(1), "{executor:?}");
        }
    }

    #[test]
    fn threads_run_every_job_also_those_given_before_the_drop() {
        let (done, results) = mpsc::channel();
        let threads = Threads::new(3);
        for n in 0..200 {
            let done = done.clone();
            threads.execute(Box::new(move || done.send((n, thread::current().id())).unwrap()));
        }
        drop(threads);
        drop(done);
        let mut results: Vec<_> = results.into_iter().collect();
        results.sort_by_key(|(n, _)| *n);
        assert!(results.iter().map(|(n, _)| *n).eq(0..200));
        let mut ids: Vec<_> = results.into_iter().map(|(_, id)| format!("{id:?}")).collect();
        ids.sort();
        ids.dedup();
        assert!(ids.len() <= 3, "{ids:?}");
    }
}
