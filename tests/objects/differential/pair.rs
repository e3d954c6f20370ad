//! Two stores that are asked the same.

use std::{collections::BTreeMap, fmt, sync::Arc};

use cofferdam::store::Account;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

use super::step::{Seen, Step};
use crate::stores::sealed;

/// A state that an object was in: its etags, the plain store's and the encrypting one's.
pub(super) type Tags = [String; 2];

/// How the two differ.
#[derive(Debug)]
pub(super) struct Difference {
    /// What is seen of the one and of the other, in a word each.
    pub(super) kinds: [&'static str; 2],
    what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Of a state that the two left an object in.
impl From<String> for Difference {
    fn from(what: String) -> Self {
        Self { kinds: ["state"; 2], what }
    }
}

pub(super) struct Pair {
    stores: [Arc<dyn ObjectStore>; 2],
    /// The states that each object has been in, the last last.
    states: BTreeMap<Path, Vec<Tags>>,
}

impl Pair {
    pub(super) async fn new(account: &Account) -> Self {
        let plain: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let sealed = sealed(account, Arc::new(InMemory::new())).await;
        Self { stores: [plain, sealed], states: BTreeMap::new() }
    }

    /// The states that an object has been in.
    pub(super) fn states(&self, path: &Path) -> &[Tags] {
        self.states.get(path).map_or(&[], Vec::as_slice)
    }

    /// Asks both; what differs is the error.
    pub(super) async fn take(&mut self, step: &Step) -> Result<Seen, Difference> {
        let [plain, sealed] = &self.stores;
        let (plain, sealed) = (step.ask(&**plain, 0).await, step.ask(&**sealed, 1).await);
        if plain != sealed {
            let what = format!("plain {plain:?}, encrypted {sealed:?}");
            return Err(Difference { kinds: [plain.word(), sealed.word()], what });
        }
        for path in step.changes() {
            self.note(path).await?;
        }
        Ok(plain)
    }

    /// Notes which state an object has come to.
    async fn note(&mut self, path: &Path) -> Result<(), String> {
        let [plain, sealed] = &self.stores;
        let tags = match (plain.head(path).await, sealed.head(path).await) {
            (Ok(plain), Ok(sealed)) => {
                if plain.size != sealed.size {
                    return Err(format!("{path} has {} bytes plain, {} encrypted", plain.size, sealed.size));
                }
                [plain.e_tag, sealed.e_tag].map(Option::unwrap_or_default)
            }
            (Err(_), Err(_)) => return Ok(()),
            (plain, sealed) => return Err(format!("{path} is {plain:?} plain, {sealed:?} encrypted")),
        };
        let states = self.states.entry(path.clone()).or_default();
        let Some(last) = states.last() else {
            states.push(tags);
            return Ok(());
        };
        match [0, 1].map(|side| last[side] == tags[side]) {
            [true, true] => {}
            [false, false] => states.push(tags),
            changed => return Err(format!("{path} has its etag still: {changed:?}")),
        }
        Ok(())
    }
}
