use std::{env, path::Path, process::Command, sync::Arc};

use cofferdam::{
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        encrypted::EncryptedObjectStore,
    },
    vault::{LocalVault, LocalVaultOptions, Principal, VaultRegistry},
};
use object_store::{ObjectStore, local::LocalFileSystem};

use super::{COLUMNS, GROUPS, read_and_check, write};

/// In the process that writes: where.
const HOME: &str = "COFFERDAM_WRITER_HOME";

/// A home on disk: both vaults, the accounts, and the folder that the objects are in.
struct Home {
    engine: Engine,
    account: Account,
    objects: Arc<dyn ObjectStore>,
}

impl Home {
    async fn create(home: &Path) -> Self {
        let vault = async |name: &str, key| {
            let vault =
                LocalVault::create(home.join(name), name, LocalVaultOptions::default()).await.unwrap();
            let kek = vault.create_key(key).await.unwrap();
            (vault, kek)
        };
        let (service, _) = vault("service", "storage").await;
        let (customer, kek) = vault("customer", "payroll").await;
        std::fs::create_dir(home.join("objects")).unwrap();
        let accounts = EmbeddedStore::create(home.join("accounts"), EmbeddedOptions::default()).unwrap();
        let (engine, objects) = Self::start(home, service, customer, accounts).await;
        let key = AccountKey::Customer { principal: principal(), kek, buffer: BufferMode::default() };
        let account = engine.create_account(&name(), key).await.unwrap();
        Self { engine, account, objects }
    }

    async fn open(home: &Path) -> Self {
        let vault =
            async |name: &str| LocalVault::open(home.join(name), LocalVaultOptions::default()).await.unwrap();
        let accounts = EmbeddedStore::open(home.join("accounts"), EmbeddedOptions::default()).unwrap();
        let (engine, objects) =
            Self::start(home, vault("service").await, vault("customer").await, accounts).await;
        let account = engine.account(&name()).await.unwrap();
        Self { engine, account, objects }
    }

    async fn start(
        home: &Path,
        service: LocalVault,
        customer: LocalVault,
        accounts: EmbeddedStore,
    ) -> (Engine, Arc<dyn ObjectStore>) {
        let kek = service.key_id("storage").unwrap();
        let vaults = VaultRegistry::new(Arc::new(service)).with_customer(principal(), Arc::new(customer));
        let engine = Engine::builder(Arc::new(accounts), vaults, kek).open().await.unwrap();
        let objects = LocalFileSystem::new_with_prefix(home.join("objects")).unwrap();
        (engine, Arc::new(objects))
    }

    async fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(EncryptedObjectStore::open(self.objects.clone(), self.account.clone()).await.unwrap())
    }
}

fn principal() -> Principal {
    Principal::new("contoso")
}

fn name() -> AccountName {
    AccountName::new("payroll").unwrap()
}

/// Run in two processes: the second is told by its environment that it writes.
#[tokio::test]
async fn over_one_folder_and_one_vault() {
    if let Some(home) = env::var_os(HOME) {
        let home = Home::create(Path::new(&home)).await;
        write(&home.store().await).await.unwrap();
        home.engine.close().await.unwrap();
        println!("written by process {}", std::process::id());
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let test = "one_process_writes_and_another_reads::over_one_folder_and_one_vault";
    let writer = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(HOME, home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&writer.stdout).into_owned();
    assert!(writer.status.success(), "{said}{}", String::from_utf8_lossy(&writer.stderr));
    let line = said.lines().find_map(|line| line.split("written by process ").nth(1)).expect(&said);
    assert_ne!(line, std::process::id().to_string());

    let home = Home::open(home.path()).await;
    let store = home.store().await;
    read_and_check(&store, 0..COLUMNS.len(), 0..GROUPS).await.unwrap();
    for column in 0..COLUMNS.len() {
        read_and_check(&store, column..column + 1, column..column + 1).await.unwrap();
    }
    println!("written by process {line}, read by process {}", std::process::id());
    home.engine.close().await.unwrap();
}
