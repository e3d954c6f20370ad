//! What stands before a vault: layers, a wrapper that reauthenticates; and the scripted vault that tests of them ask.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod asked;
mod budget;
mod circuit_breaker;
#[path = "../factories/mod.rs"]
mod factories;
#[path = "../heard/mod.rs"]
mod heard;
mod reauthenticate;
mod retry;
mod scripted;
mod stack;
#[path = "../support/mod.rs"]
mod support;
mod told;
