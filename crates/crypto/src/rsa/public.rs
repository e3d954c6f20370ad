//! The public half of an RSA KEK.

use std::fmt;

use data_encoding::HEXLOWER;
use pkcs1::{RsaPublicKeyRef, UintRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest, Sha256};
use spki::{
    AlgorithmIdentifierRef, SubjectPublicKeyInfoRef,
    der::{Decode, Encode, asn1::AnyRef, asn1::BitStringRef},
};

use super::{RsaError, RsaSize, imp};
use crate::{Aek, wrapped::hex};

/// The least public exponent (FIPS 186-5, A.1.1).
const MIN_EXPONENT: u64 = 65_537;
/// The most bits of one: what aws-lc takes.
const MAX_EXPONENT_BITS: u32 = 33;

/// The public half of an RSA KEK: whoever has it can wrap, nobody can unwrap.
///
/// Kept as its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7; RFC 3279, 2.3.1) in DER, of which there is one spelling only: two
/// are the same key exactly if they are equal. In a record it is that, in lower-case hex.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RsaPublicKey {
    spki: Box<[u8]>,
    size: RsaSize,
}

impl RsaPublicKey {
    /// The key of this SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`RsaError::PublicKey`] when it is none, not DER, or has more behind it; [`RsaError::ModulusBits`],
    /// [`RsaError::EvenModulus`], [`RsaError::Exponent`].
    pub fn from_spki(der: &[u8]) -> Result<Self, RsaError> {
        let bad = |_| RsaError::PublicKey;
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(bad)?;
        if info.algorithm != RSA_ENCRYPTION {
            return Err(RsaError::PublicKey);
        }
        let bits = info.subject_public_key.as_bytes().ok_or(RsaError::PublicKey)?;
        let size = check(&RsaPublicKeyRef::from_der(bits).map_err(bad)?)?;
        Ok(Self { spki: der.into(), size })
    }

    /// The key of this modulus and exponent, big-endian, as a JSON Web Key (RFC 7518, 6.3.1) or PKCS#11 has them.
    ///
    /// # Errors
    /// [`RsaError::ModulusBits`], [`RsaError::EvenModulus`], [`RsaError::Exponent`]; [`RsaError::PublicKey`] when one
    /// of them is longer than DER takes.
    pub fn from_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, RsaError> {
        let bad = |_| RsaError::PublicKey;
        let key = RsaPublicKeyRef {
            modulus: UintRef::new(modulus).map_err(bad)?,
            public_exponent: UintRef::new(exponent).map_err(bad)?,
        };
        let size = check(&key)?;
        let bits = key.to_der().map_err(bad)?;
        let subject_public_key = BitStringRef::from_bytes(&bits).map_err(bad)?;
        let info = SubjectPublicKeyInfoRef { algorithm: RSA_ENCRYPTION, subject_public_key };
        Ok(Self { spki: info.to_der().map_err(bad)?.into(), size })
    }

    /// Its SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Its size.
    pub fn size(&self) -> RsaSize {
        self.size
    }

    /// Bits of its modulus.
    pub fn bits(&self) -> usize {
        self.size.bits()
    }

    /// Bytes of its modulus, and of everything that is wrapped under it.
    pub fn modulus_len(&self) -> usize {
        self.size.modulus_len()
    }

    /// SHA-256 of its SubjectPublicKeyInfo: what people compare.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    /// Wraps an AEK: as long as the modulus, and other bytes each time.
    ///
    /// # Errors
    /// [`RsaError::NeedsAwsLc`], [`RsaError::Failed`].
    pub fn wrap(&self, aek: &Aek) -> Result<Vec<u8>, RsaError> {
        imp::wrap(self, aek.expose())
    }

    /// Wraps a key of any kind: what a vault that others use is asked for. As long as the modulus, and other bytes
    /// each time.
    ///
    /// # Errors
    /// [`RsaError::TooLong`] above [`max_wrapped_len`](Self::max_wrapped_len) bytes; those of [`wrap`](Self::wrap).
    pub fn wrap_bytes(&self, key: &[u8]) -> Result<Vec<u8>, RsaError> {
        let max = self.max_wrapped_len();
        if key.len() > max {
            return Err(RsaError::TooLong { len: key.len(), max });
        }
        imp::wrap(self, key)
    }

    /// The most bytes that OAEP takes under this key (RFC 8017, 7.1.1): the modulus without two hashes and two bytes.
    pub fn max_wrapped_len(&self) -> usize {
        self.modulus_len() - 2 * 32 - 2
    }

    /// Its modulus and its public exponent, big-endian without leading zeros, as a JSON Web Key has them.
    ///
    /// # Errors
    /// None but by a defect: [`RsaError::PublicKey`].
    pub fn components(&self) -> Result<(Vec<u8>, Vec<u8>), RsaError> {
        let bad = |_| RsaError::PublicKey;
        let info = SubjectPublicKeyInfoRef::from_der(&self.spki).map_err(bad)?;
        let bits = info.subject_public_key.as_bytes().ok_or(RsaError::PublicKey)?;
        let key = RsaPublicKeyRef::from_der(bits).map_err(bad)?;
        Ok((key.modulus.as_bytes().to_vec(), key.public_exponent.as_bytes().to_vec()))
    }
}

pub(super) const RSA_ENCRYPTION: AlgorithmIdentifierRef<'static> =
    AlgorithmIdentifierRef { oid: pkcs1::ALGORITHM_OID, parameters: Some(AnyRef::NULL) };

fn check(key: &RsaPublicKeyRef<'_>) -> Result<RsaSize, RsaError> {
    let modulus = key.modulus.as_bytes();
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    let size = RsaSize::from_bits(bits).ok_or(RsaError::ModulusBits { bits })?;
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return Err(RsaError::EvenModulus);
    }
    let exponent = key.public_exponent.as_bytes();
    let mut number = [0; 8];
    let room = number.len().checked_sub(exponent.len()).ok_or(RsaError::Exponent)?;
    number[room..].copy_from_slice(exponent);
    let exponent = u64::from_be_bytes(number);
    if exponent.is_multiple_of(2) || exponent < MIN_EXPONENT || exponent >> MAX_EXPONENT_BITS != 0 {
        return Err(RsaError::Exponent);
    }
    Ok(size)
}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = HEXLOWER.encode(&self.fingerprint());
        write!(f, "RsaPublicKey({} bits, sha256:{fingerprint})", self.bits())
    }
}

impl Serialize for RsaPublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        hex::serialize(&self.spki, s)
    }
}

impl<'de> Deserialize<'de> for RsaPublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spki: Vec<u8> = hex::deserialize(d)?;
        Self::from_spki(&spki).map_err(D::Error::custom)
    }
}
