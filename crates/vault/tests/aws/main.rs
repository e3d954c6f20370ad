//! AWS KMS.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod answers;
#[path = "../aws_support/mod.rs"]
mod aws_support;
mod bad_input;
mod credentials;
mod default_chain;
#[path = "../heard/mod.rs"]
mod heard;
mod integrity;
mod key_states;
mod log;
mod requests;
