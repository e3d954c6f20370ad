//! AES key wrap (RFC 3394) of an AEK under a 256-bit KEK.
//!
//! Guarantees: only a wrapped AEK's exact length reaches the cipher, and what comes out is 32 bytes long or an
//! error; keys are wiped on drop. Not its job: to store KEKs (a vault's), or to tell one AEK from another, which
//! a wrap does not say: [`WrappedAek::verify`](crate::WrappedAek::verify) does.

use std::fmt;

use aes::{
    Aes256,
    cipher::{KeyInit, consts::U32},
};
use aes_kw::AesKw;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::Aek;

/// The length of a wrapped AEK, in bytes.
pub const WRAPPED_LEN: usize = Aek::LEN + aes_kw::IV_LEN;

/// The least bytes of a key that [`Kek::wrap_bytes`] takes: RFC 3394 wraps two blocks of 8 bytes or more.
const MIN_BYTES: usize = 16;

/// The most bytes of a key that [`Kek::wrap_bytes`] takes.
pub const MAX_BYTES: usize = 4096;

/// A key encryption key (KEK): 256 random bits that never leave their vault.
pub struct Kek(Box<Zeroizing<[u8; Self::LEN]>>);

impl Kek {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// A key that `fill` writes: random bytes for a new key, or what a vault's file holds.
    ///
    /// The bytes are written where they stay, so no copy is left on the stack.
    ///
    /// # Errors
    /// What `fill` returns.
    pub fn try_from_fn<E>(fill: impl FnOnce(&mut [u8; Self::LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Box::new(Zeroizing::new([0; Self::LEN]));
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key, for the vault that keeps it and for nobody else.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Wraps an AEK. The same AEK under the same KEK gives the same bytes (RFC 3394, 2.2.1).
    pub fn wrap(&self, aek: &Aek) -> [u8; WRAPPED_LEN] {
        wiping_the_stack(|| self.cipher().wrap_fixed_key::<U32>(aek.expose().into()).into())
    }

    /// Unwraps an AEK (RFC 3394, 2.2.2).
    ///
    /// # Errors
    /// [`UnwrapError`] when `wrapped` has not [`WRAPPED_LEN`] bytes or was not wrapped by this KEK.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<Aek, UnwrapError> {
        // Before the cipher: aes-kw 0.3.1 unwraps two short constant inputs to an empty key under any KEK.
        if wrapped.len() != WRAPPED_LEN {
            return Err(UnwrapError::Length { len: wrapped.len() });
        }
        Aek::try_from_fn(|aek| {
            wiping_the_stack(|| match self.cipher().unwrap_key(wrapped, aek) {
                Ok(_) => Ok(()),
                Err(_) => Err(UnwrapError::Refused),
            })
        })
    }

    /// Wraps a key of any kind: what a vault that others use is asked for. 8 bytes longer, and the same bytes each time.
    ///
    /// # Errors
    /// [`UnwrapError::Length`] unless it has 16 to [`MAX_BYTES`] bytes, a multiple of 8.
    pub fn wrap_bytes(&self, key: &[u8]) -> Result<Vec<u8>, UnwrapError> {
        check_len(key.len())?;
        let mut wrapped = vec![0; key.len() + aes_kw::IV_LEN];
        wiping_the_stack(|| match self.cipher().wrap_key(key, &mut wrapped) {
            Ok(_) => Ok(()),
            Err(_) => Err(UnwrapError::Length { len: key.len() }),
        })?;
        Ok(wrapped)
    }

    /// Unwraps a key of any kind.
    ///
    /// # Errors
    /// [`UnwrapError::Length`] when it is not as long as one, before the cipher; [`UnwrapError::Refused`].
    pub fn unwrap_bytes(&self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        let len = wrapped.len().saturating_sub(aes_kw::IV_LEN);
        check_len(len).map_err(|_| UnwrapError::Length { len: wrapped.len() })?;
        let mut key = Zeroizing::new(vec![0; len]);
        wiping_the_stack(|| match self.cipher().unwrap_key(wrapped, &mut key) {
            Ok(_) => Ok(()),
            Err(_) => Err(UnwrapError::Refused),
        })?;
        Ok(key)
    }

    fn cipher(&self) -> AesKw<Aes256> {
        AesKw::new(self.expose().into())
    }
}

fn check_len(len: usize) -> Result<(), UnwrapError> {
    let fits = (MIN_BYTES..=MAX_BYTES).contains(&len) && len.is_multiple_of(aes_kw::IV_LEN);
    if fits { Ok(()) } else { Err(UnwrapError::Length { len }) }
}

/// Runs `f`, then wipes what it left on the stack: the key schedule is a value there, and each move of it leaves a
/// copy that no drop wipes.
fn wiping_the_stack<T>(f: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn apart<T>(f: impl FnOnce() -> T) -> T {
        f()
    }
    let done = apart(f);
    zeroize::zeroize_stack::<16_384>();
    done
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(..)")
    }
}

/// Why a wrapped AEK did not unwrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnwrapError {
    /// It has not the length that it must have.
    #[error(
        "it has {len} bytes: a wrapped AEK has {WRAPPED_LEN}, other keys 16 to {MAX_BYTES} in steps of 8"
    )]
    Length {
        /// Its length.
        len: usize,
    },
    /// Its integrity check failed: another KEK wrapped it, or it is damaged.
    #[error("the wrapped key was not wrapped by this KEK, or is damaged")]
    Refused,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn kek(bytes: &[u8]) -> Kek {
        Kek::try_from_fn(|k| {
            k.copy_from_slice(bytes);
            Ok::<_, Infallible>(())
        })
        .unwrap()
    }

    fn aek(bytes: &[u8]) -> Aek {
        Aek::try_from_fn(|k| {
            k.copy_from_slice(bytes);
            Ok::<_, Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn rfc_3394_vector_of_a_256_bit_key_wraps_and_unwraps() {
        // RFC 3394, 4.6.
        let kek = kek(&core::array::from_fn::<u8, 32, _>(|i| i as u8));
        let key = data_encoding::HEXUPPER
            .decode(b"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")
            .unwrap();
        let aek = aek(&key);
        let wrapped = kek.wrap(&aek);
        assert_eq!(
            data_encoding::HEXUPPER.encode(&wrapped),
            "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"
        );
        assert_eq!(kek.unwrap(&wrapped).unwrap().expose()[..], key);
    }

    #[test]
    fn every_other_length_is_refused_before_the_cipher() {
        let kek = kek(&[1; 32]);
        for len in (0..200).filter(|&l| l != WRAPPED_LEN) {
            assert_eq!(kek.unwrap(&vec![0xa6; len]).unwrap_err(), UnwrapError::Length { len });
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_kek_is_refused() {
        let wrapped = kek(&[1; 32]).wrap(&aek(&[2; 32]));
        assert_eq!(kek(&[3; 32]).unwrap(&wrapped).unwrap_err(), UnwrapError::Refused);
        for bit in 0..WRAPPED_LEN * 8 {
            let mut bad = wrapped;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(kek(&[1; 32]).unwrap(&bad).unwrap_err(), UnwrapError::Refused, "bit {bit}");
        }
    }

    #[test]
    fn keys_of_other_lengths_come_back_and_only_from_what_was_wrapped() {
        let kek = kek(&[1; 32]);
        for len in [16, 24, 32, 64, MAX_BYTES] {
            let key: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut wrapped = kek.wrap_bytes(&key).unwrap();
            assert_eq!(*kek.unwrap_bytes(&wrapped).unwrap(), key);
            wrapped[len / 2] ^= 1;
            assert_eq!(kek.unwrap_bytes(&wrapped).unwrap_err(), UnwrapError::Refused);
        }
        assert_eq!(kek.wrap_bytes(aek(&[2; 32]).expose()).unwrap(), kek.wrap(&aek(&[2; 32])));
        for len in [0, 8, 15, 17, MAX_BYTES + 8] {
            assert_eq!(kek.wrap_bytes(&vec![0; len]).unwrap_err(), UnwrapError::Length { len });
        }
        for len in [0, 8, 16, 23, 25, MAX_BYTES + 16] {
            assert_eq!(kek.unwrap_bytes(&vec![0xa6; len]).unwrap_err(), UnwrapError::Length { len });
        }
    }

    #[test]
    fn keks_print_no_byte() {
        assert_eq!(format!("{:?}", kek(&[0x41; 32])), "Kek(..)");
    }
}
