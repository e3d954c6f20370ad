//! The bodies of the Key Vault keys REST API, as it is published (api-version 7.4 to 2025-07-01).
//!
//! Guarantees: a request with a field that this server does not know is refused, as it may ask for something that it
//! does not do; bytes are base64url without padding; what may be a key is wiped; times are whole seconds since the Unix
//! epoch. `tests/serve/published_api.rs` holds the answers to the published examples.

use std::{collections::BTreeMap, fmt, time::Duration};

use data_encoding::{BASE64URL_NOPAD, Encoding};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};
use zeroize::Zeroizing;

use super::backend::{StoredKey, StoredVersion};
use crate::{KeyKind, KeyOperation, Recovery};

/// Bytes that may be a key: base64url, wiped.
pub(super) struct Secret(pub(super) Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64url")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                // Some clients pad.
                let text = text.trim_end_matches('=').as_bytes();
                let encoding: &Encoding = &BASE64URL_NOPAD;
                let len = encoding.decode_len(text.len()).map_err(|_| E::custom("not base64url"))?;
                let mut bytes = Zeroizing::new(vec![0; len]);
                let len = encoding.decode_mut(text, &mut bytes).map_err(|_| E::custom("not base64url"))?;
                bytes.truncate(len);
                Ok(Secret(bytes))
            }
        }
        d.deserialize_str(Text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Bytes that are written as base64url.
pub(super) struct Base64<'a>(pub(super) &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(BASE64URL_NOPAD.encode(self.0)))
    }
}

/// `attributes` of a request. What only the service may say is taken and left alone, as it does.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttributesIn {
    pub(super) enabled: Option<bool>,
    pub(super) nbf: Option<u64>,
    pub(super) exp: Option<u64>,
    pub(super) exportable: Option<bool>,
    #[serde(rename = "created")]
    _created: Option<u64>,
    #[serde(rename = "updated")]
    _updated: Option<u64>,
    #[serde(rename = "recoveryLevel")]
    _recovery_level: Option<String>,
    #[serde(rename = "recoverableDays")]
    _recoverable_days: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateIn {
    pub(super) kty: String,
    pub(super) key_size: Option<u32>,
    pub(super) key_ops: Option<Vec<KeyOperation>>,
    pub(super) attributes: Option<AttributesIn>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) crv: Option<String>,
    pub(super) public_exponent: Option<u64>,
    pub(super) release_policy: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportIn {
    #[serde(rename = "Hsm", alias = "hsm")]
    pub(super) hsm: Option<bool>,
    pub(super) key: KeyIn,
    pub(super) attributes: Option<AttributesIn>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) release_policy: Option<serde::de::IgnoredAny>,
}

/// A JSON Web Key that is brought.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyIn {
    #[serde(rename = "kid")]
    _kid: Option<String>,
    pub(super) kty: String,
    pub(super) key_ops: Option<Vec<KeyOperation>>,
    pub(super) n: Option<Secret>,
    pub(super) e: Option<Secret>,
    pub(super) d: Option<Secret>,
    pub(super) p: Option<Secret>,
    pub(super) q: Option<Secret>,
    pub(super) dp: Option<Secret>,
    pub(super) dq: Option<Secret>,
    pub(super) qi: Option<Secret>,
    pub(super) k: Option<Secret>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateIn {
    pub(super) key_ops: Option<Vec<KeyOperation>>,
    pub(super) attributes: Option<AttributesIn>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) release_policy: Option<serde::de::IgnoredAny>,
}

/// What is to be wrapped or unwrapped.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperationIn {
    pub(super) alg: String,
    pub(super) value: Secret,
    pub(super) iv: Option<serde::de::IgnoredAny>,
    pub(super) aad: Option<serde::de::IgnoredAny>,
    pub(super) tag: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize)]
pub(super) struct OperationOut<'a> {
    pub(super) kid: String,
    pub(super) value: Base64<'a>,
}

#[derive(Serialize)]
pub(super) struct AttributesOut {
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    created: u64,
    updated: u64,
    #[serde(rename = "recoveryLevel")]
    recovery_level: &'static str,
    #[serde(rename = "recoverableDays")]
    recoverable_days: u64,
}

#[derive(Serialize)]
pub(super) struct KeyOut {
    kid: String,
    kty: &'static str,
    key_ops: Vec<KeyOperation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
}

/// A key with one version: `KeyBundle`, and `DeletedKeyBundle` where it is deleted.
#[derive(Serialize)]
pub(super) struct BundleOut {
    #[serde(flatten)]
    deleted: Option<DeletedOut>,
    key: KeyOut,
    attributes: AttributesOut,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

/// A key or version in a list: `KeyItem`, and `DeletedKeyItem`.
#[derive(Serialize)]
pub(super) struct ItemOut {
    #[serde(flatten)]
    deleted: Option<DeletedOut>,
    kid: String,
    attributes: AttributesOut,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct DeletedOut {
    #[serde(rename = "recoveryId")]
    recovery_id: String,
    #[serde(rename = "deletedDate")]
    deleted_date: u64,
    #[serde(rename = "scheduledPurgeDate")]
    scheduled_purge_date: u64,
}

#[derive(Serialize)]
pub(super) struct ListOut {
    pub(super) value: Vec<ItemOut>,
    #[serde(rename = "nextLink")]
    pub(super) next_link: Option<String>,
}

/// Writes keys as a vault at this URL has them.
pub(super) struct Writer<'a> {
    pub(super) url: &'a str,
}

impl Writer<'_> {
    pub(super) fn kid(&self, name: &str, version: &str) -> String {
        format!("{}/keys/{name}/{version}", self.url)
    }

    pub(super) fn bundle(&self, key: &StoredKey, version: &StoredVersion) -> BundleOut {
        let (n, e) = match version.public.as_ref().and_then(|public| public.components().ok()) {
            Some((n, e)) => (Some(BASE64URL_NOPAD.encode(&n)), Some(BASE64URL_NOPAD.encode(&e))),
            None => (None, None),
        };
        let kty = match (key.kind, version.details.hsm) {
            (KeyKind::Rsa(_), false) => "RSA",
            (KeyKind::Rsa(_), true) => "RSA-HSM",
            _ => "oct-HSM",
        };
        let key_ops = version.details.operations.clone();
        BundleOut {
            deleted: self.deleted(key),
            key: KeyOut { kid: self.kid(&key.name, &version.version), kty, key_ops, n, e },
            attributes: attributes(key, version),
            tags: version.details.tags.clone(),
        }
    }

    /// A key in a list of keys, by its latest version.
    pub(super) fn key(&self, key: &StoredKey, latest: &StoredVersion) -> ItemOut {
        let kid = format!("{}/keys/{}", self.url, key.name);
        ItemOut { kid, ..self.version(key, latest) }
    }

    /// A version in a list of versions.
    pub(super) fn version(&self, key: &StoredKey, version: &StoredVersion) -> ItemOut {
        ItemOut {
            deleted: self.deleted(key),
            kid: self.kid(&key.name, &version.version),
            attributes: attributes(key, version),
            tags: version.details.tags.clone(),
        }
    }

    fn deleted(&self, key: &StoredKey) -> Option<DeletedOut> {
        let at = key.deleted()?;
        Some(DeletedOut {
            recovery_id: format!("{}/deletedkeys/{}", self.url, key.name),
            deleted_date: at.as_secs(),
            scheduled_purge_date: at.saturating_add(window(key.recovery)).as_secs(),
        })
    }
}

fn attributes(key: &StoredKey, version: &StoredVersion) -> AttributesOut {
    let days = window(key.recovery).as_secs() / DAY;
    AttributesOut {
        enabled: version.enabled,
        nbf: version.not_before.map(|at| at.as_secs()),
        exp: version.expires.map(|at| at.as_secs()),
        created: version.created.as_secs(),
        updated: version.details.updated.as_secs(),
        recovery_level: recovery_level(key.recovery),
        recoverable_days: days,
    }
}

const DAY: u64 = 24 * 60 * 60;

/// How long a deleted key is kept. Without purge protection the store keeps it until somebody purges it.
fn window(recovery: Recovery) -> Duration {
    match recovery {
        Recovery::Protected { window } => window,
        Recovery::Purgeable => Recovery::DEFAULT_WINDOW,
        Recovery::Off => Duration::ZERO,
    }
}

/// Key Vault's `DeletionRecoveryLevel`.
fn recovery_level(recovery: Recovery) -> &'static str {
    match recovery {
        Recovery::Protected { window } if window < Recovery::DEFAULT_WINDOW => "CustomizedRecoverable",
        Recovery::Protected { .. } => "Recoverable",
        Recovery::Purgeable => "Recoverable+Purgeable",
        Recovery::Off => "Purgeable",
    }
}
