//! The program, killed and interrupted.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod ingest_interrupt;
mod ingest_survives_kill;
mod kill_at_every_syscall;
mod operations;
