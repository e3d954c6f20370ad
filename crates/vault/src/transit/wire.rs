//! What the Transit engine is sent and answers, and what of it a KEK may be.
//!
//! Guarantees: a wrapped key has one form, which is checked before it is sent; an AEK passes in buffers that are wiped.

use cofferdam_crypto::{Aek, KeyId, KeyScope};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Secret, credential::parse, http::Answer};
use crate::{KeyKind, KeyProperties, KeyState, VaultError, VaultErrorKind as Kind};

/// The type of key that wraps AEKs.
const KEY_TYPE: &str = "aes256-gcm96";

/// Nonce, AEK and tag.
const SEALED_LEN: usize = 12 + Aek::LEN + 16;

/// What a wrap is bound to, in base64: `cofferdam/1 ACCOUNT/EPOCH/PROVIDER` (docs/vault-transit.md).
pub(super) fn aad(scope: &KeyScope) -> String {
    let KeyScope { account, epoch, provider } = scope;
    BASE64.encode(format!("cofferdam/1 {account}/{epoch}/{provider}").as_bytes())
}

#[derive(Serialize)]
pub(super) struct Encrypt<'a> {
    pub(super) plaintext: &'a str,
    pub(super) associated_data: &'a str,
    pub(super) key_version: u32,
}

#[derive(Deserialize)]
pub(super) struct Encrypted {
    pub(super) data: Ciphertext,
}

#[derive(Deserialize)]
pub(super) struct Ciphertext {
    pub(super) ciphertext: String,
}

#[derive(Serialize)]
pub(super) struct Decrypt<'a> {
    pub(super) ciphertext: &'a str,
    pub(super) associated_data: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Decrypted {
    data: PlaintextAnswer,
}

#[derive(Deserialize)]
struct PlaintextAnswer {
    plaintext: Secret,
}

impl Decrypted {
    /// The AEK that was unwrapped.
    pub(super) fn aek(&self) -> Result<Aek, VaultError> {
        let corrupt = || {
            let message = "what the vault unwrapped is no AEK: restore the account's record";
            VaultError::new(Kind::Corrupt, message)
        };
        let text = self.data.plaintext.expose().as_bytes();
        // One more than an AEK: its last group of base64 could hold so many.
        let mut bytes = Zeroizing::new([0; Aek::LEN + 1]);
        if BASE64.decode_len(text.len()) != Ok(bytes.len()) {
            return Err(corrupt());
        }
        match BASE64.decode_mut(text, &mut *bytes) {
            Ok(Aek::LEN) => Aek::try_from_fn(|key| {
                key.copy_from_slice(&bytes[..Aek::LEN]);
                Ok(())
            }),
            _ => Err(corrupt()),
        }
    }
}

/// An AEK in base64, wiped on drop.
pub(super) struct Plaintext(Zeroizing<String>);

impl Plaintext {
    pub(super) fn of(aek: &Aek) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(BASE64.encode_len(Aek::LEN)));
        BASE64.encode_append(aek.expose(), &mut text);
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A wrapped key, `vault:vVERSION:BASE64`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sealed<'a> {
    pub(super) text: &'a str,
    pub(super) version: u32,
}

impl<'a> Sealed<'a> {
    /// The one spelling that the engine gives. It takes others too, such as `v01` for `v1`.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let (version, sealed) = text.strip_prefix("vault:v")?.split_once(':')?;
        let version = super::place::parse_version(version)?;
        let mut raw = [0; SEALED_LEN];
        let fits = BASE64.decode_len(sealed.len()) == Ok(SEALED_LEN);
        (fits && BASE64.decode_mut(sealed.as_bytes(), &mut raw) == Ok(SEALED_LEN))
            .then_some(Self { text, version })
    }
}

/// What the engine says of a key.
#[derive(Debug, Deserialize)]
pub(super) struct Key {
    #[serde(rename = "type")]
    key_type: String,
    pub(super) latest_version: u32,
    #[serde(default)]
    min_available_version: u32,
    #[serde(default)]
    min_decryption_version: u32,
    #[serde(default)]
    min_encryption_version: u32,
    #[serde(default)]
    derived: bool,
    #[serde(default)]
    convergent_encryption: bool,
    deletion_allowed: bool,
    #[serde(default)]
    exportable: bool,
    #[serde(default)]
    allow_plaintext_backup: bool,
    /// Only where the engine has soft delete.
    soft_deleted: Option<bool>,
}

#[derive(Deserialize)]
struct KeyAnswer {
    data: Key,
}

impl Key {
    pub(super) fn read(answer: &Answer, token: &Secret) -> Result<Self, VaultError> {
        parse::<KeyAnswer>(answer, &[token.expose()]).map(|answer| answer.data)
    }

    pub(super) fn check_kind(&self) -> Result<(), VaultError> {
        let why = if self.key_type != KEY_TYPE {
            format!("the key is of type {:?}", self.key_type)
        } else if self.derived || self.convergent_encryption {
            "the key is a derived or convergent one".into()
        } else {
            return Ok(());
        };
        Err(VaultError::new(Kind::Other, format!("{why}: use one of type {KEY_TYPE} that is neither")))
    }

    /// The version that is meant, if there is one.
    pub(super) fn version(&self, named: Option<u32>) -> Result<u32, VaultError> {
        let version = named.unwrap_or(self.latest_version);
        if version > self.latest_version || version < self.min_available_version || version == 0 {
            let message = format!(
                "the key has no such version, it has {} to {}: name one of those",
                self.min_available_version.max(1),
                self.latest_version
            );
            return Err(VaultError::new(Kind::KeyNotFound, message));
        }
        Ok(version)
    }

    /// The version that is meant, if it wraps now.
    pub(super) fn version_for_wrap(&self, named: Option<u32>) -> Result<u32, VaultError> {
        let version = self.version(named)?;
        match self.state(version) {
            KeyState::Enabled if version >= self.min_encryption_version => Ok(version),
            KeyState::Enabled => {
                let message = "the version is below the key's min_encryption_version: name a later one";
                Err(VaultError::new(Kind::KeyDisabled, message))
            }
            KeyState::Deleted => {
                Err(VaultError::new(Kind::KeyNotFound, "the key is soft-deleted: restore it"))
            }
            _ => {
                let message = "the version is below the key's min_decryption_version: lower that";
                Err(VaultError::new(Kind::KeyDisabled, message))
            }
        }
    }

    fn state(&self, version: u32) -> KeyState {
        if self.soft_deleted == Some(true) {
            KeyState::Deleted
        } else if version < self.min_decryption_version {
            KeyState::Disabled
        } else {
            KeyState::Enabled
        }
    }

    /// The properties of a version.
    pub(super) fn properties(&self, key_id: KeyId, latest: KeyId, version: u32) -> KeyProperties {
        let mut properties = KeyProperties::new(key_id, latest, KeyKind::Transit);
        properties.state = self.state(version);
        // Where the engine refuses every deletion, there is none to undo.
        properties.soft_delete = self.soft_deleted.is_some() || !self.deletion_allowed;
        properties.purge_protection = !self.deletion_allowed;
        properties.exportable = self.exportable || self.allow_plaintext_backup;
        properties
    }
}
