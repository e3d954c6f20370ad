//! Where blocking work runs.
//!
//! Guarantees: the store blocks no async task: all its I/O goes through one [`Executor`]. Not its job: order.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::runtime::Handle;

/// A piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs blocking work.
pub trait Executor: fmt::Debug + Send + Sync {
    /// Runs the job now or soon; drops it only when it will never run.
    fn execute(&self, job: Job);
}

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
        let started = thread::Builder::new().name("cofferdam-store".into()).spawn(move || pool.work());
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
                job();
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
