//! The server that speaks Key Vault's keys REST API.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod access;
mod bad_input;
mod keys;
mod microsoft_clients;
mod published_api;
mod world;
