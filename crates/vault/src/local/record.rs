//! What a local vault's file says: its records as JSON.
//!
//! Guarantees: a document that [`Document::check`] accepts has no two keys or versions of one name and no name that
//! a key id can't hold. Not its job: authentication (`file`), what a state means (`keys`).

use std::{borrow::Cow, fmt, time::Duration};

use cofferdam_crypto::kw::Kek;
use data_encoding::HEXLOWER;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};
use zeroize::Zeroizing;

use super::{
    names,
    protect::{CHECK_LEN, NONCE_LEN, PassphraseCost, SALT_LEN, SEALED_LEN},
};

/// All of a vault but what authenticates it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) format: Cow<'static, str>,
    pub(super) version: u32,
    pub(super) vault: String,
    /// Grows by one with every change.
    pub(super) generation: u64,
    pub(super) protection: Protection,
    pub(super) offline: bool,
    pub(super) keys: Vec<KeyRecord>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Protection {
    None,
    Argon2id { cost: PassphraseCost, salt: Hex<SALT_LEN>, check: Hex<CHECK_LEN> },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRecord {
    pub(super) name: String,
    pub(super) recovery: RecoveryRecord,
    /// Oldest first.
    pub(super) versions: Vec<VersionRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum RecoveryRecord {
    Protected { window_ms: Millis },
    Purgeable,
    Off,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionRecord {
    pub(super) version: String,
    pub(super) created_ms: Millis,
    pub(super) enabled: bool,
    pub(super) not_before_ms: Option<Millis>,
    pub(super) expires_ms: Option<Millis>,
    pub(super) deleted_ms: Option<Millis>,
    pub(super) key: KeyMaterial,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum KeyMaterial {
    Clear(ClearKek),
    Sealed { nonce: Hex<NONCE_LEN>, ciphertext: Hex<SEALED_LEN> },
}

impl Document {
    pub(super) const FORMAT: &'static str = "cofferdam local vault";
    pub(super) const VERSION: u32 = 1;

    /// What an authenticated file can still have wrong: a defect, or the work of who knows the passphrase.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.format != Self::FORMAT || self.version != Self::VERSION {
            return Err("its head contradicts itself");
        }
        if !names::is_name(&self.vault) {
            return Err("its name is not one");
        }
        let protected = self.protection != Protection::None;
        let mut keys = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            if !names::is_name(&key.name) {
                return Err("a key's name is not one");
            }
            if key.versions.is_empty() {
                return Err("a key has no version");
            }
            let mut versions = Vec::with_capacity(key.versions.len());
            for version in &key.versions {
                if !names::is_version(&version.version) {
                    return Err("a version is not one");
                }
                if matches!(version.key, KeyMaterial::Sealed { .. }) != protected {
                    return Err("a key is not protected as the vault says");
                }
                versions.push(version.version.as_str());
            }
            if has_twins(versions) {
                return Err("a key has two versions of one name");
            }
            keys.push(key.name.as_str());
        }
        if has_twins(keys) { Err("it has two keys of one name") } else { Ok(()) }
    }
}

fn has_twins(mut names: Vec<&str>) -> bool {
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// Milliseconds, since the Unix epoch or of a window. Less than one is cut off, more than 64 bits hold is "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Millis(pub(super) u64);

impl From<Duration> for Millis {
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(Millis(ms): Millis) -> Self {
        Self::from_millis(ms)
    }
}

/// Bytes of a known length, as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut bytes = [0; N];
        d.deserialize_str(HexInto(&mut bytes))?;
        Ok(Self(bytes))
    }
}

/// Decodes hex to where it stays: serde's own strings would leave copies.
struct HexInto<'a>(&'a mut [u8]);

impl Visitor<'_> for HexInto<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in hex", self.0.len())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        decode_hex(text, self.0).map_err(E::custom)
    }
}

/// A KEK in the clear: of a vault without a passphrase.
pub(super) struct ClearKek(pub(super) Kek);

impl Serialize for ClearKek {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(HEXLOWER.encode(self.0.expose())))
    }
}

impl<'de> Deserialize<'de> for ClearKek {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Kek::try_from_fn(|key| d.deserialize_str(HexInto(key))).map(Self)
    }
}

/// The error says nothing of the text: it may be a key.
pub(super) fn decode_hex(text: &str, out: &mut [u8]) -> Result<(), &'static str> {
    match HEXLOWER.decode_len(text.len()) {
        Ok(len) if len == out.len() => {}
        _ => return Err("hex of the wrong length"),
    }
    HEXLOWER.decode_mut(text.as_bytes(), out).map(|_| ()).map_err(|_| "not lower-case hex")
}
