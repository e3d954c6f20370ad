//! Which vault an account's keys are in.
//!
//! Guarantees: an account reaches only the vault that the service registered for its principal, so one tenant
//! can't name another's KEK.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::KeyVault;

/// Who an account belongs to, as the service names it: a tenant, a managed identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Principal(String);

impl Principal {
    /// The principal of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The service's own vault, and each principal's.
#[derive(Clone, Debug)]
pub struct VaultRegistry {
    service: Arc<dyn KeyVault>,
    customers: BTreeMap<Principal, Arc<dyn KeyVault>>,
}

impl VaultRegistry {
    /// A registry of the service's own vault.
    pub fn new(service: Arc<dyn KeyVault>) -> Self {
        Self { service, customers: BTreeMap::new() }
    }

    /// The same with this principal's vault.
    #[must_use]
    pub fn with_customer(mut self, principal: Principal, vault: Arc<dyn KeyVault>) -> Self {
        self.customers.insert(principal, vault);
        self
    }

    /// The service's own vault.
    pub fn service(&self) -> &Arc<dyn KeyVault> {
        &self.service
    }

    /// The vault of a principal.
    pub fn customer(&self, principal: &Principal) -> Option<&Arc<dyn KeyVault>> {
        self.customers.get(principal)
    }
}
