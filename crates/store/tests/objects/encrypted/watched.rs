//! A store before another one that keeps count of what it is asked.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
    memory::InMemory, path::Path,
};
use tokio::sync::Semaphore;

type Hook = Box<dyn FnMut(&InMemory) + Send>;

#[derive(Default)]
struct Log {
    /// How many requests to read there were, heads among them.
    gets: usize,
    /// How many stored bytes they gave.
    fetched: u64,
    /// The sizes of all parts that were put.
    parts: Vec<usize>,
    /// Done before the next requests to read, one each.
    before_get: Vec<Option<Hook>>,
}

/// Over [`InMemory`].
pub(crate) struct Watched {
    pub(crate) below: Arc<InMemory>,
    log: Arc<Mutex<Log>>,
    /// Parts are uploaded as there are permits.
    gate: Arc<Semaphore>,
}

impl Watched {
    pub(crate) fn over(below: Arc<InMemory>) -> Arc<Self> {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Arc::new(Self { below, log: Arc::default(), gate })
    }

    /// Requests to read, and stored bytes that they gave, since the last time this was asked.
    pub(crate) fn read(&self) -> (usize, u64) {
        let mut log = self.log.lock().unwrap();
        (std::mem::take(&mut log.gets), std::mem::take(&mut log.fetched))
    }

    pub(crate) fn parts(&self) -> Vec<usize> {
        std::mem::take(&mut self.log.lock().unwrap().parts)
    }

    /// Parts that were put stay under way until they are let through.
    pub(crate) fn hold_parts(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_parts_through(&self, parts: usize) {
        self.gate.add_permits(parts);
    }

    /// Before the request to read that comes after `after` others.
    pub(crate) fn before_get(&self, after: usize, hook: impl FnMut(&InMemory) + Send + 'static) {
        let mut log = self.log.lock().unwrap();
        while log.before_get.len() < after {
            log.before_get.push(None);
        }
        log.before_get.push(Some(Box::new(hook)));
    }

    fn begin_get(&self) {
        let hook = {
            let mut log = self.log.lock().unwrap();
            log.gets += 1;
            if log.before_get.is_empty() { None } else { log.before_get.remove(0) }
        };
        if let Some(mut hook) = hook {
            hook(&self.below);
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Watched {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.below.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let below = self.below.put_multipart_opts(location, opts).await?;
        Ok(Box::new(WatchedUpload { below, log: self.log.clone(), gate: self.gate.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.begin_get();
        let head = options.head;
        let mut got = self.below.get_opts(location, options).await?;
        if head {
            return Ok(got);
        }
        let log = self.log.clone();
        // In small chunks, as a network gives them.
        let stream = match got.payload {
            GetResultPayload::Stream(stream) => stream,
            GetResultPayload::File(..) => panic!("it is in memory"),
        };
        let chunks = stream.flat_map(|bytes| {
            let bytes: Bytes = bytes.unwrap();
            let chunks: Vec<_> = (0..bytes.len())
                .step_by(1000)
                .map(|at| Ok(bytes.slice(at..bytes.len().min(at + 1000))))
                .collect();
            futures_util::stream::iter(chunks)
        });
        let counted = chunks.inspect(move |chunk: &Result<Bytes>| {
            log.lock().unwrap().fetched += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        });
        got.payload = GetResultPayload::Stream(counted.boxed());
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.begin_get();
        let read = self.below.get_ranges(location, ranges).await?;
        self.log.lock().unwrap().fetched += read.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(read)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.below.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.below.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.below.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.below.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.below.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.below.rename_opts(from, to, options).await
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

struct WatchedUpload {
    below: Box<dyn MultipartUpload>,
    log: Arc<Mutex<Log>>,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl MultipartUpload for WatchedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.log.lock().unwrap().parts.push(data.content_length());
        let (part, gate) = (self.below.put_part(data), self.gate.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            part.await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.below.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.below.abort().await
    }
}

impl fmt::Debug for WatchedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedUpload")
    }
}
