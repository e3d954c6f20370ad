//! A vault of your own in under 60 lines, KEKs in a folder that the customer can unplug, held to everything that a vault promises.
//!
//! Run it with `cargo run --example custom_vault --features conformance`. It takes a second.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{
    error::Error,
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use cofferdam::{
    crypto::{Aek, KeyId, WrapAlgorithm, WrappedKey, kw::Kek},
    vault::{
        Entropy, KeyKind, KeyProperties, KeyState, KeyVault, PublicKeyAnswer, SystemEntropy, VaultError,
        VaultErrorKind as Kind, WrapContext,
        conformance::{self, Factory, Hook, NotDone, Subject},
    },
};

// The vault, from here:

/// KEKs of 32 bytes, a file each: `folder:NAME`. The file `NAME.disabled` beside one disables it.
#[derive(Debug)]
struct FolderVault(PathBuf);

impl FolderVault {
    fn kek(&self, key_id: &KeyId) -> Result<Kek, VaultError> {
        let fail = |kind, why: &str| VaultError::new(kind, why).about(key_id);
        let name = key_id.as_str().strip_prefix("folder:").filter(|name| is_name(name));
        // Asked in the wrong place: that says nothing of the key.
        let name = name.ok_or_else(|| fail(Kind::Other, "a key id of this vault looks like folder:NAME"))?;
        let mut file = File::open(self.0.join(name)).map_err(|e| match e.kind() {
            // A denial only where the folder is there and the key is not: all else is an outage.
            ErrorKind::NotFound if self.0.is_dir() => fail(Kind::KeyNotFound, "no such key: put it back"),
            _ => fail(Kind::Unavailable, "the folder can't be read: plug it in").caused_by(e),
        })?;
        if self.0.join(format!("{name}.disabled")).exists() {
            return Err(fail(Kind::KeyDisabled, "the key is disabled: enable it"));
        }
        Kek::try_from_fn(|kek| file.read_exact(kek))
            .map_err(|e| fail(Kind::Other, "the key's file is damaged: restore it").caused_by(e))
    }
}

#[async_trait]
impl KeyVault for FolderVault {
    async fn wrap_key(&self, key_id: &KeyId, aek: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
        let bytes = self.kek(key_id)?.wrap(aek).to_vec();
        Ok(WrappedKey { key_id: key_id.clone(), algorithm: WrapAlgorithm::Aes256Kw, bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
        let corrupt = |why: &str| VaultError::new(Kind::Corrupt, why).about(&wrapped.key_id);
        let is_ours = wrapped.algorithm == WrapAlgorithm::Aes256Kw;
        if !is_ours || !wrapped.algorithm.accepts_len(wrapped.bytes.len()) {
            return Err(corrupt("not what this vault wraps into"));
        }
        self.kek(&wrapped.key_id)?.unwrap(&wrapped.bytes).map_err(|e| corrupt("damaged").caused_by(e))
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let mut properties = KeyProperties::new(key_id.clone(), key_id.clone(), KeyKind::Aes256);
        match self.kek(key_id) {
            Err(e) if e.kind() == Kind::KeyDisabled => properties.state = KeyState::Disabled,
            answer => drop(answer?),
        }
        Ok(properties)
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        Err(VaultError::not_rsa(key_id))
    }
}

// To here. What follows is its test.

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// What the customer does with the folder.
struct Customer {
    home: tempfile::TempDir,
    keys: AtomicUsize,
}

impl Customer {
    fn folder(&self) -> PathBuf {
        self.home.path().join("stick")
    }

    fn file(&self, key: &KeyId, suffix: &str) -> PathBuf {
        self.folder().join(format!("{}{suffix}", key.as_str().trim_start_matches("folder:")))
    }
}

#[async_trait]
impl Factory for Customer {
    fn subject(&self) -> Subject {
        Subject::new("FolderVault", KeyKind::Aes256)
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        Ok(Arc::new(FolderVault(self.folder())))
    }

    async fn new_key(&self) -> Hook<KeyId> {
        let key = KeyId::new(format!("folder:key-{}", self.keys.fetch_add(1, Ordering::Relaxed)))?;
        let kek = Kek::try_from_fn(|kek| SystemEntropy.fill(kek))?;
        fs::write(self.file(&key, ""), kek.expose())?;
        Ok(key)
    }

    async fn disable(&self, key: &KeyId) -> Hook {
        Ok(fs::write(self.file(key, ".disabled"), "")?)
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        Ok(fs::remove_file(self.file(key, ".disabled"))?)
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        Ok(fs::rename(self.file(key, ""), self.file(key, ".away"))?)
    }

    async fn recover(&self, key: &KeyId) -> Hook {
        Ok(fs::rename(self.file(key, ".away"), self.file(key, ""))?)
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        Ok(KeyId::new("folder:never")?)
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        let ids = ["local://acme/keys/k", "folder:../key-0", "folder:key-0.disabled", "folder:"];
        Ok(ids.into_iter().map(KeyId::new).collect::<Result<_, _>>()?)
    }

    async fn outage(&self) -> Hook {
        Ok(fs::rename(self.folder(), self.home.path().join("unplugged"))?)
    }

    async fn restore(&self) -> Hook {
        Ok(fs::rename(self.home.path().join("unplugged"), self.folder())?)
    }

    async fn new_version(&self, _: &KeyId) -> Hook<KeyId> {
        Err(NotDone::unsupported("each key is one version: rotate to another key"))
    }

    async fn deny(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("who reads the folder may use its keys"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    fs::create_dir(Path::new(home.path()).join("stick"))?;
    let report = conformance::run(&Customer { home, keys: AtomicUsize::new(0) }, &SystemEntropy).await;
    println!("{report}");
    if report.is_ok() { Ok(()) } else { Err("the vault breaks a promise".into()) }
}
