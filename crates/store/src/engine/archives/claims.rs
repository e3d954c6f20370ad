//! Who imports which account, so that two do not import one, and what an import left behind is removed.
//!
//! Guarantees: an account's id is claimed by at most one import in all engines that share the catalog. The blocks of an import
//! whose engine is gone, or whose future was dropped, are removed by whoever looks next, and no others: an import begins to
//! load where there are no blocks of that id, and says so first. Whoever lost its claim so learns of it before it writes the account's record. What that leaves open: an engine
//! that is suspended between those two for longer than a lease.
//!
//! Not its job: what an import does meanwhile.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cofferdam_crypto::AccountId;
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, Revision, StoreError, StoreErrorKind, Stored,
    engine::{AccountName, EngineError, Inner, NodeId, rows},
};

const IMPORTS: &str = "import/";
/// How many blocks are removed at once.
const PAGE: usize = 256;

/// The imports of an engine.
#[derive(Debug)]
pub(in crate::engine) struct Claims {
    catalog: Arc<dyn Catalog>,
    /// Those that go on in this engine.
    here: Arc<Mutex<BTreeSet<AccountId>>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ClaimRow {
    account: AccountId,
    /// What its name will be.
    name: AccountName,
    node: NodeId,
    /// Whether what there is of its blocks is the import's.
    loads: bool,
}

/// An account's id, for as long as it is imported.
pub(super) struct Claim {
    account: AccountId,
    name: AccountName,
    loads: bool,
    /// Of its row.
    revision: Option<Revision>,
    here: Arc<Mutex<BTreeSet<AccountId>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.here).remove(&self.account);
    }
}

impl Claims {
    pub(in crate::engine) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, here: Arc::default() }
    }

    /// Of an import that is over, and left nothing behind.
    pub(super) async fn release(&self, claim: Claim) -> Result<(), EngineError> {
        let Some(held) = &claim.revision else { return Ok(()) };
        match self.catalog.swap(&key(claim.account), Some(held), None).await {
            // It is another's by now.
            Err(e) if e.kind() != StoreErrorKind::Conflict => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Whether the row was as expected, and is the claim's now.
    async fn swap(
        &self,
        claim: &mut Claim,
        expected: Option<&Revision>,
        node: NodeId,
    ) -> Result<bool, EngineError> {
        let (account, name, loads) = (claim.account, claim.name.clone(), claim.loads);
        let row = serde_json::to_vec(&ClaimRow { account, name, node, loads }).map_err(|e| corrupt(&e))?;
        match self.catalog.swap(&key(account), expected, Some(row.into())).await {
            Ok(revision) => {
                claim.revision = revision;
                Ok(true)
            }
            Err(e) if e.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Inner {
    /// Claims an account's id for an import here.
    pub(super) async fn claim_import(
        &self,
        account: AccountId,
        name: &AccountName,
    ) -> Result<Claim, EngineError> {
        let claims = &self.claims;
        if !lock(&claims.here).insert(account) {
            return Err(EngineError::ImportRunning { account });
        }
        let here = claims.here.clone();
        let mut claim = Claim { account, name: name.clone(), loads: false, revision: None, here };
        loop {
            let stored = claims.catalog.load(&key(account)).await?;
            if let Some(stored) = &stored {
                let former = parse(stored)?;
                // Not one that was here and is over.
                if former.node != self.nodes.id && self.nodes.lives(former.node).await? {
                    return Err(EngineError::ImportRunning { account });
                }
                // Where it came to its end, and to no more, the blocks are the account's.
                claim.loads = former.loads && !self.records.has(&former.name, account).await?;
            }
            let revision = stored.map(|stored| stored.revision);
            if claims.swap(&mut claim, revision.as_ref(), self.nodes.id).await? {
                return Ok(claim);
            }
        }
    }

    /// From here on what there is of the account's blocks is the import's: there is nothing.
    pub(super) async fn begin_to_load(self: &Arc<Self>, claim: &mut Claim) -> Result<(), EngineError> {
        let id = claim.account;
        if claim.loads {
            self.remove_leftovers(claim).await?;
        }
        let blocks = &self.blocks;
        if !blocks.stored(id, None, 1).await?.is_empty() || !blocks.buffered(id, None, 1).await?.is_empty() {
            return Err(EngineError::StrayBlocks { id });
        }
        claim.loads = true;
        self.hold_import(claim).await
    }

    /// Makes sure, before an import writes what counts, that nobody has taken it for ended.
    pub(super) async fn hold_import(self: &Arc<Self>, claim: &mut Claim) -> Result<(), EngineError> {
        self.be_live().await?;
        let held = claim.revision.take();
        if held.is_some() && self.claims.swap(claim, held.as_ref(), self.nodes.id).await? {
            return Ok(());
        }
        Err(EngineError::ImportRunning { account: claim.account })
    }

    /// Removes what imports left behind that were not ended.
    pub(in crate::engine) async fn sweep_imports(&self) -> Result<(), EngineError> {
        for (_, stored) in rows::under(&*self.claims.catalog, IMPORTS).await? {
            let ClaimRow { account, name, .. } = parse(&stored)?;
            match self.claim_import(account, &name).await {
                Ok(claim) => self.abandon_import(claim).await?,
                Err(EngineError::ImportRunning { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Ends an import that did not come to its end.
    pub(super) async fn abandon_import(&self, claim: Claim) -> Result<(), EngineError> {
        // Without a row it is another's by now.
        if claim.loads && claim.revision.is_some() {
            self.remove_leftovers(&claim).await?;
        }
        self.claims.release(claim).await
    }

    /// Removes the blocks of an account that is not there.
    async fn remove_leftovers(&self, claim: &Claim) -> Result<(), EngineError> {
        if self.name_in_catalog(claim.account).await?.is_some() {
            return Ok(());
        }
        // The only one under which it may come meanwhile.
        while !self.records.has(&claim.name, claim.account).await? {
            if self.blocks.remove_blocks(claim.account, PAGE).await? == 0 {
                break;
            }
        }
        Ok(())
    }
}

fn lock(here: &Mutex<BTreeSet<AccountId>>) -> MutexGuard<'_, BTreeSet<AccountId>> {
    here.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(account: AccountId) -> String {
    format!("{IMPORTS}{account}")
}

fn parse(stored: &Stored) -> Result<ClaimRow, EngineError> {
    serde_json::from_slice(&stored.bytes).map_err(|e| corrupt(&e))
}

fn corrupt(e: &serde_json::Error) -> EngineError {
    StoreError::new(StoreErrorKind::Corrupt).with_detail(format!("who imports an account: {e}")).into()
}
