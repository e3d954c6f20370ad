//! What a seed makes of what its scenario leaves open.

use std::{num::NonZeroU32, time::Duration};

use cofferdam_keyring::Policy;
use cofferdam_vault::VaultBudget;

use crate::{Scenario, dice::Dice, meter::WINDOW};

/// The share of seeds, in percent, with a crowd of accounts on one vault.
const CROWDS: u64 = 8;
/// The share of other seeds, in percent, whose vaults have limits.
const LIMITS: u64 = 40;

/// The least that a hot cache holds: as much as a few of the largest blocks.
const HOT_BYTES: u64 = 1 << 20;

/// The share of other seeds, in percent, that have operations on accounts.
const OPERATIONS: u64 = 60;

/// What a run is of.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) policy: Policy,
    pub(crate) buffer: (Duration, u64),
    pub(crate) duration: Duration,
    /// Further accounts on the first customer's vault.
    pub(crate) crowd: usize,
    /// How many calls customers' vaults publish that they take in a window; `None` for any number.
    pub(crate) limit: Option<u32>,
    /// How many of a hundred KEKs are RSA.
    pub(crate) rsa: u64,
    /// How many of a hundred accounts under an RSA KEK have a write-only buffer.
    pub(crate) write_only: u64,
    /// For how long a segment of one is written to.
    pub(crate) segment_time: Duration,
    /// How long it takes from one operation on an account to the next on each node, on average, if there are any. Where there
    /// are, vaults take any number of calls.
    pub(crate) operations: Option<Duration>,
    /// For how long a deleted account can be recovered.
    pub(crate) retention: Duration,
    /// How many bytes the nodes' hot caches hold, each; `None` where a node has none.
    pub(crate) hot: Vec<Option<u64>>,
}

impl Drawn {
    pub(crate) fn of(scenario: &Scenario, dice: &mut Dice) -> Self {
        let policy = scenario.policy.clone().unwrap_or_else(|| draw_policy(dice));
        let buffer = scenario.buffer.unwrap_or_else(|| draw_buffer(dice));
        let operations = scenario.operations.unwrap_or_else(|| {
            let calm = Duration::from_secs(dice.between(10, 90));
            let is_free = scenario.crowd.is_none() && scenario.vault_limit.is_none();
            (is_free && dice.percent(OPERATIONS)).then_some(calm)
        });
        let is_crowded = scenario.customers > 0 && operations.is_none() && dice.percent(CROWDS);
        let drawn = if is_crowded { dice.between(40, 200) as usize } else { 0 };
        let crowd = scenario.crowd.unwrap_or(drawn);
        let duration = match scenario.crowd {
            None if crowd > 0 => scenario.duration / 4,
            _ => scenario.duration,
        };
        let limit = match operations {
            Some(_) => None,
            None => scenario.vault_limit.or_else(|| draw_limit(crowd, scenario.nodes, &policy, dice)),
        };
        let rsa = scenario.rsa.unwrap_or(if cfg!(feature = "aws-lc") { 35 } else { 0 });
        let hot_cache = scenario.hot_cache.unwrap_or(35);
        let hot = (0..scenario.nodes).map(|_| dice.percent(hot_cache).then_some(HOT_BYTES)).collect();
        let write_only = scenario.write_only.unwrap_or(60);
        let segment_time = dice.millis(10_000, 60_000);
        let retention = Duration::from_secs(dice.pick(&[60, 200, 14 * 24 * 3600]));
        Self {
            policy,
            buffer,
            duration,
            crowd,
            limit,
            rsa,
            write_only,
            segment_time,
            operations,
            retention,
            hot,
        }
    }

    /// What one process may ask of one customer's vault: of its share of the limit, a half.
    pub(crate) fn budget(&self, nodes: usize) -> Option<VaultBudget> {
        let share = self.limit? / nodes.max(1) as u32;
        Some(VaultBudget::of_limit(NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN)))
    }
}

/// Any settings that are allowed, with a grace that ends within a run.
fn draw_policy(dice: &mut Dice) -> Policy {
    let refresh = dice.millis(6_000, 30_000);
    let ceiling = refresh.max(dice.millis(6_000, 60_000));
    let grace = if dice.percent(25) { Duration::ZERO } else { dice.millis(30_000, 240_000) };
    let timeout = dice.pick(&[200, 1_000, 3_000, 5_000, 10_000]);
    let bridge = dice.pick(&[0, 0, 30, 90, 24 * 3600]);
    let (retry, poll) = (dice.millis(1_000, 30_000), dice.millis(1_000, 30_000));
    let policy = Policy::default()
        .with_refresh(refresh)
        .and_then(|policy| policy.with_ceiling(ceiling))
        .and_then(|policy| policy.with_grace(grace))
        .and_then(|policy| policy.with_call_timeout(Duration::from_millis(timeout)))
        .and_then(|policy| policy.with_retry_max(retry))
        .and_then(|policy| policy.with_revoked_poll(poll))
        .and_then(|policy| policy.with_max_bridge(Duration::from_secs(bridge)));
    policy.unwrap_or_default()
}

fn draw_buffer(dice: &mut Dice) -> (Duration, u64) {
    let time = if dice.percent(10) { Duration::ZERO } else { dice.millis(20_000, 600_000) };
    let bytes = if dice.percent(70) { 8 << 20 } else { dice.between(4_096, 100_000) };
    (time, bytes)
}

/// From a little more than all accounts need that are refreshed as late as they may be, to plenty.
fn draw_limit(crowd: usize, nodes: usize, policy: &Policy, dice: &mut Dice) -> Option<u32> {
    if crowd == 0 && !dice.percent(LIMITS) {
        return None;
    }
    let accounts = (crowd + 1) as f64;
    let needed = accounts * nodes as f64 * WINDOW.as_secs_f64() / policy.ceiling().as_secs_f64();
    let share = dice.between(140, 800) as f64 / 100.0;
    // A key that is not found is asked for three times within five seconds.
    Some(((needed * share) as u32).max(12 * nodes as u32))
}
