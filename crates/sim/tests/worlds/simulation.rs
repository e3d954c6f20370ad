//! Every promise of the house, in thousands of small worlds.

use cofferdam_sim::{Scenario, Simulation};

use crate::support::*;

#[test]
fn no_promise_is_broken_whatever_fails() {
    let total = run_all(&Simulation::new(Scenario::new()), 0..scale(150, 10_000));
    total.print("everything that can fail");
}
