//! RSA-OAEP of an AEK under an RSA KEK: SHA-256, MGF1 with SHA-256, no label (RFC 8017, 7.1), which Azure Key Vault
//! calls RSA-OAEP-256 and AWS KMS RSAES_OAEP_SHA_256.
//!
//! Guarantees: a public half is taken only as strict DER, of a size and exponent that every vault offers; only a
//! wrapped AEK's exact length reaches the private half, and what comes out is 32 bytes long or an error; private halves
//! and all that lies between are wiped. A public half proves nothing of who wrapped: who has it can wrap.
//!
//! Not its job: to store KEKs (a vault's), to tell one AEK from another
//! ([`WrappedAek::verify`](crate::WrappedAek::verify)), to believe a public half (who pins it).
//!
//! Keys and OAEP's seeds come from aws-lc's own generator (NIST SP 800-90A, seeded by the system), which nothing can
//! replace: no run with RSA repeats byte for byte. Without the feature `aws-lc` public halves are read and compared,
//! and everything else answers [`RsaError::NeedsAwsLc`].

#[cfg(feature = "aws-lc")]
mod aws_lc;
mod components;
#[cfg(all(test, feature = "aws-lc"))]
mod known_answers;
mod public;
#[cfg(not(feature = "aws-lc"))]
mod without;

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

#[cfg(feature = "aws-lc")]
use self::aws_lc as imp;
#[cfg(not(feature = "aws-lc"))]
use self::without as imp;
pub use self::{components::RsaComponents, public::RsaPublicKey};
use crate::{
    Aek,
    planted::{Bug, is_planted},
};

/// The sizes of RSA keys: those that Azure Key Vault, AWS KMS and Google Cloud KMS offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RsaSize {
    /// A modulus of 2,048 bits: about 112 bits of strength (NIST SP 800-57).
    Rsa2048,
    /// A modulus of 3,072 bits: about 128 bits of strength.
    Rsa3072,
    /// A modulus of 4,096 bits.
    Rsa4096,
}

impl RsaSize {
    /// Every one, the smallest first.
    pub const ALL: [Self; 3] = [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The size of a modulus of exactly so many bits.
    pub fn from_bits(bits: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.bits() == bits)
    }

    /// Bits of the modulus.
    pub const fn bits(self) -> usize {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }

    /// Bytes of the modulus, and of everything that is wrapped under it.
    pub const fn modulus_len(self) -> usize {
        self.bits() / 8
    }
}

/// An RSA key encryption key (KEK) with its private half, which never leaves its vault.
pub struct RsaKek {
    private: imp::Private,
    public: RsaPublicKey,
}

impl RsaKek {
    /// A new key. Takes as long as primes take to be found: about a tenth of a second for 2,048 bits, seconds at
    /// worst for 4,096.
    ///
    /// # Errors
    /// [`RsaError::NeedsAwsLc`], [`RsaError::Failed`].
    pub fn generate(size: RsaSize) -> Result<Self, RsaError> {
        Self::of(imp::Private::generate(size)?)
    }

    /// The key of this PKCS#8 document (RFC 5958, version 1, DER).
    ///
    /// # Errors
    /// [`RsaError::NeedsAwsLc`]; [`RsaError::PrivateKey`] when it is none or its parts contradict each other; those of
    /// [`RsaPublicKey::from_spki`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, RsaError> {
        Self::of(imp::Private::from_pkcs8(der)?)
    }

    /// The key of these numbers.
    ///
    /// # Errors
    /// As [`from_pkcs8`](Self::from_pkcs8).
    pub fn from_components(numbers: &RsaComponents<'_>) -> Result<Self, RsaError> {
        Self::from_pkcs8(&numbers.to_pkcs8()?)
    }

    fn of(private: imp::Private) -> Result<Self, RsaError> {
        let public = RsaPublicKey::from_spki(&private.spki()?)?;
        Ok(Self { private, public })
    }

    /// The key as PKCS#8, for the vault that keeps it and for nobody else.
    ///
    /// # Errors
    /// [`RsaError::Failed`] when there is no memory.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, RsaError> {
        self.private.to_pkcs8()
    }

    /// Its public half.
    pub fn public_key(&self) -> &RsaPublicKey {
        &self.public
    }

    /// Unwraps an AEK.
    ///
    /// # Errors
    /// [`RsaError::Length`] before the private half is used; [`RsaError::Refused`] when it was not wrapped for this KEK,
    /// or not so; [`RsaError::NotAnAek`] when what was wrapped has not an AEK's length.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<Aek, RsaError> {
        let mut room = Zeroizing::new(Vec::new());
        let key = self.decrypt(wrapped, &mut room)?;
        if key.len() != Aek::LEN {
            return Err(RsaError::NotAnAek { len: key.len() });
        }
        Aek::try_from_fn(|aek| {
            aek.copy_from_slice(key);
            Ok(())
        })
    }

    /// Unwraps a key of any kind: what a vault that others use is asked for.
    ///
    /// # Errors
    /// [`RsaError::Length`], [`RsaError::Refused`].
    pub fn unwrap_bytes(&self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, RsaError> {
        let mut room = Zeroizing::new(Vec::new());
        let len = self.decrypt(wrapped, &mut room)?.len();
        room.truncate(len);
        Ok(room)
    }

    /// What was wrapped, at the start of `room`.
    fn decrypt<'a>(&self, wrapped: &[u8], room: &'a mut Vec<u8>) -> Result<&'a [u8], RsaError> {
        let expected = self.public.modulus_len();
        let wrapped = match wrapped.len().checked_sub(expected) {
            // As who takes it for a number does.
            Some(longer) if is_planted(Bug::RsaLengthIgnored) => &wrapped[longer..],
            _ => wrapped,
        };
        if wrapped.len() != expected {
            return Err(RsaError::Length { len: wrapped.len(), expected });
        }
        *room = vec![0; expected];
        self.private.decrypt(wrapped, room)
    }
}

impl fmt::Debug for RsaKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaKek({:?})", self.public)
    }
}

/// Why something with an RSA key did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RsaError {
    /// The bytes are not a public half.
    #[error("this is not an RSA public key: give its SubjectPublicKeyInfo in DER")]
    PublicKey,
    /// The modulus has a size that is not taken.
    #[error("the RSA modulus has {bits} bits: use a key of 2048, 3072 or 4096")]
    ModulusBits {
        /// Its size in bits.
        bits: usize,
    },
    /// The modulus is even, so it is no product of two primes.
    #[error("the RSA modulus is even: this is no RSA key")]
    EvenModulus,
    /// The public exponent is even, below 65,537, or has more than 33 bits.
    #[error("the RSA public exponent is even, below 65537, or longer than 33 bits: use 65537")]
    Exponent,
    /// The bytes are not a private key.
    #[error("this is not an RSA private key in PKCS#8, or its parts contradict each other")]
    PrivateKey,
    /// It is not as long as something that is wrapped under this key.
    #[error("the wrapped key has {len} bytes: one that is wrapped under this RSA key has {expected}")]
    Length {
        /// Its length.
        len: usize,
        /// The modulus's length.
        expected: usize,
    },
    /// It is longer than what this key wraps.
    #[error("a key of {len} bytes was to be wrapped: OAEP under this RSA key takes {max} at most")]
    TooLong {
        /// Its length.
        len: usize,
        /// The most.
        max: usize,
    },
    /// It does not decrypt: it was wrapped for another key or otherwise, or it is damaged.
    #[error("the wrapped key was not wrapped for this RSA key by OAEP with SHA-256, or is damaged")]
    Refused,
    /// What was wrapped is not an AEK.
    #[error("what was wrapped has {len} bytes: an AEK has 32")]
    NotAnAek {
        /// Its length.
        len: usize,
    },
    /// This program was built without aws-lc.
    #[error("RSA keys need aws-lc: build with the feature aws-lc")]
    NeedsAwsLc,
    /// aws-lc failed.
    #[error("aws-lc could not {what}: there is no memory, or the key is not one")]
    Failed {
        /// What it was to do.
        what: &'static str,
    },
}
