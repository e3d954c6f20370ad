//! Names of accounts, epochs, blocks and keys.
//!
//! Every name is checked where it is made, so nothing past this module meets one that is out of bounds.
//! Names are compared as bytes, never as Unicode.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::SegmentId;

/// The identity of an account: a UUID, so that an account made anew under an old name is another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(Uuid);

impl AccountId {
    /// The account whose random bytes these are; version and variant bits are set (RFC 9562, version 4).
    pub fn from_random_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// The account of exactly these 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, in the order in which they are printed.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({self})")
    }
}

/// Which AEK of an account: 1 for its first, one more at each rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch of an account's first AEK.
    pub const FIRST: Self = Self(1);

    /// The epoch of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an AEK is for, and so whose KEK wraps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The customer's, in the customer's vault.
    Customer,
    /// The service's own, in its own vault.
    Service,
    /// That of one segment of a write-only buffer: wrapped to the public half of the customer's KEK, in the
    /// customer's vault. The scope's epoch is that of the service AEK which the segment's record is tagged under.
    Buffer(SegmentId),
}

impl Provider {
    /// Which of the kinds it is.
    pub const fn kind(self) -> ProviderKind {
        match self {
            Self::Customer => ProviderKind::Customer,
            Self::Service => ProviderKind::Service,
            Self::Buffer(_) => ProviderKind::Buffer,
        }
    }

    /// Its byte in the sealed-block header and in derivations.
    pub const fn code(self) -> u8 {
        self.kind().code()
    }

    /// The segment, if it is one's.
    pub const fn segment(self) -> Option<SegmentId> {
        match self {
            Self::Buffer(segment) => Some(segment),
            Self::Customer | Self::Service => None,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer(segment) => write!(f, "buffer segment {segment}"),
            Self::Customer | Self::Service => self.kind().fmt(f),
        }
    }
}

/// What a header says of a [`Provider`]: everything but which segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProviderKind {
    /// [`Provider::Customer`].
    Customer,
    /// [`Provider::Service`].
    Service,
    /// [`Provider::Buffer`], whichever segment's.
    Buffer,
}

impl ProviderKind {
    /// Its byte in the sealed-block header and in derivations.
    pub const fn code(self) -> u8 {
        match self {
            Self::Customer => 1,
            Self::Service => 2,
            Self::Buffer => 3,
        }
    }

    /// The kind of this byte.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Customer),
            2 => Some(Self::Service),
            3 => Some(Self::Buffer),
            _ => None,
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Customer => "customer",
            Self::Service => "service",
            Self::Buffer => "buffer",
        })
    }
}

/// Which AEK: everything that its derivations are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyScope {
    /// The account it belongs to.
    pub account: AccountId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What it is for.
    pub provider: Provider,
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}, epoch {}, {} key", self.account, self.epoch, self.provider)
    }
}

/// The version of a block: grows with every write of the same block id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// The version of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a block within its account: 1 to 1,024 bytes of any value, compared as bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(Box<[u8]>);

impl BlockId {
    /// The longest a block id may be, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// The block id of these bytes.
    ///
    /// # Errors
    /// [`IdError`] when there are none or more than [`Self::MAX_LEN`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, IdError> {
        let bytes = bytes.as_ref();
        check_len("block id", bytes.len(), Self::MAX_LEN)?;
        Ok(Self(bytes.into()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// This block at a version.
    pub fn at(&self, version: Version) -> BlockRef<'_> {
        BlockRef { id: self, version }
    }
}

impl fmt::Display for BlockId {
    /// As UTF-8 where it is that, other bytes and control characters escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '\\' || c.is_control() {
                    write!(f, "{}", c.escape_default())?
                } else {
                    write!(f, "{c}")?
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockId({self})")
    }
}

/// A place that a sealed block is bound to within its account: its id and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef<'a> {
    /// The block's id.
    pub id: &'a BlockId,
    /// The block's version.
    pub version: Version,
}

/// The name of a KEK: a URI that its vault parses; the key's version may be left out of it.
///
/// 1 to 2,048 printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(Box<str>);

impl KeyId {
    /// The longest a key id may be, in bytes.
    pub const MAX_LEN: usize = 2048;

    /// The key id of this URI.
    ///
    /// # Errors
    /// [`IdError`] when it is empty, too long, or holds anything but printable ASCII.
    pub fn new(uri: impl Into<String>) -> Result<Self, IdError> {
        let uri = uri.into();
        check_len("key id", uri.len(), Self::MAX_LEN)?;
        match uri.bytes().position(|b| !b.is_ascii_graphic()) {
            Some(at) => Err(IdError::Character { what: "key id", at }),
            None => Ok(Self(uri.into())),
        }
    }

    /// The URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyId {
    type Error = IdError;

    fn try_from(uri: String) -> Result<Self, IdError> {
        Self::new(uri)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

fn check_len(what: &'static str, len: usize, max: usize) -> Result<(), IdError> {
    match len {
        0 => Err(IdError::Empty { what }),
        len if len > max => Err(IdError::TooLong { what, len, max }),
        _ => Ok(()),
    }
}

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// It has no bytes.
    #[error("the {what} is empty: give it at least one byte")]
    Empty {
        /// What was to be named.
        what: &'static str,
    },
    /// It has too many bytes.
    #[error("the {what} has {len} bytes: the most is {max}")]
    TooLong {
        /// What was to be named.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// It holds a character that is not allowed there.
    #[error("the {what} has a character that is not allowed at byte {at}")]
    Character {
        /// What was to be named.
        what: &'static str,
        /// Where the character is.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ids_take_any_byte_within_their_bounds() {
        for byte in 0..=u8::MAX {
            assert_eq!(BlockId::new([byte]).unwrap().as_bytes(), [byte]);
        }
        assert_eq!(BlockId::new(b"").unwrap_err(), IdError::Empty { what: "block id" });
        assert!(BlockId::new(vec![7; BlockId::MAX_LEN]).is_ok());
        assert_eq!(
            BlockId::new(vec![7; BlockId::MAX_LEN + 1]).unwrap_err(),
            IdError::TooLong { what: "block id", len: 1025, max: 1024 }
        );
    }

    #[test]
    fn block_ids_print_without_control_characters() {
        let id = BlockId::new(b"a\n\xff\\\xc3\xa9").unwrap();
        assert_eq!(id.to_string(), "a\\n\\xff\\\\\u{e9}");
    }

    #[test]
    fn key_ids_refuse_spaces_and_other_scripts() {
        assert!(KeyId::new("local://customer/keys/payroll/1").is_ok());
        assert_eq!(KeyId::new("a b").unwrap_err(), IdError::Character { what: "key id", at: 1 });
        assert_eq!(KeyId::new("k\u{e9}y").unwrap_err(), IdError::Character { what: "key id", at: 1 });
    }
}
