//! Defects that are planted on purpose are found, each by a simulation that knows nothing of them. Compiled only with
//! `RUSTFLAGS="--cfg cofferdam_planted"`.
#![cfg(cofferdam_planted)]

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use cofferdam_crypto::planted::{Bug, plant};
use cofferdam_sim::{Scenario, Simulation, Violation};

use crate::support::*;

/// Within how many seeds each must be found.
const BOUND: u64 = 2_000;

fn find(simulation: &Simulation, bug: Bug) -> Option<(u64, Violation)> {
    plant(Some(bug));
    let found = (0..BOUND).find_map(|seed| Some((seed, simulation.run(seed).violation?)));
    plant(None);
    found
}

#[test]
fn every_planted_defect_is_found_and_none_where_none_is_planted() {
    let simulation = Simulation::new(Scenario::new());
    let of_operations = Simulation::new(Scenario::new().operations(Some(Duration::from_secs(30))));
    // One by name, to look at it.
    let only = env::var("COFFERDAM_BUG").ok();
    let bugs: Vec<Bug> = Bug::ALL
        .iter()
        .copied()
        // A simulation takes one order of steps for each seed.
        .filter(|bug| !Bug::INTERLEAVED.contains(bug) && !Bug::NOT_SIMULATED.contains(bug))
        .filter(|bug| only.as_ref().is_none_or(|name| bug.name() == name))
        .collect();
    assert!(!bugs.is_empty(), "no such defect: {only:?}");
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let operates = Bug::OF_OPERATIONS.contains(&bug);
                    match find(if operates { &of_operations } else { &simulation }, bug) {
                        Some((seed, violation)) if only.is_some() => {
                            println!("{}: seed {seed}: {violation}", bug.name());
                        }
                        Some((seed, violation)) => {
                            let (seeds, check) = (seed + 1, violation.check);
                            println!("{:<28} found by {check:<26} in {seeds:>5} seeds", bug.name());
                        }
                        None => {
                            println!("{:<28} NOT FOUND in {BOUND} seeds", bug.name());
                            missed.lock().unwrap().push(bug.name());
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:?}");
    if only.is_none() {
        run_all(&simulation, 0..scale(100, BOUND)).print("the same seeds with nothing planted");
    }
}
