//! Which vault an account's keys are in.
//!
//! Guarantees: an account reaches only the vault that the service registered for its principal, so one tenant
//! can't name another's KEK.
//!
//! Two principals share a vault where they were registered with the same `Arc`: its budget is one then. Two `Arc`s are
//! two vaults, whatever they lead to.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{KeyVault, VaultBudget};

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
    budgets: Vec<(Arc<dyn KeyVault>, VaultBudget)>,
}

/// Whether both are the same vault: see the module.
pub fn is_same_vault(one: &Arc<dyn KeyVault>, other: &Arc<dyn KeyVault>) -> bool {
    // By address alone: the same vault can have two tables of functions.
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

impl VaultRegistry {
    /// A registry of the service's own vault.
    pub fn new(service: Arc<dyn KeyVault>) -> Self {
        Self { service, customers: BTreeMap::new(), budgets: Vec::new() }
    }

    /// The same with this principal's vault.
    #[must_use]
    pub fn with_customer(mut self, principal: Principal, vault: Arc<dyn KeyVault>) -> Self {
        self.customers.insert(principal, vault);
        self
    }

    /// The same where this vault, whoever shares it, is called so often. [`VaultBudget::default`] for all others.
    #[must_use]
    pub fn with_budget(mut self, vault: &Arc<dyn KeyVault>, budget: VaultBudget) -> Self {
        self.budgets.retain(|(of, _)| !is_same_vault(of, vault));
        self.budgets.push((vault.clone(), budget));
        self
    }

    /// How often this vault may be called.
    pub fn budget(&self, vault: &Arc<dyn KeyVault>) -> VaultBudget {
        let set = self.budgets.iter().find(|(of, _)| is_same_vault(of, vault));
        set.map_or_else(VaultBudget::default, |&(_, budget)| budget)
    }

    /// Every principal with its vault, in the order of their names.
    pub fn customers(&self) -> impl Iterator<Item = (&Principal, &Arc<dyn KeyVault>)> {
        self.customers.iter()
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

    #[test]
    fn principals_with_one_vault_share_its_budget() {
        let shared: Arc<dyn KeyVault> = Arc::new(Named("shared"));
        let own: Arc<dyn KeyVault> = Arc::new(Named("own"));
        let few = VaultBudget::of_limit(std::num::NonZeroU32::MIN);
        let registry = VaultRegistry::new(Arc::new(Named("service")))
            .with_customer(Principal::new("acme"), shared.clone())
            .with_customer(Principal::new("globex"), shared.clone())
            .with_customer(Principal::new("initech"), own.clone())
            .with_budget(&shared, few);
        let of = |name| registry.customer(&Principal::new(name)).unwrap();
        assert!(is_same_vault(of("acme"), of("globex")) && !is_same_vault(of("acme"), of("initech")));
        assert_eq!(registry.budget(of("globex")), few);
        assert_eq!(registry.budget(of("initech")), VaultBudget::default());
    }
}
