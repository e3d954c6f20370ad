//! Versions of KEKs that nothing may be wrapped under any longer.
//!
//! Guarantees: of who is about to take a version into a record and who fences it and then looks for what needs it, at
//! least one sees the other: the first writes what it intends before it looks for fences, the second the other way
//! round. A fence is raised for as long as somebody looks, and stands only if that one found nothing and nobody else took it
//! down or raised it anew meanwhile. Rows name versions by hash, so that they outlive an account without naming its keys.
//!
//! Not its job: to know what needs a version (`safe`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, KeyId};
use cofferdam_vault::Clock;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::{AccountRecord, EngineError, rows};
use crate::{Catalog, Revision, StoreErrorKind};

const FENCES: &str = "fence/";
const INTENTS: &str = "intent/";
/// How long an intent counts: longer than it takes to write a record, or to see that its engine is gone.
const INTENT_LASTS: Duration = Duration::from_secs(600);
/// How long somebody may look for what needs a version, and how often others look whether that has ended.
const LOOK_LASTS: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What the row of a fence says that stands. That of one that is raised says since when.
const STANDS: &[u8] = b"stands";

/// A fence that was raised by whoever holds this; or one that stood before.
#[derive(Debug)]
pub(super) struct Raised {
    key: String,
    revision: Option<Revision>,
}

#[derive(Debug)]
pub(super) struct Fences {
    catalog: Arc<dyn Catalog>,
    clock: Arc<dyn Clock>,
}

impl Fences {
    pub(super) fn new(catalog: Arc<dyn Catalog>, clock: Arc<dyn Clock>) -> Self {
        Self { catalog, clock }
    }

    /// Refuses a version that is fenced. Waits while somebody looks whether it can be.
    pub(super) async fn check(&self, key_id: &KeyId) -> Result<(), EngineError> {
        if is_planted(Bug::FenceForgotten) {
            return Ok(());
        }
        let key = fence(key_id);
        loop {
            let Some(stored) = self.catalog.load(&key).await? else { return Ok(()) };
            let Some(since) = raised(&stored.bytes) else {
                return Err(EngineError::UnfitKek {
                    reason: format!(
                        "{key_id} was said to be safe to disable, so nothing is wrapped under it any longer: take a newer \
                         version"
                    ),
                });
            };
            if self.clock.now().wall.abs_diff(since) < LOOK_LASTS {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            // Whoever looked is gone, or too late: without the row it can't say yes.
            match self.catalog.swap(&key, Some(&stored.revision), None).await {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The same of every version that a record takes.
    pub(super) async fn check_record(&self, record: &AccountRecord) -> Result<(), EngineError> {
        for kek in record.customer.iter().flat_map(|customer| &customer.keks) {
            self.check(&kek.key_id).await?;
        }
        Ok(())
    }

    /// From here on nothing new is wrapped under this version, until what is returned is settled.
    pub(super) async fn raise(&self, key_id: &KeyId) -> Result<Raised, EngineError> {
        let key = fence(key_id);
        loop {
            let stored = self.catalog.load(&key).await?;
            if stored.as_ref().is_some_and(|stored| raised(&stored.bytes).is_none()) {
                return Ok(Raised { key, revision: None });
            }
            // Of one who looks already, it is taken over: that one looks anew.
            let revision = stored.as_ref().map(|stored| &stored.revision);
            match self.catalog.swap(&key, revision, Some(self.now())).await {
                Ok(revision) => return Ok(Raised { key, revision }),
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The fence stands, or is taken down. Whether it was still the one that was raised; else one has to look anew.
    pub(super) async fn settle(&self, raised: &Raised, stands: bool) -> Result<bool, EngineError> {
        let Some(revision) = &raised.revision else { return Ok(true) };
        let row = stands.then(|| Bytes::from_static(STANDS));
        match self.catalog.swap(&raised.key, Some(revision), row).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// An account is about to be made, or restored, under some KEK. To be followed by [`Self::check`].
    pub(super) async fn intend(&self, account: AccountId) -> Result<(), EngineError> {
        let key = format!("{INTENTS}{account}");
        match self.catalog.swap(&key, None, Some(self.now())).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == StoreErrorKind::Conflict => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// It is made, or is not going to be.
    pub(super) async fn intended(&self, account: AccountId) -> Result<(), EngineError> {
        rows::remove(&*self.catalog, &format!("{INTENTS}{account}")).await?;
        Ok(())
    }

    /// How many accounts are about to be made. Intents of engines that are gone are removed.
    pub(super) async fn intents(&self) -> Result<usize, EngineError> {
        let now = self.clock.now().wall;
        let mut intents = 0;
        for (key, stored) in rows::under(&*self.catalog, INTENTS).await? {
            if now.abs_diff(raised(&stored.bytes).unwrap_or_default()) < INTENT_LASTS {
                intents += 1;
            } else {
                rows::remove(&*self.catalog, &key).await?;
            }
        }
        Ok(intents)
    }

    fn now(&self) -> Bytes {
        self.clock.now().wall.as_millis().to_string().into()
    }
}

/// Since when somebody looks, or intends, by the wall clock; `None` of a fence that stands.
fn raised(row: &[u8]) -> Option<Duration> {
    Some(Duration::from_millis(std::str::from_utf8(row).ok()?.parse().ok()?))
}

fn fence(key_id: &KeyId) -> String {
    format!("{FENCES}{}", HEXLOWER.encode(&Sha256::digest(key_id.as_str().as_bytes())))
}
