//! What a local vault's file says: its records as JSON.
//!
//! Guarantees: a document that [`Document::check`] accepts has no two keys or versions of one name and no name that
//! a key id can't hold. Not its job: authentication (`file`), what a state means (`keys`).

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use cofferdam_crypto::{kw::Kek, rsa::RsaPublicKey};
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
use crate::KeyKind;

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

/// What a key may be used for: the operations of a JSON Web Key that Key Vault knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum KeyOperation {
    /// Encrypt data.
    Encrypt,
    /// Decrypt data.
    Decrypt,
    /// Sign.
    Sign,
    /// Verify a signature.
    Verify,
    /// Wrap a key.
    WrapKey,
    /// Unwrap a key.
    UnwrapKey,
}

impl KeyOperation {
    /// What a key is for unless it is said otherwise, as Key Vault has it.
    pub fn defaults(kind: KeyKind) -> Vec<Self> {
        match kind {
            KeyKind::Rsa(_) => {
                vec![Self::Encrypt, Self::Decrypt, Self::Sign, Self::Verify, Self::WrapKey, Self::UnwrapKey]
            }
            _ => vec![Self::Encrypt, Self::Decrypt, Self::WrapKey, Self::UnwrapKey],
        }
    }
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) details: Option<DetailsRecord>,
    pub(super) key: KeyMaterial,
}

/// What is kept of a version that was made or changed by another vault's API.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetailsRecord {
    pub(super) updated_ms: Millis,
    pub(super) hsm: bool,
    pub(super) operations: Vec<KeyOperation>,
    pub(super) tags: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum KeyMaterial {
    Clear(ClearKek),
    Sealed { nonce: Hex<NONCE_LEN>, ciphertext: Hex<SEALED_LEN> },
    RsaClear { public: RsaPublicKey, pkcs8: ClearPkcs8 },
    RsaSealed { public: RsaPublicKey, nonce: Hex<NONCE_LEN>, ciphertext: HexVec },
}

impl DetailsRecord {
    /// About how many characters it is written as, at most: a character may be escaped by six.
    pub(super) fn written_len(&self) -> usize {
        let tags = self.tags.iter().map(|(name, value)| 6 * (name.len() + value.len()) + 64);
        512 + tags.sum::<usize>()
    }
}

impl KeyMaterial {
    pub(super) fn kind(&self) -> KeyKind {
        match self {
            Self::Clear(_) | Self::Sealed { .. } => KeyKind::Aes256,
            Self::RsaClear { public, .. } | Self::RsaSealed { public, .. } => KeyKind::Rsa(public.size()),
        }
    }

    /// About how many characters of hex it is written as, at most, beside what every key has.
    pub(super) fn hex_len(&self) -> usize {
        match self {
            Self::Clear(_) | Self::Sealed { .. } => 0,
            Self::RsaClear { public, pkcs8 } => 2 * (public.spki().len() + pkcs8.0.len()),
            Self::RsaSealed { public, ciphertext, .. } => 2 * (public.spki().len() + ciphertext.0.len()),
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed { .. } | Self::RsaSealed { .. })
    }
}

impl KeyRecord {
    /// All its versions are of one kind.
    pub(super) fn kind(&self) -> KeyKind {
        self.versions.first().map_or(KeyKind::Aes256, |version| version.key.kind())
    }
}

impl Document {
    pub(super) const FORMAT: &'static str = "cofferdam local vault";
    /// The latest that is read.
    pub(super) const VERSION: u32 = 3;
    /// What a vault without details is written as.
    const VERSION_WITHOUT_DETAILS: u32 = 2;
    /// What a vault without RSA keys either is written as, so that programs which know no other go on reading it.
    pub(super) const VERSION_WITHOUT_RSA: u32 = 1;

    /// The least version that can say all of this.
    pub(super) fn least_version(&self) -> u32 {
        let needs = |version: &VersionRecord| match (&version.details, version.key.kind()) {
            (Some(_), _) => Self::VERSION,
            (None, KeyKind::Aes256) => Self::VERSION_WITHOUT_RSA,
            (None, _) => Self::VERSION_WITHOUT_DETAILS,
        };
        let versions = self.keys.iter().flat_map(|key| &key.versions);
        versions.map(needs).max().unwrap_or(Self::VERSION_WITHOUT_RSA)
    }

    /// What an authenticated file can still have wrong: a defect, or the work of who knows the passphrase.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.format != Self::FORMAT || !(self.least_version()..=Self::VERSION).contains(&self.version) {
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
                if version.key.is_sealed() != protected {
                    return Err("a key is not protected as the vault says");
                }
                if version.key.kind() != key.kind() {
                    return Err("a key has versions of two kinds");
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

/// The most bytes of an RSA key: PKCS#8 of 4,096 bits has some 2,400.
const MAX_RSA_LEN: usize = 4096;

/// Bytes of an RSA key, sealed, as lower-case hex.
pub(super) struct HexVec(pub(super) Vec<u8>);

impl Serialize for HexVec {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexVec {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(HexToVec).map(|bytes| Self(bytes.to_vec()))
    }
}

/// An RSA KEK in the clear, as PKCS#8: of a vault without a passphrase.
pub(super) struct ClearPkcs8(pub(super) Zeroizing<Vec<u8>>);

impl Serialize for ClearPkcs8 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(HEXLOWER.encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for ClearPkcs8 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(HexToVec).map(Self)
    }
}

struct HexToVec;

impl Visitor<'_> for HexToVec {
    type Value = Zeroizing<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_RSA_LEN} bytes in hex")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let mut bytes = Zeroizing::new(vec![0; (text.len() / 2).min(MAX_RSA_LEN)]);
        decode_hex(text, &mut bytes).map_err(E::custom)?;
        Ok(bytes)
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
