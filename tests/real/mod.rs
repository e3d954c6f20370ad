//! Real vaults, each with what the owner of its keys does there; and an engine over them, by the machine's clock.
//!
//! Nothing here stands in for a vault but ministack for AWS KMS, and Key Vault's own API is spoken by our server: what a
//! stand-in is lax in, no test that uses this may prove. moto is not used, as keys that are disabled in it decrypt still.

#![allow(dead_code, reason = "no test file uses all of it")]

pub(crate) mod outage;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam::{
    crypto::{BlockId, KeyId, rsa::RsaSize},
    keyring::{KeyState, Policy},
    store::{
        Account, AccountKey, AccountName, BlockStore, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        EngineError,
    },
    vault::{
        Clock, CredentialError, KeyKind, KeyVault, LocalVault, LocalVaultOptions, Principal, Recovery,
        SystemClock, SystemEntropy, Timestamp, VaultRegistry,
        aws::{AwsCredentialSource, AwsCredentials, AwsOptions, AwsVault},
        azure::{AzureCredential, AzureOptions, AzureVault},
        pkcs11::{Pin, PinError, PinSource, Pkcs11Options, Pkcs11Vault},
        serve::{KeyVaultServer, Permission, ServerOptions},
        testing::servers::{Bao, Kryoptic, Ministack, SoftHsm},
        transit::{Secret, SecretSource, TransitLogin, TransitOptions, TransitVault},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, MutexGuard},
};

/// What our client of the Key Vault-compatible server is called there.
const CLIENT: &str = "engine";
/// The account that ministack's keys are in.
pub(crate) const AWS_ACCOUNT: &str = "000000000000";

/// Lets one test at a time use real vaults: they take the same token away, and measure how soon that is felt.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// A customer with keys in a vault of its own.
#[derive(Clone)]
pub(crate) struct Customer {
    /// Its name, and the vault's.
    pub(crate) name: &'static str,
    pub(crate) vault: Arc<dyn KeyVault>,
    pub(crate) owner: Owner,
}

/// Who owns the keys, and changes them at the vault itself.
#[derive(Clone)]
pub(crate) enum Owner {
    Local(LocalVault),
    Token(Pkcs11Vault),
    /// With the policy that the engine's role has, for keys of this name.
    Bao {
        bao: Arc<Bao>,
        policy: &'static str,
    },
    KeyVault {
        keys: LocalVault,
        server: Arc<KeyVaultServer>,
    },
    Aws(Arc<Ministack>),
}

impl Customer {
    pub(crate) fn principal(&self) -> Principal {
        Principal::new(self.name)
    }

    /// A key of a local vault in this folder.
    pub(crate) async fn local(folder: &Path) -> Self {
        let vault = local(&folder.join("customer.vault"), "customer").await;
        Self { name: "local", vault: Arc::new(vault.clone()), owner: Owner::Local(vault) }
    }

    pub(crate) async fn softhsm() -> Option<Self> {
        let token = SoftHsm::start()?;
        Some(Self::token("softhsm", token.module(), token.token(), token.pin()).await)
    }

    pub(crate) async fn kryoptic() -> Option<Self> {
        // The tool that makes tokens looks at SoftHSM's own, whichever it makes.
        SoftHsm::start()?;
        let token = Kryoptic::start()?;
        Some(Self::token("kryoptic", token.module(), token.token(), token.pin()).await)
    }

    async fn token(name: &'static str, module: &Path, label: &str, pin: &'static str) -> Self {
        let options = Pkcs11Options::new(module, label, Arc::new(GivenPin(pin))).recoverable(true);
        let vault = Pkcs11Vault::open(options).await.unwrap();
        Self { name, vault: Arc::new(vault.clone()), owner: Owner::Token(vault) }
    }

    /// Logged in by a role that may use these keys of a server which [`openbao_server`] prepared.
    pub(crate) async fn openbao(bao: &Arc<Bao>, name: &'static str, keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.hcl");
        std::fs::write(&file, documented_policy().replace("payroll", keys)).unwrap();
        run(bao, &["policy", "write", name, file.to_str().unwrap()]).await;
        let role = format!("auth/approle/role/{name}");
        run(bao, &["write", &role, &format!("token_policies={name}"), "token_ttl=1h"]).await;
        let role_id = run(bao, &["read", "-field=role_id", &format!("{role}/role-id")]).await;
        let secret_id = run(bao, &["write", "-f", "-field=secret_id", &format!("{role}/secret-id")]).await;
        let login = TransitLogin::app_role(secret(&role_id), secret(&secret_id));
        let options = TransitOptions::new(bao.url()).authority("acme").allow_plain_http_to_loopback();
        let vault = Arc::new(TransitVault::connect(options, login).unwrap());
        Self { name, vault, owner: Owner::Bao { bao: bao.clone(), policy: name } }
    }

    /// Through our adapter from our Key Vault-compatible server, over TLS, logged in by a client secret.
    pub(crate) async fn key_vault(folder: &Path, name: &'static str) -> Self {
        let keys = local(&folder.join(format!("{name}.vault")), "acme").await;
        let server = KeyVaultServer::start(Arc::new(keys.clone()), ServerOptions::default()).await.unwrap();
        let client_secret = server.add_client(CLIENT, &Permission::WRAPPING).unwrap();
        let credential =
            AzureCredential::client_secret(server.tenant(), CLIENT, move || Ok(client_secret.clone()));
        let options = AzureOptions::new(server.url(), credential)
            .test_server()
            .authority_host(server.url())
            .roots_pem(server.authority_pem());
        let vault = Arc::new(AzureVault::connect(options).unwrap());
        Self { name, vault, owner: Owner::KeyVault { keys, server: Arc::new(server) } }
    }

    /// AWS KMS as ministack has it.
    pub(crate) fn aws(server: &Arc<Ministack>, name: &'static str) -> Self {
        let vault = aws_vault(server.url(), AWS_ACCOUNT);
        Self { name, vault, owner: Owner::Aws(server.clone()) }
    }
}

impl Owner {
    /// Makes a key.
    pub(crate) async fn create(&self, name: &str) -> KeyId {
        match self {
            Self::Local(keys) => keys.create_key(name).await.unwrap(),
            Self::Token(token) => token.create_key(name, KeyKind::Aes256).await.unwrap(),
            Self::Bao { bao, .. } => {
                run(bao, &["write", "-f", &format!("transit/keys/{name}")]).await;
                key_id(&format!("transit://acme/transit/keys/{name}/1"))
            }
            Self::KeyVault { keys, server } => {
                let rsa = KeyKind::Rsa(RsaSize::Rsa2048);
                let local = keys.create_key_of(name, rsa, Recovery::default()).await.unwrap();
                let (_, path) = local.as_str().split_once("/keys/").unwrap();
                key_id(&format!("{}/keys/{path}", server.url()))
            }
            Self::Aws(server) => {
                let made = kms(server.url(), "CreateKey", json!({ "KeyUsage": "ENCRYPT_DECRYPT" })).await;
                key_id(made["KeyMetadata"]["Arn"].as_str().unwrap())
            }
        }
    }

    /// Disables a key that [`create`](Self::create) made: for OpenBao, which knows no such thing, by a least version above it.
    pub(crate) async fn disable(&self, key: &KeyId) {
        match self {
            Self::Local(keys) => keys.disable(key).await.unwrap(),
            Self::Token(token) => token.disable(key).await.unwrap(),
            Self::Bao { bao, .. } => {
                let path = bao_path(key);
                run(bao, &["write", "-f", &format!("{path}/rotate")]).await;
                run(bao, &["write", &format!("{path}/config"), "min_decryption_version=2"]).await;
            }
            Self::KeyVault { keys, .. } => keys.disable(&in_local(key)).await.unwrap(),
            Self::Aws(server) => drop(kms(server.url(), "DisableKey", json!({ "KeyId": bare(key) })).await),
        }
    }

    /// Undoes that.
    pub(crate) async fn enable(&self, key: &KeyId) {
        match self {
            Self::Local(keys) => keys.enable(key).await.unwrap(),
            Self::Token(token) => token.enable(key).await.unwrap(),
            Self::Bao { bao, .. } => {
                let config = format!("{}/config", bao_path(key));
                run(bao, &["write", &config, "min_decryption_version=1"]).await;
            }
            Self::KeyVault { keys, .. } => keys.enable(&in_local(key)).await.unwrap(),
            Self::Aws(server) => drop(kms(server.url(), "EnableKey", json!({ "KeyId": bare(key) })).await),
        }
    }

    /// Takes the engine's permissions away and leaves the key as it is.
    pub(crate) async fn deny(&self) {
        match self {
            Self::Bao { bao, policy } => drop(run(bao, &["policy", "delete", policy]).await),
            Self::KeyVault { server, .. } => server.permit(CLIENT, &[]).unwrap(),
            _ => panic!("nobody's permissions are there"),
        }
    }

    /// Gives them back, for keys of this name.
    pub(crate) async fn allow(&self, keys: &str) {
        match self {
            Self::Bao { bao, policy } => {
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("policy.hcl");
                std::fs::write(&file, documented_policy().replace("payroll", keys)).unwrap();
                run(bao, &["policy", "write", policy, file.to_str().unwrap()]).await;
            }
            Self::KeyVault { server, .. } => server.permit(CLIENT, &Permission::WRAPPING).unwrap(),
            _ => panic!("nobody's permissions are there"),
        }
    }

    /// Has a key of AWS's deleted in a week.
    pub(crate) async fn schedule_deletion(&self, key: &KeyId) {
        let Self::Aws(server) = self else { panic!("only AWS schedules a deletion") };
        kms(server.url(), "ScheduleKeyDeletion", json!({ "KeyId": bare(key), "PendingWindowInDays": 7 }))
            .await;
    }

    /// Thinks better of it.
    pub(crate) async fn cancel_deletion(&self, key: &KeyId) {
        let Self::Aws(server) = self else { panic!("only AWS schedules a deletion") };
        kms(server.url(), "CancelKeyDeletion", json!({ "KeyId": bare(key) })).await;
        // AWS leaves it disabled.
        self.enable(key).await;
    }
}

/// A server of OpenBao with a Transit engine and AppRole.
pub(crate) async fn openbao_server(bao: Bao) -> Arc<Bao> {
    let bao = Arc::new(bao);
    run(&bao, &["secrets", "enable", "transit"]).await;
    run(&bao, &["auth", "enable", "approle"]).await;
    bao
}

/// Runs `bao` where it may block.
pub(crate) async fn run(bao: &Arc<Bao>, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    blocking(bao, move |bao| bao.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())).await
}

/// Does what may block on a thread for it.
pub(crate) async fn blocking<T: Send + Sync + 'static, R: Send + 'static>(
    of: &Arc<T>,
    work: impl FnOnce(&T) -> R + Send + 'static,
) -> R {
    let of = of.clone();
    tokio::task::spawn_blocking(move || work(&of)).await.unwrap()
}

/// The policy of docs/vault-transit.md, as it stands there.
fn documented_policy() -> &'static str {
    let (_, rest) = include_str!("../../docs/vault-transit.md").split_once("```hcl\n").unwrap();
    rest.split_once("```").unwrap().0
}

fn secret(printed: &str) -> SecretSource {
    SecretSource::value(Secret::new(printed.trim().to_owned()))
}

fn bao_path(key: &KeyId) -> String {
    let path = key.as_str().strip_prefix("transit://acme/").unwrap();
    path.strip_suffix("/1").unwrap_or(path).to_owned()
}

fn in_local(key: &KeyId) -> KeyId {
    let (_, path) = key.as_str().split_once("/keys/").unwrap();
    key_id(&format!("local://acme/keys/{path}"))
}

fn bare(key: &KeyId) -> &str {
    key.as_str().rsplit('/').next().unwrap()
}

pub(crate) fn key_id(text: &str) -> KeyId {
    KeyId::new(text).unwrap()
}

/// Our adapter before a stand-in for AWS KMS.
pub(crate) fn aws_vault(url: &str, account: &str) -> Arc<dyn KeyVault> {
    let options = AwsOptions::new("eu-west-1", account)
        .credentials(Arc::new(AccessKey))
        .endpoint(url)
        .allow_plain_http_to_loopback();
    Arc::new(AwsVault::connect(options).unwrap())
}

/// What the owner does in AWS's console: the stand-ins check no signature.
pub(crate) async fn kms(url: &str, action: &str, body: Value) -> Value {
    let address = url.strip_prefix("http://").unwrap();
    let body = body.to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\nx-amz-target: TrentService.{action}\r\n\
         content-type: application/x-amz-json-1.1\r\nconnection: close\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=ADMIN/20260101/eu-west-1/kms/aws4_request, \
         SignedHeaders=host, Signature=0\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{action}: {answer}");
    // It is told by its length or comes in one chunk.
    match (body.find('{'), body.rfind('}')) {
        (Some(from), Some(to)) => serde_json::from_str(&body[from..=to]).unwrap(),
        _ => Value::Null,
    }
}

#[derive(Debug)]
struct GivenPin(&'static str);

impl PinSource for GivenPin {
    fn pin(&self) -> Result<Pin, PinError> {
        Pin::new(self.0.into())
    }
}

#[derive(Debug)]
struct AccessKey;

#[async_trait]
impl AwsCredentialSource for AccessKey {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        Ok(AwsCredentials::new("AKIAIOSFODNN7EXAMPLE", "a-secret-access-key", None, None))
    }
}

async fn local(path: &Path, name: &str) -> LocalVault {
    let options = LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
    LocalVault::create(path, name, options).await.unwrap()
}

/// An engine over an embedded store and the vaults of these customers.
pub(crate) struct Real {
    folder: TempDir,
    vaults: VaultRegistry,
    service_kek: KeyId,
    policy: Policy,
    store: EmbeddedStore,
    pub(crate) engine: Engine,
}

impl Real {
    pub(crate) async fn over(customers: &[Customer], policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let service = local(&folder.path().join("service.vault"), "service").await;
        let service_kek = service.create_key("service").await.unwrap();
        let mut vaults = VaultRegistry::new(Arc::new(service));
        for customer in customers {
            vaults = vaults.with_customer(customer.principal(), customer.vault.clone());
        }
        let store =
            EmbeddedStore::create(folder.path().join("blocks.store"), EmbeddedOptions::default()).unwrap();
        let engine = open(&store, &vaults, &service_kek, &policy).await;
        Self { folder, vaults, service_kek, policy, store, engine }
    }

    pub(crate) async fn create_account(&self, customer: &Customer, kek: KeyId) -> Account {
        let principal = customer.principal();
        let key = AccountKey::Customer { principal, kek, buffer: BufferMode::ServiceManaged };
        self.engine.create_account(&name(customer.name), key).await.unwrap()
    }

    /// Closes everything and opens it again from its files: every key is cold.
    pub(crate) async fn restart(&mut self) {
        self.engine.close().await.unwrap();
        BlockStore::close(&self.store).await.unwrap();
        let path = self.folder.path().join("blocks.store");
        self.store = EmbeddedStore::open(path, EmbeddedOptions::default()).unwrap();
        self.engine = open(&self.store, &self.vaults, &self.service_kek, &self.policy).await;
    }
}

async fn open(store: &EmbeddedStore, vaults: &VaultRegistry, service_kek: &KeyId, policy: &Policy) -> Engine {
    Engine::builder(Arc::new(store.clone()), vaults.clone(), service_kek.clone())
        .policy(policy.clone())
        .open()
        .await
        .unwrap()
}

/// The shortest refresh that there is, not to be stretched.
pub(crate) fn policy() -> Policy {
    let refresh = Policy::MIN_REFRESH;
    Policy::default().with_refresh(refresh).unwrap().with_ceiling(refresh).unwrap()
}

/// How much time has passed.
pub(crate) struct Stopwatch(Timestamp);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(SystemClock.now())
    }

    pub(crate) fn read(&self) -> Duration {
        SystemClock.now().since(&self.0)
    }
}

pub(crate) fn name(text: &str) -> AccountName {
    AccountName::new(text).unwrap()
}

pub(crate) fn block(n: usize) -> BlockId {
    BlockId::new(format!("block-{n:05}")).unwrap()
}

/// What a test writes as that block: another length each.
pub(crate) fn content(n: usize) -> Vec<u8> {
    format!("content of block {n}, ").repeat(1 + n % 50).into_bytes()
}

/// How many of these blocks do not read as they were written.
pub(crate) async fn lost(account: &Account, blocks: impl IntoIterator<Item = usize>) -> Vec<String> {
    let mut lost = Vec::new();
    for n in blocks {
        match account.get(&block(n)).await {
            Ok(bytes) if bytes == content(n) => {}
            other => lost.push(format!("block {n}: {:?}", other.map(|bytes| bytes.len()))),
        }
    }
    lost
}

pub(crate) async fn key_state(account: &Account) -> KeyState {
    account.key_status().await.unwrap().key.state
}

pub(crate) fn is_revoked<T>(answer: &Result<T, EngineError>) -> bool {
    matches!(answer, Err(EngineError::KeyRevoked { .. }))
}

pub(crate) fn is_unavailable<T>(answer: &Result<T, EngineError>) -> bool {
    matches!(answer, Err(EngineError::KeyUnavailable { .. }))
}
