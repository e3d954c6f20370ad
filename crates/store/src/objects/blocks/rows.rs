//! What the row of a block says.
//!
//! Guarantees: an encoding that this library writes reads back as it was; anything else is damage or a newer format, and says
//! which.
//!
//! Not its job: the rows of buffers and segments, which all stores write alike (`plan`).
//!
//! Encoding: format byte, which places it has (1 the store proper, 2 the buffer, 3 both), and for each of them in that order
//! the length of its meta (a byte), its meta, and the tail of its data object's name (u64, big-endian).

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId};
use object_store::path::Path;

use super::names::{Places, Tail};
use crate::{
    BlockMeta, Located, StoreError, StoreErrorKind,
    plan::{Held, corrupt},
};

const FORMAT: u8 = 1;
const STORED: u8 = 1;
const BUFFERED: u8 = 2;

/// One version of a block, and which object its bytes are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) meta: BlockMeta,
    pub(super) tail: Tail,
}

impl Placed {
    pub(super) fn object(&self, places: &Places, account: AccountId, id: &BlockId) -> Path {
        places.of_block(account, id, self.meta.version, self.tail)
    }
}

/// What there is of a block in each place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockRow {
    pub(super) stored: Option<Placed>,
    pub(super) buffered: Option<Placed>,
}

impl BlockRow {
    /// What the row of what is buffered of a block says, which is there so that it can be listed.
    pub(super) fn of_buffered(buffered: Placed) -> Self {
        Self { stored: None, buffered: Some(buffered) }
    }

    pub(super) fn held(&self) -> Held {
        let meta = |placed: Option<Placed>| placed.map(|placed| placed.meta);
        Held { stored: meta(self.stored), buffered: meta(self.buffered) }
    }

    /// What a reader sees of it, and which object has its bytes.
    pub(super) fn located(&self) -> Result<Option<(Located, Placed)>, StoreError> {
        let located = self.held().located()?;
        let placed = || self.all().find(|placed| located.is_some_and(|at| at.meta == placed.meta));
        Ok(located.and_then(|at| Some((at, placed()?))))
    }

    /// What is in either place, what is buffered first.
    pub(super) fn all(&self) -> impl Iterator<Item = Placed> {
        self.buffered.into_iter().chain(self.stored)
    }

    /// The row that says so; `None` where there is nothing to say.
    pub(super) fn encode(&self) -> Option<Bytes> {
        let places = [(STORED, self.stored), (BUFFERED, self.buffered)];
        let has = places.iter().filter(|(_, placed)| placed.is_some()).map(|(place, _)| place).sum::<u8>();
        if has == 0 {
            return None;
        }
        let mut out = vec![FORMAT, has];
        for Placed { meta, tail } in places.into_iter().filter_map(|(_, placed)| placed) {
            let meta = meta.encode();
            out.push(meta.len() as u8);
            out.extend_from_slice(&meta);
            out.extend_from_slice(&tail.0.to_be_bytes());
        }
        Some(out.into())
    }

    /// What was encoded.
    ///
    /// # Errors
    /// `NewerFormat`, `Corrupt`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let undecodable = || corrupt("the row of a block does not decode");
        let (has, mut rest) = match bytes {
            [FORMAT, has @ STORED..=3, rest @ ..] => (*has, rest),
            [found, ..] if *found > FORMAT => {
                let (found, supported) = ((*found).into(), FORMAT.into());
                return Err(StoreError::new(StoreErrorKind::NewerFormat { found, supported }));
            }
            _ => return Err(undecodable()),
        };
        let mut row = Self::default();
        for (place, placed) in [(STORED, &mut row.stored), (BUFFERED, &mut row.buffered)] {
            if has & place == 0 {
                continue;
            }
            let (len, after) = rest.split_first().ok_or_else(undecodable)?;
            let (meta, after) = after.split_at_checked((*len).into()).ok_or_else(undecodable)?;
            let (tail, after) = after.split_first_chunk().ok_or_else(undecodable)?;
            *placed = Some(Placed { meta: BlockMeta::decode(meta)?, tail: Tail(u64::from_be_bytes(*tail)) });
            rest = after;
        }
        if rest.is_empty() { Ok(row) } else { Err(undecodable()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cofferdam_crypto::{Epoch, PageSize, Provider, SegmentId, Version};
    use proptest::prelude::*;

    use super::*;

    fn placed() -> impl Strategy<Value = Placed> {
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
            |(version, len, tail, of_segment)| {
                let provider = match of_segment {
                    true => Provider::Buffer(SegmentId::from_bytes([9; 16])),
                    false => Provider::Customer,
                };
                let meta = BlockMeta {
                    version: Version::new(version),
                    sealed_len: len,
                    page_size: PageSize::DEFAULT,
                    stored_at: Duration::new(5, 6),
                    epoch: Epoch::new(7),
                    provider,
                };
                Placed { meta, tail: Tail(tail) }
            },
        )
    }

    proptest! {
        #[test]
        fn a_row_decodes_to_what_was_encoded(stored in prop::option::of(placed()), buffered in prop::option::of(placed())) {
            let row = BlockRow { stored, buffered };
            match row.encode() {
                Some(bytes) => prop_assert_eq!(BlockRow::decode(&bytes).unwrap(), row),
                None => prop_assert_eq!(row, BlockRow::default()),
            }
        }

        #[test]
        fn a_row_of_other_bytes_is_refused_or_encodes_to_them(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(row) = BlockRow::decode(&bytes) {
                prop_assert_eq!(&row.encode().unwrap()[..], &bytes[..]);
            }
        }

        #[test]
        fn a_row_that_is_cut_or_goes_on_is_damage(row in placed(), cut in 0usize..48) {
            let bytes = BlockRow::of_buffered(row).encode().unwrap();
            let cut = BlockRow::decode(&bytes[..cut.min(bytes.len() - 1)]).unwrap_err();
            prop_assert_eq!(cut.kind(), StoreErrorKind::Corrupt);
            let longer = [&bytes[..], &[0]].concat();
            prop_assert_eq!(BlockRow::decode(&longer).unwrap_err().kind(), StoreErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_row_of_a_newer_format_is_said_to_be_that() {
        let error = BlockRow::decode(&[2, 1, 0]).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NewerFormat { found: 2, supported: 1 });
    }
}
