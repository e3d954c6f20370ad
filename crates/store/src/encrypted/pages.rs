//! Opening an object page by page as it comes from the store.
//!
//! Guarantees: at each page the account is asked for its key anew, so that a revocation, or the end of grace, in mid-stream
//! ends the stream with that error; a page is given out once it has opened; an object that is cut off ends in an error and
//! never short. At rest no key is held. In memory there are what the store gave last and one page.

use bytes::{Bytes, BytesMut};
use cofferdam_crypto::{BlockReader, OpenError, Sealer};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream, try_unfold},
};
use object_store::{GetResult, Result, path::Path};

use super::error::EncryptedError;
use crate::Account;

/// How many stored bytes are read at once.
const AT_ONCE: u64 = 1 << 20;

/// Stored bytes as they come.
pub(super) struct Source {
    stream: BoxStream<'static, Result<Bytes>>,
    chunk: Bytes,
}

impl Source {
    /// Little is read at once: from a file it would come in pieces of 8 KiB, each by way of another thread.
    pub(super) async fn of(got: GetResult) -> Result<Self> {
        if got.range.end - got.range.start <= AT_ONCE {
            return Ok(Self { chunk: got.bytes().await?, stream: stream::empty().boxed() });
        }
        Ok(Self { stream: got.into_stream(), chunk: Bytes::new() })
    }

    /// The next bytes, as many; `None` when there are fewer.
    pub(super) async fn take(&mut self, len: usize) -> Result<Option<Bytes>> {
        if self.chunk.is_empty() && len > 0 && !self.refill().await? {
            return Ok(None);
        }
        if self.chunk.len() >= len {
            return Ok(Some(self.chunk.split_to(len)));
        }
        let mut gathered = BytesMut::with_capacity(len);
        loop {
            let part = self.chunk.len().min(len - gathered.len());
            gathered.extend_from_slice(&self.chunk.split_to(part));
            if gathered.len() == len {
                return Ok(Some(gathered.freeze()));
            }
            if !self.refill().await? {
                return Ok(None);
            }
        }
    }

    /// Leaves out the next bytes, as many. Whether there were so many.
    pub(super) async fn skip(&mut self, mut len: u64) -> Result<bool> {
        while len > 0 {
            if self.chunk.is_empty() && !self.refill().await? {
                return Ok(false);
            }
            let part = usize::try_from(len).unwrap_or(usize::MAX).min(self.chunk.len());
            drop(self.chunk.split_to(part));
            len -= part as u64;
        }
        Ok(true)
    }

    async fn refill(&mut self) -> Result<bool> {
        while self.chunk.is_empty() {
            match self.stream.next().await {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// An object that is being read.
pub(super) struct Reading {
    pub(super) account: Account,
    pub(super) path: Path,
    pub(super) reader: BlockReader,
    pub(super) source: Source,
    /// Stored bytes before the first page.
    pub(super) skip: u64,
}

impl Reading {
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        try_unfold(
            self,
            |mut reading| async move { Ok(reading.next().await?.map(|opened| (opened, reading))) },
        )
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let damaged = || EncryptedError::damaged(&self.path);
        while let Some((len, text)) = self.reader.sealed_len().zip(self.reader.plaintext_len()) {
            let skip = std::mem::take(&mut self.skip);
            if !self.source.skip(skip).await? {
                return Err(damaged().into());
            }
            let page = self.source.take(len).await?.ok_or_else(damaged)?;
            let scope = *self.reader.scope();
            let reader = self.reader.clone();
            let work = move |key: &Sealer| -> Result<_, OpenError> {
                let (mut reader, mut out) = (reader.clone(), vec![0; text]);
                let part = key.read(&mut reader, &page, &mut out)?;
                Ok((reader, Bytes::from(out).slice(part)))
            };
            let epoch = Some((scope.provider, scope.epoch));
            let opened = self.account.with_object_key(epoch, text, work).await;
            let opened = opened.map_err(|e| EncryptedError::key(&self.path, e))?;
            let unknown = || EncryptedError::UnknownEpoch { path: self.path.clone(), epoch: scope.epoch };
            let (reader, opened) = opened.ok_or_else(unknown)?.map_err(|_| damaged())?;
            self.reader = reader;
            if !opened.is_empty() {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }
}
