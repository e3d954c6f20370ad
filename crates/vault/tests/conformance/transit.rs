//! The Transit vault keeps every promise that a real OpenBao, reached by TLS, can be asked for.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    KeyKind, KeyVault,
    conformance::{Factory, Hook, NotDone, Report, Subject, run},
    testing::{SeededEntropy, servers::Bao},
    transit::{SecretSource, TransitLogin, TransitVault, Trust},
};
use tempfile::TempDir;

use crate::{
    factories::not_applicable,
    table::Made,
    transit_support::{World, front::Front, id, value},
};

/// A key's name and its version.
fn parts(key: &KeyId) -> (&str, u32) {
    let (name, version) = key.as_str().rsplit_once('/').unwrap();
    (name.rsplit_once('/').unwrap().1, version.parse().unwrap())
}

struct TransitFactory {
    world: World,
    front: Front,
    vault: Arc<dyn KeyVault>,
    /// Where the service finds its secret id.
    secrets: TempDir,
    made: AtomicUsize,
}

impl TransitFactory {
    fn start() -> Option<Self> {
        let world = World::of(Bao::raft())?;
        world.grant_all();
        let front = Front::of(world.bao.address());
        let secrets = tempfile::tempdir().unwrap();
        let role = world.json(&["read", "auth/approle/role/cofferdam/role-id"]);
        let login = TransitLogin::app_role(
            value(role["data"]["role_id"].as_str().unwrap()),
            SecretSource::file(secrets.path().join("secret-id")),
        );
        let mut options = world.options().trust(Trust::Only(front.authority().into()));
        options.address = front.url();
        let vault = Arc::new(TransitVault::connect(options, login).unwrap());
        let factory = Self { world, front, vault, secrets, made: AtomicUsize::new(0) };
        factory.give_secret_id();
        Some(factory)
    }

    fn give_secret_id(&self) {
        let made = self.world.json(&["write", "-f", "auth/approle/role/cofferdam/secret-id"]);
        let secret = made["data"]["secret_id"].as_str().unwrap();
        std::fs::write(self.secrets.path().join("secret-id"), secret).unwrap();
    }

    fn revoke_tokens(&self) {
        self.world.bao.run(&["token", "revoke", "-mode=path", "auth/approle"]);
    }
}

#[async_trait]
impl Factory for TransitFactory {
    fn subject(&self) -> Subject {
        Subject::new("TransitVault, OpenBao", KeyKind::Transit).recoverable().binds_context()
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        Ok(self.vault.clone())
    }

    async fn new_key(&self) -> Hook<KeyId> {
        let name = format!("key-{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.world.create(&name);
        Ok(id(&format!("transit/keys/{name}/1")))
    }

    fn excuse(&self, check: &str) -> Option<Cow<'static, str>> {
        let reason =
            "the latest version of a Transit key can't be disabled, only those below min_decryption_version";
        (check == "latest-disabled").then(|| reason.into())
    }

    async fn unversioned(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(id(&format!("transit/keys/{}", parts(key).0)))
    }

    async fn new_version(&self, key: &KeyId) -> Hook<KeyId> {
        let (name, _) = parts(key);
        self.world.rotate(name);
        let told = self.world.json(&["read", &format!("transit/keys/{name}")]);
        Ok(id(&format!("transit/keys/{name}/{}", told["data"]["latest_version"])))
    }

    /// After one more version, as the latest stays enabled.
    async fn disable(&self, key: &KeyId) -> Hook {
        let (name, version) = parts(key);
        self.world.rotate(name);
        self.world.configure(name, &format!("min_decryption_version={}", version + 1));
        Ok(())
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        let (name, version) = parts(key);
        self.world.configure(name, &format!("min_decryption_version={version}"));
        Ok(())
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        self.world.soft_delete(parts(key).0);
        Ok(())
    }

    async fn recover(&self, key: &KeyId) -> Hook {
        self.world.restore(parts(key).0);
        Ok(())
    }

    async fn expire(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("a Transit key has no dates"))
    }

    async fn defer(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("a Transit key has no dates"))
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        Ok(id("transit/keys/never/1"))
    }

    async fn unknown_version(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(id(&format!("transit/keys/{}/9", parts(key).0)))
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        let ids = [
            "transit://globex/transit/keys/key-0/1",
            "transit://ACME/transit/keys/key-0/1",
            "transit://acme/transit/keys/key-0/01",
            "transit://acme/transit/../transit/keys/key-0/1",
            "transit://acme/transit/secrets/key-0/1",
            "local://acme/keys/key-0/00000000000000000000000000000000",
            "https://acme.vault.azure.net/keys/key-0/1",
        ];
        Ok(ids.into_iter().map(KeyId::new).collect::<Result<_, _>>()?)
    }

    async fn deny(&self, _: &KeyId) -> Hook {
        self.world.deny();
        Ok(())
    }

    async fn allow(&self, _: &KeyId) -> Hook {
        self.world.grant_all();
        Ok(())
    }

    async fn outage(&self) -> Hook {
        self.world.bao.seal();
        Ok(())
    }

    async fn restore(&self) -> Hook {
        self.world.bao.unseal();
        Ok(())
    }

    async fn throttle(&self) -> Hook<Option<Duration>> {
        let quota = ["write", "sys/quotas/rate-limit/few", "rate=1", "interval=1h", "path=transit/"];
        self.world.bao.run(&quota);
        // The one request that it lets through.
        while self.world.bao.try_run(&["read", "transit/keys/payroll"]).is_ok() {}
        Ok(None)
    }

    async fn unthrottle(&self) -> Hook {
        self.world.bao.run(&["delete", "sys/quotas/rate-limit/few"]);
        Ok(())
    }

    async fn expire_credential(&self) -> Hook {
        self.revoke_tokens();
        Ok(())
    }

    async fn lose_credential(&self) -> Hook {
        let secret = std::fs::read_to_string(self.secrets.path().join("secret-id"))?;
        let destroy = "auth/approle/role/cofferdam/secret-id/destroy";
        self.world.bao.run(&["write", destroy, &format!("secret_id={secret}")]);
        self.revoke_tokens();
        Ok(())
    }

    async fn regain_credential(&self) -> Hook {
        self.give_secret_id();
        Ok(())
    }

    async fn untrust(&self) -> Hook {
        self.front.pretend(true);
        Ok(())
    }

    async fn trust(&self) -> Hook {
        self.front.pretend(false);
        Ok(())
    }

    async fn sent(&self) -> Hook<u64> {
        Ok(self.front.sent() as u64)
    }

    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

pub(crate) async fn openbao() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(async || Some(run(&TransitFactory::start()?, &SeededEntropy::new(1)).await)).await
}

#[tokio::test]
async fn the_transit_vault_conforms_on_openbao() {
    let Some(report) = openbao().await else { return };
    println!("{report}");
    assert!(report.is_ok(), "{report}");
    assert_eq!(
        not_applicable(report),
        ["public-key", "latest-disabled", "expired", "not-yet-active"],
        "{report}"
    );
}
