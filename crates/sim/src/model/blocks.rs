//! What was written, and what a read may see of it.
//!
//! Every write has bytes of its own, so that what a read sees names the write. A block is judged as a register that
//! many use at once: a write takes effect at one moment between its begin and its end, the latest when a read saw it;
//! a read sees the last write that took effect (Gibbons and Korach, "Testing shared memories", 1997: the zones of two
//! values must not overlap). A write of unknown end took effect before it was given up, or never.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_crypto::{AccountId, BlockId};

use super::Judged;
use crate::{Check, record::Held};

/// A write: a put of one block, or a delete.
pub(crate) type WriteId = u64;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// It is durable.
    Acknowledged,
    /// Nothing was kept of it.
    Refused,
    /// It took effect or it did not.
    Unknown,
}

#[derive(Clone, Debug)]
struct Write {
    id: WriteId,
    /// The length of what was put; `None` for a delete.
    len: Option<usize>,
    begun: u64,
    ended: Option<(u64, WriteEnd)>,
    /// When a read that saw it had ended, the first one.
    seen_by: Option<u64>,
    /// When a read that saw it began, the last one.
    seen_from: u64,
}

impl Write {
    /// By when it had taken effect, if it is known to have.
    fn settled(&self) -> Option<u64> {
        match self.ended {
            Some((at, WriteEnd::Acknowledged)) => Some(self.seen_by.map_or(at, |seen| seen.min(at))),
            // It was seen, so it took effect; and that it did before it was given up.
            Some((at, WriteEnd::Unknown)) => self.seen_by.map(|seen| seen.min(at)),
            _ => self.seen_by,
        }
    }

    fn was_refused(&self) -> bool {
        matches!(self.ended, Some((_, WriteEnd::Refused)))
    }
}

/// What a read saw of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// What this write put.
    Write(WriteId),
    /// No block.
    Nothing,
}

/// Every block, and what was done to it.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    writes: BTreeMap<(AccountId, BlockId), Vec<Write>>,
    of: BTreeMap<WriteId, (AccountId, BlockId)>,
    next: WriteId,
    salts: BTreeSet<[u8; 32]>,
    drained: BTreeMap<(AccountId, BlockId, u64), u32>,
    /// The version of each write that was told.
    versions: BTreeMap<WriteId, u64>,
    /// What each version was sealed under, one after the other.
    under: BTreeMap<(AccountId, BlockId, u64), BTreeSet<Held>>,
}

impl Blocks {
    pub(crate) fn write_begins(
        &mut self,
        account: AccountId,
        block: &BlockId,
        len: Option<usize>,
        seq: u64,
    ) -> WriteId {
        self.next += 1;
        let id = self.next;
        let key = (account, block.clone());
        let write = Write { id, len, begun: seq, ended: None, seen_by: None, seen_from: 0 };
        self.of.insert(id, key.clone());
        self.writes.entry(key).or_default().push(write);
        id
    }

    pub(crate) fn write_ends(&mut self, id: WriteId, end: WriteEnd, seq: u64) {
        let Some(key) = self.of.get(&id) else { return };
        let Some(writes) = self.writes.get_mut(key) else { return };
        if let Some(write) = writes.iter_mut().find(|write| write.id == id) {
            write.ended = Some((seq, end));
        }
    }

    /// A put was acknowledged with this version.
    pub(crate) fn has_version(&mut self, id: WriteId, version: u64) {
        self.versions.insert(id, version);
    }

    /// A version was written, sealed under this.
    pub(crate) fn is_under(&mut self, account: AccountId, block: &BlockId, version: u64, held: Held) {
        self.under.entry((account, block.clone(), version)).or_default().insert(held);
    }

    /// What a write's block was ever sealed under, if that is known.
    pub(crate) fn held_by(&self, account: AccountId, block: &BlockId, id: WriteId) -> Vec<Held> {
        let version = self.versions.get(&id);
        let under = version.and_then(|version| self.under.get(&(account, block.clone(), *version)));
        under.into_iter().flatten().copied().collect()
    }

    /// What any version of a block was ever sealed under.
    pub(crate) fn all_held_by(&self, account: AccountId, block: &BlockId) -> BTreeSet<Held> {
        let of = (account, block.clone(), 0)..=(account, block.clone(), u64::MAX);
        self.under.range(of).flat_map(|(_, under)| under).copied().collect()
    }

    pub(crate) fn ids(&self, account: AccountId) -> Vec<BlockId> {
        self.writes.keys().filter(|(of, _)| *of == account).map(|(_, block)| block.clone()).collect()
    }

    pub(crate) fn len_of(&self, account: AccountId, block: &BlockId, id: WriteId) -> Option<usize> {
        let writes = self.writes.get(&(account, block.clone()))?;
        writes.iter().find(|write| write.id == id)?.len
    }

    /// The writes of a block that put something.
    pub(crate) fn puts(&self, account: AccountId, block: &BlockId) -> Vec<(WriteId, usize)> {
        let writes = self.writes.get(&(account, block.clone())).map_or(&[][..], Vec::as_slice);
        writes.iter().rev().filter_map(|write| Some((write.id, write.len?))).collect()
    }

    /// Judges what a read saw that began and ended at these numbers.
    pub(crate) fn judge_read(
        &mut self,
        account: AccountId,
        block: &BlockId,
        seen: Seen,
        (begun, ended): (u64, u64),
    ) -> Judged {
        let wrong = |what: String| Err((Check::Content, format!("block {block} of {account}: {what}")));
        let none = &mut Vec::new();
        let writes = self.writes.get_mut(&(account, block.clone())).unwrap_or(none);
        match seen {
            Seen::Write(id) => {
                let Some(write) = writes.iter_mut().find(|write| write.id == id) else {
                    return wrong(format!("shows what write {id} put elsewhere"));
                };
                if write.was_refused() {
                    return wrong(format!("shows write {id}, which was refused"));
                }
                if write.begun > ended {
                    return wrong(format!("shows write {id} before it was begun"));
                }
                write.seen_by = Some(write.seen_by.map_or(ended, |seen_by| seen_by.min(ended)));
                write.seen_from = write.seen_from.max(begun);
                let write = write.clone();
                match writes.iter().find(|other| overlap(&write, other)) {
                    Some(other) => wrong(format!(
                        "shows write {id} ({write:?}) though write {} took its place ({other:?})",
                        other.id
                    )),
                    None => Ok(()),
                }
            }
            Seen::Nothing => {
                let sources = writes
                    .iter()
                    .filter(|write| write.len.is_none() && !write.was_refused() && write.begun <= ended);
                // What is in its place for certain, from before the read began.
                let hides = |over: u64| {
                    writes
                        .iter()
                        .find(|put| {
                            put.len.is_some()
                                && put.begun > over
                                && put.settled().is_some_and(|settled| settled < begun)
                        })
                        .map(|put| (over, put.clone()))
                };
                let mut hidden = hides(0);
                for delete in sources {
                    if hidden.is_none() {
                        break;
                    }
                    hidden = match delete.ended {
                        Some((over, _)) => hides(over),
                        None => None,
                    };
                }
                match hidden {
                    Some((_, put)) => wrong(format!("is not there; write {} is ({put:?})", put.id)),
                    None => Ok(()),
                }
            }
        }
    }

    /// A sealed block was written with this salt.
    pub(crate) fn judge_salt(&mut self, salt: [u8; 32], what: &BlockId) -> Judged {
        if self.salts.insert(salt) {
            return Ok(());
        }
        Err((Check::Salt, format!("block {what} was sealed with a salt that was used before")))
    }

    /// A buffered version was moved into the store.
    pub(crate) fn judge_drained(&mut self, account: AccountId, block: &BlockId, version: u64) -> Judged {
        let times = self.drained.entry((account, block.clone(), version)).or_default();
        *times += 1;
        if *times == 1 {
            return Ok(());
        }
        let what = format!("version {version} of block {block} of {account} was drained {times} times");
        Err((Check::DrainedTwice, what))
    }
}

/// Whether two writes were each in effect at moments that no order of them explains.
fn overlap(one: &Write, other: &Write) -> bool {
    let (Some(from), Some(settled)) = (one.settled(), other.settled()) else { return false };
    if one.id == other.id {
        return false;
    }
    // One took effect while the other was in effect all along.
    let within = |outer: &Write, from: u64, inner: &Write, settled: u64| {
        inner.begun > from && settled < outer.seen_from
    };
    // One was over before the other began, and was seen after that had taken effect.
    let back =
        |first: &Write, from: u64, next: &Write, settled: u64| from < next.begun && settled < first.seen_from;
    let crossed = from.max(settled) < one.seen_from.min(other.seen_from);
    within(one, from, other, settled)
        || within(other, settled, one, from)
        || back(one, from, other, settled)
        || back(other, settled, one, from)
        || crossed
}

/// Odd, and its inverse modulo 2^64: so that the bytes of a small number are not mostly zeros.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const GATHER: u64 = 0xf1de_83e1_9937_733d;

/// The bytes of a write: its number first, spread, then bytes that belong to no other.
pub(crate) fn bytes_of(id: WriteId, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&id.wrapping_mul(SPREAD).to_le_bytes());
    let mut dice = crate::dice::Dice::new(id ^ 0x5eed_0000);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The write that these bytes name.
pub(crate) fn write_of(bytes: &[u8]) -> Option<WriteId> {
    bytes.first_chunk().map(|id| WriteId::from_le_bytes(*id).wrapping_mul(GATHER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> AccountId {
        AccountId::from_bytes([1; 16])
    }

    fn block() -> BlockId {
        BlockId::new("a").unwrap()
    }

    fn put(blocks: &mut Blocks, begun: u64, ended: u64, end: WriteEnd) -> WriteId {
        let id = blocks.write_begins(account(), &block(), Some(8), begun);
        blocks.write_ends(id, end, ended);
        id
    }

    fn delete(blocks: &mut Blocks, begun: u64, ended: u64, end: WriteEnd) {
        let id = blocks.write_begins(account(), &block(), None, begun);
        blocks.write_ends(id, end, ended);
    }

    fn reads(blocks: &mut Blocks, seen: Seen, begun: u64, ended: u64) -> bool {
        blocks.judge_read(account(), &block(), seen, (begun, ended)).is_ok()
    }

    #[test]
    fn the_last_acknowledged_write_is_what_is_read() {
        let mut blocks = Blocks::default();
        let first = put(&mut blocks, 1, 2, WriteEnd::Acknowledged);
        let second = put(&mut blocks, 3, 4, WriteEnd::Acknowledged);
        assert!(reads(&mut blocks, Seen::Write(second), 5, 6));
        assert!(!reads(&mut blocks, Seen::Write(first), 5, 6));
        assert!(!reads(&mut blocks, Seen::Nothing, 5, 6));
    }

    #[test]
    fn writes_at_one_time_may_take_effect_in_either_order_but_not_in_both() {
        let mut blocks = Blocks::default();
        let one = put(&mut blocks, 1, 10, WriteEnd::Acknowledged);
        let other = put(&mut blocks, 2, 9, WriteEnd::Acknowledged);
        assert!(reads(&mut blocks, Seen::Write(one), 11, 12));
        assert!(reads(&mut blocks, Seen::Write(one), 13, 14));
        assert!(!reads(&mut blocks, Seen::Write(other), 15, 16));
    }

    #[test]
    fn a_write_of_unknown_end_may_be_there_and_once_it_was_seen_it_stays() {
        let mut blocks = Blocks::default();
        let first = put(&mut blocks, 1, 2, WriteEnd::Acknowledged);
        let unknown = put(&mut blocks, 3, 4, WriteEnd::Unknown);
        assert!(reads(&mut blocks, Seen::Write(first), 5, 6));
        assert!(reads(&mut blocks, Seen::Write(first), 5, 6));
        let mut seen = Blocks::default();
        let first = put(&mut seen, 1, 2, WriteEnd::Acknowledged);
        let also_unknown = put(&mut seen, 3, 4, WriteEnd::Unknown);
        assert!(reads(&mut seen, Seen::Write(also_unknown), 5, 6));
        assert!(!reads(&mut seen, Seen::Write(first), 7, 8));
        assert!(!reads(&mut seen, Seen::Nothing, 7, 8));
        assert!(!reads(&mut blocks, Seen::Write(unknown), 7, 8), "the first was seen after it was given up");
    }

    #[test]
    fn a_refused_write_is_never_seen() {
        let mut blocks = Blocks::default();
        let refused = put(&mut blocks, 1, 2, WriteEnd::Refused);
        assert!(reads(&mut blocks, Seen::Nothing, 3, 4));
        assert!(!reads(&mut blocks, Seen::Write(refused), 3, 4));
    }

    #[test]
    fn a_deleted_block_is_gone_and_stays_gone() {
        let mut blocks = Blocks::default();
        let write = put(&mut blocks, 1, 2, WriteEnd::Acknowledged);
        delete(&mut blocks, 3, 4, WriteEnd::Acknowledged);
        assert!(reads(&mut blocks, Seen::Nothing, 5, 6));
        assert!(!reads(&mut blocks, Seen::Write(write), 5, 6));
        let again = put(&mut blocks, 7, 8, WriteEnd::Acknowledged);
        assert!(!reads(&mut blocks, Seen::Nothing, 9, 10));
        assert!(reads(&mut blocks, Seen::Write(again), 9, 10));
        delete(&mut blocks, 11, 12, WriteEnd::Unknown);
        assert!(reads(&mut blocks, Seen::Write(again), 13, 14));
        assert!(reads(&mut blocks, Seen::Nothing, 13, 14));
    }

    #[test]
    fn bytes_name_their_write() {
        assert_eq!(write_of(&bytes_of(77, 1000)), Some(77));
        assert_eq!(bytes_of(77, 1000).len(), 1000);
        assert_ne!(bytes_of(77, 100)[8..], bytes_of(78, 100)[8..]);
    }
}
