//! How many bytes of writes may be under way.
//!
//! Guarantees: no more than the allowance at once, and no account more than half of it, so a busy account makes itself
//! wait before it makes others wait. A write larger than its allowance goes alone.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::EngineError;

/// Bytes a permit stands for: tokio counts permits in 32 bits.
const UNIT: usize = 4096;

#[derive(Debug)]
pub(super) struct Admission {
    all: Arc<Semaphore>,
    units: u32,
}

/// One account's part.
#[derive(Debug)]
pub(super) struct AccountAdmission {
    own: Arc<Semaphore>,
    units: u32,
}

/// Held while a write is under way.
#[derive(Debug)]
pub(super) struct Admitted {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(bytes: usize) -> Self {
        let units = units(bytes);
        Self { all: Arc::new(Semaphore::new(units as usize)), units }
    }

    pub(super) fn account(&self) -> AccountAdmission {
        let units = (self.units / 2).max(1);
        AccountAdmission { own: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until `bytes` fit.
    pub(super) async fn admit(
        &self,
        account: &AccountAdmission,
        bytes: usize,
    ) -> Result<Admitted, EngineError> {
        let wanted = units(bytes);
        let own = account.own.clone().acquire_many_owned(wanted.min(account.units)).await;
        let all = self.all.clone().acquire_many_owned(wanted.min(self.units)).await;
        match (own, all) {
            (Ok(own), Ok(all)) => Ok(Admitted { _own: own, _all: all }),
            _ => Err(EngineError::Closed),
        }
    }

    /// Waits for what is under way, and for what waits to be.
    pub(super) async fn flush(&self) {
        drop(self.all.acquire_many(self.units).await);
    }

    /// Waits for what is under way and admits nothing more.
    pub(super) async fn close(&self) {
        let all = self.all.acquire_many(self.units).await;
        self.all.close();
        drop(all);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3)
}
