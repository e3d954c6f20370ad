//! Real vaults and object stores for tests: each is started on a free loopback port, or as a token in a folder of its own,
//! and ended when its guard is dropped. And [`Rogue`], a server that answers as no vault should.
//!
//! Guarantees: nothing listens beyond the loopback; a server is ended by its own process group, never by name; one that can't
//! be started fails the test with what it printed. Where the variable that says where a thing is (`cargo xtask services`
//! prints them) is missing, `start` says `SKIPPED` on standard error and answers with none; with `COFFERDAM_SERVICES=1`
//! it panics, so that no run that asked for real servers goes without.
//!
//! All of it blocks: a test that has a runtime with one thread stands still meanwhile. Not its job: to install anything.
#![allow(clippy::expect_used, clippy::panic, reason = "tests stand on it: what can't be had must fail them")]
#![allow(clippy::print_stderr, reason = "a skip must be seen")]

mod aws;
mod azurite;
mod bao;
mod process;
mod rogue;
mod token;

use std::{env, path::PathBuf};

pub use aws::{Ministack, Moto};
pub use azurite::Azurite;
pub use bao::Bao;
pub use rogue::{Answer, Gate, Request, Rogue, Speaks};
pub use token::{Kryoptic, SoftHsm};

/// Where a thing is, by its variable; none, after saying so, where it is not installed.
fn installed(variable: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    assert!(
        env::var_os("COFFERDAM_SERVICES").is_none_or(|value| value != "1"),
        "{variable} is not set, and COFFERDAM_SERVICES=1 wants every service there"
    );
    eprintln!("SKIPPED: {variable} is not set, so nothing of it is tested: see `cargo xtask services`");
    None
}
