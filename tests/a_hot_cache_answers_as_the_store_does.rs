//! Whatever is written, deleted, read, revoked, restarted, waited for, by an engine with a hot cache or by another one: the
//! cache answers as the store does, keeps its bounds, and holds nothing of a revoked account.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod hot;
mod world;

use hot::Figures;
use tokio::runtime::Builder;
use world::scale;

#[test]
fn any_interleaving_reads_what_a_model_says_through_the_cache() {
    let (seeds, mut all) = (scale(1000, 12) as u64, Figures::default());
    for seed in 0..seeds {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        match runtime.block_on(hot::run(seed, 150)) {
            Ok(figures) => all.add(&figures),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    println!("{seeds} seeds: {all:?}, 0 stale, 0 differ");
    assert!(all.memory_hits > 0 && all.disk_hits > 0 && all.purged_blocks > 0 && all.restarts > 0);
}
