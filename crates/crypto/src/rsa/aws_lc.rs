//! RSA by aws-lc.
//!
//! What it leaves in memory: aws-lc frees through `OPENSSL_free`, which wipes, so OAEP's encoded message, the big numbers
//! and the PKCS#8 that it builds are gone; the masks that stay on the stack are worth nothing without the message
//! they masked. `tests/wiped.rs` searches for what is not.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{
        KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
        OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
    },
};
use zeroize::Zeroizing;

use super::{RsaError, RsaPublicKey, RsaSize};
use crate::planted::{Bug, is_planted};

fn oaep() -> &'static OaepAlgorithm {
    if is_planted(Bug::OaepSha1) {
        return &OAEP_SHA1_MGF1SHA1;
    }
    &OAEP_SHA256_MGF1SHA256
}

pub(super) struct Private(PrivateDecryptingKey);

impl Private {
    pub(super) fn generate(size: RsaSize) -> Result<Self, RsaError> {
        let size = match size {
            RsaSize::Rsa2048 => KeySize::Rsa2048,
            RsaSize::Rsa3072 => KeySize::Rsa3072,
            RsaSize::Rsa4096 => KeySize::Rsa4096,
        };
        let failed = |_| RsaError::Failed { what: "generate an RSA key" };
        PrivateDecryptingKey::generate(size).map(Self).map_err(failed)
    }

    pub(super) fn from_pkcs8(der: &[u8]) -> Result<Self, RsaError> {
        PrivateDecryptingKey::from_pkcs8(der).map(Self).map_err(|_| RsaError::PrivateKey)
    }

    pub(super) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, RsaError> {
        let failed = |_| RsaError::Failed { what: "write an RSA key" };
        // Wipes itself.
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&self.0).map_err(failed)?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    pub(super) fn spki(&self) -> Result<Vec<u8>, RsaError> {
        let failed = |_| RsaError::Failed { what: "write an RSA public key" };
        let der = AsDer::<PublicKeyX509Der<'_>>::as_der(&self.0.public_key()).map_err(failed)?;
        Ok(der.as_ref().to_vec())
    }

    /// The plaintext, at the start of `room`, which has the modulus's length.
    pub(super) fn decrypt<'a>(&self, wrapped: &[u8], room: &'a mut [u8]) -> Result<&'a [u8], RsaError> {
        let failed = |_| RsaError::Failed { what: "set up an RSA key" };
        let key = OaepPrivateDecryptingKey::new(self.0.clone()).map_err(failed)?;
        match key.decrypt(oaep(), wrapped, room, None) {
            Ok(plaintext) => Ok(plaintext),
            Err(_) => Err(RsaError::Refused),
        }
    }
}

pub(super) fn wrap(public: &RsaPublicKey, plaintext: &[u8]) -> Result<Vec<u8>, RsaError> {
    let key = PublicEncryptingKey::from_der(public.spki()).map_err(|_| RsaError::PublicKey)?;
    let failed = |_| RsaError::Failed { what: "wrap a key under an RSA key" };
    let key = OaepPublicEncryptingKey::new(key).map_err(failed)?;
    let mut wrapped = vec![0; public.modulus_len()];
    let len = key.encrypt(oaep(), plaintext, &mut wrapped, None).map_err(failed)?.len();
    if len == wrapped.len() { Ok(wrapped) } else { Err(RsaError::Length { len, expected: wrapped.len() }) }
}
