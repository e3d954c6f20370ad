//! Where a token's PIN comes from, and which PIN it refused.
//!
//! Guarantees: a PIN is in memory while the token is asked and no longer, wiped afterwards; what is kept of one that was
//! refused is a keyed hash, under a key that no other process has. Nothing of a PIN is printed.

use std::{fmt, fs, io, path::PathBuf};

use cryptoki::types::RawAuthPin;
use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// The longest that a PIN is read, in bytes.
const MAX_LEN: usize = 1024;

/// A token's PIN, wiped on drop.
pub struct Pin(Zeroizing<Vec<u8>>);

impl Pin {
    /// The PIN of these bytes, which are UTF-8 for most tokens.
    ///
    /// # Errors
    /// [`PinError::Length`] when there are none or too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, PinError> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            1..=MAX_LEN => Ok(Self(bytes)),
            len => Err(PinError::Length { len }),
        }
    }

    /// What the token is given; wiped on drop too.
    pub(super) fn for_token(&self) -> RawAuthPin {
        RawAuthPin::new(Box::new(self.0.to_vec()))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(..)")
    }
}

/// Gives the PIN when the token is to be logged in to. Called where work may block; must not call the vault.
pub trait PinSource: fmt::Debug + Send + Sync {
    /// The PIN as it is now.
    ///
    /// # Errors
    /// [`PinError`] when there is none to be had.
    fn pin(&self) -> Result<Pin, PinError>;
}

/// A PIN in a file, read anew at each login; one line feed at its end is not part of it.
#[derive(Clone, Debug)]
pub struct PinFile(PathBuf);

impl PinFile {
    /// The PIN in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl PinSource for PinFile {
    fn pin(&self) -> Result<Pin, PinError> {
        let failed = |source| PinError::File { path: self.0.clone(), source };
        let len = fs::metadata(&self.0).map_err(failed)?.len();
        if len > MAX_LEN as u64 {
            return Err(PinError::Length { len: usize::try_from(len).unwrap_or(usize::MAX) });
        }
        let mut bytes = fs::read(&self.0).map_err(failed)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Pin::new(bytes)
    }
}

/// There is no PIN to be had. Says why, without the PIN.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PinError {
    /// It has no bytes, or too many.
    #[error("the PIN has {len} bytes: give one of 1 to {MAX_LEN}")]
    Length {
        /// How many it has.
        len: usize,
    },
    /// Its file can't be read.
    #[error("can't read the PIN's file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its source failed.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
}

/// Remembers which PIN the token refused.
pub(super) struct Refusal {
    key: Zeroizing<[u8; 32]>,
    refused: Option<[u8; 32]>,
}

impl Refusal {
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self { key, refused: None }
    }

    /// HKDF-Extract is HMAC of the PIN under the key.
    fn hash(&self, pin: &Pin) -> [u8; 32] {
        Hkdf::<Sha256>::extract(Some(&*self.key), &pin.0).0.into()
    }

    pub(super) fn is_of(&self, pin: &Pin) -> bool {
        self.refused == Some(self.hash(pin))
    }

    pub(super) fn note(&mut self, pin: &Pin) {
        self.refused = Some(self.hash(pin));
    }

    pub(super) fn forget(&mut self) {
        self.refused = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.into()).unwrap()
    }

    #[test]
    fn a_refused_pin_is_told_from_others_and_not_kept() {
        let mut refusal = Refusal::new(Zeroizing::new([7; 32]));
        assert!(!refusal.is_of(&pin("1234")));
        refusal.note(&pin("1234"));
        assert!(refusal.is_of(&pin("1234")));
        assert!(!refusal.is_of(&pin("12345")) && !refusal.is_of(&pin("1235")));
        let other = Refusal { key: Zeroizing::new([8; 32]), refused: refusal.refused };
        assert!(!other.is_of(&pin("1234")), "the hash is of no use without the key");
        refusal.forget();
        assert!(!refusal.is_of(&pin("1234")));
    }

    #[test]
    fn a_pin_file_is_read_anew_without_its_line_feed_and_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let source = PinFile::new(&path);
        assert!(matches!(source.pin(), Err(PinError::File { .. })));
        for (bytes, read) in [("1234\n", "1234"), ("12 34", "12 34"), ("1234\n\n", "1234\n")] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(source.pin().unwrap().0.as_slice(), read.as_bytes());
        }
        for bad in [String::new(), "\n".into(), "1".repeat(MAX_LEN + 1)] {
            fs::write(&path, &bad).unwrap();
            assert!(matches!(source.pin(), Err(PinError::Length { .. })), "{} bytes", bad.len());
        }
        assert_eq!(format!("{:?}", pin("1234")), "Pin(..)");
    }
}
