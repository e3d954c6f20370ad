//! Each defect that can be planted in the hot cache is found by the random runs that hold it against a model, which know
//! nothing of it. Needs `--cfg cofferdam_planted`.

#![cfg(cofferdam_planted)]

use cofferdam::crypto::planted::{Bug, plant};
use tokio::runtime::Builder;

use crate::cached;

/// Within how many seeds each must be found.
const BOUND: u64 = 40;

fn run(seed: u64) -> Result<cached::Figures, cached::Violation> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(cached::run(seed, 150))
}

#[test]
fn every_planted_defect_is_found_and_none_where_none_is_planted() {
    for bug in Bug::ALL.iter().copied().filter(|bug| bug.is_in_hot_cache()) {
        plant(Some(bug));
        let found = (0..BOUND).find_map(|seed| Some((seed, run(seed).err()?)));
        plant(None);
        let (seed, violation) =
            found.unwrap_or_else(|| panic!("{} is not found in {BOUND} seeds", bug.name()));
        println!("{:<28} found in {:>2} seeds: {violation}", bug.name(), seed + 1);
        if let Err(violation) = run(seed) {
            panic!("seed {seed} with nothing planted: {violation}");
        }
    }
}
