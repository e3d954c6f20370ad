//! Uploads in parts, re-cut.
//!
//! Guarantees: parts of any size make one sealed object; the store is given parts of one size, all but the last, since some
//! take no others. What is sealed and not yet given to the store is less than a part and a page; what is given is bounded by
//! who awaits the futures that [`MultipartUpload::put_part`] returns. The key is asked for at each piece of 256 KiB; between
//! calls none is held. Nothing can be seen of the object before [`MultipartUpload::complete`].
//!
//! Sealing happens inside `put_part`, which is not async, while the account's key may be used. Where it has to be waited for, the
//! plaintext waits as it is, in order, and the returned future seals it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{BlockWriter, Epoch, HEADER_LEN, Provider, SealError, TAG_LEN, sealed_len};
use futures_util::{FutureExt, TryFutureExt, future::try_join_all};
use object_store::{
    MultipartUpload, PutMultipartOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};

use super::{Shared, VERSION, error::EncryptedError, headers::HeaderBytes};
use crate::{Account, engine::ObjectKey};

/// How much is sealed before the key is asked for again.
const PIECE: usize = 256 << 10;

impl Shared {
    /// Begins an upload to `at` of an object that is sealed for `path`.
    pub(super) async fn upload(
        self: &Arc<Self>,
        path: &Path,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Upload> {
        let (account, id) = (self.account(path)?.clone(), self.id(path)?);
        let key = account.object_sealing_key().await.map_err(|e| EncryptedError::key(path, e))?;
        let begun = key.begin(id.at(VERSION), self.page_size, account.salts());
        let writer = begun.map_err(|source| EncryptedError::Seal { path: path.clone(), source })?;
        drop(key);
        let scope = writer.scope();
        let epoch = (scope.provider, scope.epoch);
        let store = self.store.put_multipart_opts(at, options).await?;
        let part = Part::new(self.part_size, self.page_size.bytes());
        let state =
            State { writer: Some(writer), store: Some(store), part, waiting: VecDeque::new(), ended: None };
        let upload =
            Uploading { shared: self.clone(), account, epoch, path: path.clone(), state: Mutex::new(state) };
        Ok(Upload(Arc::new(upload)))
    }
}

/// An upload.
pub(super) struct Upload(Arc<Uploading>);

struct Uploading {
    shared: Arc<Shared>,
    account: Account,
    /// Which key it was begun under, and so goes on under.
    epoch: (Provider, Epoch),
    path: Path,
    state: Mutex<State>,
}

struct State {
    /// None after the end, or once something failed.
    writer: Option<BlockWriter>,
    /// None while it is completed or aborted.
    store: Option<Box<dyn MultipartUpload>>,
    part: Part,
    /// Plaintext that is not sealed yet.
    waiting: VecDeque<Bytes>,
    /// Once all is sealed: the header, and how much plaintext it was.
    ended: Option<(HeaderBytes, u64)>,
}

/// Sealed bytes until they fill a part.
struct Part {
    bytes: Vec<u8>,
    filled: usize,
    size: usize,
    /// The most that one call to seal gives beyond a full part.
    slack: usize,
}

impl Part {
    fn new(size: usize, page: usize) -> Self {
        let pages = PIECE / page + 1;
        Self { bytes: Vec::new(), filled: 0, size, slack: HEADER_LEN + pages * (page + TAG_LEN) }
    }

    /// Room for this much, behind what is there.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; self.size + self.slack];
        }
        let end = self.filled + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.filled..end]
    }

    /// A full part, if there is one.
    fn full(&mut self) -> Option<Bytes> {
        let beyond = self.filled.checked_sub(self.size)?;
        let mut full = std::mem::take(&mut self.bytes);
        self.filled = 0;
        if beyond > 0 {
            let (from, to) = (self.size, self.size + beyond);
            self.room(beyond).copy_from_slice(&full[from..to]);
            self.filled = beyond;
        }
        full.truncate(self.size);
        Some(full.into())
    }

    /// What is left.
    fn rest(&mut self) -> Option<Bytes> {
        let mut rest = std::mem::take(&mut self.bytes);
        rest.truncate(std::mem::take(&mut self.filled));
        (!rest.is_empty()).then(|| rest.into())
    }
}

/// How far what waits was sealed.
enum Sealed {
    All,
    /// The key has to be waited for.
    UntilKey,
}

impl Uploading {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key, if it can be had without waiting.
    fn key_now(&self) -> Result<Option<ObjectKey>> {
        self.key().now_or_never().transpose()
    }

    async fn key(&self) -> Result<ObjectKey> {
        let (provider, epoch) = self.epoch;
        let key = self.account.object_key(provider, epoch).await;
        let key = key.map_err(|e| EncryptedError::key(&self.path, e))?;
        let unknown = || EncryptedError::UnknownEpoch { path: self.path.clone(), epoch };
        Ok(key.ok_or_else(unknown)?)
    }

    fn ended(&self) -> EncryptedError {
        EncryptedError::UploadEnded { path: self.path.clone() }
    }

    /// Seals what waits with this key, or with the one that can be had now, and gives full parts to the store.
    fn seal_waiting(
        &self,
        state: &mut State,
        mut key: Option<ObjectKey>,
        uploads: &mut Vec<UploadPart>,
    ) -> Result<Sealed> {
        while let Some(mut next) = state.waiting.pop_front() {
            let piece = next.split_to(next.len().min(PIECE));
            if !next.is_empty() {
                state.waiting.push_front(next);
            }
            if piece.is_empty() {
                continue;
            }
            let usable = match key.take().filter(ObjectKey::still_usable) {
                Some(key) => Some(key),
                None => self.key_now()?,
            };
            let Some(usable) = usable else {
                state.waiting.push_front(piece);
                return Ok(Sealed::UntilKey);
            };
            let writer = state.writer.as_mut().ok_or_else(|| self.ended())?;
            let room = state.part.room(writer.write_len(piece.len()));
            let written = usable.write(writer, &piece, room).map_err(|e| self.unsealed(e))?;
            state.part.filled += written;
            self.give_parts(state, uploads)?;
            key = Some(usable);
        }
        Ok(Sealed::All)
    }

    fn give_parts(&self, state: &mut State, uploads: &mut Vec<UploadPart>) -> Result<()> {
        while let Some(part) = state.part.full() {
            let store = state.store.as_mut().ok_or_else(|| self.ended())?;
            uploads.push(store.put_part(part.into()));
        }
        Ok(())
    }

    fn unsealed(&self, source: SealError) -> EncryptedError {
        EncryptedError::Seal { path: self.path.clone(), source }
    }

    /// Seals all that waits, waiting for the key where that is needed, and uploads what became full.
    async fn seal_all(&self) -> Result<()> {
        let mut key = None;
        loop {
            let mut uploads = Vec::new();
            let sealed = {
                let mut state = self.lock();
                if state.writer.is_none() && !state.waiting.is_empty() {
                    return Err(self.ended().into());
                }
                let sealed = self.seal_waiting(&mut state, key.take(), &mut uploads);
                self.settle(&mut state, sealed)
            };
            try_join_all(uploads).await?;
            match sealed? {
                Sealed::All => return Ok(()),
                Sealed::UntilKey => {
                    key = Some(self.key().await.inspect_err(|_| self.fail(&mut self.lock()))?)
                }
            }
        }
    }

    /// What failed has failed for good: the pages that were to follow would leave a gap.
    fn settle(&self, state: &mut State, sealed: Result<Sealed>) -> Result<Sealed> {
        sealed.inspect_err(|_| self.fail(state))
    }

    fn fail(&self, state: &mut State) {
        state.writer = None;
        state.waiting.clear();
        state.part.rest();
    }

    /// Seals the last page and gives the rest to the store. Done once, it has nothing to do.
    async fn seal_end(&self) -> Result<()> {
        if self.lock().ended.is_some() {
            return Ok(());
        }
        self.seal_all().await?;
        let key = self.key().await.inspect_err(|_| self.fail(&mut self.lock()))?;
        let mut uploads = Vec::new();
        {
            let mut state = self.lock();
            let state = &mut *state;
            let writer = state.writer.take().ok_or_else(|| self.ended())?;
            let ended = (*writer.header(), writer.plaintext_len());
            let room = state.part.room(writer.finish_len());
            let written = key.finish(writer, room).map_err(|e| self.unsealed(e))?;
            state.part.filled += written;
            self.give_parts(state, &mut uploads)?;
            if let Some(rest) = state.part.rest() {
                let store = state.store.as_mut().ok_or_else(|| self.ended())?;
                uploads.push(store.put_part(rest.into()));
            }
            state.ended = Some(ended);
        }
        drop(key);
        try_join_all(uploads).await.map(drop)
    }

    fn keep_header(&self, put: &PutResult) {
        let ended = self.lock().ended;
        if let Some((header, len)) = ended
            && let Ok(stored_len) = sealed_len(len, self.shared.page_size)
        {
            self.shared.headers.keep(&self.path, put.e_tag.as_ref(), stored_len, header);
        }
    }

    fn take_store(&self) -> Result<Box<dyn MultipartUpload>> {
        Ok(self.lock().store.take().ok_or_else(|| self.ended())?)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut uploads = Vec::new();
        let sealed = {
            let mut state = self.0.lock();
            if state.writer.is_none() {
                return futures_util::future::ready(Err(self.0.ended().into())).boxed();
            }
            // Behind what waits already, if anything does: somebody waits for the key then.
            state.waiting.extend(data);
            let sealed = self.0.seal_waiting(&mut state, None, &mut uploads);
            self.0.settle(&mut state, sealed)
        };
        let uploads = try_join_all(uploads).map_ok(drop);
        match sealed {
            Ok(Sealed::All) => uploads.boxed(),
            Ok(Sealed::UntilKey) => {
                let upload = self.0.clone();
                async move { futures_util::future::try_join(uploads, upload.seal_all()).await.map(drop) }
                    .boxed()
            }
            Err(e) => futures_util::future::ready(Err(e)).boxed(),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.0.seal_end().await?;
        let mut store = self.0.take_store()?;
        let completed = store.complete().await;
        match &completed {
            Ok(put) => self.0.keep_header(put),
            // It can be tried again, or aborted.
            Err(_) => self.0.lock().store = Some(store),
        }
        completed
    }

    async fn abort(&mut self) -> Result<()> {
        let mut store = {
            let mut state = self.0.lock();
            self.0.fail(&mut state);
            state.store.take().ok_or_else(|| self.0.ended())?
        };
        store.abort().await
    }
}

/// Never shows what it holds.
impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({} under {:?})", self.0.path, self.0.account)
    }
}
