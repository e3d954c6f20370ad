//! Reading blocks and what their rows say.
//!
//! Guarantees: what a block is, and which object its bytes are in, comes from one reading of its row. An object that is gone
//! means that the row has moved on; if it has not, that is damage, and said to be. Memory is taken for what the store sends.
//!
//! Not its job: to decide what changes.

use std::ops::Range;

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, SegmentId};
use object_store::{Error, ObjectStoreExt, coalesce_ranges, path::Path};

use super::{
    Inner, PAGE,
    decide::Seen,
    failed,
    hints::Hint,
    names::{self, MAX_ID},
    rows::{BlockRow, Placed},
};
use crate::{
    BlockMeta, BufferUsage, Located, SegmentRow, StoreError, Stored,
    plan::{SegmentState, check_ranges, corrupt, decode_usage},
};

/// How often a block is looked up again whose bytes are gone each time: as often as somebody replaced it meanwhile.
const LOOKS: usize = 32;

impl Inner {
    /// A block's row as it is now.
    pub(super) async fn row(&self, account: AccountId, id: &BlockId) -> Result<Seen<BlockRow>, StoreError> {
        let stored = self.rows.stored(&names::block_key(account, id)).await?;
        let seen = seen(stored, BlockRow::decode)?;
        let hint = seen.value.zip(seen.was.clone()).map(|(row, was)| Hint { row, was });
        self.hints.note(&(account, id.clone()), hint);
        Ok(Seen { value: seen.value.unwrap_or_default(), was: seen.was })
    }

    pub(super) async fn usage(&self, account: AccountId) -> Result<Seen<Option<BufferUsage>>, StoreError> {
        seen(self.rows.stored(&names::usage_key(account)).await?, decode_usage)
    }

    pub(super) async fn segment(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Seen<Option<SegmentState>>, StoreError> {
        seen(self.rows.stored(&names::segment_key(account, segment)).await?, SegmentState::decode)
    }

    pub(super) async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        if id.as_bytes().len() > MAX_ID {
            return Ok(None);
        }
        Ok(self.row(account, id).await?.value.located()?.map(|(at, _)| at))
    }

    pub(super) async fn fetch(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(Located, Bytes)>, StoreError> {
        self.fetch_of(account, id, |row| row.located()).await
    }

    pub(super) async fn fetch_stored(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(BlockMeta, Bytes)>, StoreError> {
        self.fetch_of(account, id, |row| Ok(row.stored.map(|placed| (placed.meta, placed)))).await
    }

    async fn fetch_of<T: Send>(
        &self,
        account: AccountId,
        id: &BlockId,
        of: impl Fn(&BlockRow) -> Result<Option<(T, Placed)>, StoreError> + Send,
    ) -> Result<Option<(T, Bytes)>, StoreError> {
        if id.as_bytes().len() > MAX_ID {
            return Ok(None);
        }
        let mut gone = None;
        for _ in 0..LOOKS {
            let Some((what, placed)) = of(&self.row(account, id).await?.value)? else { return Ok(None) };
            if gone == Some(placed) {
                break;
            }
            match self.whole(&placed.object(&self.places, account, id), &placed.meta).await? {
                Some(bytes) => return Ok(Some((what, bytes))),
                None => gone = Some(placed),
            }
        }
        Err(missing(id))
    }

    /// All of an object; `None` where there is none.
    async fn whole(&self, object: &Path, meta: &BlockMeta) -> Result<Option<Bytes>, StoreError> {
        let read = async {
            let got = self.store.get(object).await?;
            // More than it is said to be is not taken into memory.
            if got.meta.size == meta.sealed_len { got.bytes().await.map(Some) } else { Ok(None) }
        };
        match self.in_time(read).await {
            Ok(Some(bytes)) if bytes.len() as u64 == meta.sealed_len => Ok(Some(bytes)),
            Ok(_) => Err(not_as_long(object)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed("reading a block", e)),
        }
    }

    pub(super) async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        if id.as_bytes().len() > MAX_ID {
            return Ok(None);
        }
        let is_it = |row: &BlockRow| -> Result<Option<Placed>, StoreError> {
            Ok(row.located()?.filter(|(at, _)| at == of).map(|(_, placed)| placed))
        };
        let hint = self.hints.find(&(account, id.clone()));
        let mut placed = match hint.map(|hint| is_it(&hint.row)).transpose()?.flatten() {
            Some(placed) => placed,
            None => match is_it(&self.row(account, id).await?.value)? {
                Some(placed) => placed,
                None => return Ok(None),
            },
        };
        check_ranges(of.meta.sealed_len, ranges)?;
        for _ in 0..LOOKS {
            if let Some(parts) = self.parts(&placed.object(&self.places, account, id), ranges).await? {
                return Ok(Some(parts));
            }
            match is_it(&self.row(account, id).await?.value)? {
                Some(now) if now == placed => break,
                Some(now) => placed = now,
                None => return Ok(None),
            }
        }
        Err(missing(id))
    }

    /// Ranges of an object, which are within it; `None` where there is none. No more is asked for than them.
    async fn parts(&self, object: &Path, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>, StoreError> {
        let asked: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let fetch = |range: Range<u64>| {
            let object = object.clone();
            async move {
                let part = self.in_time(self.store.get_range(&object, range.clone())).await;
                let part = part.map_err(Unread::Failed)?;
                if part.len() as u64 == range.end - range.start { Ok(part) } else { Err(Unread::Cut) }
            }
        };
        let mut parts = match coalesce_ranges(&asked, fetch, 0).await {
            Ok(parts) => parts.into_iter(),
            Err(Unread::Failed(Error::NotFound { .. })) => return Ok(None),
            Err(Unread::Failed(e)) => return Err(failed("reading a part of a block", e)),
            Err(Unread::Cut) => return Err(not_as_long(object)),
        };
        let of = |range: &Range<u64>| match range.is_empty() {
            true => Ok(Bytes::new()),
            false => parts.next().ok_or_else(|| not_as_long(object)),
        };
        ranges.iter().map(of).collect::<Result<_, _>>().map(Some)
    }

    pub(super) async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, Located)>, StoreError> {
        let of = |row: BlockRow| Ok(row.located()?.map(|(at, _)| at));
        self.blocks(&names::blocks_of(account), account, after, limit, of).await
    }

    pub(super) async fn stored(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        let of = |row: BlockRow| Ok(row.held().stored);
        self.blocks(&names::blocks_of(account), account, after, limit, of).await
    }

    pub(super) async fn buffered(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        let of = |row: BlockRow| Ok(row.held().buffered);
        self.blocks(&names::buffered_of(account), account, after, limit, of).await
    }

    async fn blocks<T>(
        &self,
        prefix: &str,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
        of: impl Fn(BlockRow) -> Result<Option<T>, StoreError>,
    ) -> Result<Vec<(BlockId, T)>, StoreError> {
        // No id that is there lies between a longer one and what of it has a name.
        let cut = |id: &BlockId| BlockId::new(&id.as_bytes()[..id.as_bytes().len().min(MAX_ID)]).ok();
        let after = after.and_then(cut).map(|id| {
            let key = names::block_key(account, &id);
            format!("{prefix}{}", key.strip_prefix(&names::blocks_of(account)).unwrap_or_default())
        });
        self.each(prefix, after, limit, |key, bytes| {
            let row = BlockRow::decode(bytes)?;
            of(row)?.map(|what| Ok((names::block_of(prefix, key)?, what))).transpose()
        })
        .await
    }

    pub(super) async fn buffering(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, BufferUsage)>, StoreError> {
        let after = after.map(names::usage_key);
        self.each(names::USAGES, after, limit, |key, bytes| {
            Ok(Some((names::account_of(key)?, decode_usage(bytes)?)))
        })
        .await
    }

    pub(super) async fn segments(
        &self,
        account: AccountId,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<(SegmentId, SegmentRow)>, StoreError> {
        let prefix = names::segments_of(account);
        let after = after.map(|segment| names::segment_key(account, segment));
        self.each(&prefix, after, limit, |key, bytes| {
            let state = SegmentState::decode(bytes)?;
            Ok(Some((names::segment_of(&prefix, key)?, state.into())))
        })
        .await
    }

    /// What rows say one after the other, `limit` that say something.
    async fn each<T>(
        &self,
        prefix: &str,
        mut after: Option<String>,
        limit: usize,
        of: impl Fn(&str, &Bytes) -> Result<Option<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = PAGE.min(limit - found.len());
            let rows = self.rows.list(prefix, after.as_deref(), wanted).await?;
            for (key, bytes) in &rows {
                found.extend(of(key, bytes)?);
            }
            if rows.len() < wanted {
                break;
            }
            after = rows.into_iter().last().map(|(last, _)| last);
        }
        Ok(found)
    }
}

/// Why a range was not read.
enum Unread {
    Failed(Error),
    /// The object has fewer bytes.
    Cut,
}

fn seen<T>(
    was: Option<Stored>,
    decode: impl Fn(&[u8]) -> Result<T, StoreError>,
) -> Result<Seen<Option<T>>, StoreError> {
    let value = was.as_ref().map(|was| decode(&was.bytes)).transpose()?;
    Ok(Seen { value, was })
}

fn missing(id: &BlockId) -> StoreError {
    corrupt(format!("the object with the bytes of block {id} is missing"))
}

fn not_as_long(object: &Path) -> StoreError {
    corrupt(format!("{object} is not as long as its row says"))
}
