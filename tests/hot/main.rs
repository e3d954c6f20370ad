//! The hot cache, before an engine.

#![allow(missing_docs, clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod a_failing_hot_cache_is_a_miss;
mod a_hot_cache_answers_as_the_store_does;
mod a_hot_cache_is_bounded;
mod a_hot_cache_obeys_a_revocation;
mod cached;
mod planted_defects_of_the_hot_cache_are_found;
#[path = "../world/mod.rs"]
mod world;
