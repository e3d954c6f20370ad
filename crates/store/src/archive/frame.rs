//! The bytes of an archive's records.
//!
//! Guarantees: what is parsed is what [`encode`](self) wrote or an error; no length is used before it was checked. Pure.
//!
//! An archive is magic, format, then records: kind (1), number (8), length of the body (8), body, XXH3-64 of all that (8).
//! The checksum finds damage, and says in which record; against forgery there are the tags of the last.

use cofferdam_crypto::{BlockId, Epoch, ProviderKind, SegmentId};

use super::{ArchiveCounts, ArchiveTag};
use crate::{BlockMeta, Place};

pub(super) const MAGIC: &[u8; 8] = b"CFDMARCH";
pub(super) const FORMAT: u8 = 1;
/// Magic and format.
pub(super) const START_LEN: usize = MAGIC.len() + 1;
/// What a record has before its body.
pub(super) const HEAD_LEN: usize = 17;
/// What it has after it.
pub(super) const CHECKSUM_LEN: usize = 8;

/// The longest account's part: thousands of wraps.
pub(super) const MAX_ACCOUNT: u64 = 4 << 20;
/// The longest record of a segment: one wrap and its names.
pub(super) const MAX_SEGMENT: u64 = 64 << 10;
/// The longest that precedes a block's sealed bytes.
pub(super) const MAX_BLOCK_START: usize = BLOCK_FIXED + BlockMeta::LEN_IN_SEGMENT + BlockId::MAX_LEN;
/// Place, and the lengths of meta and id.
pub(super) const BLOCK_FIXED: usize = 4;

/// The four counts.
pub(super) const COUNTS_LEN: usize = 32;
const HASH_LEN: usize = 32;
const TAG_LEN: usize = 1 + 4 + 32;
/// One under the customer's key, one under the service's.
pub(super) const MAX_TAGS: usize = 2;
pub(super) const MAX_END: u64 = (COUNTS_LEN + HASH_LEN + MAX_TAGS * TAG_LEN) as u64;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The account's part, always the first.
    Account,
    Segment,
    Block,
    /// The counts, the hash and the tags, always the last.
    End,
}

impl Kind {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Account => b'A',
            Self::Segment => b'S',
            Self::Block => b'B',
            Self::End => b'E',
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::Account, Self::Segment, Self::Block, Self::End].into_iter().find(|kind| kind.code() == code)
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Account => "the account's part",
            Self::Segment => "a segment",
            Self::Block => "a block",
            Self::End => "the end",
        }
    }
}

/// What a record has before its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) number: u64,
    pub(super) len: u64,
}

impl Head {
    pub(super) fn new(kind: Kind, number: u64, len: u64) -> Self {
        Self { kind: kind.code(), number, len }
    }

    pub(super) fn encode(self) -> [u8; HEAD_LEN] {
        let mut out = [0; HEAD_LEN];
        out[0] = self.kind;
        out[1..9].copy_from_slice(&self.number.to_be_bytes());
        out[9..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; HEAD_LEN]) -> Self {
        let [kind, n @ .., l0, l1, l2, l3, l4, l5, l6, l7] = *bytes;
        Self {
            kind,
            number: u64::from_be_bytes(n),
            len: u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]),
        }
    }
}

/// What precedes a block's sealed bytes in its record.
pub(super) fn block_start(place: Place, id: &BlockId, meta: &BlockMeta) -> Vec<u8> {
    let meta = meta.encode();
    let mut out = Vec::with_capacity(BLOCK_FIXED + meta.len() + id.as_bytes().len());
    out.push(place_code(place));
    // Metas have at most 54 bytes, ids at most 1,024.
    out.push(meta.len() as u8);
    out.extend_from_slice(&(id.as_bytes().len() as u16).to_be_bytes());
    out.extend_from_slice(&meta);
    out.extend_from_slice(id.as_bytes());
    out
}

/// A block's record: what precedes its sealed bytes, and where those begin; or what is wrong with it.
pub(super) fn parse_block(body: &[u8]) -> Result<(Place, BlockId, BlockMeta, usize), String> {
    let (&[place, meta_len, id_0, id_1], rest) = body.split_first_chunk().ok_or("it is too short")?;
    let place = match place {
        1 => Place::Store,
        2 => Place::Buffer,
        other => return Err(format!("it is of place {other}, which there is not")),
    };
    let id_len = usize::from(u16::from_be_bytes([id_0, id_1]));
    let (meta, rest) = rest.split_at_checked(meta_len.into()).ok_or("it ends within its meta")?;
    let (id, sealed) = rest.split_at_checked(id_len).ok_or("it ends within its id")?;
    let meta = BlockMeta::decode(meta).map_err(|e| e.to_string())?;
    let id = BlockId::new(id).map_err(|e| e.to_string())?;
    if meta.sealed_len != sealed.len() as u64 {
        let (said, has) = (meta.sealed_len, sealed.len());
        return Err(format!("its meta says {said} sealed bytes, and it has {has}"));
    }
    Ok((place, id, meta, body.len() - sealed.len()))
}

const fn place_code(place: Place) -> u8 {
    match place {
        Place::Store => 1,
        Place::Buffer => 2,
    }
}

/// A segment's record: its id, then its record as it is stored.
pub(super) fn parse_segment(body: &[u8]) -> Result<(SegmentId, usize), String> {
    let (id, _) = body.split_first_chunk().ok_or("it ends within its id")?;
    Ok((SegmentId::from_bytes(*id), SegmentId::LEN))
}

pub(super) fn encode_counts(counts: &ArchiveCounts) -> [u8; COUNTS_LEN] {
    let mut out = [0; COUNTS_LEN];
    let ArchiveCounts { stored, buffered, segments, bytes } = *counts;
    for (chunk, count) in out.chunks_exact_mut(8).zip([stored, buffered, segments, bytes]) {
        chunk.copy_from_slice(&count.to_be_bytes());
    }
    out
}

/// What the end says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) counts: [u8; COUNTS_LEN],
    pub(super) hash: [u8; HASH_LEN],
    pub(super) tags: Vec<ArchiveTag>,
}

/// How long the end's body is with so many tags.
pub(super) const fn end_len(tags: usize) -> u64 {
    (COUNTS_LEN + HASH_LEN + tags * TAG_LEN) as u64
}

impl End {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = [&self.counts[..], &self.hash].concat();
        for tag in &self.tags {
            out.push(tag.provider.code());
            out.extend_from_slice(&tag.epoch.number().to_be_bytes());
            out.extend_from_slice(&tag.tag);
        }
        out
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let (&counts, rest) = body.split_first_chunk().ok_or("it is too short")?;
        let (&hash, rest) = rest.split_first_chunk().ok_or("it is too short")?;
        let (tags, cut) = rest.as_chunks::<TAG_LEN>();
        if tags.is_empty() || tags.len() > MAX_TAGS || !cut.is_empty() {
            return Err(format!("it has {} bytes, which no end has", body.len()));
        }
        let tags = tags.iter().map(parse_tag).collect::<Result<Vec<_>, _>>()?;
        // One spelling: the customer's first, and none twice.
        if !tags.is_sorted_by(|a, b| a.provider < b.provider) {
            return Err("its tags are not in order".into());
        }
        Ok(Self { counts, hash, tags })
    }
}

fn parse_tag(bytes: &[u8; TAG_LEN]) -> Result<ArchiveTag, String> {
    let [provider, e0, e1, e2, e3, tag @ ..] = *bytes;
    match ProviderKind::from_code(provider) {
        Some(provider @ (ProviderKind::Customer | ProviderKind::Service)) => {
            let epoch = Epoch::new(u32::from_be_bytes([e0, e1, e2, e3]));
            Ok(ArchiveTag { provider, epoch, tag })
        }
        _ => Err(format!("it has a tag under a key of kind {provider}, which makes none")),
    }
}
