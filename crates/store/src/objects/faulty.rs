//! An object store before another one that misbehaves on demand, for tests and the simulator.
//!
//! Guarantees: the model of a network between a node and a store. A request that fails was done, or was not, or is done
//! later, or was done twice, as the fault says; the store behind is right at all times. Each node has a handle of its own
//! over one store. Nothing is drawn but from the entropy that was given, once for each request in the order in which they
//! begin, so a run on one thread repeats itself.
//!
//! A request that is delayed travels in a task of its own: it arrives whether or not it is still waited for, as one does
//! that a client gave up. So it needs a tokio runtime.
//!
//! Not its job: a store that breaks its promises.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_vault::Entropy;
use futures_util::{FutureExt, StreamExt, future, future::BoxFuture, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart, path::Path,
};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectRequest {
    /// A put of a whole object.
    Put,
    /// A get of an object, of its head or of ranges of it.
    Get,
    /// A list.
    List,
    /// A delete of one object.
    Delete,
    /// A copy or a rename.
    Copy,
    /// The begin of an upload in parts, one part, its end.
    Upload,
}

/// How a request misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFault {
    /// It is not done; the answer is an error.
    Refuse,
    /// It is done; the answer is an error.
    LoseAnswer,
    /// It is done; there is never an answer.
    Hang,
    /// It is done twice; the answer is the second one's. So a conditional put is refused for its own sake.
    Repeat,
    /// It is done after a while, whether or not it is waited for; the answer takes another while.
    Delay {
        /// How long until it is done.
        there: Duration,
        /// How long until it is answered then.
        back: Duration,
    },
}

/// How many of a thousand requests misbehave, in each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// [`ObjectFault::Refuse`].
    pub refuse: u16,
    /// [`ObjectFault::LoseAnswer`].
    pub lose_answer: u16,
    /// [`ObjectFault::Hang`].
    pub hang: u16,
    /// [`ObjectFault::Repeat`].
    pub repeat: u16,
    /// [`ObjectFault::Delay`].
    pub delay: u16,
    /// How long each of a delay's two ways takes at most.
    pub longest: Duration,
}

/// A node's way to a store. Clones are the same way.
#[derive(Clone)]
pub struct FaultyObjects {
    inner: Arc<dyn ObjectStore>,
    entropy: Arc<dyn Entropy>,
    way: Arc<Mutex<Way>>,
}

#[derive(Debug, Default)]
struct Way {
    is_cut: bool,
    rates: FaultRates,
    asked: BTreeMap<ObjectRequest, u64>,
    faults: Vec<(ObjectRequest, u64, ObjectFault)>,
}

impl FaultyObjects {
    /// A way to this store on which nothing fails yet; what fails by [`set_rates`](Self::set_rates) is drawn from `entropy`.
    pub fn new(inner: Arc<dyn ObjectStore>, entropy: Arc<dyn Entropy>) -> Self {
        Self { inner, entropy, way: Arc::default() }
    }

    /// How often a request of this kind was made.
    pub fn asked(&self, request: ObjectRequest) -> u64 {
        self.way().asked.get(&request).copied().unwrap_or(0)
    }

    /// Lets the `nth` request of this kind from now on misbehave, 0 being the next one.
    pub fn fail(&self, request: ObjectRequest, nth: u64, fault: ObjectFault) {
        let at = self.asked(request) + nth;
        self.way().faults.push((request, at, fault));
    }

    /// Lets that many requests misbehave from now on, beside those of [`fail`](Self::fail).
    pub fn set_rates(&self, rates: FaultRates) {
        self.way().rates = rates;
    }

    /// Cuts the way: nothing arrives, and no answer comes of what is on its way.
    pub fn cut(&self) {
        self.way().is_cut = true;
    }

    /// Mends the way.
    pub fn heal(&self) {
        self.way().is_cut = false;
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, and how it is to misbehave.
    fn begin(&self, request: ObjectRequest) -> Option<ObjectFault> {
        let mut way = self.way();
        let asked = way.asked.entry(request).or_default();
        let nth = *asked;
        *asked += 1;
        let drawn = self.draw(way.rates);
        let planned = way.faults.iter().position(|(of, at, _)| (*of, *at) == (request, nth));
        planned.map(|at| way.faults.swap_remove(at).2).or(drawn)
    }

    fn draw(&self, rates: FaultRates) -> Option<ObjectFault> {
        if rates == FaultRates::default() {
            return None;
        }
        let mut bytes = [0; 6];
        self.entropy.fill(&mut bytes).ok()?;
        let [dice, there, back] =
            std::array::from_fn(|at| u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]));
        let part = |of: u16| rates.longest / u32::from(u16::MAX) * u32::from(of);
        let delay = ObjectFault::Delay { there: part(there), back: part(back) };
        let mut dice = dice % 1000;
        for (rate, fault) in [
            (rates.refuse, ObjectFault::Refuse),
            (rates.lose_answer, ObjectFault::LoseAnswer),
            (rates.hang, ObjectFault::Hang),
            (rates.repeat, ObjectFault::Repeat),
            (rates.delay, delay),
        ] {
            if dice < rate {
                return Some(fault);
            }
            dice -= rate;
        }
        None
    }

    fn arrives(&self) -> Result<()> {
        if self.way().is_cut { Err(failed("the way to the store is cut")) } else { Ok(()) }
    }

    /// A request, with what becomes of it on its way.
    async fn request<T: Send + 'static>(
        &self,
        request: ObjectRequest,
        act: impl Fn(Arc<dyn ObjectStore>) -> BoxFuture<'static, Result<T>> + Send + Sync + 'static,
    ) -> Result<T> {
        let fault = self.begin(request);
        self.arrives()?;
        let act = {
            let inner = self.inner.clone();
            move || act(inner.clone())
        };
        match fault {
            None => act().await,
            Some(ObjectFault::Refuse) => Err(failed("the request was lost")),
            Some(ObjectFault::LoseAnswer) => {
                let _ = act().await;
                Err(failed("the answer was lost"))
            }
            Some(ObjectFault::Hang) => {
                let _ = act().await;
                future::pending().await
            }
            Some(ObjectFault::Repeat) => {
                let _ = act().await;
                act().await
            }
            Some(ObjectFault::Delay { there, back }) => {
                let way = self.clone();
                let travel = tokio::spawn(async move {
                    tokio::time::sleep(there).await;
                    way.arrives()?;
                    let answer = act().await;
                    tokio::time::sleep(back).await;
                    way.arrives()?;
                    answer
                });
                travel.await.unwrap_or_else(|_| Err(failed("the runtime ended")))
            }
        }
    }

    fn list_by(
        &self,
        list: impl Fn(Arc<dyn ObjectStore>) -> BoxStream<'static, Result<ObjectMeta>> + Send + Sync + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let way = self.clone();
        let listed = async move {
            way.request(ObjectRequest::List, move |inner| {
                let listed = list(inner);
                // What is listed is as of the moment when the request arrives.
                async move { Ok(listed.collect::<Vec<_>>().await) }.boxed()
            })
            .await
        };
        stream::once(listed)
            .flat_map(|listed| match listed {
                Ok(objects) => stream::iter(objects).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultyObjects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let location = location.clone();
        self.request(ObjectRequest::Put, move |inner| {
            let (location, payload, opts) = (location.clone(), payload.clone(), opts.clone());
            async move { inner.put_opts(&location, payload, opts).await }.boxed()
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let location = location.clone();
        let upload = self
            .request(ObjectRequest::Upload, move |inner| {
                let (location, opts) = (location.clone(), opts.clone());
                async move { inner.put_multipart_opts(&location, opts).await }.boxed()
            })
            .await?;
        Ok(Box::new(FaultyUpload { upload, way: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let location = location.clone();
        self.request(ObjectRequest::Get, move |inner| {
            let (location, options) = (location.clone(), options.clone());
            async move { inner.get_opts(&location, options).await }.boxed()
        })
        .await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (location, ranges) = (location.clone(), ranges.to_vec());
        self.request(ObjectRequest::Get, move |inner| {
            let (location, ranges) = (location.clone(), ranges.clone());
            async move { inner.get_ranges(&location, &ranges).await }.boxed()
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let way = self.clone();
        locations
            .then(move |location| {
                let way = way.clone();
                async move {
                    let location = location?;
                    let at = location.clone();
                    way.request(ObjectRequest::Delete, move |inner| {
                        let at = at.clone();
                        async move { inner.delete(&at).await }.boxed()
                    })
                    .await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        self.list_by(move |inner| inner.list(prefix.as_ref()))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (prefix, offset) = (prefix.cloned(), offset.clone());
        self.list_by(move |inner| inner.list_with_offset(prefix.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        self.request(ObjectRequest::List, move |inner| {
            let prefix = prefix.clone();
            async move { inner.list_with_delimiter(prefix.as_ref()).await }.boxed()
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.request(ObjectRequest::Copy, move |inner| {
            let (from, to, options) = (from.clone(), to.clone(), options.clone());
            async move { inner.copy_opts(&from, &to, options).await }.boxed()
        })
        .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.request(ObjectRequest::Copy, move |inner| {
            let (from, to, options) = (from.clone(), to.clone(), options.clone());
            async move { inner.rename_opts(&from, &to, options).await }.boxed()
        })
        .await
    }
}

impl fmt::Display for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyObjects({})", self.inner)
    }
}

impl fmt::Debug for FaultyObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyObjects({:?}, {:?})", self.inner, self.way())
    }
}

/// An upload in parts. Its requests are not done twice, and are not done once they are no longer waited for.
#[derive(Debug)]
struct FaultyUpload {
    upload: Box<dyn MultipartUpload>,
    way: FaultyObjects,
}

impl FaultyUpload {
    async fn request<T>(way: FaultyObjects, act: impl Future<Output = Result<T>>) -> Result<T> {
        let fault = way.begin(ObjectRequest::Upload);
        way.arrives()?;
        match fault {
            None | Some(ObjectFault::Repeat) => act.await,
            Some(ObjectFault::Refuse) => Err(failed("the request was lost")),
            Some(ObjectFault::LoseAnswer) => {
                let _ = act.await;
                Err(failed("the answer was lost"))
            }
            Some(ObjectFault::Hang) => {
                let _ = act.await;
                future::pending().await
            }
            Some(ObjectFault::Delay { there, back }) => {
                tokio::time::sleep(there).await;
                way.arrives()?;
                let answer = act.await;
                tokio::time::sleep(back).await;
                way.arrives()?;
                answer
            }
        }
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.upload.put_part(data);
        Self::request(self.way.clone(), part).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Self::request(self.way.clone(), self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        Self::request(self.way.clone(), self.upload.abort()).await
    }
}

fn failed(why: &'static str) -> Error {
    Error::Generic { store: "FaultyObjects", source: why.into() }
}
