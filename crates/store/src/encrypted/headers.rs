//! The headers of objects that were read or written of late, so that a range of one costs one request.
//!
//! Guarantees: a header is given only for the etag that it was stored with; a bounded number of them is kept. They are in the
//! clear in the store as well.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use cofferdam_crypto::HEADER_LEN;
use object_store::{ObjectMeta, path::Path};

/// How many are kept: of these at least half are the last that were used.
const MOST: usize = 2048;

pub(super) type HeaderBytes = [u8; HEADER_LEN];

/// What is known of an object: its etag, its stored length, its header.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) e_tag: String,
    pub(super) stored_len: u64,
    pub(super) header: HeaderBytes,
}

/// Two generations: what is used moves to the young one, and when that is full the old one goes.
#[derive(Debug, Default)]
pub(super) struct Headers(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Path, Known>,
    old: HashMap<Path, Known>,
}

impl Headers {
    pub(super) fn known(&self, path: &Path) -> Option<Known> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.young.get(path) {
            return Some(known.clone());
        }
        let known = kept.old.remove(path)?;
        kept.keep(path, known.clone());
        Some(known)
    }

    /// The header of exactly this object.
    pub(super) fn header_of(&self, meta: &ObjectMeta) -> Option<HeaderBytes> {
        let known = self.known(&meta.location)?;
        (Some(&known.e_tag) == meta.e_tag.as_ref() && known.stored_len == meta.size).then_some(known.header)
    }

    /// Nothing is kept of an object without an etag: it could not be told from another.
    pub(super) fn keep(&self, path: &Path, e_tag: Option<&String>, stored_len: u64, header: HeaderBytes) {
        let Some(e_tag) = e_tag.cloned() else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.old.remove(path);
        kept.keep(path, Known { e_tag, stored_len, header });
    }

    pub(super) fn forget(&self, path: &Path) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.young.remove(path);
        kept.old.remove(path);
    }
}

impl Generations {
    fn keep(&mut self, path: &Path, known: Known) {
        if self.young.len() >= MOST / 2 && !self.young.contains_key(path) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(path.clone(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_number_is_bounded() {
        let headers = Headers::default();
        let (used, e_tag) = (Path::from("used"), "1".to_owned());
        headers.keep(&used, Some(&e_tag), 92, [1; HEADER_LEN]);
        headers.keep(&Path::from("none"), None, 92, [1; HEADER_LEN]);
        assert!(headers.known(&Path::from("none")).is_none());
        for i in 0..3 * MOST {
            headers.keep(&Path::from(i.to_string()), Some(&e_tag), 92, [2; HEADER_LEN]);
            assert_eq!(headers.known(&used).unwrap().header, [1; HEADER_LEN]);
        }
        let kept = headers.0.lock().unwrap();
        assert!(kept.young.len() + kept.old.len() <= MOST);
    }
}
