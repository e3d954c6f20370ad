//! Reading an archive, twice: once to check all of it, once to load it.
//!
//! Guarantees: [`UncheckedArchive`] gives the account's part alone, for finding the keys that can authenticate it; it gives
//! way to a [`Checked`] only if every record is whole and in order and the hash is right; that to a [`Loading`] only if a
//! tag is right; and that ends well only if it read the same bytes again. Every length is held against its bound and
//! against the file's before anything is allocated.
//!
//! Not its job: which keys may authenticate an archive (the engine's).

use std::{collections::BTreeMap, io::SeekFrom};

use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{ArchiveHash, Epoch, KeyScope, ProviderKind, RecordKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, BufReader};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    ArchiveCounts, ArchiveError, ArchiveRecord,
    frame::{
        CHECKSUM_LEN, COUNTS_LEN, End, FORMAT, HEAD_LEN, Head, Kind, MAGIC, MAX_ACCOUNT, MAX_BLOCK_START,
        MAX_END, MAX_SEGMENT, START_LEN, encode_counts, parse_block, parse_segment,
    },
    order::Order,
};

/// How much is read and hashed at once, so that no other task waits for long.
const STEP: usize = 256 << 10;

/// An archive of which nothing is believed.
pub(crate) struct UncheckedArchive<R> {
    records: Records<R>,
    account: Bytes,
}

/// An archive that is whole; who made it is not known.
pub(crate) struct Checked<R> {
    records: Records<R>,
    account: Bytes,
    end: End,
    counts: ArchiveCounts,
    sealed_under: BTreeMap<(ProviderKind, Epoch), u64>,
}

/// An archive that a key of the account's has authenticated, while its records are loaded.
pub(crate) struct Loading<R> {
    records: Records<R>,
    order: Order,
    end: End,
    ended: bool,
}

impl<R: AsyncRead + AsyncSeek + Unpin> UncheckedArchive<R> {
    /// Reads as far as the account's part. A block of more than `max_sealed` bytes will be refused.
    ///
    /// # Errors
    /// What is wrong with it so far, as [`ArchiveError`].
    pub(crate) async fn open(input: R, max_sealed: u64) -> Result<Self, ArchiveError> {
        let mut records = Records::new(input, max_sealed).await?;
        let (kind, account) = records.next().await?;
        if kind != Kind::Account {
            return Err(records.damaged(kind.title(), "the account's part should be there"));
        }
        Ok(Self { records, account })
    }

    /// The account's part, as whoever made this archive wrote it: not to be believed.
    pub(crate) fn account(&self) -> &Bytes {
        &self.account
    }

    /// Reads all of it and checks that it is whole.
    ///
    /// # Errors
    /// What is wrong with it, as [`ArchiveError`].
    pub(crate) async fn check(self) -> Result<Checked<R>, ArchiveError> {
        let Self { mut records, account } = self;
        let mut order = Order::default();
        let mut sealed_under = BTreeMap::new();
        loop {
            let end = match records.next_in(&mut order).await? {
                Next::Record(ArchiveRecord::Segment { .. }) => continue,
                Next::Record(ArchiveRecord::Block { meta, .. }) => {
                    *sealed_under.entry((meta.provider.kind(), meta.epoch)).or_default() += 1;
                    continue;
                }
                Next::End(end) => end,
            };
            let counts = order.counts();
            return Ok(Checked { records, account, end, counts, sealed_under });
        }
    }
}

impl<R: AsyncRead + AsyncSeek + Unpin> Checked<R> {
    /// Whether this key of the account's made the archive.
    ///
    /// # Errors
    /// [`ArchiveError::NoTag`], [`ArchiveError::Forged`].
    pub(crate) fn verify(&self, scope: &KeyScope, key: &RecordKey) -> Result<(), ArchiveError> {
        let (provider, epoch) = (scope.provider.kind(), scope.epoch);
        let tag = self.end.tags.iter().find(|tag| (tag.provider, tag.epoch) == (provider, epoch));
        let tag = tag.ok_or(ArchiveError::NoTag { provider, epoch })?;
        if key.verify_archive(&self.end.hash, &tag.tag) || is_planted(Bug::ArchiveUncheckedMac) {
            Ok(())
        } else {
            Err(ArchiveError::Forged { provider, epoch })
        }
    }

    /// Begins to load its records, if this key of the account's made it.
    ///
    /// # Errors
    /// As [`Self::verify`]; [`ArchiveError::Changed`], [`ArchiveError::Io`].
    pub(crate) async fn load(self, scope: &KeyScope, key: &RecordKey) -> Result<Loading<R>, ArchiveError> {
        self.verify(scope, key)?;
        let mut records = self.records.again().await.map_err(changed)?;
        match records.next().await.map_err(changed)? {
            (Kind::Account, account) if account == self.account => {}
            _ => return Err(ArchiveError::Changed),
        }
        Ok(Loading { records, order: Order::default(), end: self.end, ended: false })
    }
}

impl<R> Checked<R> {
    /// What it holds.
    pub(crate) fn counts(&self) -> ArchiveCounts {
        self.counts
    }

    /// How many blocks are sealed under each key.
    pub(crate) fn sealed_under(&self) -> &BTreeMap<(ProviderKind, Epoch), u64> {
        &self.sealed_under
    }
}

impl<R: AsyncRead + AsyncSeek + Unpin> Loading<R> {
    /// The next record; `None` once all was read, and was what had been checked.
    ///
    /// Who stops before that knows nothing of what it was given but that it looked right.
    ///
    /// # Errors
    /// [`ArchiveError::Changed`] when it was changed meanwhile, [`ArchiveError::Io`].
    pub(crate) async fn next(&mut self) -> Result<Option<ArchiveRecord>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        match self.records.next_in(&mut self.order).await.map_err(changed)? {
            Next::Record(record) => Ok(Some(record)),
            Next::End(end) if end == self.end => {
                self.ended = true;
                Ok(None)
            }
            Next::End(_) => Err(ArchiveError::Changed),
        }
    }
}

/// What was whole a moment ago and is not now was changed.
fn changed(e: ArchiveError) -> ArchiveError {
    match e {
        e @ ArchiveError::Io { .. } => e,
        _ => ArchiveError::Changed,
    }
}

/// What follows in an archive, after the account's part.
enum Next {
    Record(ArchiveRecord),
    End(End),
}

/// The records of a file, as they come.
struct Records<R> {
    input: BufReader<R>,
    /// How long the file is.
    len: u64,
    /// How far it was read.
    at: u64,
    /// Where the record that is read begins, and which it is.
    from: u64,
    current: u64,
    /// Which is to be next.
    number: u64,
    hash: ArchiveHash,
    max_sealed: u64,
}

impl<R: AsyncRead + AsyncSeek + Unpin> Records<R> {
    async fn new(input: R, max_sealed: u64) -> Result<Self, ArchiveError> {
        let mut input = BufReader::new(input);
        let len = input.seek(SeekFrom::End(0)).await.map_err(ArchiveError::reading)?;
        input.seek(SeekFrom::Start(0)).await.map_err(ArchiveError::reading)?;
        let hash = ArchiveHash::default();
        let mut this = Self { input, len, at: 0, from: 0, current: 0, number: 0, hash, max_sealed };
        this.start().await?;
        Ok(this)
    }

    /// The same from the beginning.
    async fn again(self) -> Result<Self, ArchiveError> {
        let len = self.len;
        let again = Self::new(self.input.into_inner(), self.max_sealed).await?;
        if again.len == len { Ok(again) } else { Err(ArchiveError::Changed) }
    }

    async fn start(&mut self) -> Result<(), ArchiveError> {
        // What is shorter than the magic is cut off only if it begins so.
        let mut start = [0; START_LEN];
        let there = usize::try_from(self.len).unwrap_or(START_LEN).min(START_LEN);
        self.fill(&mut start[..there]).await?;
        self.hash.update(&start);
        let magic = there.min(MAGIC.len());
        if start[..magic] != MAGIC[..magic] || there == 0 {
            return Err(ArchiveError::NotAnArchive);
        }
        if there < START_LEN {
            return Err(self.truncated("its beginning"));
        }
        match start[MAGIC.len()] {
            FORMAT => Ok(()),
            0 => Err(ArchiveError::NotAnArchive),
            found => Err(ArchiveError::Newer { found, supported: FORMAT }),
        }
    }

    /// The next record after the account's part, if it may come there.
    async fn next_in(&mut self, order: &mut Order) -> Result<Next, ArchiveError> {
        let (kind, body) = self.next().await?;
        let record = match kind {
            Kind::Account => Err("there is one already".into()),
            Kind::Segment => segment(body).and_then(|(id, record)| {
                order.segment(id)?;
                Ok(Next::Record(ArchiveRecord::Segment { id, record }))
            }),
            Kind::Block => parse_block(&body).and_then(|(place, id, meta, from)| {
                order.block(place, &id, &meta)?;
                let sealed = body.slice(from..);
                Ok(Next::Record(ArchiveRecord::Block { place, id, meta, sealed }))
            }),
            Kind::End => return self.end(&body, order).map(Next::End),
        };
        record.map_err(|reason| self.damaged(kind.title(), reason))
    }

    fn end(&mut self, body: &Bytes, order: &Order) -> Result<End, ArchiveError> {
        let end = End::parse(body).map_err(|reason| self.damaged(Kind::End.title(), reason))?;
        if self.at != self.len {
            return Err(ArchiveError::Trailing { at: self.at });
        }
        if end.counts != encode_counts(&order.counts()) || end.hash != self.hash.clone().finish() {
            return Err(ArchiveError::WrongHash);
        }
        Ok(end)
    }

    /// The next record's kind and body. Those before it are hashed; of the end, its head and its counts.
    async fn next(&mut self) -> Result<(Kind, Bytes), ArchiveError> {
        (self.from, self.current) = (self.at, self.number);
        let mut head = [0; HEAD_LEN];
        self.fill_in(&mut head, "the head of a record").await?;
        let Head { kind: code, number, len } = Head::decode(&head);
        let Some(kind) = Kind::from_code(code) else {
            return Err(self.damaged("a record", format!("it is of kind {code:#04x}, which there is not")));
        };
        self.check_len(kind, len)?;
        let left = self.len - self.at;
        if len.checked_add(CHECKSUM_LEN as u64).is_none_or(|needed| needed > left) {
            return Err(ArchiveError::Truncated { at: self.len, what: kind.title().into() });
        }
        // Within the file's length, which a seek has told; and that within memory, where the bounds are.
        let Ok(len) = usize::try_from(len) else { return Err(self.too_large(kind, len, usize::MAX as u64)) };

        self.hash.update(&head);
        let mut sum = Xxh3Default::new();
        sum.update(&head);
        let mut body = vec![0; len];
        let hashed = if kind == Kind::End { COUNTS_LEN.min(len) } else { len };
        for (n, step) in body.chunks_mut(STEP).enumerate() {
            self.fill_in(step, kind.title()).await?;
            sum.update(step);
            self.hash.update(&step[..hashed.saturating_sub(n * STEP).min(step.len())]);
        }
        let mut checksum = [0; CHECKSUM_LEN];
        self.fill_in(&mut checksum, kind.title()).await?;
        if sum.digest().to_be_bytes() != checksum {
            return Err(self.damaged(kind.title(), "its checksum is that of other bytes"));
        }
        if kind != Kind::End {
            self.hash.update(&checksum);
        }
        if number != self.number {
            return Err(ArchiveError::OutOfOrder { at: self.from, expected: self.number, found: number });
        }
        self.number += 1;
        Ok((kind, body.into()))
    }

    fn check_len(&self, kind: Kind, len: u64) -> Result<(), ArchiveError> {
        let max = match kind {
            Kind::Account => MAX_ACCOUNT,
            Kind::Segment => MAX_SEGMENT,
            Kind::Block => self.max_sealed.saturating_add(MAX_BLOCK_START as u64),
            Kind::End => MAX_END,
        };
        if len > max { Err(self.too_large(kind, len, max)) } else { Ok(()) }
    }

    fn too_large(&self, kind: Kind, len: u64, max: u64) -> ArchiveError {
        let advice = match kind {
            Kind::Block => "raise the largest block of this engine, or take another copy",
            _ => "take another copy of it",
        };
        ArchiveError::TooLarge { at: self.from, what: kind.title(), len, max, advice }
    }

    async fn fill_in(&mut self, bytes: &mut [u8], what: &str) -> Result<(), ArchiveError> {
        if self.len - self.at < bytes.len() as u64 {
            return Err(self.truncated(what));
        }
        self.fill(bytes).await
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        self.input.read_exact(bytes).await.map_err(ArchiveError::reading)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn truncated(&self, what: &str) -> ArchiveError {
        ArchiveError::Truncated { at: self.len, what: what.into() }
    }

    fn damaged(&self, title: &str, reason: impl Into<String>) -> ArchiveError {
        let what = format!("{title} (record {})", self.current);
        ArchiveError::Damaged { at: self.from, what, reason: reason.into() }
    }
}

fn segment(body: Bytes) -> Result<(cofferdam_crypto::SegmentId, Bytes), String> {
    let (id, from) = parse_segment(&body)?;
    Ok((id, body.slice(from..)))
}
