//! The vault in one file.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod file;
mod keys;
mod rsa;
#[path = "../support/mod.rs"]
mod support;
