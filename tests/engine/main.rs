//! The engine over an embedded store: accounts and blocks, outages and revocations, buffers and drains.

#![allow(missing_docs, clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod a_drain_leaves_room_for_others;
mod a_drain_survives_restarts;
mod a_failed_sync_acknowledges_nothing;
mod a_key_taken_away_is_not_used_by_work_that_waited;
mod a_revocation_outlived;
mod a_write_only_buffer_is_read_by_the_customers_vault_alone;
mod a_write_only_process_keeps_no_earlier_key;
mod accounts;
mod an_outage_spends_grace;
mod any_interleaving_reads_what_a_model_says;
mod benchmark_intervals;
mod block_bounds;
mod closing;
mod forged_account_records_are_refused;
mod forged_segments_are_refused;
mod moved_blocks_do_not_open;
mod nothing_is_buffered_under_revocation;
mod nothing_is_written_in_the_clear;
mod planted_defects_of_the_engine_show;
mod rsa_keks;
mod the_buffer_is_bounded;
mod the_last_write_wins_across_an_outage;
mod two_engines_share_one_catalog;
#[path = "../world/mod.rs"]
mod world;
mod writers_at_once;
mod writes_are_buffered_through_an_outage;
