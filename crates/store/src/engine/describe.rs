//! What an account's record says of the account's KEKs, for who looks at it.
//!
//! Not its job: to decide anything by it; the record is not checked, since that would need a key.

use std::time::Duration;

use cofferdam_crypto::KeyId;
use cofferdam_vault::Principal;

use super::{Account, EngineError};

/// A KEK that an account's keys are wrapped under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekStatus {
    /// Whose vault it is in.
    pub principal: Principal,
    /// The KEK as it was set: with a version or without.
    pub set: KeyId,
    /// The version that the account's keys are wrapped under.
    pub key_id: KeyId,
    /// Since when it has not answered while another did, as time since the Unix epoch.
    pub bridged_since: Option<Duration>,
}

impl Account {
    /// The customer's KEKs that the account's keys are wrapped under, also after an unlink, while blocks need them. Asks no
    /// vault, and the record is not checked.
    ///
    /// # Errors
    /// [`EngineError::NoAccount`], [`EngineError::AccountDeleted`], [`EngineError::BadRecord`], [`EngineError::Store`].
    pub async fn keks(&self) -> Result<Vec<KekStatus>, EngineError> {
        self.check_open().await?;
        let record = self.engine.records.load(self.name()).await?;
        let Some(customer) = &record.unverified().customer else { return Ok(Vec::new()) };
        let mut keks = Vec::with_capacity(customer.keks.len());
        for kek in &customer.keks {
            keks.push(KekStatus {
                principal: kek.principal.clone(),
                set: kek.set.clone(),
                key_id: kek.key_id.clone(),
                bridged_since: self.engine.records.bridged_since(self.id(), &kek.key_id).await?,
            });
        }
        Ok(keks)
    }
}
