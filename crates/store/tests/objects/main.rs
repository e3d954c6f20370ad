//! Blocks and records in object stores.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod catalog;
mod catalog_contention;
mod catalog_lost_answers;
mod catalog_probe;
mod encrypted;
mod support;
mod transaction;
mod transaction_interleavings;
