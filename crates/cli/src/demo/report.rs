//! What the demonstration showed, in the end.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::output::{rate, size};

/// The summary. Times are in seconds, rates in bytes a second.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) files: u64,
    pub(super) empty_files: u64,
    pub(super) unreadable_files: u64,
    /// Links, pipes and devices, which are left out.
    pub(super) skipped: u64,
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) store_bytes: u64,
    pub(super) seal_and_store_seconds: f64,
    pub(super) read_and_open_seconds: f64,
    pub(super) digests_equal: u64,
    pub(super) lines_searched: u64,
    pub(super) lines_found: u64,
    pub(super) lines_left_out: u64,
    pub(super) search_passes: u64,
    pub(super) search_seconds: f64,
    pub(super) control_searched: u64,
    pub(super) control_found: u64,
    /// How long the vault was away when the key was used up.
    pub(super) outage_served_seconds: f64,
    pub(super) outage_reads: u64,
    pub(super) outage_writes: u64,
    /// Of those, how many in grace.
    pub(super) grace_reads: u64,
    pub(super) grace_writes: u64,
    /// The longest that one of them took.
    pub(super) outage_slowest_seconds: f64,
    pub(super) buffered_blocks: u64,
    pub(super) buffered_bytes: u64,
    pub(super) unavailable_reads_refused: u64,
    pub(super) recovered_after_seconds: f64,
    pub(super) drained_after_seconds: f64,
    pub(super) drained_blocks: u64,
    pub(super) drained_equal: u64,
    pub(super) blocks_under_customer_key: u64,
    pub(super) revoked_after_seconds: f64,
    pub(super) reads_refused: u64,
    pub(super) writes_refused: u64,
    pub(super) listed_while_revoked: u64,
    pub(super) restored_after_seconds: f64,
    /// How much needed the old version of the customer's key before the rotation; nothing does after it.
    pub(super) needed_before: u64,
    pub(super) rotate_kek_seconds: f64,
    pub(super) reencrypted_blocks: u64,
    pub(super) reencrypt_seconds: f64,
    /// Whether the account was unlinked and linked again.
    pub(super) relinked: bool,
    /// How many files read back equal once the account was deleted and recovered.
    pub(super) recovered_equal: u64,
    pub(super) seconds: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
        writeln!(f, "Summary")?;
        writeln!(
            f,
            "  stored    {} files, {}, in {} blocks; the store has {}",
            self.files,
            size(self.bytes),
            self.blocks,
            size(self.store_bytes)
        )?;
        writeln!(
            f,
            "  rates     sealed and stored durably at {}, read and opened at {}",
            rate(self.bytes, seconds(self.seal_and_store_seconds)),
            rate(self.bytes, seconds(self.read_and_open_seconds))
        )?;
        writeln!(f, "  digests   {} of {} files read back equal", self.digests_equal, self.files)?;
        writeln!(
            f,
            "  search    {} of {} lines found in the store; control: {} of {} found in an input file",
            self.lines_found, self.lines_searched, self.control_found, self.control_searched
        )?;
        writeln!(
            f,
            "  outage    {} reads and {} writes served for {:.1} s, {} and {} of them in grace",
            self.outage_reads,
            self.outage_writes,
            self.outage_served_seconds,
            self.grace_reads,
            self.grace_writes
        )?;
        writeln!(
            f,
            "  buffered  {} blocks, {}, then; {} reads refused",
            self.buffered_blocks,
            size(self.buffered_bytes),
            self.unavailable_reads_refused
        )?;
        writeln!(
            f,
            "  drained   {} of {} blocks {:.1} s after the vault was back, each once; all {} are under the customer's \
             key again",
            self.drained_blocks,
            self.buffered_blocks,
            self.drained_after_seconds,
            self.blocks_under_customer_key
        )?;
        writeln!(
            f,
            "  revoked   felt after {:.1} s: {} reads and {} writes refused, {} blocks still listed",
            self.revoked_after_seconds, self.reads_refused, self.writes_refused, self.listed_while_revoked
        )?;
        writeln!(
            f,
            "  restored  felt after {:.1} s: reads and writes work again",
            self.restored_after_seconds
        )?;
        writeln!(
            f,
            "  rotated   the customer's key in {:.0} ms, and all {} blocks under a new key of the account's in {:.1} s",
            self.rotate_kek_seconds * 1000.0,
            self.reencrypted_blocks,
            self.reencrypt_seconds
        )?;
        writeln!(
            f,
            "  recovered {} of {} files read back equal after an unlink, a link and a deletion",
            self.recovered_equal, self.files
        )?;
        write!(f, "  took      {:.1} s", self.seconds)
    }
}
