//! An upload in parts takes little memory, however long it is.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use allocation_counter::measure;
use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::store::Account;
use futures_util::{FutureExt, future::join_all, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory, path::Path,
};
use tokio::runtime::Runtime;

use crate::{
    stores::sealed,
    world::{World, scale},
};

const MIB: u64 = 1 << 20;
/// What an upload may take at its peak.
const MOST: u64 = 64 * MIB;

/// Takes uploads and keeps their length alone, so that what is measured is not the store's own. The rest is kept.
#[derive(Debug, Default)]
struct Discarding {
    inner: InMemory,
    /// Bytes of parts, all together.
    taken: Arc<AtomicU64>,
    completed: Arc<AtomicU64>,
}

#[derive(Debug)]
struct DiscardingUpload {
    taken: Arc<AtomicU64>,
    completed: Arc<AtomicU64>,
}

#[async_trait]
impl MultipartUpload for DiscardingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let taken = self.taken.clone();
        // A store holds a part until it is sent.
        async move {
            tokio::task::yield_now().await;
            taken.fetch_add(data.content_length() as u64, Ordering::Relaxed);
            Ok(())
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.completed.fetch_add(1, Ordering::Relaxed);
        Ok(PutResult { e_tag: Some("\"1\"".into()), version: None, extensions: Default::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Display for Discarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Discarding")
    }
}

#[async_trait]
impl ObjectStore for Discarding {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (taken, completed) = (self.taken.clone(), self.completed.clone());
        Ok(Box::new(DiscardingUpload { taken, completed }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Uploads so much in parts of this size, so many of them under way at once; the length of what the store took.
async fn upload(store: &dyn ObjectStore, len: u64, part: u64, at_once: usize) {
    let mut upload = store.put_multipart(&Path::from("long")).await.unwrap();
    let part = Bytes::from(vec![7; part as usize]);
    let mut left = len;
    while left > 0 {
        let mut sent = Vec::new();
        while left > 0 && sent.len() < at_once {
            let next = part.slice(..(left as usize).min(part.len()));
            left -= next.len() as u64;
            sent.push(upload.put_part(next.into()));
        }
        for part in join_all(sent).await {
            part.unwrap();
        }
    }
    upload.complete().await.unwrap();
}

#[test]
fn the_peak_of_an_upload_is_bounded_whatever_its_length_and_parts() {
    let len = scale(4 << 10, 256) as u64 * MIB;
    // All is done on one thread, whose allocations are counted.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new(1));
    let account = runtime.block_on(world.contoso());
    println!("an upload of {} MiB:", len / MIB);
    for (part, at_once) in [(64 << 10, 1), (5 * MIB, 1), (5 * MIB, 4), (8 * MIB + 1, 2), (16 * MIB, 1)] {
        let peak = peak(&runtime, &account, (len, part, at_once));
        println!(
            "  parts of {:>5} KiB, {at_once} at once: peak {:.1} MiB",
            part >> 10,
            peak as f64 / MIB as f64
        );
        assert!(peak < MOST, "parts of {part} bytes, {at_once} at once, took {peak} bytes at the peak");
    }
}

/// The most bytes that were allocated at once.
fn peak(runtime: &Runtime, account: &Account, (len, part, at_once): (u64, u64, usize)) -> u64 {
    let inner = Arc::new(Discarding::default());
    let store = runtime.block_on(sealed(account, inner.clone()));
    let counted = measure(|| runtime.block_on(upload(&*store, len, part, at_once)));
    let taken = inner.taken.load(Ordering::Relaxed);
    assert!(taken >= len && taken < len + len / 100, "{len} bytes were uploaded, {taken} taken");
    assert_eq!(inner.completed.load(Ordering::Relaxed), 1);
    counted.bytes_max
}
