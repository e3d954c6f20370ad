//! However a customer takes a key away, it takes effect at once.

use std::time::Duration;

use cofferdam_keyring::Policy;
use cofferdam_sim::{Faults, KekState, Scenario, Simulation};

use crate::support::*;

/// After an answer "no" nothing more may begin but for this.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Vaults that can be reached, customers who take keys away and give them back, clients without a pause.
fn scenario(denial: KekState, policy: &Policy) -> Scenario {
    let faults = Faults::NONE.with_denials(1).with_crashes(u32::from(denial == KekState::Disabled));
    Scenario::new()
        .duration(Duration::from_secs(240))
        .accounts(2, 0)
        // Where a vault takes fewer calls than its accounts need, the refresh is stretched towards the ceiling.
        .crowd(0)
        .vault_limit(10_000)
        .clients(3)
        .think(Duration::from_millis(900))
        .calm(Duration::from_secs(25))
        .faults(faults)
        .denial(denial)
        .policy(policy.clone())
}

#[test]
fn no_key_that_was_taken_away_is_used_past_refresh_and_time_out_nor_after_its_denial_was_seen() {
    let policy = Policy::default();
    let oldest = policy.refresh() + policy.call_timeout();
    for denial in [KekState::Denied, KekState::Disabled, KekState::Deleted] {
        let simulation = Simulation::new(scenario(denial, &policy));
        let total = run_all(&simulation, 0..scale(6, 1_000));
        let counts = &total.counts;
        assert!(counts.revocations > 0 && counts.denials > 0 && counts.refused_revoked > 0, "{counts}");
        assert!(counts.latest_after_denial <= AT_ONCE, "{:?}", counts.latest_after_denial);
        assert!(
            counts.oldest_used_after_revocation > Duration::ZERO,
            "nobody used a key that was taken away"
        );
        assert!(
            counts.oldest_used_after_revocation <= oldest,
            "{:?} is more than {oldest:?}",
            counts.oldest_used_after_revocation
        );
        println!(
            "{denial:?}: {} keys taken away in {} seeds, {} denials seen, {} operations refused; the latest begin of \
             one that succeeded was {:?} after the denial was seen; the oldest AEK used after a revocation was \
             {:?} old, at most {oldest:?} allowed; violations 0 ({:.1?})",
            counts.revocations,
            total.runs,
            counts.denials,
            counts.refused_revoked,
            counts.latest_after_denial,
            counts.oldest_used_after_revocation,
            total.wall_time,
        );
    }
}
