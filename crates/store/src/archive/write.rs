//! Writing an archive.
//!
//! Guarantees: what was finished without an error is whole and can be read back; nothing that a reader would refuse is
//! written: order and bounds are held here as well. One block is held at a time.
//!
//! Not its job: to make the file durable, or to remove one that was not finished (the caller's).

use bytes::Bytes;
use cofferdam_crypto::{ArchiveHash, BlockId, KeyScope, ProviderKind, RecordKey, SegmentId};
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    ArchiveCounts, ArchiveError, ArchiveTag,
    frame::{
        End, FORMAT, Head, Kind, MAGIC, MAX_ACCOUNT, MAX_SEGMENT, MAX_TAGS, block_start, encode_counts,
        end_len,
    },
    order::Order,
};
use crate::{BlockMeta, Place};

/// A key of the account's, which an archive is tagged under.
pub(crate) struct Signatory<'a> {
    /// Whose key, and which epoch of it.
    pub(crate) scope: KeyScope,
    pub(crate) key: &'a RecordKey,
}

/// Writes an archive, record after record.
pub(crate) struct ArchiveWriter<W> {
    out: BufWriter<W>,
    hash: ArchiveHash,
    number: u64,
    order: Order,
}

impl<W: AsyncWrite + Unpin> ArchiveWriter<W> {
    /// Begins an archive with the account's part.
    ///
    /// # Errors
    /// [`ArchiveError::Unfit`] when that is too long, [`ArchiveError::Io`].
    pub(crate) async fn start(out: W, account: &[u8]) -> Result<Self, ArchiveError> {
        check_len("the account's part", account.len(), MAX_ACCOUNT)?;
        let mut this = Self {
            out: BufWriter::new(out),
            hash: ArchiveHash::default(),
            number: 0,
            order: Order::default(),
        };
        let start = [&MAGIC[..], &[FORMAT]].concat();
        this.hash.update(&start);
        this.out.write_all(&start).await.map_err(ArchiveError::writing)?;
        this.record(Kind::Account, &[account]).await?;
        Ok(this)
    }

    /// Adds a segment of a write-only buffer; before the first block of it.
    ///
    /// # Errors
    /// [`ArchiveError::Unfit`] when it is too long or out of order, [`ArchiveError::Io`].
    pub(crate) async fn segment(&mut self, id: SegmentId, record: &Bytes) -> Result<(), ArchiveError> {
        check_len("a segment", SegmentId::LEN + record.len(), MAX_SEGMENT)?;
        self.order.segment(id).map_err(unfit)?;
        self.record(Kind::Segment, &[id.as_bytes(), record]).await
    }

    /// Adds a block as it is sealed: all buffered ones in the order of their ids, then all stored ones.
    ///
    /// # Errors
    /// [`ArchiveError::Unfit`] when it is out of order or its meta is not that of these bytes, [`ArchiveError::Io`].
    pub(crate) async fn block(
        &mut self,
        place: Place,
        id: &BlockId,
        meta: &BlockMeta,
        sealed: &Bytes,
    ) -> Result<(), ArchiveError> {
        if meta.sealed_len != sealed.len() as u64 {
            return Err(unfit(format!(
                "block {id} has {} sealed bytes, not {}",
                sealed.len(),
                meta.sealed_len
            )));
        }
        self.order.block(place, id, meta).map_err(unfit)?;
        self.record(Kind::Block, &[&block_start(place, id, meta), sealed]).await
    }

    /// Ends the archive with its counts and its tags: under the customer's key and the service's, or one of them.
    ///
    /// # Errors
    /// [`ArchiveError::Unfit`] for other signatories, [`ArchiveError::Io`].
    pub(crate) async fn finish(mut self, by: &[Signatory<'_>]) -> Result<ArchiveCounts, ArchiveError> {
        let counts = encode_counts(&self.order.counts());
        let head = Head::new(Kind::End, self.number, end_len(by.len())).encode();
        self.hash.update(&head);
        self.hash.update(&counts);
        let hash = self.hash.finish();
        let mut tags: Vec<_> = by.iter().map(|by| by.tag(&hash)).collect();
        tags.sort_by_key(|tag| tag.provider);
        if tags.is_empty() || tags.len() > MAX_TAGS || !tags.is_sorted_by(|a, b| a.provider < b.provider) {
            return Err(unfit(
                "it is to be tagged under other keys than one of the customer's and one of the service's",
            ));
        }
        if tags.iter().any(|tag| tag.provider == ProviderKind::Buffer) {
            return Err(unfit("it is to be tagged under the key of a segment"));
        }
        let body = End { counts, hash, tags }.encode();
        let checksum = xxh3(&[&head, &body]);
        for part in [&head[..], &body, &checksum] {
            self.out.write_all(part).await.map_err(ArchiveError::writing)?;
        }
        self.out.flush().await.map_err(ArchiveError::writing)?;
        Ok(self.order.counts())
    }

    async fn record(&mut self, kind: Kind, body: &[&[u8]]) -> Result<(), ArchiveError> {
        let len = body.iter().map(|part| part.len() as u64).sum();
        let head = Head::new(kind, self.number, len).encode();
        let mut checksum = Xxh3Default::new();
        for part in [&[&head[..]], body].concat() {
            checksum.update(part);
            self.write(part).await?;
        }
        self.write(&checksum.digest().to_be_bytes()).await?;
        self.number += 1;
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.hash.update(bytes);
        self.out.write_all(bytes).await.map_err(ArchiveError::writing)
    }
}

impl Signatory<'_> {
    fn tag(&self, hash: &[u8; 32]) -> ArchiveTag {
        let (provider, epoch) = (self.scope.provider.kind(), self.scope.epoch);
        ArchiveTag { provider, epoch, tag: self.key.archive_tag(hash) }
    }
}

fn xxh3(parts: &[&[u8]]) -> [u8; 8] {
    let mut checksum = Xxh3Default::new();
    parts.iter().for_each(|part| checksum.update(part));
    checksum.digest().to_be_bytes()
}

fn check_len(what: &str, len: usize, max: u64) -> Result<(), ArchiveError> {
    if len as u64 > max {
        return Err(unfit(format!("{what} has {len} bytes, and the most are {max}")));
    }
    Ok(())
}

fn unfit(reason: impl Into<String>) -> ArchiveError {
    ArchiveError::Unfit { reason: reason.into() }
}
