//! Write-only buffers, where every account has one.

use std::time::Duration;

use cofferdam_sim::{Faults, Scenario, Simulation};

use crate::support::*;

#[test]
fn what_a_vault_gets_wrong_damages_no_segment_and_what_was_forged_opens_nowhere() {
    let faults = Faults::NONE.with_outages(20).with_denials(2).with_crashes(3).with_forgeries(6);
    let scenario = Scenario::new()
        .duration(Duration::from_secs(400))
        .accounts(2, 0)
        .crowd(0)
        .rsa(100)
        .write_only(100)
        .think(Duration::from_secs(4))
        .calm(Duration::from_secs(10))
        .faults(faults)
        .buffer(Duration::from_secs(3_600), 8 << 20);
    let total = run_all(&Simulation::new(scenario), 0..scale(12, 1_000));
    total.print("every account has a write-only buffer");
    let counts = &total.counts;
    assert!(counts.buffered_write_only > 0 && counts.forged > 0 && counts.drained > 0, "{counts}");
    assert!(counts.tried_by_service >= counts.buffered_write_only, "{counts}");
}
