//! A real OpenBao with a Transit engine, the policy that the docs give, and a role that has it.

#![allow(dead_code, reason = "each file of tests uses a part")]

pub(crate) mod front;

use std::{convert::Infallible, time::Duration};

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider};
use cofferdam_vault::{
    KeyVault, Reauthenticating, VaultError, VaultErrorKind, WrapContext,
    testing::servers::Bao,
    transit::{Secret, SecretSource, TransitLogin, TransitOptions, TransitVault},
};
use serde_json::Value;

/// The policy of docs/vault-transit.md, as it stands there.
pub(crate) fn documented_policy() -> String {
    let page = include_str!("../../../../docs/vault-transit.md");
    let (_, rest) = page.split_once("```hcl\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

pub(crate) struct World {
    pub(crate) bao: Bao,
}

pub(crate) type Vault = Reauthenticating<TransitVault>;

impl World {
    pub(crate) fn of(bao: Option<Bao>) -> Option<Self> {
        let world = Self { bao: bao? };
        world.bao.run(&["secrets", "enable", "transit"]);
        world.bao.run(&["auth", "enable", "approle"]);
        world.grant();
        world.role("1h", "24h");
        world.create("payroll");
        Some(world)
    }

    pub(crate) fn dev() -> Option<Self> {
        Self::of(Bao::dev())
    }

    pub(crate) fn create(&self, name: &str) {
        self.bao.run(&["write", "-f", &format!("transit/keys/{name}")]);
    }

    pub(crate) fn configure(&self, name: &str, setting: &str) {
        self.bao.run(&["write", &format!("transit/keys/{name}/config"), setting]);
    }

    pub(crate) fn rotate(&self, name: &str) {
        self.bao.run(&["write", "-f", &format!("transit/keys/{name}/rotate")]);
    }

    pub(crate) fn soft_delete(&self, name: &str) {
        self.bao.run(&["delete", &format!("transit/keys/{name}/soft-delete")]);
    }

    pub(crate) fn restore(&self, name: &str) {
        self.bao.run(&["write", "-f", &format!("transit/keys/{name}/soft-delete-restore")]);
    }

    pub(crate) fn grant(&self) {
        self.policy("cofferdam", &documented_policy());
    }

    /// The same for every key of the mount.
    pub(crate) fn grant_all(&self) {
        self.policy("cofferdam", &documented_policy().replace("payroll", "*"));
    }

    pub(crate) fn deny(&self) {
        self.bao.run(&["policy", "delete", "cofferdam"]);
    }

    pub(crate) fn policy(&self, name: &str, hcl: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.hcl");
        std::fs::write(&file, hcl).unwrap();
        self.bao.run(&["policy", "write", name, file.to_str().unwrap()]);
    }

    pub(crate) fn role(&self, ttl: &str, most: &str) {
        self.bao.run(&[
            "write",
            "auth/approle/role/cofferdam",
            "token_policies=cofferdam",
            &format!("token_ttl={ttl}"),
            &format!("token_max_ttl={most}"),
        ]);
    }

    /// What `read` or `write` prints, as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let (command, rest) = arguments.split_first().unwrap();
        let arguments = [&[*command, "-format=json"], rest].concat();
        serde_json::from_str(&self.bao.run(&arguments)).unwrap()
    }

    pub(crate) fn app_role(&self) -> TransitLogin {
        let role = self.json(&["read", "auth/approle/role/cofferdam/role-id"]);
        let secret = self.json(&["write", "-f", "auth/approle/role/cofferdam/secret-id"]);
        TransitLogin::app_role(
            value(role["data"]["role_id"].as_str().unwrap()),
            value(secret["data"]["secret_id"].as_str().unwrap()),
        )
    }

    /// A token with this policy that lives so long.
    pub(crate) fn token(&self, ttl: &str, policy: &str) -> String {
        let (policies, ttl) = (format!("policies={policy}"), format!("ttl={ttl}"));
        let created = self.json(&["write", "auth/token/create", &policies, &ttl]);
        created["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn options(&self) -> TransitOptions {
        TransitOptions::new(self.bao.url()).authority("acme").allow_plain_http_to_loopback()
    }

    pub(crate) fn vault(&self) -> Vault {
        TransitVault::connect(self.options(), self.app_role()).unwrap()
    }
}

pub(crate) fn value(secret: &str) -> SecretSource {
    SecretSource::value(Secret::new(secret.to_owned()))
}

pub(crate) fn id(text: &str) -> KeyId {
    KeyId::new(format!("transit://acme/{text}")).unwrap()
}

pub(crate) fn payroll() -> KeyId {
    id("transit/keys/payroll")
}

pub(crate) fn aek() -> Aek {
    Aek::try_from_fn(|key| -> Result<(), Infallible> {
        key.copy_from_slice(&std::array::from_fn::<u8, 32, _>(|n| 0xa0 ^ n as u8));
        Ok(())
    })
    .unwrap()
}

pub(crate) fn context() -> WrapContext {
    let account = AccountId::from_bytes([3; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

pub(crate) fn kind<T>(answer: Result<T, VaultError>) -> Option<VaultErrorKind> {
    answer.err().map(|e| e.kind())
}

/// Waits until the vault answers so, for a minute at most.
pub(crate) async fn until(vault: &impl KeyVault, key_id: &KeyId, wanted: Option<VaultErrorKind>) {
    let mut last = None;
    for _ in 0..600 {
        last = kind(vault.key_properties(key_id).await);
        if last == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the vault still answers {last:?}, not {wanted:?}");
}
