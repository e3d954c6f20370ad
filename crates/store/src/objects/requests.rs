//! Requests to an object store: each with a time-out, repeated where that helps, and failures that name the object.
//!
//! Guarantees: no request is waited for longer than [`RequestOptions::time_out`]; what may pass is tried again at most
//! [`RequestOptions::attempts`] times, after pauses that grow and differ; what won't pass is told at once.
//!
//! Not its job: whether a write whose answer was lost was done: [`catalog`](super::catalog) finds out.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_vault::Entropy;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path};

use crate::error::{StoreError, StoreErrorKind};

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOptions {
    /// How long one request may take; what it asked for may still be done later. Default 10 s.
    pub time_out: Duration,
    /// How often a request is sent at most. Default 6.
    pub attempts: u32,
    /// The first pause between two attempts; each next one is twice as long, up to 20 times this, and each is shortened at
    /// random by up to half. Default 100 ms.
    pub pause: Duration,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self { time_out: Duration::from_secs(10), attempts: 6, pause: Duration::from_millis(100) }
    }
}

/// A store, and how it is asked.
#[derive(Clone)]
pub(super) struct Requests {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) options: RequestOptions,
}

/// An object as it was read.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) version: UpdateVersion,
}

/// Why one request failed.
#[derive(Debug)]
pub(super) enum Failure {
    Store(object_store::Error),
    TimedOut(Duration),
    /// What was answered makes no sense.
    Nonsense(&'static str),
}

impl Requests {
    /// One attempt to write an object. That it worked and how the store calls it now; a store that doesn't say how is asked.
    pub(super) async fn put(&self, at: &Path, mode: PutMode, body: Bytes) -> Result<UpdateVersion, Failure> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.in_time(self.store.put_opts(at, PutPayload::from_bytes(body), options)).await?;
        let version = UpdateVersion::from(put);
        if version.e_tag.is_none() && version.version.is_none() {
            return Err(Failure::Nonsense("the store did not say which version of the object it wrote"));
        }
        Ok(version)
    }

    /// One attempt to read an object.
    pub(super) async fn get_once(&self, at: &Path) -> Result<Option<Object>, Failure> {
        let read = async {
            let found = self.store.get_opts(at, GetOptions::default()).await?;
            let version =
                UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            Ok(Object { bytes: found.bytes().await?, version })
        };
        match self.in_time(read).await {
            Ok(object) => Ok(Some(object)),
            Err(Failure::Store(object_store::Error::NotFound { .. })) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// An object, asked for until there is an answer.
    pub(super) async fn get(&self, at: &Path) -> Result<Option<Object>, StoreError> {
        let mut attempts = self.attempts();
        loop {
            match self.get_once(at).await {
                Ok(found) => return Ok(found),
                Err(failure) => attempts.again(failure).await.map_err(|failure| failure.reading(at))?,
            }
        }
    }

    /// Waits for an answer as long as it may take.
    pub(super) async fn in_time<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.options.time_out, request).await {
            Ok(answer) => answer.map_err(Failure::Store),
            Err(_) => Err(Failure::TimedOut(self.options.time_out)),
        }
    }

    /// The attempts of one request.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts { of: self, made: 0 }
    }

    /// Fresh random bytes.
    pub(super) fn draw<const N: usize>(&self) -> Result<[u8; N], StoreError> {
        let mut out = [0; N];
        match self.entropy.fill(&mut out) {
            Ok(()) => Ok(out),
            Err(error) => {
                let error = StoreError::new(StoreErrorKind::Io).with_detail("drawing an id").caused_by(error);
                Err(error)
            }
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requests({})", self.store)
    }
}

/// How often a request was sent.
pub(super) struct Attempts<'a> {
    of: &'a Requests,
    made: u32,
}

impl Attempts<'_> {
    /// Waits before the next attempt, the last one having failed.
    ///
    /// # Errors
    /// That failure, where another attempt would not help or was the last.
    pub(super) async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        self.made += 1;
        if self.made >= self.of.options.attempts || !failure.may_pass() {
            return Err(failure);
        }
        let longest = self.of.options.pause * 2_u32.pow((self.made - 1).min(5)).min(20);
        // Without randomness the pauses are all of their length.
        let shortened = self.of.draw::<1>().map_or(0, |[byte]| u32::from(byte));
        tokio::time::sleep(longest - longest / 512 * shortened).await;
        Ok(())
    }
}

impl Failure {
    fn may_pass(&self) -> bool {
        use object_store::Error as E;
        match self {
            Self::Store(error) => !matches!(
                error,
                E::NotFound { .. }
                    | E::InvalidPath { .. }
                    | E::NotSupported { .. }
                    | E::NotImplemented { .. }
                    | E::PermissionDenied { .. }
                    | E::Unauthenticated { .. }
                    | E::UnknownConfigurationKey { .. }
            ),
            Self::TimedOut(_) | Self::Nonsense(_) => true,
        }
    }

    /// Whether the store said that the object is not as the request wants it.
    pub(super) fn is_refusal(&self) -> bool {
        use object_store::Error as E;
        matches!(self, Self::Store(E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. }))
    }

    pub(super) fn reading(self, at: &Path) -> StoreError {
        self.doing(&format!("reading {at}"), StoreErrorKind::Io)
    }

    pub(super) fn listing(self, below: &Path) -> StoreError {
        self.doing(&format!("listing {below}"), StoreErrorKind::Io)
    }

    /// A write that was given up: it may have been done all the same.
    pub(super) fn writing(self, at: &Path) -> StoreError {
        use object_store::Error as E;
        let doing = match &self {
            Self::Store(E::NotFound { .. } | E::NotImplemented { .. } | E::InvalidPath { .. }) => {
                format!("writing {at}")
            }
            _ => format!("unknown outcome: writing {at} was given up and may have been done"),
        };
        self.doing(&doing, StoreErrorKind::ReadOnly)
    }

    /// The failure of what was being done; `denied` is what it is where the store denied access.
    fn doing(self, doing: &str, denied: StoreErrorKind) -> StoreError {
        use object_store::Error as E;
        let error = match self {
            Self::Store(error) => error,
            Self::TimedOut(after) => {
                let detail = format!("{doing}: no answer within {after:?}");
                return StoreError::new(StoreErrorKind::Io).with_detail(detail);
            }
            Self::Nonsense(what) => {
                return StoreError::new(StoreErrorKind::Io).with_detail(format!("{doing}: {what}"));
            }
        };
        let (kind, why) = match &error {
            E::NotFound { .. } => (StoreErrorKind::NotFound, "there is no such object, bucket or container"),
            E::PermissionDenied { .. } => (denied, "access was denied"),
            E::Unauthenticated { .. } => (StoreErrorKind::Io, "the credentials were not accepted"),
            E::NotImplemented { .. } | E::NotSupported { .. } => {
                (StoreErrorKind::Unsupported, "the store can't do it")
            }
            E::InvalidPath { .. } => (StoreErrorKind::Invalid, "the store takes no such name"),
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
                (StoreErrorKind::Io, "the store said that the object was changed, and shows no change")
            }
            _ => (StoreErrorKind::Io, "the store failed"),
        };
        StoreError::new(kind).with_detail(format!("{doing}: {why}")).caused_by(error)
    }
}
