//! The program over homes of its own: every command, damage, outages.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod archive;
mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod copied_home;
mod damage;
mod deletion;
mod demo;
mod full_disk;
mod homes;
mod outage;
mod revocation;
mod rotation;
mod status_watch;
mod write_only;
