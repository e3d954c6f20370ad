//! Archives of accounts: exported, imported elsewhere, refused.

#![allow(missing_docs, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod archive_is_refused;
mod archive_restores_an_account;
mod elsewhere;
#[path = "../world/mod.rs"]
mod world;
