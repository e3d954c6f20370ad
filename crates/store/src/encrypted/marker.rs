//! The marker of an encrypted store: the object that says that it is one, and how large its pages are.
//!
//! Guarantees: of several who open a new store at once, one makes the marker and all go by that one. A marker that can't be
//! read, or is newer, is refused and left alone. It says nothing secret and is not authentic: a false page size opens nothing,
//! it only makes sizes wrong.

use cofferdam_crypto::PageSize;
use object_store::{Error, GetOptions, ObjectStore, PutMode, PutOptions, Result, path::Path};
use serde::{Deserialize, Serialize};

use super::error::EncryptedError;

/// Where an encrypted store keeps what is its own.
pub(super) const FOLDER: &str = ".cofferdam";
const NAME: &str = "store";
const KIND: &str = "cofferdam encrypted objects";
const VERSION: u32 = 1;
/// More than any marker.
const MAX_LEN: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Marker {
    kind: String,
    version: u32,
    page_size: u64,
}

/// The page size of the store: the marker's, which is made with this one if there is none.
pub(super) async fn open(store: &dyn ObjectStore, page_size: PageSize) -> Result<PageSize> {
    let path = path();
    loop {
        match store.get_opts(&path, GetOptions::default()).await {
            Ok(found) if found.meta.size <= MAX_LEN => return read(&path, &found.bytes().await?),
            Ok(found) => return Err(not_ours(&path, format!("it has {} bytes", found.meta.size))),
            Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
        let marker = Marker { kind: KIND.into(), version: VERSION, page_size: page_size.bytes() as u64 };
        let body = serde_json::to_vec(&marker).map_err(|e| not_ours(&path, e.to_string()))?;
        match store.put_opts(&path, body.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) => return Ok(page_size),
            // Somebody else made it, or we did and the answer was lost.
            Err(Error::AlreadyExists { .. }) => {}
            Err(e) => return Err(e),
        }
    }
}

pub(super) fn path() -> Path {
    Path::from_iter([FOLDER, NAME])
}

fn read(path: &Path, body: &[u8]) -> Result<PageSize> {
    #[derive(Deserialize)]
    struct Any {
        kind: String,
        version: u32,
    }
    let any: Any = serde_json::from_slice(body).map_err(|e| not_ours(path, e.to_string()))?;
    if any.kind != KIND {
        return Err(not_ours(path, format!("it is of kind {:?}", any.kind)));
    }
    if any.version > VERSION {
        return Err(EncryptedError::Newer { found: any.version, supported: VERSION }.into());
    }
    let marker: Marker = serde_json::from_slice(body).map_err(|e| not_ours(path, e.to_string()))?;
    PageSize::new(marker.page_size).map_err(|e| not_ours(path, e.to_string()))
}

fn not_ours(path: &Path, reason: String) -> Error {
    EncryptedError::NotOurs { path: path.clone(), reason }.into()
}
