//! Copying and renaming: what is bound to its path is sealed anew for another.
//!
//! Guarantees: the copy has the source's plaintext and attributes, whole or not at all; one that must not replace anything does
//! not; memory is bounded whatever the size. Tags can't be read through this interface, so a copy has none.
//!
//! A large copy that must not replace anything is written under a name of the store's own first, sealed for its path, and put
//! in place by the store below, which alone can do that under a condition. Who copies an object onto itself seals it anew under
//! the account's newest key; what somebody else writes there meanwhile is lost, as with any two who write.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use futures_util::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, GetResult, MultipartUpload,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, RenameOptions, RenameTargetMode, Result,
    path::Path,
};

use super::{
    Shared,
    error::{EncryptedError, renamed},
    marker::FOLDER,
};

/// Where large copies wait for being put in place.
const COPIES: &str = "copies";
/// How many parts of a copy are under way at once.
const PARTS: usize = 4;

impl Shared {
    pub(super) async fn copy(self: &Arc<Self>, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.own(to)?;
        let CopyOptions { mode, extensions } = options;
        let got = GetOptions { extensions: extensions.clone(), ..GetOptions::default() };
        let source = self.get(from, got).await?;
        let attributes = source.attributes.clone();
        if source.meta.size <= self.part_size as u64 {
            let bytes = source.bytes().await?;
            let mode = match mode {
                CopyMode::Overwrite => PutMode::Overwrite,
                CopyMode::Create => PutMode::Create,
            };
            let options = PutOptions { mode, attributes, extensions, ..PutOptions::default() };
            return self.put(to, bytes.into(), options).await.map(drop);
        }
        match mode {
            CopyMode::Overwrite => self.stream(source, to, to, attributes, extensions).await,
            CopyMode::Create => self.create_large(source, to, attributes, extensions).await,
        }
    }

    async fn create_large(
        self: &Arc<Self>,
        source: GetResult,
        to: &Path,
        attributes: Attributes,
        extensions: Extensions,
    ) -> Result<()> {
        let taken = GetOptions { head: true, extensions: extensions.clone(), ..GetOptions::default() };
        // Decided below; known before all of it is copied.
        match self.store.get_opts(to, taken).await {
            Ok(_) => {
                let path = to.to_string();
                return Err(Error::AlreadyExists {
                    source: format!("there is an object at {path}").into(),
                    path,
                });
            }
            Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
        let name = self.account(to)?.random::<16>().map_err(|e| EncryptedError::key(to, e))?;
        let at = Path::from_iter([FOLDER, COPIES, &HEXLOWER.encode(&name)]);
        let copied = match self.stream(source, to, &at, attributes, extensions.clone()).await {
            Ok(()) => {
                let options = CopyOptions { mode: CopyMode::Create, extensions };
                self.store.copy_opts(&at, to, options).await
            }
            Err(e) => Err(e),
        };
        self.headers.forget(to);
        // What stays behind if this fails is seen by nobody, and opens nowhere else.
        let _ = self.store.delete(&at).await;
        copied.map_err(|e| renamed(e, to))
    }

    /// Seals an object for `to` as it is read, into parts of `at`.
    async fn stream(
        self: &Arc<Self>,
        source: GetResult,
        to: &Path,
        at: &Path,
        attributes: Attributes,
        extensions: Extensions,
    ) -> Result<()> {
        let options = PutMultipartOptions { attributes, extensions, ..PutMultipartOptions::default() };
        let mut upload = self.upload(to, at, options).await?;
        let mut pages = source.into_stream();
        let mut under_way = FuturesUnordered::new();
        let copied: Result<()> = async {
            while let Some(page) = pages.try_next().await? {
                under_way.push(upload.put_part(page.into()));
                while under_way.len() >= PARTS {
                    under_way.next().await.transpose()?;
                }
            }
            while under_way.next().await.transpose()?.is_some() {}
            upload.complete().await.map(drop)
        }
        .await;
        if copied.is_err() {
            drop(under_way);
            // The first error says more.
            let _ = upload.abort().await;
        }
        copied.map_err(|e| renamed(e, to))
    }

    /// A copy, and then the source is deleted; not in one step.
    pub(super) async fn rename(
        self: &Arc<Self>,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> Result<()> {
        let RenameOptions { target_mode, extensions } = options;
        let mode = match target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        if from == to {
            self.find(from)?;
            let head = GetOptions { head: true, extensions, ..GetOptions::default() };
            self.store.get_opts(from, head).await?;
            return match mode {
                CopyMode::Overwrite => Ok(()),
                CopyMode::Create => Err(Error::AlreadyExists {
                    path: to.to_string(),
                    source: "an object can't be renamed to its own name and replace nothing".into(),
                }),
            };
        }
        self.copy(from, to, CopyOptions { mode, extensions }).await?;
        self.headers.forget(from);
        self.store.delete(from).await
    }
}
