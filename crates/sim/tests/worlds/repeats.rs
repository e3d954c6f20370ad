//! A seed is a run, to the last event.

use std::{env, process::Command, thread};

use cofferdam_sim::{Scenario, Simulation};

use crate::support::*;

const CHILD: &str = "COFFERDAM_SIM_HASHES";

fn hashes(seeds: u64) -> Vec<String> {
    let simulation = Simulation::new(Scenario::new());
    let run = |seed| format!("{seed} {:016x}", simulation.run(seed).trace_hash);
    let half = seeds / 2;
    thread::scope(|scope| {
        let first = scope.spawn(|| (0..half).map(run).collect::<Vec<_>>());
        let second: Vec<_> = (half..seeds).map(run).collect();
        [first.join().unwrap(), second].concat()
    })
}

#[test]
fn the_same_seed_gives_the_same_trace_in_another_process() {
    let seeds = scale(16, 100);
    if env::var_os(CHILD).is_some() {
        hashes(seeds).iter().for_each(|line| println!("hash {line}"));
        return;
    }
    let here = hashes(seeds);
    let child = Command::new(env::current_exe().unwrap())
        .args(["--nocapture", "the_same_seed_gives_the_same_trace_in_another_process"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let told = String::from_utf8(child.stdout).unwrap();
    // The harness may print the test's name on the same line.
    let there: Vec<&str> = told.lines().filter_map(|line| Some(line.split_once("hash ")?.1)).collect();
    assert_eq!(here, there, "the first that differs is not repeatable");
    let distinct: std::collections::BTreeSet<_> = here.iter().map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(distinct.len(), here.len(), "two seeds gave one run");
    println!("{seeds} seeds run twice, in two processes: {} equal trace hashes", here.len());
}
