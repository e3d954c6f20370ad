#![allow(dead_code, reason = "no test file uses all of it")]

use std::{
    env,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use cofferdam_sim::{Counts, Report, Simulation};

/// The small number by default, the full one under `COFFERDAM_FULL`.
pub fn scale(small: u64, full: u64) -> u64 {
    if env::var_os("COFFERDAM_FULL").is_some() { full } else { small }
}

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Total {
    pub runs: u64,
    pub counts: Counts,
    pub virtual_time: Duration,
    pub events: u64,
    pub wall_time: Duration,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.counts.add(&report.counts);
        self.virtual_time += report.virtual_time;
        self.events += report.events;
    }

    pub fn print(&self, what: &str) {
        let each = self.wall_time / u32::try_from(self.runs.max(1)).unwrap();
        println!(
            "{what}: {} seeds, {} events, {:.1} virtual hours in {:.1?} ({each:.1?} a seed), violations 0\n{}\n",
            self.runs,
            self.events,
            self.virtual_time.as_secs_f64() / 3600.0,
            self.wall_time,
            self.counts
        );
    }
}

/// Runs the seeds on all cores; fails on the first violation, with its seed and its last events.
///
/// `COFFERDAM_SEED=17` runs that one alone and prints all its events; `COFFERDAM_SEEDS=100..200` runs those.
pub fn run_all(simulation: &Simulation, seeds: Range<u64>) -> Total {
    if let Ok(seed) = env::var("COFFERDAM_SEED") {
        let report = simulation.clone().keep_trace().run(seed.parse().expect("COFFERDAM_SEED is a number"));
        report.trace.iter().for_each(|line| println!("{line}"));
        panic!("one seed alone: {:?}", report.violation.map(|violation| violation.check));
    }
    let seeds = match env::var("COFFERDAM_SEEDS") {
        Ok(range) => {
            let (first, end) = range.split_once("..").expect("COFFERDAM_SEEDS is a range");
            first.parse().expect("a number")..end.parse().expect("a number")
        }
        Err(_) => seeds,
    };
    let start = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let mut total = Total::default();
    thread::scope(|scope| {
        let work = || {
            let mut part = Total::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return Ok(part);
                }
                let report = simulation.run(seed);
                part.add(&report);
                if let Some(violation) = report.violation {
                    next.store(seeds.end, Ordering::Relaxed);
                    return Err(format!("seed {seed}: {violation}"));
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join().unwrap() {
                Ok(part) => {
                    total.runs += part.runs;
                    total.counts.add(&part.counts);
                    total.virtual_time += part.virtual_time;
                    total.events += part.events;
                }
                Err(violation) => panic!("{violation}"),
            }
        }
    });
    total.wall_time = start.elapsed();
    total
}
