//! What is done to accounts and their keys: rotated, linked, under several KEKs, deleted.

#![allow(missing_docs, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod a_deleted_account_comes_back_or_leaves_nothing;
mod a_kek_is_rotated;
mod a_version_is_said_to_be_safe_to_disable;
mod an_account_has_several_keks;
mod an_account_is_linked_and_unlinked;
mod an_aek_is_rotated;
mod an_operation_survives_being_stopped_at_each_step;
mod any_sequence_of_operations_reads_what_a_model_says;
mod forged_operations_are_refused;
mod planted_defects_of_operations_show;
#[path = "../world/mod.rs"]
mod world;
