//! Every promise of the house, in thousands of small worlds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use cofferdam_sim::{Scenario, Simulation};
use support::*;

#[test]
fn no_promise_is_broken_whatever_fails() {
    let total = run_all(&Simulation::new(Scenario::new()), 0..scale(200, 10_000));
    total.print("everything that can fail");
}
