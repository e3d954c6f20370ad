//! Several vaults behind one: each call goes to the vault that a key id belongs to.
//!
//! Guarantees: a call reaches exactly one vault, the only one that says it owns the key id, and what that answers is passed on as it
//! is; a key id that no vault owns, or that two do, reaches none, which is [`Other`](VaultErrorKind::Other): the service asked
//! in the wrong place, and nothing is said of the key.
//!
//! A registry gives all of them one budget, as they are one vault to it. Not its job: whose keys they are
//! ([`VaultRegistry`](crate::VaultRegistry)).
#![deny(clippy::missing_trait_methods)]

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};

use crate::{KeyProperties, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind, WrapContext};

/// One vault made of several, for a principal whose keys are in more than one: while they move, or for good.
#[derive(Default)]
pub struct VaultRoutes(Vec<Route>);

struct Route {
    name: String,
    vault: Arc<dyn KeyVault>,
    owns: Box<dyn Fn(&KeyId) -> bool + Send + Sync>,
}

impl VaultRoutes {
    /// Routes to no vault yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a vault, named for errors, that has the keys of which `owns` says so: each vault's own `owns`, which
    /// asks nobody.
    #[must_use]
    pub fn with(
        mut self,
        name: impl Into<String>,
        vault: Arc<dyn KeyVault>,
        owns: impl Fn(&KeyId) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.0.push(Route { name: name.into(), vault, owns: Box::new(owns) });
        self
    }

    /// The names of the vaults, in the order in which they were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|route| route.name.as_str())
    }

    /// The vault that has this key, whether there is such a key in it or not.
    ///
    /// # Errors
    /// `Other`, where not exactly one vault owns it.
    pub fn route(&self, key_id: &KeyId) -> Result<&Arc<dyn KeyVault>, VaultError> {
        let mut owners = self.0.iter().filter(|route| (route.owns)(key_id));
        let message = match (owners.next(), owners.next()) {
            (Some(route), None) => return Ok(&route.vault),
            (Some(one), Some(other)) => format!(
                "both {} and {} say that it is theirs: keep one of the two vaults from these keys",
                one.name, other.name
            ),
            (None, _) => format!("no vault that may be used has it: there {}", self.told()),
        };
        Err(VaultError::new(VaultErrorKind::Other, message).about(key_id))
    }

    fn told(&self) -> String {
        let names: Vec<&str> = self.names().collect();
        match names.as_slice() {
            [] => "is none".into(),
            [one] => format!("is {one}"),
            [first @ .., last] => format!("are {} and {last}", first.join(", ")),
        }
    }
}

impl fmt::Debug for VaultRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|route| (&route.name, &route.vault))).finish()
    }
}

#[async_trait]
impl KeyVault for VaultRoutes {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        self.route(key_id)?.wrap_key(key_id, aek, context).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        self.route(&wrapped.key_id)?.unwrap_key(wrapped, context).await
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.route(key_id)?.key_properties(key_id).await
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.route(key_id)?.public_key(key_id).await
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_crypto::{AccountId, Epoch, KeyScope, Provider, WrapAlgorithm};

    use super::*;

    /// Answers everything with its name and what it was asked.
    #[derive(Debug)]
    struct Named(&'static str);

    impl Named {
        fn answer<T>(&self, asked: &str, key_id: &KeyId) -> Result<T, VaultError> {
            let message = format!("{} was asked to {asked}", self.0);
            Err(VaultError::new(VaultErrorKind::KeyDisabled, message).about(key_id))
        }
    }

    #[async_trait]
    impl KeyVault for Named {
        async fn wrap_key(&self, of: &KeyId, _: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
            self.answer("wrap", of)
        }

        async fn unwrap_key(&self, of: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
            self.answer("unwrap", &of.key_id)
        }

        async fn key_properties(&self, of: &KeyId) -> Result<KeyProperties, VaultError> {
            self.answer("describe", of)
        }

        async fn public_key(&self, of: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
            self.answer("publish", of)
        }
    }

    fn routes(names: &[(&'static str, &'static str)]) -> VaultRoutes {
        names.iter().fold(VaultRoutes::new(), |routes, &(name, prefix)| {
            routes.with(name, Arc::new(Named(name)), move |of: &KeyId| of.as_str().starts_with(prefix))
        })
    }

    fn key_id(uri: &str) -> KeyId {
        KeyId::new(uri).unwrap()
    }

    /// What each of the four calls fails with.
    async fn all_four(routes: &VaultRoutes, of: &KeyId) -> Vec<VaultError> {
        let scope = KeyScope {
            account: AccountId::from_bytes([1; 16]),
            epoch: Epoch::FIRST,
            provider: Provider::Customer,
        };
        let context = WrapContext { scope };
        let aek = Aek::try_from_fn(|bytes| {
            bytes.fill(7);
            Ok::<_, VaultError>(())
        });
        let wrapped =
            WrappedKey { key_id: of.clone(), algorithm: WrapAlgorithm::Aes256Kw, bytes: vec![0; 40] };
        vec![
            routes.wrap_key(of, &aek.unwrap(), &context).await.unwrap_err(),
            routes.unwrap_key(&wrapped, &context).await.unwrap_err(),
            routes.key_properties(of).await.unwrap_err(),
            routes.public_key(of).await.unwrap_err(),
        ]
    }

    #[tokio::test]
    async fn every_call_goes_to_the_vault_that_owns_the_key_and_its_answer_comes_back_as_it_is() {
        let routes = routes(&[("local", "local://"), ("hsm", "pkcs11:")]);
        assert_eq!(routes.names().collect::<Vec<_>>(), ["local", "hsm"]);
        for (uri, name) in [("local://a/keys/k", "local"), ("pkcs11:token=t;object=k", "hsm")] {
            let of = key_id(uri);
            let failed = all_four(&routes, &of).await;
            for (failed, asked) in failed.iter().zip(["wrap", "unwrap", "describe", "publish"]) {
                assert_eq!(failed.kind(), VaultErrorKind::KeyDisabled);
                assert_eq!(failed.to_string(), format!("{name} was asked to {asked} (key {uri})"));
            }
        }
    }

    #[tokio::test]
    async fn a_key_that_no_vault_has_reaches_none_and_the_error_says_which_there_are() {
        let of = key_id("https://acme.vault.azure.net/keys/k");
        for (names, there) in [
            (&[][..], "there is none"),
            (&[("local", "local://")], "there is local"),
            (
                &[("local", "local://"), ("hsm", "pkcs11:"), ("bao", "transit://")],
                "there are local, hsm and bao",
            ),
        ] {
            for failed in all_four(&routes(names), &of).await {
                assert_eq!((failed.kind(), failed.key_id()), (VaultErrorKind::Other, Some(&of)));
                assert!(failed.to_string().contains(there), "{failed}");
            }
        }
    }

    #[tokio::test]
    async fn a_key_that_two_vaults_say_is_theirs_reaches_neither() {
        let routes = routes(&[("one", "pkcs11:token=t;"), ("local", "local://"), ("two", "pkcs11:")]);
        for failed in all_four(&routes, &key_id("pkcs11:token=t;object=k")).await {
            assert_eq!(failed.kind(), VaultErrorKind::Other);
            assert!(failed.to_string().contains("both one and two say"), "{failed}");
        }
        assert!(routes.route(&key_id("pkcs11:token=u;object=k")).is_ok());
    }
}
