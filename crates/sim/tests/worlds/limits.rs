//! A vault that takes fewer calls than it says, and one that takes fewer than its accounts need.

use std::time::Duration;

use cofferdam_keyring::Policy;
use cofferdam_sim::{Faults, Scenario, Simulation};

use crate::support::*;

/// Many accounts on one vault, by which all that can fail is that it refuses calls.
fn crowded(accounts: usize, limit: u32) -> Scenario {
    Scenario::new()
        .duration(Duration::from_secs(600))
        .accounts(1, 0)
        .crowd(accounts)
        .vault_limit(limit)
        .think(Duration::from_secs(5))
        .calm(Duration::from_secs(120))
        .faults(Faults::NONE.with_limits(1))
        .policy(Policy::default())
}

#[test]
fn a_vault_that_refuses_calls_at_half_its_limit_or_less_costs_nothing_within_the_grace() {
    // Needed at the latest refresh allowed: 2 nodes x 61 accounts / 60 s = 20 calls in ten seconds.
    let simulation = Simulation::new(crowded(60, 48));
    // It is judged that no key is unavailable that was verified within its grace.
    let total = run_all(&simulation, 0..scale(6, 300));
    total.print("one vault, 61 accounts, at most 48 calls in 10 s, often fewer");
    let counts = &total.counts;
    assert!(counts.throttled > 0 && counts.oldest_used > Policy::default().fresh_for(), "{counts}");
}
