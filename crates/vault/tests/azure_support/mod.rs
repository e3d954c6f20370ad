//! Our Key Vault-compatible server before a local vault, and the Azure vault that asks it: over TLS, with tokens that
//! Microsoft's own credential fetches by a client secret.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider};
use cofferdam_vault::{
    Clock, KeyKind, LocalVault, LocalVaultOptions, Reauthenticating, Recovery, SystemClock, SystemEntropy,
    WrapContext,
    azure::{AzureCredential, AzureOptions, AzureVault},
    serve::{KeyVaultServer, Permission, ServerCertificate, ServerOptions},
    testing::PublishedRsaKeys,
};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub(crate) const CLIENT: &str = "the-service";
pub(crate) const SECRET: &str = "canary-of-the-client-secret";

pub(crate) struct Served {
    /// The customer's side: changes to it are felt by the next request.
    pub(crate) customer: LocalVault,
    server: Mutex<Option<KeyVaultServer>>,
    address: SocketAddr,
    url: String,
    tenant: String,
    /// Authority, certificate and key, in PEM.
    certificate: [String; 3],
    good_until: Duration,
    _folder: TempDir,
}

/// A certificate that no client was told to trust.
fn another() -> ServerCertificate {
    ServerCertificate::generate("127.0.0.1", &SystemClock).unwrap()
}

impl Served {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
            .rsa_keys(Arc::new(PublishedRsaKeys::default()));
        let customer = LocalVault::create(folder.path().join("vault"), "acme", options).await.unwrap();
        let certificate = another();
        let (authority, chain, key) = certificate.pem();
        let good_until = certificate.good_until();
        let certificate = [authority.to_owned(), chain.to_owned(), key.to_string()];
        let options = ServerOptions::default();
        let (listen, tenant) = (options.listen, options.tenant);
        let mut served = Self {
            customer,
            server: Mutex::default(),
            address: listen,
            url: String::new(),
            tenant,
            certificate,
            good_until,
            _folder: folder,
        };
        served.up().await;
        let (url, address) = {
            let server = served.server();
            let server = server.as_ref().unwrap();
            (server.url().to_owned(), server.address())
        };
        (served.url, served.address) = (url, address);
        served
    }

    fn server(&self) -> MutexGuard<'_, Option<KeyVaultServer>> {
        self.server.lock().unwrap()
    }

    /// The server is there, at the same place as ever.
    pub(crate) async fn up(&self) {
        let [authority, chain, key] = self.certificate.clone();
        let key = Zeroizing::new(key);
        self.up_with(ServerCertificate::from_pem(authority, chain, key, self.good_until)).await;
    }

    /// In its place is one with a certificate of somebody else.
    pub(crate) async fn impostor(&self) {
        self.down().await;
        self.up_with(another()).await;
    }

    async fn up_with(&self, certificate: ServerCertificate) {
        self.down().await;
        let mut options = ServerOptions::default();
        (options.listen, options.certificate) = (self.address, Some(certificate));
        let keys = Arc::new(self.customer.clone());
        let server = KeyVaultServer::start(keys, options).await.unwrap();
        server.add_client_with(CLIENT, SECRET, &Permission::WRAPPING);
        *self.server() = Some(server);
    }

    /// The server is gone, its connections too.
    pub(crate) async fn down(&self) {
        let server = self.server().take();
        if let Some(server) = server {
            server.stop(Duration::ZERO).await.unwrap();
        }
    }

    pub(crate) fn on<T>(&self, ask: impl FnOnce(&KeyVaultServer) -> T) -> T {
        ask(self.server().as_ref().expect("it is up"))
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn options(&self) -> AzureOptions {
        let credential =
            AzureCredential::client_secret(&self.tenant, CLIENT, || Ok(Zeroizing::new(SECRET.to_owned())));
        AzureOptions::new(&self.url, credential)
            .test_server()
            .authority_host(&self.url)
            .roots_pem(self.certificate[0].as_bytes())
            .call_timeout(Duration::from_secs(20))
    }

    pub(crate) fn vault(&self) -> Reauthenticating<AzureVault> {
        AzureVault::connect(self.options()).unwrap()
    }

    /// Makes a key; its id as Azure would name it.
    pub(crate) async fn key(&self, name: &str, kind: KeyKind) -> KeyId {
        let local = self.customer.create_key_of(name, kind, Recovery::default()).await.unwrap();
        self.served(&local)
    }

    /// A key of the customer's vault, as it is named here.
    pub(crate) fn served(&self, local: &KeyId) -> KeyId {
        KeyId::new(local.as_str().replace("local://acme", &self.url)).unwrap()
    }

    /// A key named here, as the customer's vault names it.
    pub(crate) fn local(&self, served: &KeyId) -> KeyId {
        KeyId::new(served.as_str().replace(&self.url, "local://acme")).unwrap()
    }

    /// The same without its version.
    pub(crate) fn whole(key: &KeyId) -> KeyId {
        KeyId::new(key.as_str().rsplit_once('/').unwrap().0).unwrap()
    }
}

pub(crate) fn now() -> Duration {
    SystemClock.now().wall
}

pub(crate) fn aek(byte: u8) -> Aek {
    Aek::try_from_fn(|key| -> Result<(), Infallible> {
        key.fill(byte);
        Ok(())
    })
    .unwrap()
}

pub(crate) fn context() -> WrapContext {
    let account = AccountId::from_bytes([3; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}
