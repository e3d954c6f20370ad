//! Engines and other systems over object stores.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod blocks;
mod catalog;
mod differential;
mod fetched;
mod multipart_memory;
mod stores;
mod suite;
#[path = "../world/mod.rs"]
mod world;
