//! Runs seeds, and prints the events of one that broke a promise: `cargo run --release --example replay -- 17`, or
//! `-- 0..1000` for many, of which only violations are printed. A second number has an operation on an account so often, in
//! seconds; 0 has none.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::{process::ExitCode, time::Duration};

use cofferdam_sim::{Counts, Scenario, Simulation};

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_else(|| "0".to_owned());
    let (first, end) = match wanted.split_once("..") {
        Some((first, end)) => (first.parse().unwrap_or(0), end.parse().unwrap_or(0)),
        None => {
            let seed = wanted.parse().unwrap_or(0);
            (seed, seed + 1)
        }
    };
    let one = end - first == 1;
    let mut scenario = if one { Scenario::new().keep_trace() } else { Scenario::new() };
    if let Some(calm) = std::env::args().nth(2).and_then(|calm| calm.parse().ok()) {
        let calm = Duration::from_secs(calm);
        scenario = scenario.operations((!calm.is_zero()).then_some(calm));
    }
    let simulation = Simulation::new(scenario);
    let (mut counts, mut failed) = (Counts::default(), 0);
    for seed in first..end {
        let report = simulation.run(seed);
        counts.add(&report.counts);
        if one {
            report.trace.iter().for_each(|line| println!("{line}"));
            println!("trace hash {:016x}", report.trace_hash);
        }
        if let Some(violation) = report.violation {
            failed += 1;
            let shown = if one {
                violation.to_string()
            } else {
                violation.to_string().lines().next().unwrap_or("").to_owned()
            };
            println!("seed {seed}: {shown}");
        }
    }
    println!("{counts}");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
