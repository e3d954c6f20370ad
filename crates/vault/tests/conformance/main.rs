//! What every vault must do, asked of each that there is.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod aws;
#[path = "../aws_support/mod.rs"]
mod aws_support;
mod azure;
#[path = "../azure_support/mod.rs"]
mod azure_support;
mod broken;
#[path = "../factories/mod.rs"]
mod factories;
#[path = "../heard/mod.rs"]
mod heard;
mod local;
mod pkcs11;
mod scripted;
#[path = "../support/mod.rs"]
mod support;
mod table;
#[path = "../tokens/mod.rs"]
mod tokens;
mod transit;
#[path = "../transit_support/mod.rs"]
mod transit_support;
