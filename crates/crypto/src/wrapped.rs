//! AEKs as they are stored: wrapped by KEKs, with a key check value.
//!
//! Guarantees: what a vault unwraps is used only after [`WrappedAek::verify`] has found it to be the AEK of
//! that account, epoch and provider. Not its job: to wrap (a vault's), to authenticate the record (the
//! catalog's, by a [`RecordKey`](crate::RecordKey)).

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    Aek, KeyId, KeyScope,
    derive::{Prk, label},
};

/// How a KEK wrapped a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WrapAlgorithm {
    /// AES key wrap with a 256-bit KEK (RFC 3394): 40 bytes for an AEK.
    #[serde(rename = "A256KW")]
    Aes256Kw,
}

impl WrapAlgorithm {
    /// Whether a wrapped AEK can have this length, in bytes.
    pub const fn accepts_len(self, len: usize) -> bool {
        match self {
            Self::Aes256Kw => len == Aek::LEN + 8,
        }
    }
}

/// A wrapped key as its vault answered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The KEK, with its version.
    pub key_id: KeyId,
    /// How it was wrapped.
    pub algorithm: WrapAlgorithm,
    /// The wrapped key.
    #[serde(with = "hex")]
    pub bytes: Vec<u8>,
}

/// The length of a key check value, in bytes.
pub const CHECK_LEN: usize = 16;

/// Tells whether a key is the expected one, without telling anything of the key.
///
/// HKDF of the AEK, bound to account, epoch and provider. Not a secret.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyCheckValue(#[serde(with = "hex")] [u8; CHECK_LEN]);

impl KeyCheckValue {
    /// The check value of this AEK.
    pub fn derive(aek: &Aek, scope: &KeyScope) -> Self {
        let mut okm = Zeroizing::new([0; 32]);
        Prk::extract(label::AEK, scope, &[], aek).expand(b"V", &mut okm);
        let mut check = [0; CHECK_LEN];
        check.copy_from_slice(&okm[..CHECK_LEN]);
        Self(check)
    }
}

impl PartialEq for KeyCheckValue {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyCheckValue {}

impl fmt::Debug for KeyCheckValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyCheckValue({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// An AEK as it is stored: its scope, its check value and its wraps, one for each KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedAek {
    /// Which AEK it is.
    pub scope: KeyScope,
    /// What the unwrapped key must answer to.
    pub check: KeyCheckValue,
    /// The key under each KEK.
    pub wraps: Vec<WrappedKey>,
}

impl WrappedAek {
    /// The record of this AEK under these wraps.
    pub fn new(aek: &Aek, scope: KeyScope, wraps: Vec<WrappedKey>) -> Self {
        Self { scope, check: KeyCheckValue::derive(aek, &scope), wraps }
    }

    /// Whether an unwrapped key is this AEK.
    ///
    /// # Errors
    /// [`KeyMismatch`] when it isn't: a vault that answers with another key must not be obeyed.
    pub fn verify(&self, aek: &Aek) -> Result<(), KeyMismatch> {
        if KeyCheckValue::derive(aek, &self.scope) == self.check {
            Ok(())
        } else {
            Err(KeyMismatch { scope: self.scope })
        }
    }
}

/// A vault unwrapped something that is not the AEK it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the unwrapped key is not the AEK of {scope}: its check value differs")]
pub struct KeyMismatch {
    /// Which AEK was expected.
    pub scope: KeyScope,
}

/// Bytes as lower-case hex in a record.
mod hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(bytes.as_ref()))
    }

    pub(super) fn deserialize<'de, D, T>(d: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<Vec<u8>>,
    {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        let len = bytes.len();
        T::try_from(bytes).map_err(|_| D::Error::custom(format!("hex of {len} bytes has the wrong length")))
    }
}
