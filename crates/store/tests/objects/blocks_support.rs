//! What the tests of blocks in object stores share.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_store::{
    Catalog,
    objects::{ObjectBlocks, ObjectBlocksOptions, ObjectCatalog, RequestOptions},
};
use cofferdam_vault::testing::{SeededEntropy, TokioClock};
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};

/// Where the tests' deployment is in its store.
pub(crate) fn prefix() -> Path {
    Path::from("deployments/test")
}

pub(crate) fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// A handle on the blocks in `data`, with their rows in `rows`; no two may have one seed.
pub(crate) fn handle(data: &Arc<dyn ObjectStore>, rows: &Arc<dyn Catalog>, seed: u64) -> ObjectBlocks {
    let options = ObjectBlocksOptions { orphan_age: Duration::from_secs(3600), ..Default::default() };
    handle_with(data, rows, seed, options)
}

pub(crate) fn handle_with(
    data: &Arc<dyn ObjectStore>,
    rows: &Arc<dyn Catalog>,
    seed: u64,
    options: ObjectBlocksOptions,
) -> ObjectBlocks {
    let (clock, entropy) = (Arc::new(TokioClock::new()), Arc::new(SeededEntropy::new(seed)));
    ObjectBlocks::new(data.clone(), prefix(), rows.clone(), clock, entropy, options).unwrap()
}

/// A handle whose compaction takes every object that no row names for left behind.
pub(crate) fn sweeper(data: &Arc<dyn ObjectStore>, rows: &Arc<dyn Catalog>, seed: u64) -> ObjectBlocks {
    let options = ObjectBlocksOptions { orphan_age: Duration::ZERO, ..Default::default() };
    handle_with(data, rows, seed, options)
}

/// The catalog in this store.
pub(crate) async fn rows_in(store: &Arc<dyn ObjectStore>, seed: u64) -> Arc<dyn Catalog> {
    let entropy = Arc::new(SeededEntropy::new(seed ^ 0xca7a_1095));
    let options = RequestOptions::default();
    Arc::new(ObjectCatalog::open(store.clone(), prefix(), entropy, options).await.unwrap())
}

/// The names of all data objects.
pub(crate) async fn data_objects(store: &Arc<dyn ObjectStore>) -> Vec<Path> {
    let found = store.list(Some(&prefix().join("d"))).map_ok(|object| object.location);
    let mut found: Vec<Path> = found.try_collect().await.unwrap();
    found.sort();
    found
}

/// What becomes of the request that is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    NotDone,
    Done,
}

/// A process's way to a store: notes each request, and fails all of them from one on, as if the process had ended there.
#[derive(Clone)]
pub(crate) struct Way {
    store: Arc<dyn ObjectStore>,
    line: Arc<Mutex<Line>>,
}

struct Line {
    requests: Vec<String>,
    /// How many are left, and what becomes of the one after them.
    ends: Option<(usize, Last)>,
}

enum Fate {
    Done,
    AnswerLost,
    NotDone,
}

impl Way {
    pub(crate) fn to(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, line: Arc::new(Mutex::new(Line { requests: Vec::new(), ends: None })) }
    }

    pub(crate) fn ends_after(&self, requests: usize, last: Last) {
        self.line.lock().unwrap().ends = Some((requests, last));
    }

    /// The requests since it was asked last: what was asked for, and of what.
    pub(crate) fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.line.lock().unwrap().requests)
    }

    fn note(&self, what: &str, of: &Path) -> Fate {
        let mut line = self.line.lock().unwrap();
        let of = of.as_ref().strip_prefix(prefix().as_ref()).unwrap_or(of.as_ref());
        // As much of the name as says what kind of thing it is.
        let mut parts = of.trim_start_matches('/').split('/');
        let kind = match (parts.next(), parts.next()) {
            (Some("c"), Some(row)) => format!("row {row}"),
            (Some("d"), Some("now")) => "clock".to_owned(),
            (Some("d"), _) => "data".to_owned(),
            (first, _) => first.unwrap_or_default().to_owned(),
        };
        line.requests.push(format!("{what} {kind}"));
        match &mut line.ends {
            None => Fate::Done,
            Some((0, Last::Done)) => {
                line.ends = Some((0, Last::NotDone));
                Fate::AnswerLost
            }
            Some((0, Last::NotDone)) => Fate::NotDone,
            Some((left, _)) => {
                *left -= 1;
                Fate::Done
            }
        }
    }
}

fn lost() -> Error {
    Error::Generic { store: "Way", source: "the process has ended".into() }
}

#[async_trait]
impl ObjectStore for Way {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match self.note("put", location) {
            Fate::NotDone => Err(lost()),
            Fate::Done => self.store.put_opts(location, payload, opts).await,
            Fate::AnswerLost => {
                let _ = self.store.put_opts(location, payload, opts).await;
                Err(lost())
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("blocks are stored whole");
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let what = match (&options.range, options.head) {
            (Some(range), _) => format!("get {range} of"),
            (None, true) => "head".to_owned(),
            (None, false) => "get".to_owned(),
        };
        match self.note(&what, location) {
            Fate::Done => self.store.get_opts(location, options).await,
            Fate::NotDone | Fate::AnswerLost => Err(lost()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let way = self.clone();
        locations
            .then(move |location| {
                let way = way.clone();
                async move {
                    let location = location?;
                    match way.note("delete", &location) {
                        Fate::NotDone => Err(lost()),
                        Fate::Done => way.store.delete(&location).await.map(|()| location),
                        Fate::AnswerLost => {
                            let _ = way.store.delete(&location).await;
                            Err(lost())
                        }
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.note("list", prefix.unwrap_or(&Path::default())) {
            Fate::Done => self.store.list(prefix),
            Fate::NotDone | Fate::AnswerLost => stream::iter([Err(lost())]).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.note("list", prefix.unwrap_or(&Path::default())) {
            Fate::Done => self.store.list_with_offset(prefix, offset),
            Fate::NotDone | Fate::AnswerLost => stream::iter([Err(lost())]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        panic!("nobody lists folders");
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nobody copies");
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Way({:?})", self.store)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Way({})", self.store)
    }
}
