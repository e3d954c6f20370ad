//! How a local vault names its keys: `local://VAULT/keys/NAME` and `local://VAULT/keys/NAME/VERSION`.
//!
//! Guarantees: names are compared as bytes, and one key has one spelling.

use cofferdam_crypto::KeyId;

use super::LocalVaultError;

const SCHEME: &str = "local://";
const MAX_NAME: usize = 127;
/// Characters of a version: 16 random bytes in hex.
pub(super) const VERSION_LEN: usize = 32;

pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

pub(super) fn is_version(version: &str) -> bool {
    version.len() == VERSION_LEN && version.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), LocalVaultError> {
    if is_name(name) {
        Ok(())
    } else {
        Err(LocalVaultError::BadName { what, name: name.chars().take(MAX_NAME + 1).collect() })
    }
}

/// The parts of a key id of one vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPath {
    pub(super) name: String,
    /// None names the latest, or for changes every version.
    pub(super) version: Option<String>,
}

impl KeyPath {
    pub(super) fn parse(key_id: &KeyId, vault: &str) -> Result<Self, LocalVaultError> {
        let bad = |why| LocalVaultError::BadKeyId { key_id: key_id.clone(), vault: vault.into(), why };
        let rest = key_id.as_str().strip_prefix(SCHEME).ok_or_else(|| {
            bad("the ids of a local vault begin with local://; use the vault that this one belongs to")
        })?;
        let mut parts = rest.split('/');
        if parts.next() != Some(vault) {
            return Err(bad("it names another vault; use that one"));
        }
        const SHAPE: &str = "one looks like local://VAULT/keys/NAME or local://VAULT/keys/NAME/VERSION";
        let (Some("keys"), Some(name), version, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad(SHAPE));
        };
        if !is_name(name) {
            return Err(bad("a name has 1 to 127 letters, digits and hyphens"));
        }
        if version.is_some_and(|v| !is_version(v)) {
            return Err(bad("a version has 32 hex digits in lower case"));
        }
        Ok(Self { name: name.into(), version: version.map(Into::into) })
    }

    pub(super) fn key_id(vault: &str, name: &str, version: Option<&str>) -> Result<KeyId, LocalVaultError> {
        let uri = match version {
            None => format!("{SCHEME}{vault}/keys/{name}"),
            Some(version) => format!("{SCHEME}{vault}/keys/{name}/{version}"),
        };
        KeyId::new(uri).map_err(|_| LocalVaultError::BadName { what: "key", name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<KeyPath, LocalVaultError> {
        KeyPath::parse(&KeyId::new(uri).unwrap(), "acme")
    }

    #[test]
    fn ids_survive_the_way_to_text_and_back() {
        let version = "0123456789abcdef0123456789abcdef";
        for version in [None, Some(version)] {
            let path = KeyPath { name: "payroll-2".into(), version: version.map(Into::into) };
            let id = KeyPath::key_id("acme", "payroll-2", version).unwrap();
            assert_eq!(KeyPath::parse(&id, "acme").unwrap(), path);
        }
    }

    #[test]
    fn ids_of_other_vaults_and_shapes_are_refused() {
        for uri in [
            "https://acme/keys/k",
            "local://other/keys/k",
            "local://ACME/keys/k",
            "LOCAL://acme/keys/k",
            "local://acme",
            "local://acme/",
            "local://acme/keys",
            "local://acme/keys/",
            "local://acme/secrets/k",
            "local://acme/keys/k/",
            "local://acme/keys/k/1",
            "local://acme/keys/k/0123456789ABCDEF0123456789ABCDEF",
            "local://acme/keys/k/0123456789abcdef0123456789abcdef/",
            "local://acme/keys/k_1",
            "local://acme/keys/../k",
            "local://acme/keys/%6b",
        ] {
            assert!(matches!(parse(uri), Err(LocalVaultError::BadKeyId { .. })), "{uri}");
        }
    }

    #[test]
    fn names_keep_to_their_bounds() {
        assert!(check_name("key", &"k".repeat(127)).is_ok());
        for bad in ["", " ", "k.1", "k/1", "k\u{e9}y", &"k".repeat(128)] {
            assert!(matches!(check_name("key", bad), Err(LocalVaultError::BadName { .. })), "{bad}");
        }
    }
}
