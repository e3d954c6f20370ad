//! A store that can't keep a catalog is refused before anything is kept in it.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_store::{
    StoreErrorKind,
    objects::{ObjectCatalog, ObjectRequest},
};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, local::LocalFileSystem,
    memory::InMemory, path::Path,
};

use crate::support::*;

/// How a store breaks its promises.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Breaks {
    Nothing,
    Creates,
    Updates,
    /// Looks at the condition first and writes then, when others have looked too.
    Atomicity,
    Order,
}

#[derive(Debug)]
struct Broken(InMemory, Breaks);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broken({:?})", self.1)
    }
}

#[async_trait]
impl ObjectStore for Broken {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        match (&opts.mode, self.1) {
            (PutMode::Create, Breaks::Creates) | (PutMode::Update(_), Breaks::Updates) => {
                opts.mode = PutMode::Overwrite;
            }
            (PutMode::Update(version), Breaks::Atomicity) => {
                let found = self.0.get_opts(at, GetOptions { head: true, ..Default::default() }).await?;
                if found.meta.e_tag == version.e_tag {
                    opts.mode = PutMode::Overwrite;
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
        self.0.put_opts(at, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, opts).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(at, options).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(at, ranges).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.1 != Breaks::Order {
            return self.0.list(prefix);
        }
        let listed = self.0.list(prefix).try_collect::<Vec<_>>();
        futures_util::stream::once(listed)
            .flat_map(|listed| futures_util::stream::iter(listed.unwrap().into_iter().rev().map(Ok)))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

async fn open(
    store: Arc<dyn ObjectStore>,
) -> std::result::Result<ObjectCatalog, cofferdam_store::StoreError> {
    ObjectCatalog::open(store, Path::ROOT, entropy(1), Default::default()).await
}

#[tokio::test]
async fn a_store_that_ignores_a_condition_is_refused_with_what_to_do() {
    for breaks in [Breaks::Creates, Breaks::Updates, Breaks::Atomicity] {
        let error = open(Arc::new(Broken(InMemory::new(), breaks))).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unsupported, "{breaks:?}: {error}");
        let text = error.to_string();
        assert!(text.contains("can't replace an object only if it is unchanged"), "{text}");
        assert!(text.contains("keep the catalog in an embedded store"), "{text}");
    }
    open(Arc::new(Broken(InMemory::new(), Breaks::Nothing))).await.unwrap();
}

#[tokio::test]
async fn a_local_file_system_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let files = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let error = open(files).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("keep the catalog in an embedded store"), "{error}");
}

#[tokio::test]
async fn a_store_that_lists_in_another_order_is_sorted() {
    use cofferdam_store::Catalog;
    let store = open(Arc::new(Broken(InMemory::new(), Breaks::Order))).await.unwrap();
    for key in ["a/2", "a/1", "a/3", "b/1"] {
        store.swap(key, None, Some(key.to_owned().into())).await.unwrap();
    }
    let mut keys = Vec::new();
    while let Some((key, _)) =
        store.list("a/", keys.last().map(String::as_str), 1).await.unwrap().into_iter().next()
    {
        keys.push(key);
    }
    assert_eq!(keys, ["a/1", "a/2", "a/3"]);
}

#[tokio::test]
async fn a_probe_leaves_nothing() {
    let store = memory();
    let (way, _catalog) = faulty(&store, 1).await;
    let left: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(left, []);
    assert!(way.asked(ObjectRequest::Put) < 32);
}
