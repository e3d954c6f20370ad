//! What the objects of a catalog are called.
//!
//! Guarantees: a record's name is its key below `c/`, unchanged, so names sort as keys; what a name can't hold is
//! refused, so two keys never share an object.
//!
//! Not its job: whether a store lists in that order: [`probe`](super::probe) finds out.

use object_store::path::Path;

use crate::error::{StoreError, StoreErrorKind};

/// Amazon, Microsoft and Google take names of this many bytes.
const LONGEST: usize = 1024;
/// The characters of keys, in the order of their bytes.
const LETTERS: &[u8] = b"-./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";

/// The names below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Empty, or ends in a slash.
    root: String,
}

impl Names {
    pub(super) fn below(prefix: &Path) -> Self {
        let root = if prefix.is_root() { String::new() } else { format!("{prefix}/") };
        Self { root }
    }

    /// The object of a record.
    pub(super) fn record(&self, key: &str) -> Result<Path, StoreError> {
        check(key)?;
        if key.is_empty() || key.ends_with('/') {
            return Err(invalid(key, "a record's key ends in a name"));
        }
        let name = format!("{}c/{key}", self.root);
        if name.len() > LONGEST {
            let detail = format!("the name {name:?} has {} bytes of at most {LONGEST}", name.len());
            return Err(StoreError::new(StoreErrorKind::TooLarge).with_detail(detail));
        }
        path(&name, key)
    }

    /// The key of a record's object.
    pub(super) fn key<'a>(&self, object: &'a Path) -> Option<&'a str> {
        object.as_ref().strip_prefix(&self.root)?.strip_prefix("c/")
    }

    /// Below what the records lie whose keys begin so.
    pub(super) fn folder(&self, prefix: &str) -> Result<Path, StoreError> {
        check(prefix)?;
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        path(&format!("{}c/{folder}", self.root), prefix)
    }

    /// After what to list, to come past `after` or to the first key that begins with `prefix`; other keys may come first.
    pub(super) fn offset(&self, prefix: &str, after: Option<&str>) -> Result<Path, StoreError> {
        if let Some(after) = after.filter(|after| *after >= prefix) {
            check(after)?;
            return path(&format!("{}c/{after}", self.root), after);
        }
        let (last, rest) = match prefix.as_bytes().split_last() {
            None | Some((b'/', _)) => return self.folder(prefix),
            Some((last, rest)) => (last, rest),
        };
        let before = LETTERS.iter().rev().find(|letter| *letter < last && !b"./".contains(letter));
        let mut offset = String::from_utf8_lossy(rest).into_owned();
        if let Some(before) = before {
            offset.push(char::from(*before));
            offset.push('z');
        }
        path(&format!("{}c/{offset}", self.root), prefix)
    }

    /// An object to try a store with.
    pub(super) fn probe(&self, trial: &str, name: &str) -> Result<Path, StoreError> {
        path(&format!("{}probe/{trial}/{name}", self.root), name)
    }
}

fn check(key: &str) -> Result<(), StoreError> {
    if key.bytes().all(|byte| LETTERS.contains(&byte)) {
        return Ok(());
    }
    Err(invalid(key, "keys are of letters and digits of ASCII and of . _ - /"))
}

fn path(name: &str, key: &str) -> Result<Path, StoreError> {
    Path::parse(name).map_err(|error| invalid(key, "it can't be an object's name").caused_by(error))
}

fn invalid(key: &str, why: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Invalid).with_detail(format!("the key {key:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Names {
        Names::below(&Path::from("deployments/one"))
    }

    #[test]
    fn a_name_is_the_key_below_the_prefix() {
        let name = names().record("account/a.b-c_d").unwrap();
        assert_eq!(name.as_ref(), "deployments/one/c/account/a.b-c_d");
        assert_eq!(names().key(&name), Some("account/a.b-c_d"));
        assert_eq!(Names::below(&Path::ROOT).record("changes").unwrap().as_ref(), "c/changes");
    }

    #[test]
    fn what_a_name_cannot_hold_is_refused() {
        for key in ["", "a/", "/a", "a//b", ".", "a/../b", "a b", "a%2Fb", "ä", "a~"] {
            assert_eq!(names().record(key).unwrap_err().kind(), StoreErrorKind::Invalid, "{key:?}");
        }
        assert_eq!(names().record(&"a".repeat(1025)).unwrap_err().kind(), StoreErrorKind::TooLarge);
    }

    proptest! {
        #[test]
        fn an_offset_is_before_every_key_of_its_prefix_and_within_its_folder(
            prefix in "([a-c._-]{1,3}/){0,2}[a-c0-9A-Z._-]{0,3}", rest in "[a-c0-9._-]{0,3}",
        ) {
            let names = names();
            let Ok(offset) = names.offset(&prefix, None) else { return Ok(()) };
            let key = format!("{prefix}{rest}");
            if let Ok(record) = names.record(&key) {
                prop_assert!(offset < record || key == *prefix && offset.as_ref() < record.as_ref());
                prop_assert!(record.prefix_matches(&names.folder(&prefix).unwrap()));
            }
        }
    }
}
