//! What there is of RSA without aws-lc: nothing that wraps or unwraps.

use zeroize::Zeroizing;

use super::{RsaError, RsaPublicKey, RsaSize};
use crate::Aek;

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

pub(super) fn wrap(_: &RsaPublicKey, _: &Aek) -> Result<Vec<u8>, RsaError> {
    Err(RsaError::NeedsAwsLc)
}
