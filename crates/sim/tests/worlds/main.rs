//! Simulated worlds.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests"
)]

mod denials;
mod lifecycle;
mod limits;
mod planted;
mod plugged;
mod repeats;
mod simulation;
#[path = "../support/mod.rs"]
mod support;
mod write_only;
