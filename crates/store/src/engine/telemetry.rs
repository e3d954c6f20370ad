//! What the engine counts, through the `metrics` facade: an embedder installs the recorder.
//!
//! Guarantees: labels are words of this crate, never an account, a block or a secret; nothing is counted for a block
//! that is sealed and stored as usual. `docs/metrics.md` lists the names; a test holds it to this file.
//!
//! Not its job: to send anything anywhere.

use metrics::{Unit, counter, describe_counter};

use super::buffer::{BufferChange, TroubleKind};

const BUFFERINGS: &str = "cofferdam_bufferings_total";
const BUFFERED: &str = "cofferdam_buffered_blocks_total";
const DRAINED_BLOCKS: &str = "cofferdam_drained_blocks_total";
const DRAINED_BYTES: &str = "cofferdam_drained_bytes_total";
const DISCARDED_BLOCKS: &str = "cofferdam_discarded_blocks_total";
const REFUSED: &str = "cofferdam_buffer_refusals_total";
const TROUBLES: &str = "cofferdam_buffer_troubles_total";

/// Describes every metric to the recorder that is installed.
pub(super) fn describe() {
    describe_counter!(BUFFERINGS, "Times that an account's writes began to be buffered");
    describe_counter!(BUFFERED, "Blocks that were acknowledged as buffered");
    describe_counter!(DRAINED_BLOCKS, "Blocks that were drained to the store");
    describe_counter!(DRAINED_BYTES, Unit::Bytes, "Their sealed bytes");
    describe_counter!(DISCARDED_BLOCKS, "Buffered blocks of accounts that stayed revoked for too long");
    describe_counter!(REFUSED, "Writes that a full buffer refused");
    describe_counter!(TROUBLES, "What went wrong with buffers, by kind");
}

/// Counts what has happened to a buffer.
pub(super) fn count(change: &BufferChange) {
    match change {
        BufferChange::Began => counter!(BUFFERINGS).increment(1),
        BufferChange::Drained { moved, .. } => {
            counter!(DRAINED_BLOCKS).increment(moved.blocks);
            counter!(DRAINED_BYTES).increment(moved.bytes);
        }
        BufferChange::Finished { .. } => {}
        BufferChange::Discarded { gone, .. } => counter!(DISCARDED_BLOCKS).increment(gone.blocks),
        BufferChange::Trouble(trouble) => {
            let kind = match trouble.kind {
                TroubleKind::Store => "store",
                TroubleKind::ServiceKey => "service_key",
                TroubleKind::Vault => "vault",
                TroubleKind::Damaged(_) => "damaged",
                TroubleKind::NoAccount => "no_account",
                TroubleKind::Other => "other",
            };
            counter!(TROUBLES, "kind" => kind).increment(1);
        }
    }
}

/// Counts blocks that were acknowledged as buffered.
pub(super) fn count_buffered(blocks: usize) {
    counter!(BUFFERED).increment(blocks as u64);
}

/// Counts a write that the buffer had no room for.
pub(super) fn count_refusal() {
    counter!(REFUSED).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_metrics_are_those_that_are_counted() {
        let text = include_str!("../../../../docs/metrics.md");
        for name in [BUFFERINGS, BUFFERED, DRAINED_BLOCKS, DRAINED_BYTES, DISCARDED_BLOCKS, REFUSED, TROUBLES]
        {
            assert!(text.contains(&format!("| `{name}` |")), "{name} is not in docs/metrics.md");
        }
    }
}
