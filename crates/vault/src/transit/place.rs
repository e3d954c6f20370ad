//! Key ids of a Transit vault: `transit://AUTHORITY/[NAMESPACE/]MOUNT/keys/KEY[/VERSION]`.
//!
//! Guarantees: one key has one spelling; an id of another server or namespace is refused before anything is sent; what
//! passes is safe in a path as it is.

use cofferdam_crypto::{IdError, KeyId};

use super::TransitError;
use crate::{VaultError, VaultErrorKind};

const SCHEME: &str = "transit://";
const KEYS: &str = "keys";

/// The highest version that Vault's own numbers hold.
const MAX_VERSION: u32 = i32::MAX as u32;

/// Where the keys of a vault are: the server's name and the namespace.
#[derive(Clone, Debug)]
pub(super) struct Place {
    authority: String,
    /// Without slashes around it; empty is the root.
    namespace: String,
}

/// The parts of a key id that its vault tells keys apart by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPath<'a> {
    pub(super) mount: &'a str,
    pub(super) name: &'a str,
    /// None names the latest.
    pub(super) version: Option<u32>,
}

impl Place {
    pub(super) fn new(authority: &str, namespace: &str) -> Result<Self, TransitError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        if authority.is_empty() || !authority.bytes().all(fits) {
            return Err(bad_name("a server's name", authority, ", a port after a colon"));
        }
        check_path("a namespace", namespace, true)?;
        Ok(Self { authority: authority.into(), namespace: namespace.into() })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn parse<'a>(&self, key_id: &'a KeyId) -> Result<KeyPath<'a>, VaultError> {
        self.split(key_id).map_err(|why| {
            let message = format!("not a key of the Transit vault {}: {why}", self.authority);
            VaultError::new(VaultErrorKind::Other, message).about(key_id)
        })
    }

    fn split<'a>(&self, key_id: &'a KeyId) -> Result<KeyPath<'a>, &'static str> {
        const SHAPE: &str = "one looks like transit://SERVER/[NAMESPACE/]MOUNT/keys/KEY[/VERSION]";
        let rest = key_id.as_str().strip_prefix(SCHEME).ok_or(SHAPE)?;
        let (authority, mut path) = rest.split_once('/').ok_or(SHAPE)?;
        if authority != self.authority {
            return Err("it names another server; ask the vault of that one");
        }
        if !self.namespace.is_empty() {
            path = path
                .strip_prefix(self.namespace.as_str())
                .and_then(|path| path.strip_prefix('/'))
                .ok_or("it names another namespace; ask the vault of that one")?;
        }
        if !path.split('/').all(is_segment) {
            return Err("its parts have letters, digits, dots, hyphens and underscores");
        }
        // The first one: no mount that has a part of this name can be named.
        let (mount, key) = path.split_once("/keys/").ok_or(SHAPE)?;
        let (name, version) = match key.split_once('/') {
            None => (key, None),
            Some((name, version)) => (
                name,
                Some(parse_version(version).ok_or("a version is a number from 1, without leading zeros")?),
            ),
        };
        if mount == KEYS {
            return Err(SHAPE);
        }
        Ok(KeyPath { mount, name, version })
    }

    /// The id of a key.
    pub(super) fn key_id(
        &self,
        mount: &str,
        name: &str,
        version: Option<u32>,
    ) -> Result<KeyId, TransitError> {
        check_path("a mount", mount, false)?;
        if mount.split('/').any(|part| part == KEYS) {
            return Err(bad_name("a mount", mount, ", and no part called keys"));
        }
        if !is_segment(name) {
            return Err(bad_name("a key", name, ""));
        }
        self.spell(mount, name, version).map_err(|_| bad_name("a key", name, ", and fewer of them"))
    }

    /// The id of a key whose parts were checked.
    fn spell(&self, mount: &str, name: &str, version: Option<u32>) -> Result<KeyId, IdError> {
        let namespace = if self.namespace.is_empty() { "" } else { &format!("{}/", self.namespace) };
        let key = format!("{SCHEME}{}/{namespace}{mount}/{KEYS}/{name}", self.authority);
        KeyId::new(match version {
            None => key,
            Some(version) => format!("{key}/{version}"),
        })
    }

    /// The same key in this version.
    pub(super) fn versioned(
        &self,
        key_id: &KeyId,
        path: &KeyPath<'_>,
        version: u32,
    ) -> Result<KeyId, VaultError> {
        self.spell(path.mount, path.name, Some(version)).map_err(|e| {
            let message = format!("the key id and its version are too long: {e}");
            VaultError::new(VaultErrorKind::Other, message).about(key_id).caused_by(e)
        })
    }
}

/// A version as it is spelled.
pub(super) fn parse_version(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|&version| plain && version <= MAX_VERSION)
}

/// A path of some segments, as mounts and namespaces have.
pub(super) fn check_path(what: &'static str, path: &str, may_be_empty: bool) -> Result<(), TransitError> {
    if may_be_empty && path.is_empty() || path.split('/').all(is_segment) {
        Ok(())
    } else {
        Err(bad_name(what, path, ", with slashes between parts alone"))
    }
}

fn is_segment(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(fits)
}

fn bad_name(what: &'static str, name: &str, shape: &'static str) -> TransitError {
    TransitError::BadName { what, name: name.chars().take(64).collect(), shape }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Place {
        Place::new("vault.example:8200", "").unwrap()
    }

    fn team() -> Place {
        Place::new("vault.example:8200", "org/team").unwrap()
    }

    fn id(text: &str) -> KeyId {
        KeyId::new(text).unwrap()
    }

    #[test]
    fn ids_survive_the_way_to_text_and_back() {
        for (place, namespace) in [(root(), ""), (team(), "org/team/")] {
            for mount in ["transit", "a/b-c_d.e"] {
                for (version, end) in [(None, ""), (Some(1), "/1"), (Some(MAX_VERSION), "/2147483647")] {
                    let key_id = place.key_id(mount, "pay.roll-1", version).unwrap();
                    let text =
                        format!("transit://vault.example:8200/{namespace}{mount}/keys/pay.roll-1{end}");
                    assert_eq!(key_id.as_str(), text);
                    assert_eq!(place.parse(&key_id).unwrap(), KeyPath { mount, name: "pay.roll-1", version });
                }
            }
        }
    }

    #[test]
    fn a_key_that_is_called_keys_has_one_reading() {
        let key_id = id("transit://vault.example:8200/transit/keys/keys/5");
        let path = KeyPath { mount: "transit", name: "keys", version: Some(5) };
        assert_eq!(root().parse(&key_id).unwrap(), path);
        assert!(root().key_id("transit/keys", "5", None).is_err());
        assert!(root().key_id("keys", "5", None).is_err());
        assert!(root().parse(&id("transit://vault.example:8200/keys/keys/5")).is_err());
    }

    #[test]
    fn ids_of_other_servers_namespaces_and_shapes_are_refused() {
        let other = team();
        for (place, text) in [
            (&root(), "local://vault.example:8200/transit/keys/k"),
            (&root(), "TRANSIT://vault.example:8200/transit/keys/k"),
            (&root(), "transit://vault.example/transit/keys/k"),
            (&root(), "transit://Vault.example:8200/transit/keys/k"),
            (&root(), "transit://vault.example:8200"),
            (&root(), "transit://vault.example:8200/transit"),
            (&root(), "transit://vault.example:8200/transit/keys"),
            (&root(), "transit://vault.example:8200/transit/keys/"),
            (&root(), "transit://vault.example:8200//keys/k"),
            (&root(), "transit://vault.example:8200/keys/k"),
            (&root(), "transit://vault.example:8200/transit//keys/k"),
            (&root(), "transit://vault.example:8200/transit/keys/k/"),
            (&root(), "transit://vault.example:8200/transit/keys/k/0"),
            (&root(), "transit://vault.example:8200/transit/keys/k/01"),
            (&root(), "transit://vault.example:8200/transit/keys/k/+1"),
            (&root(), "transit://vault.example:8200/transit/keys/k/-1"),
            (&root(), "transit://vault.example:8200/transit/keys/k/2147483648"),
            (&root(), "transit://vault.example:8200/transit/keys/k/1/2"),
            (&root(), "transit://vault.example:8200/transit/keys/.."),
            (&root(), "transit://vault.example:8200/../sys/keys/k"),
            (&root(), "transit://vault.example:8200/transit/keys/%6b"),
            (&root(), "transit://vault.example:8200/transit/keys/k?list=true"),
            (&root(), "transit://vault.example:8200/transit/keys/k#1"),
            (&other, "transit://vault.example:8200/transit/keys/k"),
            (&other, "transit://vault.example:8200/org/transit/keys/k"),
            (&other, "transit://vault.example:8200/org/team2/transit/keys/k"),
            (&other, "transit://vault.example:8200/org/team/keys/k"),
        ] {
            let refused = place.parse(&id(text)).expect_err(text);
            assert_eq!(refused.kind(), VaultErrorKind::Other, "{text}");
        }
    }

    #[test]
    fn names_that_no_id_can_hold_are_refused_in_settings() {
        assert!(
            Place::new("", "").is_err() && Place::new("a/b", "").is_err() && Place::new("a b", "").is_err()
        );
        assert!(Place::new("[::1]:8200", "").is_ok());
        for bad in ["/", "a/", "/a", "a//b", "a b", "..", "a/../b", "\u{e9}"] {
            assert!(Place::new("v", bad).is_err(), "{bad}");
            assert!(root().key_id(bad, "k", None).is_err(), "{bad}");
            assert!(root().key_id("transit", bad, None).is_err(), "{bad}");
        }
    }
}
