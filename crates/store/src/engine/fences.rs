//! Versions of KEKs that nothing may be wrapped under any longer.
//!
//! Guarantees: of who is about to take a version into a record and who fences it and then looks for what needs it, at
//! least one sees the other: the first writes what it intends before it looks for fences, the second the other way
//! round. Rows name versions by hash, so that they outlive an account without naming its keys.
//!
//! Not its job: to know what needs a version (`safe`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, KeyId};
use cofferdam_vault::Clock;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::EngineError;
use crate::{Catalog, StoreErrorKind};

const FENCES: &str = "fence/";
const INTENTS: &str = "intent/";
/// How long an intent counts: longer than it takes to write a record, or to see that its engine is gone.
const INTENT_LASTS: Duration = Duration::from_secs(600);
const PAGE: usize = 256;

#[derive(Debug)]
pub(super) struct Fences {
    catalog: Arc<dyn Catalog>,
    clock: Arc<dyn Clock>,
}

impl Fences {
    pub(super) fn new(catalog: Arc<dyn Catalog>, clock: Arc<dyn Clock>) -> Self {
        Self { catalog, clock }
    }

    /// Refuses a version that is fenced.
    pub(super) async fn check(&self, key_id: &KeyId) -> Result<(), EngineError> {
        if is_planted(Bug::FenceForgotten) || self.catalog.load(&fence(key_id)).await?.is_none() {
            return Ok(());
        }
        Err(EngineError::UnfitKek {
            reason: format!(
                "{key_id} was said to be safe to disable, so nothing is wrapped under it any longer: take a newer version"
            ),
        })
    }

    /// From here on nothing new is wrapped under this version. Whether it was so before.
    pub(super) async fn raise(&self, key_id: &KeyId) -> Result<bool, EngineError> {
        match self.catalog.swap(&fence(key_id), None, Some(self.now())).await {
            Ok(_) => Ok(false),
            Err(e) if e.kind() == StoreErrorKind::Conflict => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// It may be wrapped under again.
    pub(super) async fn lower(&self, key_id: &KeyId) -> Result<(), EngineError> {
        self.remove(&fence(key_id)).await
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
        self.remove(&format!("{INTENTS}{account}")).await
    }

    /// How many accounts are about to be made. Intents of engines that are gone are removed.
    pub(super) async fn intents(&self) -> Result<usize, EngineError> {
        let now = self.clock.now().wall;
        let (mut intents, mut after) = (0, None);
        loop {
            let rows = self.catalog.list(INTENTS, after.as_deref(), PAGE).await?;
            let Some((last, _)) = rows.last() else { return Ok(intents) };
            after = Some(last.clone());
            for (key, stored) in rows {
                let at = std::str::from_utf8(&stored.bytes).ok().and_then(|ms| ms.parse().ok());
                let at = Duration::from_millis(at.unwrap_or_default());
                if now.abs_diff(at) < INTENT_LASTS {
                    intents += 1;
                } else {
                    self.remove(&key).await?;
                }
            }
        }
    }

    async fn remove(&self, key: &str) -> Result<(), EngineError> {
        loop {
            let Some(stored) = self.catalog.load(key).await? else { return Ok(()) };
            match self.catalog.swap(key, Some(&stored.revision), None).await {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn now(&self) -> Bytes {
        self.clock.now().wall.as_millis().to_string().into()
    }
}

fn fence(key_id: &KeyId) -> String {
    format!("{FENCES}{}", HEXLOWER.encode(&Sha256::digest(key_id.as_str().as_bytes())))
}
