//! What the tests of these packages have in common: a customer who holds the key that an object store is sealed under, and
//! an object store that is watched.

#![allow(dead_code, reason = "no test target uses all of it")]

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::{
    crypto::KeyId,
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        encrypted::EncryptedObjectStore,
    },
    vault::{
        Inline, LocalVault, LocalVaultOptions, Principal, VaultRegistry,
        testing::{SeededEntropy, TokioClock},
    },
};
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    Attributes, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result as StoreResult, coalesce_ranges, path::Path,
};
use tempfile::TempDir;

/// Longer than any answer of the vault may be out of date, and than a poll for a key that was given back takes.
const NOTICED: Duration = Duration::from_secs(70);
/// The grace of the default policy.
const GRACE: Duration = Duration::from_secs(30 * 60);

/// A service, and a customer who can take the key away. Its clock is tokio's, which is paused in these tests.
pub(crate) struct World {
    _home: TempDir,
    customer: LocalVault,
    kek: KeyId,
    account: Account,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let home = tempfile::tempdir().unwrap();
        let (clock, entropy) = (Arc::new(TokioClock::new()), Arc::new(SeededEntropy::new(seed)));
        let vault = async |name: &str| {
            let options = LocalVaultOptions::new(clock.clone(), entropy.clone()).executor(Arc::new(Inline));
            LocalVault::create(home.path().join(format!("{name}.vault")), name, options).await.unwrap()
        };
        let (service, customer) = (vault("service").await, vault("customer").await);
        let service_kek = service.create_key("storage").await.unwrap();
        let kek = customer.create_key("payroll").await.unwrap();
        let principal = Principal::new("contoso");
        let vaults = VaultRegistry::new(Arc::new(service))
            .with_customer(principal.clone(), Arc::new(customer.clone()));
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::create(home.path().join("accounts.store"), options).unwrap();
        let engine = Engine::builder(Arc::new(store), vaults, service_kek)
            .clock(clock)
            .entropy(entropy)
            .executor(Arc::new(Inline))
            .open()
            .await
            .unwrap();
        let key = AccountKey::Customer { principal, kek: kek.clone(), buffer: BufferMode::default() };
        let account = engine.create_account(&AccountName::new("payroll").unwrap(), key).await.unwrap();
        Self { _home: home, customer, kek, account }
    }

    /// What is written through it is sealed under the customer's key before it reaches this store.
    pub(crate) async fn over(&self, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(EncryptedObjectStore::open(inner, self.account.clone()).await.unwrap())
    }

    /// Disables the customer's key, and waits until every answer from before is out of date.
    pub(crate) async fn revoke(&self) {
        self.customer.disable(&self.kek).await.unwrap();
        tokio::time::sleep(NOTICED).await;
    }

    pub(crate) async fn restore(&self) {
        self.customer.enable(&self.kek).await.unwrap();
        tokio::time::sleep(NOTICED).await;
    }

    /// Takes the customer's vault away for longer than the grace.
    pub(crate) async fn lose_the_vault(&self) {
        self.customer.set_offline(true).await.unwrap();
        tokio::time::sleep(GRACE + NOTICED).await;
    }

    pub(crate) async fn regain_the_vault(&self) {
        self.customer.set_offline(false).await.unwrap();
        tokio::time::sleep(NOTICED).await;
    }
}

/// All objects of a store, whole.
pub(crate) async fn objects(store: &dyn ObjectStore) -> BTreeMap<Path, Bytes> {
    let mut objects = BTreeMap::new();
    for meta in store.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        objects.insert(meta.location, bytes);
    }
    objects
}

/// The objects that hold these bytes.
pub(crate) fn holding<'a>(objects: &'a BTreeMap<Path, Bytes>, needle: &[u8]) -> Vec<&'a Path> {
    let finder = memchr::memmem::Finder::new(needle);
    objects.iter().filter(|(_, bytes)| finder.find(bytes).is_some()).map(|(path, _)| path).collect()
}

/// An error and what it says it came from, outermost first.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let (mut links, mut next) = (Vec::new(), Some(error));
    while let Some(error) = next {
        links.push(error);
        // An io::Error names the source of what it carries, and not what it carries.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    links
}

/// The first of this kind in the chain of an error.
pub(crate) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).into_iter().find_map(|error| error.downcast_ref::<E>())
}

/// What went over the way to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) gets: u64,
    pub(crate) bytes: u64,
}

/// A store that counts what is read from it, and that can do as it is told without its answer arriving.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: Arc<dyn ObjectStore>,
    far: bool,
    gets: AtomicU64,
    bytes: Arc<AtomicU64>,
    loses_next: AtomicBool,
    drops_attributes: AtomicBool,
}

impl Watched {
    /// Ranges are fetched as from S3, Azure and Google: neighbours in one request, with what lies between them.
    pub(crate) fn far(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Self::new(inner, true)
    }

    /// Ranges are counted and passed on as they are asked for.
    pub(crate) fn near(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Self::new(inner, false)
    }

    fn new(inner: Arc<dyn ObjectStore>, far: bool) -> Arc<Self> {
        let (gets, bytes) = (AtomicU64::default(), Arc::default());
        let (loses_next, drops_attributes) = (AtomicBool::default(), AtomicBool::default());
        Arc::new(Self { inner, far, gets, bytes, loses_next, drops_attributes })
    }

    /// What was read since the last time that this was asked.
    pub(crate) fn taken(&self) -> Traffic {
        let take = |of: &AtomicU64| of.swap(0, Ordering::SeqCst);
        Traffic { gets: take(&self.gets), bytes: take(&self.bytes) }
    }

    /// The next conditional put is done, and its answer is lost on the way.
    pub(crate) fn lose_the_next_answer(&self) {
        self.loses_next.store(true, Ordering::SeqCst);
    }

    /// From now on attributes are not kept.
    pub(crate) fn drop_attributes(&self) {
        self.drops_attributes.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_lost_it(&self) -> bool {
        !self.loses_next.load(Ordering::SeqCst)
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> StoreResult<PutResult> {
        if self.drops_attributes.load(Ordering::SeqCst) {
            options.attributes = Attributes::new();
        }
        let conditional = options.mode != PutMode::Overwrite;
        let answer = self.inner.put_opts(to, payload, options).await?;
        if conditional && self.loses_next.swap(false, Ordering::SeqCst) {
            let source = "the answer was lost on the way".into();
            return Err(object_store::Error::Generic { store: "Watched", source });
        }
        Ok(answer)
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let answer = self.inner.get_opts(from, options).await?;
        let bytes = self.bytes.clone();
        let (meta, range) = (answer.meta.clone(), answer.range.clone());
        let (attributes, extensions) = (answer.attributes.clone(), answer.extensions.clone());
        let counted = answer.into_stream().inspect_ok(move |chunk| {
            bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        });
        Ok(GetResult {
            payload: GetResultPayload::Stream(counted.boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        if self.far {
            let fetch = |range| self.get_range(from, range);
            return coalesce_ranges(ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await;
        }
        self.gets.fetch_add(ranges.len() as u64, Ordering::SeqCst);
        self.bytes.fetch_add(ranges.iter().map(|range| range.end - range.start).sum(), Ordering::SeqCst);
        self.inner.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
