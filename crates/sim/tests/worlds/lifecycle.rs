//! Rotation, linking and deletion, in thousands of small worlds in which everything fails.

use std::time::Duration;

use cofferdam_sim::{Scenario, Simulation};

use crate::support::*;

#[test]
fn rotation_linking_and_deletion_lose_nothing_and_refuse_nobody_whatever_fails() {
    let scenario = Scenario::new().operations(Some(Duration::from_secs(30)));
    let total = run_all(&Simulation::new(scenario), 0..scale(100, 10_000));
    total.print("operations on accounts, two nodes on one catalog");
    let counts = &total.counts;
    assert!(counts.kek_rotations > 0 && counts.aek_rotations > 0 && counts.reencrypted > 0, "{counts}");
    assert!(counts.links > 0 && counts.unlinks > 0 && counts.deletes > 0 && counts.purges > 0, "{counts}");
    assert!(counts.conflicts > 0 && counts.versions_retired > 0 && counts.crashes > 0, "{counts}");
}

#[test]
fn worlds_that_broke_a_promise_once_break_none() {
    // 4081: an operation waited for a node whose lease had lapsed, behind vaults that hung one after another. 5574: a write that
    // waited for a key which was given up meanwhile was refused as of an account that is not there. 264: the model took a yes to the
    // newest epoch for the whole of an attempt whose older epoch hung.
    let scenario = Scenario::new().operations(Some(Duration::from_secs(30)));
    let simulation = Simulation::new(scenario);
    for seed in [264, 4081, 5574] {
        let total = run_all(&simulation, seed..seed + 1);
        assert!(total.counts.acknowledged > 0, "{}", total.counts);
    }
}
