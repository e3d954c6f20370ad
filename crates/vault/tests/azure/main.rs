//! Azure Key Vault.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod against_our_server;
#[path = "../azure_support/mod.rs"]
mod azure_support;
mod bad_answers;
#[path = "../heard/mod.rs"]
mod heard;
#[path = "../support/mod.rs"]
mod support;
