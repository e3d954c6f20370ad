//! Reading objects: whole, in ranges, and what is known of them.
//!
//! Guarantees: what is given lies at that path, in one object, at those places in it; sizes and ranges are the plaintext's. Only
//! the pages that a range lies in are fetched, beside less than a page before them, and the header where it is not known. An
//! object that is replaced between two requests is read again, never mixed.

use std::ops::Range;

use bytes::Bytes;
use cofferdam_crypto::{
    BlockReader, Epoch, HEADER_LEN, Header, OpenError, PageSpan, Provider, ProviderKind, Sealer,
};
use futures_util::{StreamExt, stream};
use object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, Result, path::Path,
};

use super::{
    Shared,
    error::{EncryptedError, STORE},
    headers::{HeaderBytes, Known},
    pages::{Reading, Source},
    ranges,
};
use crate::Account;

/// How often an object is looked at that is replaced each time.
const LOOKS: usize = 8;

impl Shared {
    pub(super) async fn get(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.find(path)?;
        if options.head {
            return self.head(path, options).await;
        }
        if let Some(Err(e)) = options.range.as_ref().map(GetRange::is_valid) {
            return Err(self.refused(path, options, e).await);
        }
        for _ in 0..LOOKS {
            if let Some(result) = self.get_once(path, &options).await? {
                return Ok(result);
            }
        }
        Err(EncryptedError::Replaced { path: path.clone() }.into())
    }

    /// Needs no key: a length follows from a length.
    async fn head(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let wanted = options.range.clone();
        let got = self.store.get_opts(path, GetOptions { range: None, ..options }).await?;
        let meta = ObjectMeta { size: self.plaintext_len(path, got.meta.size)?, ..got.meta };
        let range = match wanted {
            Some(range) => range.as_range(meta.size).map_err(generic)?,
            None => 0..meta.size,
        };
        let payload = GetResultPayload::Stream(stream::empty().boxed());
        Ok(GetResult { payload, meta, range, attributes: got.attributes, extensions: got.extensions })
    }

    /// What is said to a range that no object has: that comes after the object and its conditions, as elsewhere.
    async fn refused(
        &self,
        path: &Path,
        options: GetOptions,
        why: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        let head = GetOptions { head: true, range: None, ..options };
        self.store.get_opts(path, head).await.map_or_else(|e| e, |_| generic(why))
    }

    /// `None` when the object was replaced between two requests.
    async fn get_once(&self, path: &Path, options: &GetOptions) -> Result<Option<GetResult>> {
        let range = options.range.as_ref().map(|range| ranges::stored(range, self.page_size));
        let got = self.store.get_opts(path, GetOptions { range, ..options.clone() }).await;
        let got = match (got, &options.range) {
            (Err(Error::NotSupported { .. }), Some(GetRange::Suffix(_))) => {
                self.suffix(path, options).await?
            }
            (Err(e @ Error::Generic { .. }), Some(range)) => {
                return Err(self.out_of_range(path, options, range, e).await);
            }
            (got, _) => got?,
        };
        let GetResult { meta: stored, range: given, attributes, extensions, .. } = &got;
        let size = self.plaintext_len(path, stored.size)?;
        let (range, span) = match &options.range {
            None => (0..size, PageSpan::whole(stored.size, self.page_size).map_err(generic)?),
            Some(range) => {
                let range = range.as_range(size).map_err(generic)?;
                (range.clone(), PageSpan::locate(stored.size, self.page_size, range).map_err(generic)?)
            }
        };
        let (stored, given) = (stored.clone(), given.clone());
        let (attributes, extensions) = (attributes.clone(), extensions.clone());
        let mut source = Source::of(got).await?;
        let mut at = given.start;
        let header = if given.start == 0 && given.end >= HEADER_LEN as u64 {
            at = HEADER_LEN as u64;
            let header = source.take(HEADER_LEN).await?.ok_or_else(|| EncryptedError::damaged(path))?;
            header.first_chunk().copied().ok_or_else(|| EncryptedError::damaged(path))?
        } else {
            let Some(header) = self.header_of(path, &stored, options).await? else { return Ok(None) };
            header
        };
        let (account, reader) = self.begin_reading(path, &header, span.clone()).await?;
        self.headers.keep(path, stored.e_tag.as_ref(), stored.size, header);
        // An empty range begins nowhere.
        let first = if reader.sealed_len().is_some() { span.bytes().start } else { at };
        let skip = first.checked_sub(at).ok_or_else(|| EncryptedError::damaged(path))?;
        let reading = Reading { account, path: path.clone(), reader, source, skip };
        let payload = GetResultPayload::Stream(reading.into_stream());
        let meta = ObjectMeta { size, ..stored };
        Ok(Some(GetResult { payload, meta, range, attributes, extensions }))
    }

    /// The stored end of an object, of a store that can't be asked for one.
    async fn suffix(&self, path: &Path, options: &GetOptions) -> Result<GetResult> {
        let head =
            self.store.get_opts(path, GetOptions { head: true, range: None, ..options.clone() }).await?;
        let size = self.plaintext_len(path, head.meta.size)?;
        let range = match &options.range {
            Some(range) => range.as_range(size).map_err(generic)?,
            None => 0..size,
        };
        let range = match range.is_empty() {
            true => ranges::HEADER_ONLY,
            false => ranges::stored(&GetRange::Bounded(range), self.page_size),
        };
        let pinned = pinned(&head.meta, options);
        self.store.get_opts(path, GetOptions { range: Some(range), ..pinned }).await
    }

    /// The header of this object, from memory or from the store; `None` when the object is another by now.
    async fn header_of(
        &self,
        path: &Path,
        stored: &ObjectMeta,
        options: &GetOptions,
    ) -> Result<Option<HeaderBytes>> {
        if let Some(header) = self.headers.header_of(stored) {
            return Ok(Some(header));
        }
        let pinned = pinned(stored, options);
        match self.read_header(path, pinned).await {
            Ok((found, header)) => {
                let same = (&found.e_tag, found.size, found.last_modified)
                    == (&stored.e_tag, stored.size, stored.last_modified);
                Ok(same.then_some(header))
            }
            Err(Error::Precondition { .. } | Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn read_header(&self, path: &Path, options: GetOptions) -> Result<(ObjectMeta, HeaderBytes)> {
        let options = GetOptions { range: Some(ranges::HEADER_ONLY), ..options };
        let got = self.store.get_opts(path, options).await?;
        let meta = got.meta.clone();
        self.plaintext_len(path, meta.size)?;
        let mut source = Source::of(got).await?;
        let header = source.take(HEADER_LEN).await?;
        let header = header.and_then(|header| header.first_chunk().copied());
        Ok((meta, header.ok_or_else(|| EncryptedError::damaged(path))?))
    }

    /// What a range means that the store refused: in terms of the plaintext, where that has none such.
    async fn out_of_range(
        &self,
        path: &Path,
        options: &GetOptions,
        range: &GetRange,
        refusal: Error,
    ) -> Error {
        let head = GetOptions { head: true, range: None, ..options.clone() };
        match self.store.get_opts(path, head).await.map(|got| self.plaintext_len(path, got.meta.size)) {
            Ok(Ok(size)) => range.as_range(size).map_or_else(generic, |_| refusal),
            Ok(Err(e)) => e,
            Err(_) => refusal,
        }
    }

    /// Finds the key that an object is sealed under, and that it was sealed for this path.
    async fn begin_reading(
        &self,
        path: &Path,
        header: &HeaderBytes,
        span: PageSpan,
    ) -> Result<(Account, BlockReader)> {
        let (account, id) = (self.account(path)?.clone(), self.id(path)?);
        let epoch = self.epoch(path, header)?;
        let header = *header;
        let begin = move |key: &Sealer| key.begin_reading(id.at(super::VERSION), &header, span.clone());
        let begun = account.with_object_key(Some(epoch), 0, begin).await;
        let begun = begun.map_err(|e| EncryptedError::key(path, e))?;
        let unknown = || EncryptedError::UnknownEpoch { path: path.clone(), epoch: epoch.1 };
        let reader = begun.ok_or_else(unknown)?.map_err(|_| EncryptedError::damaged(path))?;
        Ok((account, reader))
    }

    /// Which key a header names.
    fn epoch(&self, path: &Path, header: &[u8]) -> Result<(Provider, Epoch)> {
        let not = |reason: String| EncryptedError::NotEncrypted { path: path.clone(), reason };
        let header = Header::parse(header).map_err(|e| not(e.to_string()))?;
        if header.page_size() != self.page_size {
            let (its, ours) = (header.page_size(), self.page_size);
            return Err(not(format!("its pages are of {its}, those of the store of {ours}")).into());
        }
        let provider = match header.provider() {
            ProviderKind::Customer => Provider::Customer,
            ProviderKind::Service => Provider::Service,
            ProviderKind::Buffer => return Err(not("it is sealed for a fallback buffer".into()).into()),
        };
        Ok((provider, header.epoch()))
    }

    /// Several ranges of one object, each as a bounded range is read.
    pub(super) async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.find(path)?;
        let invalid = ranges.iter().find_map(|range| GetRange::Bounded(range.clone()).is_valid().err());
        if let Some(e) = invalid {
            return Err(self.refused(path, GetOptions::default(), e).await);
        }
        if ranges.is_empty() {
            return self.head(path, GetOptions::new().with_head(true)).await.map(|_| Vec::new());
        }
        let mut failed: Option<(String, Error)> = None;
        for _ in 0..LOOKS {
            let (known, fresh) = match self.headers.known(path).filter(|_| failed.is_none()) {
                Some(known) => (known, false),
                None => {
                    let (meta, header) = self.read_header(path, GetOptions::default()).await?;
                    // What has no etag is the same only if it opens.
                    let e_tag = meta.e_tag.unwrap_or_default();
                    (Known { e_tag, stored_len: meta.size, header }, true)
                }
            };
            // It is still the object that it failed of: so it is not for its having been replaced.
            if let Some((e_tag, _)) = &failed
                && fresh
                && *e_tag == known.e_tag
                && let Some((_, e)) = failed
            {
                return Err(e);
            }
            match self.read_ranges(path, ranges, &known).await {
                Ok(read) => {
                    if fresh && !known.e_tag.is_empty() {
                        self.headers.keep(path, Some(&known.e_tag), known.stored_len, known.header);
                    }
                    return Ok(read);
                }
                Err(e) if EncryptedError::of(&e).is_some_and(|e| !is_of_the_bytes(e)) => return Err(e),
                Err(e) => {
                    self.headers.forget(path);
                    failed = Some((known.e_tag, e));
                }
            }
        }
        Err(EncryptedError::Replaced { path: path.clone() }.into())
    }

    /// The ranges, if the object is the one that is known. If it is not, its pages don't open under that one's header.
    async fn read_ranges(&self, path: &Path, ranges: &[Range<u64>], known: &Known) -> Result<Vec<Bytes>> {
        let size = self.plaintext_len(path, known.stored_len)?;
        let within = |range: &Range<u64>| GetRange::Bounded(range.clone()).as_range(size);
        let wanted: Vec<_> = ranges.iter().map(within).collect::<Result<_, _>>().map_err(generic)?;
        let runs = runs(&wanted, self.page_size.bytes() as u64, size);
        let locate = |run: &Range<u64>| PageSpan::locate(known.stored_len, self.page_size, run.clone());
        let spans: Vec<_> = runs.iter().map(locate).collect::<Result<_, _>>().map_err(generic)?;
        let stored: Vec<_> = spans.iter().map(PageSpan::bytes).collect();
        // The store knows how its ranges are best put together.
        let pages = self.store.get_ranges(path, &stored).await?;
        let mut opened = Vec::with_capacity(runs.len());
        for (span, pages) in spans.into_iter().zip(pages) {
            opened.push(self.open_span(path, &known.header, span, pages).await?);
        }
        let part = |range: &Range<u64>| {
            let run = runs.partition_point(|run| run.start <= range.start).checked_sub(1)?;
            let from = |at: u64| usize::try_from(at - runs[run].start).ok();
            let range = from(range.start)?..from(range.end)?;
            opened.get(run).filter(|run| range.end <= run.len()).map(|run| run.slice(range))
        };
        let parts: Option<Vec<_>> = wanted.iter().map(part).collect();
        parts.ok_or_else(|| EncryptedError::damaged(path).into())
    }

    async fn open_span(
        &self,
        path: &Path,
        header: &HeaderBytes,
        span: PageSpan,
        pages: Bytes,
    ) -> Result<Bytes> {
        let (account, id) = (self.account(path)?, self.id(path)?);
        let epoch = self.epoch(path, header)?;
        let (header, len) = (*header, pages.len());
        let open = move |key: &Sealer| -> Result<Bytes, OpenError> {
            let len = usize::try_from(span.plaintext_len()).map_err(|_| OpenError::Refused)?;
            let mut out = vec![0; len];
            key.open_span(id.at(super::VERSION), &header, &span, &pages, &mut out)?;
            Ok(out.into())
        };
        let opened = account.with_object_key(Some(epoch), len, open).await;
        let opened = opened.map_err(|e| EncryptedError::key(path, e))?;
        let unknown = || EncryptedError::UnknownEpoch { path: path.clone(), epoch: epoch.1 };
        Ok(opened.ok_or_else(unknown)?.map_err(|_| EncryptedError::damaged(path))?)
    }
}

/// Whether this may be for what was read having been of another object.
fn is_of_the_bytes(e: &EncryptedError) -> bool {
    matches!(
        e,
        EncryptedError::Damaged { .. }
            | EncryptedError::NotEncrypted { .. }
            | EncryptedError::UnknownEpoch { .. }
    )
}

/// The ranges put together that share or touch a page, widened to whole pages, in order.
fn runs(ranges: &[Range<u64>], page: u64, size: u64) -> Vec<Range<u64>> {
    let widen = |range: &Range<u64>| range.start / page * page..range.end.next_multiple_of(page).min(size);
    let mut sorted: Vec<_> = ranges.iter().map(widen).collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut runs: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match runs.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => runs.push(range),
        }
    }
    runs
}

/// Of this very object, whatever the caller's own conditions are: they held of it.
fn pinned(meta: &ObjectMeta, options: &GetOptions) -> GetOptions {
    GetOptions {
        if_match: meta.e_tag.clone(),
        version: options.version.clone(),
        extensions: options.extensions.clone(),
        ..GetOptions::default()
    }
}

pub(super) fn generic(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: STORE, source: Box::new(e) }
}
