//! When time passes: when everything else waits, and now and then although it does not, as on a machine that is
//! slow or was suspended.

use std::{cell::Cell, time::Duration};

use cofferdam_keyring::rt::time;
use cofferdam_vault::{Clock, Timestamp};
use shuttle::{
    future,
    scheduler::{Schedule, Scheduler, Task, TaskId},
};

/// The task that lets time pass: the first that a schedule starts.
const PACE: usize = 1;

thread_local! {
    /// In how many of 1024 steps time passes although something else could run.
    static HASTE: Cell<u64> = const { Cell::new(0) };
    /// How often that may still happen: for ever, and nothing would ever be done in time.
    static LEAPS: Cell<u32> = const { Cell::new(0) };
}

const MOST_LEAPS: u32 = 40;

/// In how many of 1024 steps time passes although something else could run; 0: it passes only when all wait.
pub fn set_haste(haste: u64) {
    HASTE.set(haste);
    LEAPS.set(MOST_LEAPS);
}

pub fn haste() -> u64 {
    HASTE.get()
}

/// Lets time pass, for ever.
pub async fn pass() {
    loop {
        let deadline = time::first_deadline().await;
        time::pass_until(deadline);
        future::yield_now().await;
    }
}

/// A scheduler that leaves to another who runs, but not when time passes.
pub struct Paced<S> {
    inner: S,
    random: u64,
}

impl<S> Paced<S> {
    pub fn over(inner: S) -> Self {
        Self { inner, random: 0 }
    }

    /// Xorshift64*: the draws are part of the schedule, as who runs next.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }
}

impl<S: Scheduler> Scheduler for Paced<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let schedule = self.inner.new_execution()?;
        self.random = schedule.seed | 1;
        Some(schedule)
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yielding: bool) -> Option<TaskId> {
        let pace = TaskId::from(PACE);
        if runnable.len() > 1 && runnable.iter().any(|task| task.id() == pace) {
            if LEAPS.get() > 0 && self.draw() % 1024 < haste() {
                LEAPS.set(LEAPS.get() - 1);
                return Some(pace);
            }
            let others: Vec<&Task> = runnable.iter().copied().filter(|task| task.id() != pace).collect();
            return self.inner.next_task(&others, current, yielding);
        }
        self.inner.next_task(runnable, current, yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }
}

/// The clock of virtual time.
#[derive(Debug)]
pub struct VirtualClock;

const DAY: Duration = Duration::from_secs(86_400);
const NOVEMBER_2026: Duration = Duration::from_secs(1_795_000_000);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        cofferdam_keyring::rt::point();
        let passed = time::now();
        Timestamp { boot: DAY + passed, wall: NOVEMBER_2026 + passed }
    }
}
