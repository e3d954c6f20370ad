//! Whose key an object is sealed under.

use std::fmt;

use object_store::path::Path;

use crate::Account;

/// The accounts whose keys the objects of a store are sealed under, by their paths.
///
/// What was written under one account's key opens under that account's alone, so a prefix that is given to another account
/// later hides what is there.
#[derive(Clone)]
pub struct Accounts {
    /// The longest prefix first.
    by_prefix: Vec<(Path, Account)>,
}

impl Accounts {
    /// An account for each prefix; of several that fit a path, the longest has it. Prefixes are whole segments:
    /// `tenants/a` is one of `tenants/a/x`, not of `tenants/ab`. The empty prefix is one of every path.
    pub fn by_prefix(accounts: impl IntoIterator<Item = (Path, Account)>) -> Self {
        let mut by_prefix: Vec<_> = accounts.into_iter().collect();
        by_prefix.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.parts_count()));
        Self { by_prefix }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &(Path, Account)> {
        self.by_prefix.iter()
    }

    pub(super) fn of(&self, path: &Path) -> Option<&Account> {
        self.by_prefix.iter().find(|(prefix, _)| path.prefix_matches(prefix)).map(|(_, account)| account)
    }
}

/// One account for all paths.
impl From<Account> for Accounts {
    fn from(account: Account) -> Self {
        Self::by_prefix([(Path::default(), account)])
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.by_prefix.iter().map(|(prefix, account)| (prefix.as_ref(), account));
        f.debug_map().entries(accounts).finish()
    }
}
