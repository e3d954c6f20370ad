//! An RSA key pair as the numbers that a JSON Web Key (RFC 7518, 6.3.2) has: what a vault is given to import.

use pkcs1::{RsaPrivateKeyRef, UintRef};
use spki::der::{Encode, Header, Tag};
use zeroize::Zeroizing;

use super::{RsaError, public::RSA_ENCRYPTION};

/// The numbers of a key pair, big-endian. Borrowed: whoever has them wipes them.
pub struct RsaComponents<'a> {
    /// The modulus.
    pub n: &'a [u8],
    /// The public exponent.
    pub e: &'a [u8],
    /// The private exponent.
    pub d: &'a [u8],
    /// The first prime.
    pub p: &'a [u8],
    /// The second prime.
    pub q: &'a [u8],
    /// `d` modulo `p - 1`.
    pub dp: &'a [u8],
    /// `d` modulo `q - 1`.
    pub dq: &'a [u8],
    /// The inverse of `q` modulo `p`.
    pub qi: &'a [u8],
}

impl std::fmt::Debug for RsaComponents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RsaComponents(..)")
    }
}

impl RsaComponents<'_> {
    /// The key pair as PKCS#8 (RFC 5958, version 1, DER). Whether the numbers belong together is not looked at.
    pub(super) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, RsaError> {
        let bad = |_| RsaError::PrivateKey;
        let uint = |bytes| UintRef::new(bytes).map_err(bad);
        let key = RsaPrivateKeyRef {
            modulus: uint(self.n)?,
            public_exponent: uint(self.e)?,
            private_exponent: uint(self.d)?,
            prime1: uint(self.p)?,
            prime2: uint(self.q)?,
            exponent1: uint(self.dp)?,
            exponent2: uint(self.dq)?,
            coefficient: uint(self.qi)?,
            other_prime_infos: None,
        };
        let len = |bytes: usize| spki::der::Length::try_from(bytes).map_err(bad);
        let key = Zeroizing::new(key.to_der().map_err(bad)?);
        let version = 0u8.to_der().map_err(bad)?;
        let algorithm = RSA_ENCRYPTION.to_der().map_err(bad)?;
        let octets = Header::new(Tag::OctetString, len(key.len())?).to_der().map_err(bad)?;
        let body = version.len() + algorithm.len() + octets.len() + key.len();
        let sequence = Header::new(Tag::Sequence, len(body)?).to_der().map_err(bad)?;
        // With room for all of it, so that no copy is left behind when it grows.
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(sequence.len() + body));
        for part in [&sequence, &version, &algorithm, &octets, &*key] {
            pkcs8.extend_from_slice(part);
        }
        Ok(pkcs8)
    }
}
