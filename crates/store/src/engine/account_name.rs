//! The names of accounts. Not its job: which there are (the catalog's).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::EngineError;

/// The name of an account: 1 to 128 characters out of a-z, A-Z, 0-9, `.`, `_` and `-`, the first a letter or
/// digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(Box<str>);

impl AccountName {
    /// The longest a name may be, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The account name of this text.
    ///
    /// # Errors
    /// [`EngineError::BadAccountName`] when it has other characters, none, or too many.
    pub fn new(name: impl Into<String>) -> Result<Self, EngineError> {
        let name = name.into();
        let fits = (1..=Self::MAX_LEN).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && name.as_bytes()[0].is_ascii_alphanumeric();
        if fits {
            Ok(Self(name.into()))
        } else {
            Err(EngineError::BadAccountName { name: name.chars().take(Self::MAX_LEN).collect() })
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        Self::new(name)
    }
}

impl TryFrom<String> for AccountName {
    type Error = EngineError;

    fn try_from(name: String) -> Result<Self, EngineError> {
        Self::new(name)
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountName({self})")
    }
}
