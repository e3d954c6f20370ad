//! Where blocking work runs.
//!
//! Guarantees: the store blocks no async task: all its I/O goes through one [`Executor`]. Not its job: order.

use std::fmt;

use tokio::runtime::Handle;

/// A piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs blocking work.
pub trait Executor: fmt::Debug + Send + Sync {
    /// Runs the job now or soon; drops it only when it will never run.
    fn execute(&self, job: Job);
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
