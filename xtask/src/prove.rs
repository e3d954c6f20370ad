//! `cargo xtask prove`: the figures that issues ask to show, at their full scale.
//!
//! The same tests as in `cargo xtask test`, optimised, with `COFFERDAM_FULL=1`, one after the other and with
//! what they print. To show another figure, add its test here.

use std::time::Instant;

use anyhow::{Result, bail};
use cargo_metadata::TargetKind;

use crate::{
    run::{Tally, call_tests, cargo},
    workspace::Workspace,
};

/// A test whose figures are shown.
struct Proof {
    package: &'static str,
    /// The file of `tests/` that it is in.
    target: &'static str,
    /// What its figures show.
    shows: &'static str,
}

const PROOFS: &[Proof] = &[];

/// Runs the proofs whose title or target contains one of `words`, all when there are none; whether they held.
///
/// # Errors
/// When no proof is meant.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let meant: Vec<&Proof> = PROOFS.iter().filter(|proof| proof.meant_by(words)).collect();
    if meant.is_empty() {
        bail!("no proof is named by {words:?}");
    }
    let mut ends = Vec::new();
    for proof in meant {
        println!("\n=== {} ({} of {})", proof.shows, proof.target, proof.package);
        let start = Instant::now();
        let mut tally = Tally::default();
        let end = proof.run(&mut tally);
        if let Err(error) = &end {
            println!("{error:#}");
        }
        let state = if end.is_ok() { "ok" } else { "FAILED" };
        ends.push((state, proof, tally, start.elapsed()));
    }
    println!("\n=== summary");
    for (state, proof, tally, took) in &ends {
        let Tally { passed, failed, .. } = tally;
        println!(
            "{state:<7} {passed:>3} passed {failed:>3} failed {:>8.1} s  {}",
            took.as_secs_f64(),
            proof.shows
        );
    }
    Ok(ends.iter().all(|(state, ..)| *state == "ok"))
}

/// Proofs whose test does not exist.
pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    PROOFS
        .iter()
        .filter(|proof| {
            !workspace.targets(proof.package, &TargetKind::Test).iter().any(|name| name == proof.target)
        })
        .map(|proof| format!("xtask/src/prove.rs: {} has no test target {}", proof.package, proof.target))
        .collect()
}

impl Proof {
    fn meant_by(&self, words: &[String]) -> bool {
        words.is_empty() || words.iter().any(|word| self.target.contains(word) || self.shows.contains(word))
    }

    fn run(&self, tally: &mut Tally) -> Result<()> {
        // The whole workspace is named, for one set of features: a package alone would be built anew.
        let test = ["test", "--workspace", "--release", "--all-features", "--test", self.target];
        let mut command = cargo(&test);
        command.args(["--", "--nocapture", "--test-threads", "1"]).env("COFFERDAM_FULL", "1");
        call_tests(&mut command, tally)?;
        if tally.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}
