//! The records that a node reads and writes, told to the model.

use super::*;

impl Shelf {
    /// The account whose revocation this record says.
    fn row(&self, key: &str) -> Option<AccountId> {
        let account = key.strip_prefix(REVOKED)?;
        self.hub.state().accounts.ids().find(|id| id.to_string() == account)
    }

    /// Tells the model what a row says, as it is in the store now.
    async fn look(&self, key: &str) {
        let is_followed = key.starts_with(ACCOUNTS) || key.starts_with(OPERATIONS);
        if is_followed && let Ok(stored) = self.store.load(key).await {
            let now = self.hub.moment(&self.clock);
            tell(&self.hub, key, stored.as_ref().map(|stored| &stored.bytes[..]), now);
            if let Some(name) = key.strip_prefix(ACCOUNTS) {
                look_for_lost(&self.hub, &*self.store, name).await;
            }
        }
    }

    fn row_changes(&self, account: AccountId, set: bool) {
        let now = self.hub.moment(&self.clock);
        let judged = self.hub.state().keys.row_changes(self.node, account, set, now);
        self.hub.check(judged);
    }

    fn row_changed(&self, account: AccountId, set: bool) {
        let now = self.hub.moment(&self.clock);
        self.hub.note(format_args!("node {}: {account} is written down as revoked: {set}", self.node));
        self.hub.state().keys.row_changed(account, set, now);
    }
}

/// A write of an account's record. Dropped before its end, it was done or not.
struct Writing<'a> {
    hub: &'a Hub,
    token: u64,
    end: End,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.hub.state().accounts.write_ends(self.token, self.end);
    }
}

#[async_trait]
impl Catalog for Shelf {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let load = async {
            let stored = self.store.load(key).await?;
            let now = self.hub.moment(&self.clock);
            tell(&self.hub, key, stored.as_ref().map(|stored| &stored.bytes[..]), now);
            Ok(stored)
        };
        self.call(load, untold).await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError> {
        let set = new.is_some();
        let row = self.row(key).filter(|_| expected.is_some() != set);
        let name = key.strip_prefix(ACCOUNTS);
        let record = match name.and(new.as_ref()).map(|bytes| record::account(bytes)).transpose() {
            Ok(record) => record,
            Err(why) => {
                self.hub.fail(Check::Unexplained, format!("the record {key} can't be read: {why}"));
                None
            }
        };
        // What nodes tell each other.
        let said = (key.starts_with("node/") || key == "changes")
            .then(|| String::from_utf8_lossy(new.as_deref().unwrap_or(b"gone")).into_owned());
        let swap = async {
            if let Some(account) = row {
                self.row_changes(account, set);
            }
            let begun = self.hub.state().next_seq();
            let write = name.and_then(|name| {
                let token = self.hub.state().accounts.write_begins(name, record, begun)?;
                Some(Writing { hub: &self.hub, token, end: End::Unknown })
            });
            let answer = self.store.swap(key, expected, new).await;
            if let (Some(mut write), Err(error)) = (write, &answer)
                && error.kind() == StoreErrorKind::Conflict
            {
                write.end = End::Refused;
            }
            if answer.is_ok() {
                self.look(key).await;
                if let Some(said) = &said {
                    self.hub.note(format_args!("node {}: {key} is {said}", self.node));
                }
            }
            answer
        };
        self.call(swap, |shelf, answer| {
            if let (Ok(_), Some(account)) = (answer, row) {
                shelf.row_changed(account, set);
            }
        })
        .await
    }

    /// Nodes share it.
    fn is_shared(&self) -> bool {
        true
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        self.call(Catalog::list(&*self.store, prefix, after, limit), untold).await
    }
}
