//! The embedded store, over files that fail and fall apart on demand.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::single_range_in_vec_init,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "tests"
)]

mod basics;
mod buffer;
mod compaction;
mod crash;
mod damage;
#[path = "../embedded_support/mod.rs"]
mod embedded_support;
mod faults;
mod model;
mod planted;
mod segments;
