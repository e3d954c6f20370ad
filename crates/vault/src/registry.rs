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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use cofferdam_crypto::{Aek, KeyId, WrappedKey};

    use super::*;
    use crate::{KeyProperties, PublicKeyAnswer, VaultError, VaultErrorKind, WrapContext};

    /// Answers everything with its name.
    #[derive(Debug)]
    struct Named(&'static str);

    impl Named {
        fn answer<T>(&self) -> Result<T, VaultError> {
            Err(VaultError::new(VaultErrorKind::Other, self.0))
        }
    }

    #[async_trait]
    impl KeyVault for Named {
        async fn wrap_key(&self, _: &KeyId, _: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
            self.answer()
        }

        async fn unwrap_key(&self, _: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
            self.answer()
        }

        async fn key_properties(&self, _: &KeyId) -> Result<KeyProperties, VaultError> {
            self.answer()
        }

        async fn public_key(&self, _: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
            self.answer()
        }
    }

    async fn name_of(vault: &Arc<dyn KeyVault>) -> String {
        let key = KeyId::new("local://any/keys/k").unwrap();
        vault.key_properties(&key).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_principal_reaches_its_own_vault_alone() {
        let registry = VaultRegistry::new(Arc::new(Named("service")))
            .with_customer(Principal::new("acme"), Arc::new(Named("acme's")))
            .with_customer(Principal::new("globex"), Arc::new(Named("globex's")));
        for (principal, vault) in [("acme", "acme's"), ("globex", "globex's")] {
            let found = registry.customer(&Principal::new(principal)).unwrap();
            assert!(name_of(found).await.starts_with(vault));
        }
        assert!(name_of(registry.service()).await.starts_with("service"));
        for stranger in ["", "ACME", "acme ", "service"] {
            assert!(registry.customer(&Principal::new(stranger)).is_none(), "{stranger}");
        }
    }
}
