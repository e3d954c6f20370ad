//! What there is of RSA without aws-lc: nothing that wraps or unwraps.

use zeroize::Zeroizing;

use super::{RsaError, RsaPublicKey, RsaSize};

/// There is none.
pub(super) enum Private {}

impl Private {
    pub(super) fn generate(_: RsaSize) -> Result<Self, RsaError> {
        Err(RsaError::NeedsAwsLc)
    }

    pub(super) fn from_pkcs8(_: &[u8]) -> Result<Self, RsaError> {
        Err(RsaError::NeedsAwsLc)
    }

    pub(super) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, RsaError> {
        match *self {}
    }

    pub(super) fn spki(&self) -> Result<Vec<u8>, RsaError> {
        match *self {}
    }

    pub(super) fn decrypt<'a>(&self, _: &[u8], _: &'a mut [u8]) -> Result<&'a [u8], RsaError> {
        match *self {}
    }
}

pub(super) fn wrap(_: &RsaPublicKey, _: &[u8]) -> Result<Vec<u8>, RsaError> {
    Err(RsaError::NeedsAwsLc)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{Aek, rsa::RsaKek};

    #[test]
    fn public_halves_are_read_and_nothing_is_wrapped() {
        // No product of two primes; without aws-lc nobody looks.
        let mut modulus = [0xff; 256];
        modulus[255] = 0x01;
        let public = RsaPublicKey::from_components(&modulus, &[1, 0, 1]).unwrap();
        assert_eq!(RsaPublicKey::from_spki(public.spki()).unwrap(), public);
        let aek = Aek::try_from_fn(|_| Ok::<_, Infallible>(())).unwrap();
        assert_eq!(public.wrap(&aek).unwrap_err(), RsaError::NeedsAwsLc);
        assert_eq!(RsaKek::generate(RsaSize::Rsa2048).unwrap_err(), RsaError::NeedsAwsLc);
        assert_eq!(RsaKek::from_pkcs8(&[]).unwrap_err(), RsaError::NeedsAwsLc);
    }
}
