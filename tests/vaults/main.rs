//! Engines over real vaults.

#![allow(missing_docs, clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod a_key_moves_from_any_vault_to_any_other;
mod a_token_removed_in_mid_run_is_an_outage;
mod every_real_vault_takes_a_key_away_and_gives_it_back;
mod openbao_sealed_killed_and_restarted_loses_nothing;
#[path = "../real/mod.rs"]
mod real;
