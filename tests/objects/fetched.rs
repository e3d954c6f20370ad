//! A range is read by the pages that it touches: how many bytes are fetched beyond those asked for.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::vault::{Entropy, testing::SeededEntropy};
use futures_util::stream::{BoxStream, StreamExt};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, memory::InMemory, path::Path,
};

use crate::{stores::sealed, world::World};

const PAGE: u64 = 65_536;
/// What a page's tag adds to it.
const TAG: u64 = 16;
/// More than any header has.
const HEADER: u64 = 256;
/// A range that begins so near the header is read together with it: a request costs more than that.
const NEAR: u64 = 64 << 10;

/// Counts what is fetched from the store behind it.
#[derive(Debug, Default)]
struct Counting {
    inner: InMemory,
    requests: AtomicU64,
    bytes: Arc<AtomicU64>,
}

impl Counting {
    /// Requests and bytes since the last time.
    fn take(&self) -> (u64, u64) {
        (self.requests.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed))
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let mut got = self.inner.get_opts(at, options).await?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        if !head {
            // As it is taken: who drops a stream has not fetched the rest.
            let bytes = self.bytes.clone();
            if let GetResultPayload::Stream(stream) = got.payload {
                let counted = stream.inspect(move |piece| {
                    if let Ok(piece) = piece {
                        bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    }
                });
                got.payload = GetResultPayload::Stream(counted.boxed());
            }
        }
        Ok(got)
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let got = self.inner.get_ranges(at, ranges).await?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(got.iter().map(|bytes| bytes.len() as u64).sum(), Ordering::Relaxed);
        Ok(got)
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

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// The pages that a range touches, with their tags, and what is before them where that is little.
fn pages(range: &Range<u64>, len: u64) -> u64 {
    let (first, last) = (range.start / PAGE, (range.end - 1) / PAGE);
    let end = ((last + 1) * PAGE).min(len);
    let before = first * (PAGE + TAG);
    let before = if before <= NEAR + TAG { before + HEADER } else { 0 };
    before + end - first * PAGE + (last - first + 1) * TAG
}

#[tokio::test]
async fn a_range_fetches_the_pages_it_touches_and_no_more() {
    const LEN: u64 = 16 << 20;
    const SEED: u64 = 0xfe7c_4ed0;
    let counting = Arc::new(Counting::default());
    let world = World::new(1).await;
    let account = world.contoso().await;
    let store = sealed(&account, counting.clone()).await;
    let path = Path::from("object");
    store.put(&path, vec![7; LEN as usize].into()).await.unwrap();
    let entropy = SeededEntropy::new(SEED);
    let below = |bound: u64| {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % bound
    };
    // The header is fetched once, with whatever is read first.
    store.get_range(&path, 0..1).await.unwrap();
    counting.take();
    println!("of 16 MiB in pages of 64 KiB, 500 random ranges each:");
    for len in [1 << 10, 4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let (mut asked, mut fetched, mut requests) = (0, 0, 0);
        for _ in 0..500 {
            let start = below(LEN - len + 1);
            let range = start..start + len;
            let got = store.get_range(&path, range.clone()).await.unwrap();
            assert_eq!(got.len() as u64, len);
            let (times, bytes) = counting.take();
            assert!(bytes <= pages(&range, LEN), "seed {SEED:#x}: {range:?} fetched {bytes}");
            asked += len;
            fetched += bytes;
            requests += times;
        }
        assert!(fetched >= asked, "less was fetched than asked for: the count is wrong");
        assert_eq!(requests, 500, "a range is one request");
        let beyond = 100.0 * (fetched - asked) as f64 / asked as f64;
        println!("  {:>5} KiB: {beyond:>7.1}% beyond what was asked for", len >> 10);
    }
}

#[tokio::test]
async fn a_first_range_fetches_the_header_beside_its_pages_and_several_ranges_their_pages_once() {
    const LEN: u64 = 4 << 20;
    let counting = Arc::new(Counting::default());
    let world = World::new(1).await;
    let account = world.contoso().await;
    let store = sealed(&account, counting.clone()).await;
    let path = Path::from("object");
    store.put(&path, vec![7; LEN as usize].into()).await.unwrap();
    // Another, which has seen no header.
    let store = sealed(&account, counting.clone()).await;
    counting.take();
    let range = 3 * PAGE + 5..3 * PAGE + 9;
    store.get_range(&path, range.clone()).await.unwrap();
    let (_, bytes) = counting.take();
    assert!(bytes <= pages(&range, LEN) + HEADER, "{bytes} bytes for a first range of one page");
    let ranges = [5..6, 9..30, PAGE - 1..PAGE + 1, 20 * PAGE..20 * PAGE + 1];
    let got = store.get_ranges(&path, &ranges).await.unwrap();
    assert_eq!(got.iter().map(Bytes::len).collect::<Vec<_>>(), [1, 21, 2, 1]);
    let (_, bytes) = counting.take();
    assert_eq!(bytes, 3 * (PAGE + TAG), "ranges on three pages");
}

#[tokio::test]
async fn head_and_lists_fetch_nothing_of_an_object() {
    let counting = Arc::new(Counting::default());
    let world = World::new(1).await;
    let account = world.contoso().await;
    let store = sealed(&account, counting.clone()).await;
    for n in 0..10 {
        store.put(&Path::from(format!("objects/{n}")), vec![7; 100_000].into()).await.unwrap();
    }
    counting.take();
    assert_eq!(store.head(&Path::from("objects/3")).await.unwrap().size, 100_000);
    let (requests, bytes) = counting.take();
    assert_eq!((requests, bytes), (1, 0), "a head is one head");
    let listed: Vec<_> = store.list(None).map(|meta| meta.unwrap().size).collect().await;
    assert_eq!(listed, [100_000; 10]);
    assert_eq!(store.list_with_delimiter(None).await.unwrap().common_prefixes, [Path::from("objects")]);
    assert_eq!(counting.take(), (0, 0), "a list fetches no object");
}
