//! Any order of steps in which refreshes, revocations, reads, evictions and a close can meet keeps the promises of
//! the driver. Compiled only with `RUSTFLAGS="--cfg cofferdam_shuttle --cfg cofferdam_planted"`:
//! `cargo xtask test --only schedules` does that.
//!
//! A schedule that fails is printed; `COFFERDAM_SCHEDULE` takes it, or a file that it is in, and runs it alone.
#![cfg(all(cofferdam_shuttle, cofferdam_planted))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod explore;
mod judge;
mod pace;
mod vault;
mod world;

use std::{env, fs};

use cofferdam_crypto::planted::Bug;
use explore::{Strategy, explore, find, replay};

/// Where the draws of a run begin; the schedules of one run differ from each other.
const SEED: u64 = 0x0c0f_fe1d;

fn scale(small: usize, full: usize) -> usize {
    if env::var_os("COFFERDAM_FULL").is_some_and(|value| value == "1") { full } else { small }
}

#[test]
fn no_schedule_of_refresh_revoke_read_and_evict_breaks_a_promise() {
    if let Ok(schedule) = env::var("COFFERDAM_SCHEDULE") {
        let schedule = fs::read_to_string(&schedule).unwrap_or(schedule);
        replay(schedule.trim());
        return;
    }
    explore(scale(2_000, 100_000), SEED).print();
}

/// Those that take tens of thousands of schedules: looked for at full scale alone.
const RARE: &[Bug] = &[Bug::RetiredUsed, Bug::FlagLookedAtFirst, Bug::WriteEndForgotten];

#[test]
fn every_planted_defect_is_found() {
    let bound = scale(4_000, 100_000);
    let only = env::var("COFFERDAM_BUG").ok();
    let bugs = Bug::INTERLEAVED.iter().copied().filter(|bug| match &only {
        Some(name) => name == bug.name(),
        None => scale(0, 1) == 1 || !RARE.contains(bug),
    });
    let mut missed = Vec::new();
    for bug in bugs {
        let found =
            Strategy::ALL.iter().find_map(|&strategy| Some((strategy, find(bug, strategy, bound, SEED)?)));
        match found {
            Some((strategy, at)) => println!("{:<28} found in {at:>6} schedules, {strategy:?}", bug.name()),
            None => {
                println!("{:<28} NOT FOUND in {bound} schedules by either strategy", bug.name());
                missed.push(bug.name());
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
