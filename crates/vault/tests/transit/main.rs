//! The Transit engine of HashiCorp Vault and OpenBao.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod access;
#[path = "../heard/mod.rs"]
mod heard;
mod keys;
mod outage;
mod rogue;
mod secrets;
#[path = "../transit_support/mod.rs"]
mod transit_support;
