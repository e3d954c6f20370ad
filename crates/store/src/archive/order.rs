//! Which record may follow which; the same for who writes an archive and who reads one.
//!
//! Guarantees: a block is in each place at most once; a segment is there before the first block of it, once; the counts are
//! those of what was let through. Buffered blocks come first: a drain moves blocks from the buffer to the store, so who
//! walks them in this order misses none.

use std::collections::BTreeSet;

use cofferdam_crypto::{BlockId, Provider, SegmentId};

use super::ArchiveCounts;
use crate::{BlockMeta, Place};

#[derive(Debug, Default)]
pub(super) struct Order {
    counts: ArchiveCounts,
    segments: BTreeSet<SegmentId>,
    /// The last block, and whether that was one of the store.
    last: Option<(bool, BlockId)>,
}

impl Order {
    pub(super) fn counts(&self) -> ArchiveCounts {
        self.counts
    }

    pub(super) fn segment(&mut self, id: SegmentId) -> Result<(), String> {
        if matches!(self.last, Some((true, _))) {
            return Err("it comes after a block of the store, where none is".into());
        }
        if !self.segments.insert(id) {
            return Err(format!("it is segment {id} for the second time"));
        }
        self.counts.segments += 1;
        Ok(())
    }

    pub(super) fn block(&mut self, place: Place, id: &BlockId, meta: &BlockMeta) -> Result<(), String> {
        if let Provider::Buffer(segment) = meta.provider
            && (place == Place::Store || !self.segments.contains(&segment))
        {
            return Err(format!("it is of segment {segment}, which is not before it"));
        }
        let is_stored = place == Place::Store;
        if let Some((was_stored, last)) = &self.last
            && (*was_stored, last.as_bytes()) >= (is_stored, id.as_bytes())
        {
            return Err(format!("it is block {id}, after {last}: not in order, or for the second time"));
        }
        let bytes = self.counts.bytes.checked_add(meta.sealed_len);
        self.counts.bytes = bytes.ok_or("there are more bytes than can be counted")?;
        if is_stored {
            self.counts.stored += 1
        } else {
            self.counts.buffered += 1
        }
        self.last = Some((is_stored, id.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cofferdam_crypto::{Epoch, PageSize, Version};

    use super::*;

    fn meta(provider: Provider) -> BlockMeta {
        BlockMeta {
            version: Version::new(1),
            sealed_len: 100,
            page_size: PageSize::DEFAULT,
            stored_at: Duration::ZERO,
            epoch: Epoch::FIRST,
            provider,
        }
    }

    fn id(name: &str) -> BlockId {
        BlockId::new(name).unwrap()
    }

    #[test]
    fn buffered_blocks_come_first_and_each_place_is_in_order() {
        let customer = meta(Provider::Customer);
        let mut order = Order::default();
        order.block(Place::Buffer, &id("b"), &meta(Provider::Service)).unwrap();
        order.block(Place::Buffer, &id("b"), &meta(Provider::Service)).unwrap_err();
        order.block(Place::Buffer, &id("a"), &meta(Provider::Service)).unwrap_err();
        order.block(Place::Store, &id("a"), &customer).unwrap();
        order.block(Place::Store, &id("a"), &customer).unwrap_err();
        order.block(Place::Buffer, &id("c"), &meta(Provider::Service)).unwrap_err();
        order.block(Place::Store, &id("b"), &customer).unwrap();
        assert_eq!(order.counts(), ArchiveCounts { stored: 2, buffered: 1, segments: 0, bytes: 300 });
    }

    #[test]
    fn a_segment_comes_once_and_before_its_blocks() {
        let segment = SegmentId::from_bytes([3; 16]);
        let of = meta(Provider::Buffer(segment));
        let mut order = Order::default();
        order.block(Place::Buffer, &id("a"), &of).unwrap_err();
        order.segment(segment).unwrap();
        order.segment(segment).unwrap_err();
        order.block(Place::Store, &id("a"), &of).unwrap_err();
        order.block(Place::Buffer, &id("a"), &of).unwrap();
        order.block(Place::Store, &id("a"), &meta(Provider::Customer)).unwrap();
        order.segment(SegmentId::from_bytes([4; 16])).unwrap_err();
    }
}
