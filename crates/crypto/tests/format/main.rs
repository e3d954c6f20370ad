//! The sealed-block format and the wraps of keys.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod agreement;
#[path = "../common/mod.rs"]
mod common;
mod planted_rsa;
mod round_trip;
mod rsa;
mod swaps;
mod tamper;
mod two_keys;
mod vectors;
