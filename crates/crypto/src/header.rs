//! The header of a sealed block: 76 bytes in the clear.
//!
//! Guarantees: what parses is of format 1, of a suite that we have, and within bounds. Not its job: to be
//! believed. Nothing in a header is authentic until the block has opened; until then it only says which AEK
//! to try.

use thiserror::Error;

use crate::{Epoch, PageSize, ProviderKind, Salt};

/// The length of a sealed block's header, in bytes.
pub const HEADER_LEN: usize = 76;

/// The first four bytes of a sealed block.
pub(crate) const MAGIC: [u8; 4] = *b"CFDM";

/// The format version that this crate writes and reads.
pub(crate) const FORMAT: u8 = 1;

/// The length of a key commitment, in bytes.
pub(crate) const COMMITMENT_LEN: usize = 32;

/// Which algorithms a block is sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D) under keys by HKDF-SHA-256 (RFC 5869).
    Aes256GcmHkdfSha256,
}

impl Suite {
    /// Its byte in the header and in derivations.
    pub const fn code(self) -> u8 {
        match self {
            Self::Aes256GcmHkdfSha256 => 1,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Aes256GcmHkdfSha256),
            _ => None,
        }
    }
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Aes256GcmHkdfSha256 => "AES-256-GCM, HKDF-SHA-256",
        })
    }
}

/// What a sealed block says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub(crate) suite: Suite,
    pub(crate) provider: ProviderKind,
    pub(crate) page_size: PageSize,
    pub(crate) epoch: Epoch,
    pub(crate) salt: Salt,
    pub(crate) commitment: [u8; COMMITMENT_LEN],
}

impl Header {
    /// Reads the header at the start of a sealed block; more bytes may follow.
    ///
    /// # Errors
    /// [`HeaderError`], which names what is wrong.
    pub fn parse(sealed: &[u8]) -> Result<Self, HeaderError> {
        let Some(([magic @ .., format, suite, provider, log2], rest)) = sealed.split_first_chunk::<8>()
        else {
            return Err(HeaderError::TooShort { len: sealed.len() });
        };
        // Before the length: a short file of another kind is better called that.
        if *magic != MAGIC {
            return Err(HeaderError::NotASealedBlock);
        }
        if *format != FORMAT {
            return Err(HeaderError::Format { found: *format });
        }
        let too_short = || HeaderError::TooShort { len: sealed.len() };
        let (epoch, rest) = rest.split_first_chunk::<4>().ok_or_else(too_short)?;
        let (salt, rest) = rest.split_first_chunk::<32>().ok_or_else(too_short)?;
        let (commitment, _) = rest.split_first_chunk::<COMMITMENT_LEN>().ok_or_else(too_short)?;
        Ok(Self {
            suite: Suite::from_code(*suite).ok_or(HeaderError::Suite { found: *suite })?,
            provider: ProviderKind::from_code(*provider).ok_or(HeaderError::Provider { found: *provider })?,
            page_size: PageSize::from_log2(*log2).ok_or(HeaderError::PageSize { log2: *log2 })?,
            epoch: Epoch::new(u32::from_be_bytes(*epoch)),
            salt: *salt,
            commitment: *commitment,
        })
    }

    /// The algorithms.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// What the AEK is for, and so whose KEK wraps it. Of a buffered block it does not say which segment it is of.
    pub fn provider(&self) -> ProviderKind {
        self.provider
    }

    /// The epoch of the account's AEK.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How much plaintext a page holds.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// What makes the block's DEK its own; not a secret.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// What the block's key and place are committed to by; not a secret.
    pub fn commitment(&self) -> &[u8; COMMITMENT_LEN] {
        &self.commitment
    }

    pub(crate) fn write(&self, out: &mut [u8; HEADER_LEN]) {
        out[..4].copy_from_slice(&MAGIC);
        out[4] = FORMAT;
        out[5] = self.suite.code();
        out[6] = self.provider.code();
        out[7] = self.page_size.log2();
        out[8..12].copy_from_slice(&self.epoch.number().to_be_bytes());
        out[12..44].copy_from_slice(&self.salt);
        out[44..].copy_from_slice(&self.commitment);
    }
}

/// Why a header was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// It has fewer bytes than a header.
    #[error("{len} bytes are too few for a sealed block: its header alone has {HEADER_LEN}")]
    TooShort {
        /// How many there are.
        len: usize,
    },
    /// It starts with other bytes.
    #[error("not a sealed block: it does not start with \"CFDM\"")]
    NotASealedBlock,
    /// It is of a format version that this crate does not read.
    #[error(
        "the block is of format {found}: this version of Cofferdam reads format {FORMAT}; use a newer one"
    )]
    Format {
        /// The format version it states.
        found: u8,
    },
    /// It is of a suite that this crate does not have.
    #[error("the block is sealed with suite {found}, which this version of Cofferdam does not have")]
    Suite {
        /// The suite it states.
        found: u8,
    },
    /// It names a provider that does not exist.
    #[error("the block names key provider {found}: there are only 1 (customer), 2 (service) and 3 (buffer)")]
    Provider {
        /// The provider it states.
        found: u8,
    },
    /// It states a page size out of range.
    #[error("the block states pages of 2^{log2} bytes: only 2^12 to 2^24 are allowed")]
    PageSize {
        /// The page size it states, as a power of two.
        log2: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            suite: Suite::Aes256GcmHkdfSha256,
            provider: ProviderKind::Service,
            page_size: PageSize::DEFAULT,
            epoch: Epoch::new(0x0102_0304),
            salt: [0xaa; 32],
            commitment: [0xbb; 32],
        }
    }

    fn bytes() -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        header().write(&mut out);
        out
    }

    #[test]
    fn headers_read_back_as_written() {
        let mut block = bytes().to_vec();
        assert_eq!(block[..12], *b"CFDM\x01\x01\x02\x10\x01\x02\x03\x04");
        assert_eq!(Header::parse(&block), Ok(header()));
        block.extend([9; 100]);
        assert_eq!(Header::parse(&block), Ok(header()));
    }

    #[test]
    fn each_defect_of_a_header_has_its_own_name() {
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes();
            bytes[at] = byte;
            Header::parse(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b'c'), HeaderError::NotASealedBlock);
        assert_eq!(with(4, 0), HeaderError::Format { found: 0 });
        assert_eq!(with(4, 2), HeaderError::Format { found: 2 });
        assert_eq!(with(5, 2), HeaderError::Suite { found: 2 });
        assert_eq!(with(6, 0), HeaderError::Provider { found: 0 });
        assert_eq!(with(7, 11), HeaderError::PageSize { log2: 11 });
        assert_eq!(with(7, 25), HeaderError::PageSize { log2: 25 });
        for len in 0..HEADER_LEN {
            assert_eq!(Header::parse(&bytes()[..len]), Err(HeaderError::TooShort { len }));
        }
        assert_eq!(Header::parse(b"RIFF....WAVE"), Err(HeaderError::NotASealedBlock));
        assert_eq!(Header::parse(b"CFDM\x02\x01\x01\x10"), Err(HeaderError::Format { found: 2 }));
    }
}
