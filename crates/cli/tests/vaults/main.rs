//! The program with vaults of others, and as a vault server.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod clouds;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod serve;
