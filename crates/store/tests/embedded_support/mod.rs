//! What the tests of the embedded store share.

pub mod model;
pub mod steps;

use std::time::Duration;

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, Epoch, Provider, SegmentId, Version};
use cofferdam_store::{BlockMeta, BlockOp, BufferLimit, EmbeddedOptions, Located, Place};

pub fn account(n: u8) -> AccountId {
    AccountId::from_bytes([n; 16])
}

pub fn id(name: impl AsRef<[u8]>) -> BlockId {
    BlockId::new(name).unwrap()
}

pub fn meta(version: u64, len: usize) -> BlockMeta {
    BlockMeta {
        version: Version::new(version),
        sealed_len: len as u64,
        page_size: cofferdam_crypto::PageSize::DEFAULT,
        stored_at: time(version),
        epoch: Epoch::FIRST,
        provider: Provider::Customer,
    }
}

pub fn put(account: AccountId, name: impl AsRef<[u8]>, version: u64, sealed: impl Into<Bytes>) -> BlockOp {
    let sealed = sealed.into();
    BlockOp::Put { account, id: id(name), meta: meta(version, sealed.len()), sealed }
}

pub fn delete(account: AccountId, name: impl AsRef<[u8]>, version: u64) -> BlockOp {
    BlockOp::Delete { account, id: id(name), version: Version::new(version) }
}

/// What a stored block of this version and length is.
pub fn stored(version: u64, len: usize) -> Located {
    Located { place: Place::Store, meta: meta(version, len) }
}

/// What a buffered block of this version and length is.
pub fn in_buffer(version: u64, len: usize) -> Located {
    Located { place: Place::Buffer, meta: buffer_meta(version, len) }
}

/// Buffered under the service's key, or, most of them, in one of a few segments.
pub fn buffer_meta(version: u64, len: usize) -> BlockMeta {
    let provider = match version % 3 {
        0 => Provider::Service,
        _ => Provider::Buffer(segment((version / 3 % 4) as u8)),
    };
    BlockMeta { provider, ..meta(version, len) }
}

pub fn segment(n: u8) -> SegmentId {
    SegmentId::from_bytes([n; 16])
}

/// The record that a segment comes with.
pub fn record_of(segment: SegmentId) -> Bytes {
    format!("the record of segment {segment}").into()
}

pub const UNBOUNDED: BufferLimit = BufferLimit { bytes: u64::MAX, since: Duration::ZERO };

pub fn buffer(account: AccountId, name: impl AsRef<[u8]>, version: u64, sealed: impl Into<Bytes>) -> BlockOp {
    buffer_within(UNBOUNDED, account, name, version, sealed)
}

pub fn buffer_within(
    limit: BufferLimit,
    account: AccountId,
    name: impl AsRef<[u8]>,
    version: u64,
    sealed: impl Into<Bytes>,
) -> BlockOp {
    let sealed = sealed.into();
    let meta = buffer_meta(version, sealed.len());
    BlockOp::Buffer {
        account,
        id: id(name),
        meta,
        sealed,
        limit,
        segment: meta.provider.segment().map(record_of),
    }
}

/// Drained at the millisecond `at` of the tests' time.
pub fn drain(
    account: AccountId,
    name: impl AsRef<[u8]>,
    version: u64,
    sealed: impl Into<Bytes>,
    at: u64,
) -> BlockOp {
    let sealed = sealed.into();
    BlockOp::Drain { account, id: id(name), meta: meta(version, sealed.len()), sealed, at: time(at) }
}

/// Sealed anew under the account's own key of this epoch.
pub fn reseal(
    account: AccountId,
    name: impl AsRef<[u8]>,
    version: u64,
    epoch: u32,
    sealed: impl Into<Bytes>,
) -> BlockOp {
    let sealed = sealed.into();
    let meta = BlockMeta { epoch: Epoch::new(epoch), ..meta(version, sealed.len()) };
    BlockOp::Reseal { account, id: id(name), meta, sealed }
}

pub fn discard(account: AccountId, name: impl AsRef<[u8]>, version: u64) -> BlockOp {
    BlockOp::Discard { account, id: id(name), version: Version::new(version) }
}

/// A version is stored at the millisecond of its number.
pub fn time(millis: u64) -> Duration {
    Duration::from_millis(1_764_000_000_000 + millis)
}

/// Bytes that depend on the seed at every place.
pub fn bytes_of(seed: u64, len: usize) -> Bytes {
    let mut rng = Rng(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

pub fn options() -> EmbeddedOptions {
    EmbeddedOptions { cache_bytes: 4 << 20, ..EmbeddedOptions::default() }
}

/// SplitMix64: enough for tests, and the same everywhere.
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
