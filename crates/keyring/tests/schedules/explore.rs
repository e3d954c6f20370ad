//! Runs many schedules, and tells the one that fails.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use cofferdam_crypto::planted::{Bug, plant};
use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler},
};
use tokio::time::Instant;

use crate::{pace::Paced, world};

/// How the next task is chosen.
#[derive(Clone, Copy, Debug)]
pub enum Strategy {
    /// Any that can run.
    Random,
    /// Mostly one after another, with few changes at moments that are drawn.
    Pct,
}

/// How many changes there are at most in a schedule of [`Strategy::Pct`].
const CHANGES: usize = 4;

/// What was run.
pub struct Explored {
    schedules: usize,
    seed: u64,
    seconds: f64,
}

impl Strategy {
    pub const ALL: [Self; 2] = [Self::Pct, Self::Random];

    fn scheduler(self, seed: u64, schedules: usize) -> Box<dyn Scheduler + Send> {
        match self {
            Self::Random => Box::new(Paced::over(RandomScheduler::new_from_seed(seed, schedules))),
            Self::Pct => Box::new(Paced::over(PctScheduler::new_from_seed(seed, CHANGES, schedules))),
        }
    }
}

fn config(persistence: FailurePersistence) -> Config {
    let mut config = Config::new();
    // Deriving keys takes some.
    config.stack_size = 1 << 18;
    config.max_steps = MaxSteps::FailAfter(200_000);
    config.failure_persistence = persistence;
    config.silence_warnings = true;
    config
}

/// Runs this many schedules, half of them by each strategy.
///
/// # Panics
/// When one breaks a promise: it is printed first.
pub fn explore(schedules: usize, seed: u64) -> Explored {
    let start = Instant::now();
    let runs = Strategy::ALL.map(|strategy| {
        thread::spawn(move || {
            let scheduler = strategy.scheduler(seed, schedules / Strategy::ALL.len());
            Runner::new(scheduler, config(FailurePersistence::Print)).run(world::run)
        })
    });
    let ran = runs.map(|run| run.join());
    let seconds = start.elapsed().as_secs_f64();
    let schedules = ran.into_iter().map(|ran| ran.expect("a schedule broke a promise: see above")).sum();
    Explored { schedules, seed, seconds }
}

impl Explored {
    pub fn print(&self) {
        let Self { schedules, seed, seconds } = self;
        println!("{schedules} schedules, 0 violations, {seconds:.1} s, seed {seed:#x}");
    }
}

/// Runs one schedule.
pub fn replay(schedule: &str) {
    let scheduler = ReplayScheduler::new_from_encoded(schedule);
    Runner::new(scheduler, config(FailurePersistence::Print)).run(world::run);
}

/// How many schedules it takes to find a planted defect.
pub fn find(bug: Bug, strategy: Strategy, bound: usize, seed: u64) -> Option<usize> {
    // A thread of its own: a schedule that fails leaves things behind.
    let run = thread::spawn(move || {
        plant(Some(bug));
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let runner = Runner::new(strategy.scheduler(seed, bound), config(FailurePersistence::None));
        let ran = catch_unwind(AssertUnwindSafe(|| {
            runner.run(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                world::run();
            })
        }));
        ran.is_err().then(|| count.load(Ordering::Relaxed))
    });
    run.join().unwrap()
}
