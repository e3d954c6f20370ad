//! The first three blocks of the file: what it is, and the two places where redb's header is kept.
//!
//! Guarantees: a file that is not a store, a newer format and a damaged header are told apart, and all of them
//! before redb sees a byte. A write of redb's header that is torn or lost leaves the one before it.
//!
//! Layout, integers little-endian:
//!
//! | at | what |
//! | --- | --- |
//! | 0 | 16 bytes magic, u32 format, u32 page, u32 stride, u32 row, zeros to 56, u64 xxh3 of bytes 0 to 56 |
//! | 4,096 and 8,192 | two slots; each holds the same [`Record`] twice, at 0 and at 2,048: u64 sequence, u64 least length, 448 bytes of redb's page 0, u64 xxh3 of all that |
//! | 12,288 | redb's page 1, and every further page, 4,104 bytes apart |
//!
//! Why each slot holds it twice: a disk writes sectors of 512 bytes whole or not at all, so a crash never
//! leaves a copy that does not verify. One that does not was damaged later; without the second copy it could
//! not be told from a write that a crash cut short, and falling back to the other slot would quietly undo an
//! acknowledged commit. So: the newest copy that verifies counts, and a slot without any is damage.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::error::{StoreError, StoreErrorKind};

/// The format that this code writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;
/// redb's page.
pub(crate) const PAGE: usize = 4096;
/// A page and its checksum.
pub(crate) const STRIDE: usize = PAGE + 8;
/// The largest piece of a block in one row: with its key it fills a redb page of 64 KiB and not one more.
pub(crate) const ROW: usize = 61_440;
/// Where slot 0 is.
pub(crate) const SLOTS_AT: u64 = 4096;
/// The distance between slots.
pub(crate) const SLOT_LEN: usize = 4096;
/// Where redb's page 1 is.
pub(crate) const PAGES_AT: u64 = 12_288;
/// How much of redb's page 0 is kept; redb uses 320 bytes of it.
pub(crate) const HEADER_LEN: usize = 448;

const MAGIC: &[u8; 16] = b"cofferdam store\n";
const SUPER_SUMMED: usize = 56;
const COPIES_AT: [usize; 2] = [0, 2048];
const BYTES_AT: usize = 16;
const RECORD_SUMMED: usize = BYTES_AT + HEADER_LEN;
const RECORD_LEN: usize = RECORD_SUMMED + 8;

/// The first block of a new file.
pub(crate) fn encode_super() -> [u8; SLOTS_AT as usize] {
    let mut out = [0; SLOTS_AT as usize];
    out[..16].copy_from_slice(MAGIC);
    for (i, value) in [FORMAT, PAGE as u32, STRIDE as u32, ROW as u32].into_iter().enumerate() {
        out[16 + 4 * i..20 + 4 * i].copy_from_slice(&value.to_le_bytes());
    }
    let sum = xxh3_64(&out[..SUPER_SUMMED]);
    out[SUPER_SUMMED..SUPER_SUMMED + 8].copy_from_slice(&sum.to_le_bytes());
    out
}

/// Checks the first bytes of a file.
pub(crate) fn check_super(bytes: &[u8]) -> Result<(), StoreError> {
    if bytes.len() < MAGIC.len() || !bytes.starts_with(MAGIC) {
        return Err(
            StoreError::new(StoreErrorKind::NotAStore).with_detail("it does not begin as a store does")
        );
    }
    let corrupt = |what| StoreError::new(StoreErrorKind::Corrupt).with_detail(what);
    if bytes.len() < SUPER_SUMMED + 8 {
        return Err(corrupt("the file ends within its first block"));
    }
    if xxh3_64(&bytes[..SUPER_SUMMED]) != word(bytes, SUPER_SUMMED) {
        return Err(corrupt("the file's first block does not verify"));
    }
    let number = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| bytes[16 + 4 * i + k]));
    match number(0) {
        FORMAT => {}
        found => return Err(StoreError::new(StoreErrorKind::NewerFormat { found, supported: FORMAT })),
    }
    if [number(1), number(2), number(3)] != [PAGE as u32, STRIDE as u32, ROW as u32] {
        return Err(corrupt("the file's geometry is not that of its format"));
    }
    Ok(())
}

/// One writing of redb's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Counts the writings.
    pub(crate) sequence: u64,
    /// The file held at least this much of redb's bytes for as long as this record was the newest.
    pub(crate) least_len: u64,
    /// The first bytes of redb's page 0.
    pub(crate) bytes: [u8; HEADER_LEN],
}

impl Record {
    /// The block that slot `slot` then holds.
    pub(crate) fn encode(&self, slot: usize) -> [u8; SLOT_LEN] {
        let mut out = [0; SLOT_LEN];
        for (copy, at) in COPIES_AT.into_iter().enumerate() {
            out[at..at + 8].copy_from_slice(&self.sequence.to_le_bytes());
            out[at + 8..at + BYTES_AT].copy_from_slice(&self.least_len.to_le_bytes());
            out[at + BYTES_AT..at + RECORD_SUMMED].copy_from_slice(&self.bytes);
            let sum = xxh3_64_with_seed(&out[at..at + RECORD_SUMMED], seed(slot, copy));
            out[at + RECORD_SUMMED..at + RECORD_LEN].copy_from_slice(&sum.to_le_bytes());
        }
        out
    }

    /// The newest copy in a slot, if one verifies.
    pub(crate) fn decode(block: &[u8; SLOT_LEN], slot: usize) -> Option<Self> {
        COPIES_AT
            .into_iter()
            .enumerate()
            .filter(|(copy, at)| {
                let sum = xxh3_64_with_seed(&block[*at..at + RECORD_SUMMED], seed(slot, *copy));
                sum == word(block, at + RECORD_SUMMED)
            })
            .map(|(_, at)| Self {
                sequence: word(block, at),
                least_len: word(block, at + 8),
                bytes: std::array::from_fn(|i| block[at + BYTES_AT + i]),
            })
            .max_by_key(|record| record.sequence)
    }
}

/// Keeps a copy from passing for the other, or for a page: page numbers stay far below.
fn seed(slot: usize, copy: usize) -> u64 {
    u64::MAX - (2 * slot + copy) as u64
}

/// The checksum of redb's page `number`.
pub(crate) fn page_sum(page: &[u8], number: u64) -> u64 {
    xxh3_64_with_seed(page, number)
}

/// The little-endian word at `at`, which the caller knows to be there.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> Record {
        Record { sequence, least_len: 4096 * sequence, bytes: [sequence as u8; HEADER_LEN] }
    }

    #[test]
    fn a_slot_survives_any_damage_to_one_of_its_copies() {
        let block = record(7).encode(1);
        for at in 0..SLOT_LEN {
            let mut damaged = block;
            damaged[at] ^= 0x10;
            assert_eq!(Record::decode(&damaged, 1), Some(record(7)), "byte {at}");
        }
        assert_eq!(Record::decode(&block, 0), None, "a slot's block in the other slot");
    }

    #[test]
    fn a_half_written_slot_gives_the_newer_copy_that_is_whole() {
        let (old, new) = (record(5).encode(0), record(7).encode(0));
        let mut block = old;
        block[..512].copy_from_slice(&new[..512]);
        assert_eq!(Record::decode(&block, 0), Some(record(7)));
    }

    #[test]
    fn any_flip_in_the_first_block_is_refused_or_harmless() {
        let block = encode_super();
        check_super(&block).unwrap();
        for bit in 0..64 * 8 {
            let mut damaged = block;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let kind = check_super(&damaged).unwrap_err().kind();
            let expected = if bit < 128 { StoreErrorKind::NotAStore } else { StoreErrorKind::Corrupt };
            assert_eq!(kind, expected, "bit {bit}");
        }
    }
}
