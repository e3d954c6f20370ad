//! AES-256-GCM (NIST SP 800-38D) by two implementations whose bytes are the same.
//!
//! Guarantees: both take 96-bit nonces and give 128-bit tags; both write only where they are told to, and
//! wipe their keys on drop. Not its job: nonces, and what a failed open may have left in its output: the
//! caller clears that.

use aes_gcm::{
    Aes256Gcm,
    aead::{AeadInOut, KeyInit, inout::InOutBuf},
};

use crate::TAG_LEN;

/// An implementation of AES-256-GCM: [`RustCrypto`], or `AwsLc` with the feature `aws-lc`.
///
/// Sealed: the format's security rests on exactly these.
pub trait Aead: cipher::Cipher {}

/// The fastest implementation that is compiled in.
#[cfg(feature = "aws-lc")]
pub type DefaultAead = AwsLc;

/// The fastest implementation that is compiled in.
#[cfg(not(feature = "aws-lc"))]
pub type DefaultAead = RustCrypto;

pub(crate) mod cipher {
    use super::TAG_LEN;

    pub(crate) type Nonce = [u8; 12];
    pub(crate) type Tag = [u8; TAG_LEN];

    /// The AEAD refused: on open because the tag is wrong, on seal for want of memory.
    #[derive(Debug)]
    pub struct Refused;

    /// One key, ready for use.
    pub trait Cipher: Sized + Send + Sync + 'static {
        /// The name that benchmarks and reports print.
        const NAME: &'static str;

        fn new(key: &[u8; 32]) -> Result<Self, Refused>;

        /// Wipes what moving a key has left on the stack, below the caller's frame.
        fn wipe_stack() {}

        fn seal(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            plaintext: &[u8],
            ciphertext: &mut [u8],
            tag: &mut [u8; TAG_LEN],
        ) -> Result<(), Refused>;

        fn seal_in_place(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            text: &mut [u8],
            tag: &mut [u8; TAG_LEN],
        ) -> Result<(), Refused>;

        fn open(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            ciphertext: &[u8],
            tag: &[u8; TAG_LEN],
            plaintext: &mut [u8],
        ) -> Result<(), Refused>;

        fn open_in_place(
            &self,
            nonce: &[u8; 12],
            aad: &[u8],
            text: &mut [u8],
            tag: &[u8; TAG_LEN],
        ) -> Result<(), Refused>;
    }
}

use cipher::{Cipher, Nonce, Refused, Tag};

/// AES-256-GCM by RustCrypto's `aes-gcm`: no C compiler, about a third of the speed.
#[derive(Debug)]
pub struct RustCrypto(Aes256Gcm);

impl Aead for RustCrypto {}

impl Cipher for RustCrypto {
    const NAME: &'static str = "RustCrypto aes-gcm";

    fn new(key: &[u8; 32]) -> Result<Self, Refused> {
        Ok(Self(Aes256Gcm::new(key.into())))
    }

    fn wipe_stack() {
        // Its key schedule is a value on the stack, and each move of it leaves a copy that no drop wipes.
        zeroize::zeroize_stack::<16_384>();
    }

    fn seal(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut Tag,
    ) -> Result<(), Refused> {
        let buf = InOutBuf::new(plaintext, ciphertext).map_err(|_| Refused)?;
        let sealed = self.0.encrypt_inout_detached(nonce.into(), aad, buf).map_err(|_| Refused)?;
        tag.copy_from_slice(&sealed);
        Ok(())
    }

    fn seal_in_place(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        text: &mut [u8],
        tag: &mut Tag,
    ) -> Result<(), Refused> {
        let sealed = self.0.encrypt_inout_detached(nonce.into(), aad, text.into()).map_err(|_| Refused)?;
        tag.copy_from_slice(&sealed);
        Ok(())
    }

    fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        ciphertext: &[u8],
        tag: &Tag,
        plaintext: &mut [u8],
    ) -> Result<(), Refused> {
        let buf = InOutBuf::new(ciphertext, plaintext).map_err(|_| Refused)?;
        self.0.decrypt_inout_detached(nonce.into(), aad, buf, tag.into()).map_err(|_| Refused)
    }

    fn open_in_place(&self, nonce: &Nonce, aad: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), Refused> {
        self.0.decrypt_inout_detached(nonce.into(), aad, text.into(), tag.into()).map_err(|_| Refused)
    }
}

#[cfg(feature = "aws-lc")]
pub use with_aws_lc::AwsLc;

#[cfg(feature = "aws-lc")]
mod with_aws_lc {
    use aws_lc_rs::aead::{self as aws, AES_256_GCM, LessSafeKey, UnboundKey};

    use super::{
        Aead,
        cipher::{Cipher, Nonce, Refused, Tag},
    };

    /// AES-256-GCM by aws-lc-rs.
    #[derive(Debug)]
    pub struct AwsLc(LessSafeKey);

    impl Aead for AwsLc {}

    fn nonce(nonce: &Nonce) -> aws::Nonce {
        aws::Nonce::assume_unique_for_key(*nonce)
    }

    fn refused(_: aws_lc_rs::error::Unspecified) -> Refused {
        Refused
    }

    impl Cipher for AwsLc {
        const NAME: &'static str = "aws-lc-rs";

        fn new(key: &[u8; 32]) -> Result<Self, Refused> {
            Ok(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(refused)?)))
        }

        fn seal(
            &self,
            n: &Nonce,
            aad: &[u8],
            plaintext: &[u8],
            ciphertext: &mut [u8],
            tag: &mut Tag,
        ) -> Result<(), Refused> {
            self.0
                .seal_out_of_place_scatter(nonce(n), aws::Aad::from(aad), plaintext, ciphertext, &[], tag)
                .map_err(refused)
        }

        fn seal_in_place(
            &self,
            n: &Nonce,
            aad: &[u8],
            text: &mut [u8],
            tag: &mut Tag,
        ) -> Result<(), Refused> {
            self.0.seal_in_place_scatter(nonce(n), aws::Aad::from(aad), text, &[], tag).map_err(refused)
        }

        fn open(
            &self,
            n: &Nonce,
            aad: &[u8],
            ciphertext: &[u8],
            tag: &Tag,
            plaintext: &mut [u8],
        ) -> Result<(), Refused> {
            self.0
                .open_separate_gather(nonce(n), aws::Aad::from(aad), ciphertext, tag, plaintext)
                .map_err(refused)
        }

        fn open_in_place(&self, n: &Nonce, aad: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), Refused> {
            self.0
                .open_in_place_separate_tag(nonce(n), aws::Aad::from(aad), tag, text)
                .map(|_| ())
                .map_err(refused)
        }
    }
}
