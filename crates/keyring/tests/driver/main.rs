//! The driver of the keyring, by a clock that tokio's paused time drives.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests"
)]

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod epochs;
mod losing;
mod many;
mod planted_budget;
mod planted_keks;
mod reload;
mod room;
mod segments;
mod serving;
mod several_keks;
mod table;
mod telemetry;
