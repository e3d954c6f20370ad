//! Writing objects in one request.

use bytes::Bytes;
use cofferdam_crypto::{BlockId, HEADER_LEN, PageSize, SaltSource, SealError, Sealer, sealed_len};
use object_store::{PutOptions, PutPayload, PutResult, Result, path::Path};

use super::{Shared, VERSION, error::EncryptedError};

impl Shared {
    /// Seals an object and puts it under the caller's own conditions, with the caller's attributes and tags.
    pub(super) async fn put(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.own(path)?;
        let (account, id, page) = (self.account(path)?, self.id(path)?, self.page_size);
        let refused = |source| EncryptedError::Seal { path: path.clone(), source };
        let len = payload.content_length();
        // Before a key is asked for, or anything allocated.
        sealed_len(len as u64, page).map_err(|e| refused(e.into()))?;
        let salts = account.clone();
        let seal = move |key: &Sealer| seal(key, &id, page, payload.as_ref(), len, salts.salts());
        let sealed = account.with_object_key(None, len, seal).await;
        let sealed = sealed.map_err(|e| EncryptedError::key(path, e))?;
        let sealed = sealed.unwrap_or(Err(SealError::OtherKey)).map_err(refused)?;
        let header: Option<[u8; HEADER_LEN]> = sealed.first_chunk().copied();
        let stored_len = sealed.len() as u64;
        let put = self.store.put_opts(path, Bytes::from(sealed).into(), options).await?;
        if let Some(header) = header {
            self.headers.keep(path, put.e_tag.as_ref(), stored_len, header);
        }
        Ok(put)
    }
}

fn seal(
    key: &Sealer,
    id: &BlockId,
    page: PageSize,
    pieces: &[Bytes],
    len: usize,
    salts: &dyn SaltSource,
) -> Result<Vec<u8>, SealError> {
    let at = id.at(VERSION);
    if let [] | [_] = pieces {
        return key.seal(at, page, pieces.first().map_or(&[], |piece| piece.as_ref()), salts);
    }
    let sealed = sealed_len(len as u64, page)?;
    let too_long = SealError::OutputTooSmall { needed: sealed, len: usize::MAX as u64 };
    let mut sealed = vec![0; usize::try_from(sealed).map_err(|_| too_long)?];
    let mut writer = key.begin(at, page, salts)?;
    let mut written = 0;
    for piece in pieces {
        written += key.write(&mut writer, piece, &mut sealed[written..])?;
    }
    key.finish(writer, &mut sealed[written..])?;
    Ok(sealed)
}
