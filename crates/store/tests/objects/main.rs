//! Blocks and records in object stores.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::single_range_in_vec_init,
    reason = "a test"
)]

mod blocks_crash;
mod blocks_handles;
mod blocks_model;
mod blocks_requests;
mod blocks_support;
mod catalog;
mod catalog_contention;
mod catalog_lost_answers;
mod catalog_probe;
#[allow(unreachable_pub, dead_code, reason = "shared with the embedded store's tests")]
#[path = "../embedded_support/mod.rs"]
mod embedded_support;
mod encrypted;
mod support;
mod transaction;
mod transaction_interleavings;
