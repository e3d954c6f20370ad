//! `cargo xtask prove`: the figures that issues ask to show, at their full scale.
//!
//! The same tests as in `cargo xtask test`, optimised, with `COFFERDAM_FULL=1`, one after the other and with
//! what they print. To show another figure, add its test here.

use std::{fs, process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    run::{Tally, call_tests, cargo},
    services::Services,
    workspace::{self, Workspace},
};

/// A test whose figures are shown.
struct Proof {
    package: &'static str,
    /// The target that it is in, and its module there: `target::module`, or all of a target.
    target: &'static str,
    /// What its figures show.
    shows: &'static str,
    built: Built,
}

/// How a test is built.
#[derive(Clone, Copy)]
enum Built {
    /// With the whole workspace.
    Whole,
    /// The same, and with the servers that it runs against installed.
    Served,
    /// With the defects that are planted on purpose, in a folder of its own.
    Planted,
    /// For a scheduler that goes through schedules, in a folder of its own.
    Scheduled,
}

const fn proof(package: &'static str, target: &'static str, shows: &'static str) -> Proof {
    Proof { package, target, shows, built: Built::Whole }
}

const fn served(package: &'static str, target: &'static str, shows: &'static str) -> Proof {
    Proof { package, target, shows, built: Built::Served }
}

const fn planted(package: &'static str, target: &'static str, shows: &'static str) -> Proof {
    Proof { package, target, shows, built: Built::Planted }
}

const fn scheduled(package: &'static str, target: &'static str, shows: &'static str) -> Proof {
    Proof { package, target, shows, built: Built::Scheduled }
}

/// What puts the planted defects into a build.
const PLANTED: &str = "--cfg cofferdam_planted";

/// What puts shuttle's locks, tasks and time into the keyring, and the planted defects.
const SCHEDULED: &str = "--cfg cofferdam_shuttle --cfg cofferdam_planted";

/// The tests that go through schedules of the keyring.
pub(crate) const SCHEDULES: (&str, &str) = ("cofferdam-keyring", "schedules");

const PROOFS: &[Proof] = &[
    proof(
        "cofferdam-crypto",
        "format::agreement",
        "both AEADs give the same bytes, and accept and refuse the same",
    ),
    proof("cofferdam-crypto", "pieces", "a block in pieces of any size is the block as a whole"),
    proof("cofferdam-crypto", "format::tamper", "a changed block does not open and leaves no plaintext"),
    proof("cofferdam-crypto", "format::swaps", "a block opens only in the place it was sealed for"),
    proof("cofferdam-crypto", "format::two_keys", "no ciphertext opens under two keys or in two places"),
    planted(
        "cofferdam-crypto",
        "format::planted_rsa",
        "planted defects of RSA wraps are found by the frozen vectors",
    ),
    planted("cofferdam", "engine::rsa_keks", "planted defects of the pinned public key show"),
    proof(
        "cofferdam",
        "engine::a_write_only_process_keeps_no_earlier_key",
        "the memory of a process in write-only mode holds no key of an earlier segment",
    ),
    planted(
        "cofferdam",
        "engine::a_write_only_process_keeps_no_earlier_key",
        "a process that keeps a segment's key on purpose is found by the search of its memory",
    ),
    proof("cofferdam-vault", "local_vault::file", "whatever is wrong with a vault's file is a typed error"),
    proof(
        "cofferdam-vault",
        "local_vault::keys",
        "any sequence of changes to keys answers what a model says",
    ),
    proof(
        "cofferdam-keyring",
        "driver::bounds",
        "no key in use is older than refresh and time-out while its vault answers, nor than its grace",
    ),
    proof("cofferdam-keyring", "machine", "no sequence of events makes the state machine break a promise"),
    proof(
        "cofferdam-keyring",
        "driver::room",
        "never more keys are held than allowed, and those in Grace go last",
    ),
    proof("cofferdam-keyring", "memory", "what a cached account takes, everything counted"),
    proof(
        "cofferdam-keyring",
        "driver::many",
        "many accounts keep one vault within its budget, and no key is used past its bound",
    ),
    scheduled(
        SCHEDULES.0,
        SCHEDULES.1,
        "100,000 shuttle schedules of refresh, revoke, read and evict break no promise, and planted defects are found",
    ),
    planted(
        "cofferdam-keyring",
        "driver::planted_budget",
        "every defect of a vault's rations that is planted on purpose is found",
    ),
    proof(
        "cofferdam-store",
        "embedded::crash",
        "what was acknowledged outlives a power failure at any moment",
    ),
    proof("cofferdam-store", "embedded::damage", "a read of a damaged file is right or a typed error"),
    proof(
        "cofferdam-store",
        "objects",
        "over an object store any sequence of writes reads as a map says, no update is lost, and transactions are whole",
    ),
    proof(
        "cofferdam-sim",
        "worlds::simulation",
        "no promise is broken in 10,000 simulated worlds, whatever fails",
    ),
    proof("cofferdam-sim", "worlds::repeats", "the same seed gives the same trace in another process"),
    proof(
        "cofferdam-sim",
        "worlds::limits",
        "a vault that refuses calls at half its limit or less costs nothing within the grace",
    ),
    proof(
        "cofferdam-sim",
        "worlds::write_only",
        "whatever a vault gets wrong, no segment of a write-only buffer is lost, and no forged one is drained",
    ),
    proof("cofferdam-sim", "worlds::denials", "a key that was taken away is not used, however it was taken"),
    proof(
        "cofferdam-sim",
        "worlds::lifecycle",
        "rotation, linking and deletion lose nothing and refuse nobody in 10,000 simulated worlds",
    ),
    planted(
        "cofferdam-sim",
        "worlds::planted",
        "every defect that is planted on purpose is found by the simulator",
    ),
    proof("cofferdam-cli", "homes::damage", "damage of a home's files is found, and no read is wrong"),
    proof(
        "cofferdam-cli",
        "kills::ingest_survives_kill",
        "kill -9 in an ingest loses nothing that was acknowledged",
    ),
    proof(
        "cofferdam-cli",
        "kills::kill_at_every_syscall",
        "kill -9 at any system call loses nothing, and nothing is acknowledged after a failed sync",
    ),
    proof(
        "cofferdam-cli",
        "kills::operations",
        "kill -9 at any system call of a rotation, a re-encryption or a purge: done, or as it was, and every block reads",
    ),
    proof(
        "cofferdam",
        "engine::any_interleaving_reads_what_a_model_says",
        "any interleaving of put, get, outages, disable, enable and restart reads what a model says",
    ),
    proof(
        "cofferdam",
        "hot::a_hot_cache_answers_as_the_store_does",
        "no read through a hot cache is of another version",
    ),
    proof(
        "cofferdam",
        "hot::a_hot_cache_obeys_a_revocation",
        "a revocation with a full hot cache: 0 reads after, 0 files left, through kills in the middle of it",
    ),
    proof(
        "cofferdam",
        "hot::a_failing_hot_cache_is_a_miss",
        "no damage of a hot cache fails or falsifies a read",
    ),
    planted(
        "cofferdam",
        "hot::planted_defects_of_the_hot_cache_are_found",
        "every defect that is planted in the hot cache is found by runs that know nothing of it",
    ),
    proof(
        "cofferdam",
        "engine::forged_segments_are_refused",
        "no segment of a write-only buffer that is made with the public key alone is drained or read",
    ),
    planted(
        "cofferdam",
        "engine::planted_defects_of_the_engine_show",
        "planted defects of the engine and of its write-only buffer show",
    ),
    planted("cofferdam-keyring", "driver::segments", "a segment's key whose check value is ignored shows"),
    planted("cofferdam-store", "embedded::planted", "planted defects of the embedded store show"),
    proof(
        "cofferdam",
        "engine::writes_are_buffered_through_an_outage",
        "10,000 puts of an hour of outage are all there after it, each once, never in the clear",
    ),
    proof(
        "cofferdam-store",
        "embedded::compaction",
        "a power failure at any step of a compaction loses nothing, and what was removed is in no file after it",
    ),
    proof(
        "cofferdam-keyring",
        "driver::several_keks",
        "an outage of one KEK is bridged for a day and no longer, and a denial by any is a revocation",
    ),
    planted(
        "cofferdam-keyring",
        "driver::planted_keks",
        "every defect of several KEKs and epochs that is planted on purpose is found",
    ),
    proof(
        "cofferdam",
        "archives::archive_restores_an_account",
        "an archive of mixed keys and epochs restores every block elsewhere, three rotations later",
    ),
    proof(
        "cofferdam",
        "archives::archive_is_refused",
        "a damaged or forged archive is refused with nothing imported, and no vault is asked that is not allowed",
    ),
    planted(
        "cofferdam",
        "archives::archive_is_refused",
        "an import that checks no tag, or asks any vault, shows",
    ),
    proof(
        "cofferdam",
        "operations::any_sequence_of_operations_reads_what_a_model_says",
        "any sequence of operations keeps every block readable exactly when a model says so",
    ),
    proof(
        "cofferdam",
        "operations::an_operation_survives_being_stopped_at_each_step",
        "an operation that is stopped at any of its writes goes on, or has not begun",
    ),
    proof(
        "cofferdam",
        "operations::an_aek_is_rotated",
        "re-encryption leaves nothing under the old epoch, and loses nothing",
    ),
    planted(
        "cofferdam",
        "operations::planted_defects_of_operations_show",
        "planted defects of operations show",
    ),
    served("cofferdam", "objects::catalog", "a catalog on real servers loses no update"),
    proof("cofferdam", "objects::differential", "an encrypted object store answers as a plain one does"),
    proof(
        "cofferdam",
        "objects::fetched",
        "what a range fetches from an object store beyond what is asked for",
    ),
    proof("cofferdam", "objects::multipart_memory", "an encrypted upload of 4 GiB takes less than 64 MiB"),
    served(
        "cofferdam",
        "objects::suite",
        "an encrypted object store passes what the plain one passes of object_store's own suite",
    ),
    proof(
        "cofferdam-with-slatedb",
        "slatedb_under_a_customers_key",
        "SlateDB writes, compacts, collects and reopens under a customer's key: all is read after, nothing is in the clear",
    ),
    proof(
        "cofferdam-with-parquet",
        "parquet_under_a_customers_key",
        "one process writes Parquet under a customer's key and another reads ranges of it: what is fetched beyond those",
    ),
    proof("cofferdam-vault", "conformance::local", "the local vault keeps every promise of a vault"),
    served("cofferdam-vault", "conformance::pkcs11", "a vault in a token keeps every promise of a vault"),
    served("cofferdam-vault", "conformance::azure", "the Azure vault keeps every promise of a vault"),
    served("cofferdam-vault", "conformance::aws", "the AWS vault keeps every promise of a vault"),
    served("cofferdam-vault", "conformance::transit", "the Transit vault keeps every promise of a vault"),
    served(
        "cofferdam-vault",
        "conformance::table",
        "five vaults by every check of the conformance kit, each against the real thing or its stand-ins",
    ),
    proof("cofferdam-vault", "conformance::broken", "a vault that breaks a promise is found by the kit"),
    served(
        "cofferdam-vault",
        "serve::microsoft_clients",
        "Microsoft's own clients drive the Key Vault-compatible server",
    ),
    proof(
        "cofferdam-vault",
        "serve::published_api",
        "the server answers by the published API, field by field",
    ),
];

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

/// Proofs whose test does not exist, and tests with a full scale that are not listed, by themselves or with their target.
///
/// # Errors
/// When the file of a test can't be read.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut tests = Vec::new();
    for (package, target, file) in workspace.tests()? {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        tests.push((package, target, has_full_scale(&text)));
    }
    Ok(faults(PROOFS, &tests))
}

/// `tests` are package, target, and whether it has a full scale.
fn faults(proofs: &[Proof], tests: &[(String, String, bool)]) -> Vec<String> {
    let missing = proofs
        .iter()
        .filter(|proof| !tests.iter().any(|(package, target, _)| proof.is(package, target)))
        .map(|proof| format!("xtask/src/prove.rs: {} has no test {}", proof.package, proof.target));
    let unlisted = tests
        .iter()
        .filter(|(package, target, full)| {
            *full && !proofs.iter().any(|proof| proof.shows_all_of(package, target))
        })
        .map(|(package, target, _)| {
            format!("{package}: its test {target} has a full scale and no row in xtask/src/prove.rs")
        });
    missing.chain(unlisted).collect()
}

/// Whether a test asks for its scale, itself or through the helper of that name.
fn has_full_scale(text: &str) -> bool {
    text.contains("COFFERDAM_FULL") || text.contains("scale(")
}

/// Runs the tests that go through schedules: alone, and without a C compiler, since most of their time is building.
pub(crate) fn schedules(arguments: &[&str]) -> Command {
    let (package, target) = SCHEDULES;
    let mut command = cargo(&["test", "--package", package, "--no-default-features", "--test", target]);
    let folder = workspace::root().join("target").join("schedules");
    command.args(arguments).arg("--target-dir").arg(folder).env("RUSTFLAGS", SCHEDULED);
    command
}

impl Proof {
    fn is(&self, package: &str, target: &str) -> bool {
        self.package == package && self.target == target
    }

    /// Whether it is this test, or the target that this test is a module of.
    fn shows_all_of(&self, package: &str, target: &str) -> bool {
        self.is(package, target) || target.split_once("::").is_some_and(|(whole, _)| self.is(package, whole))
    }

    fn meant_by(&self, words: &[String]) -> bool {
        words.is_empty() || words.iter().any(|word| self.target.contains(word) || self.shows.contains(word))
    }

    fn run(&self, tally: &mut Tally) -> Result<()> {
        let (target, module) = match self.target.split_once("::") {
            Some((target, module)) => (target, Some(format!("{module}::"))),
            None => (self.target, None),
        };
        // The whole workspace is named, for one set of features: a package alone would be built anew.
        let test = ["test", "--workspace", "--release", "--all-features", "--test", target];
        let mut command = match self.built {
            Built::Whole => cargo(&test),
            Built::Served => {
                let mut command = cargo(&test);
                Services::install(&workspace::root().join("target"))?.give(&mut command);
                command
            }
            // Alone: what holds defects on purpose shares nothing with what does not.
            Built::Planted => {
                let mut command = cargo(&["test", "--package", self.package, "--release", "--test", target]);
                let folder = workspace::root().join("target").join("planted");
                if self.package == "cofferdam-store" {
                    // Its tests need files that fail.
                    command.args(["--features", "testing"]);
                }
                command.arg("--target-dir").arg(folder).env("RUSTFLAGS", PLANTED);
                command
            }
            Built::Scheduled => schedules(&["--release"]),
        };
        command
            .arg("--")
            .args(module)
            .args(["--nocapture", "--test-threads", "1"])
            .env("COFFERDAM_FULL", "1");
        call_tests(&mut command, tally)?;
        if tally.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROOF: Proof = proof("cofferdam-crypto", "format::swaps", "swapped blocks are refused");

    fn test(target: &str, full: bool) -> (String, String, bool) {
        ("cofferdam-crypto".to_owned(), target.to_owned(), full)
    }

    #[test]
    fn every_test_with_a_full_scale_is_a_proof_and_every_proof_is_a_test() {
        let good = [test("format::swaps", true), test("format::round_trip", false)];
        assert_eq!(faults(&[PROOF], &good), Vec::<String>::new());
        assert_eq!(faults(&[PROOF], &[]).len(), 1, "no such test");
        assert_eq!(faults(&[], &good).len(), 1, "no such row");
        let whole = proof("cofferdam-crypto", "format", "all of a target");
        assert_eq!(faults(&[whole], &[test("format", false), good[0].clone()]), Vec::<String>::new());
    }

    #[test]
    fn proofs_are_meant_by_words_of_their_name_or_title() {
        let meant = |word: &str| PROOF.meant_by(&[word.to_owned()]);
        assert!(PROOF.meant_by(&[]) && meant("swaps") && meant("refused"));
        assert!(!meant("wycheproof"));
    }
}
