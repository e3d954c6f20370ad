//! A vault in one file, for one machine: tests, development, and services whose KEKs may be where they run.
//!
//! Guarantees:
//! - The file is read again at each call, so what another process changes is felt by the next call.
//! - Changes are atomic and durable, and writers exclude each other: no change is lost.
//! - KEKs leave this module only inside the file: sealed under the passphrase where there is one.
//! - Only a vault's word on a key is a denial. Whatever is wrong with the file is an outage.
//!
//! Not its job: to keep a KEK from whoever controls the machine (`docs/local-vault.md` says what it protects from).

mod error;
mod file;
mod keys;
mod manage;
mod names;
mod protect;
mod record;
#[cfg(feature = "serve")]
mod served;

use std::{
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{
    Aek, KeyId, WrappedKey,
    kw::Kek,
    rsa::{RsaError, RsaKek, RsaPublicKey},
};

pub use error::LocalVaultError;
pub use keys::{Deletion, KeyInfo, Recovery, VersionInfo};
pub use protect::{Passphrase, PassphraseCost};
pub use record::KeyOperation;

use crate::{
    AwsLcRsaKeys, Clock, Entropy, Executor, KeyKind, KeyProperties, KeyState, KeyVault, PublicKeyAnswer,
    RsaKeySource, SpawnBlocking, SystemClock, SystemEntropy, VaultError, VaultErrorKind, WrapContext,
    executor,
};
use file::Access;
use names::KeyPath;
use protect::{FileKeys, Place};
use record::{Document, KeyMaterial, KeyRecord, Millis, VersionRecord};

/// What a local vault works with.
#[derive(Debug)]
#[non_exhaustive]
pub struct LocalVaultOptions {
    /// Protects the KEKs and the file; without one they are in the clear, which is for development.
    pub passphrase: Option<Passphrase>,
    /// What the passphrase costs, for a vault that is made; an existing one has its own.
    pub cost: PassphraseCost,
    /// Tells which keys are expired.
    pub clock: Arc<dyn Clock>,
    /// Where AES keys, versions, salts and nonces come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where RSA keys come from.
    pub rsa_keys: Arc<dyn RsaKeySource>,
    /// Where files are read and written.
    pub executor: Arc<dyn Executor>,
    /// How long a change waits for another process's change to end.
    pub lock_wait: Duration,
}

impl LocalVaultOptions {
    const LOCK_WAIT: Duration = Duration::from_secs(10);

    /// No passphrase, this clock and this source of randomness, files on tokio's blocking threads.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            passphrase: None,
            cost: PassphraseCost::default(),
            clock,
            entropy,
            rsa_keys: Arc::new(AwsLcRsaKeys),
            executor: Arc::new(SpawnBlocking),
            lock_wait: Self::LOCK_WAIT,
        }
    }

    /// The same with a passphrase.
    #[must_use]
    pub fn passphrase(mut self, passphrase: Passphrase) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    /// The same with another cost of the passphrase.
    #[must_use]
    pub fn cost(mut self, cost: PassphraseCost) -> Self {
        self.cost = cost;
        self
    }

    /// The same with another wait for the lock.
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// The same with RSA keys from there.
    #[must_use]
    pub fn rsa_keys(mut self, source: Arc<dyn RsaKeySource>) -> Self {
        self.rsa_keys = source;
        self
    }

    /// The same with files read and written there.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }
}

impl Default for LocalVaultOptions {
    /// The machine's clock and randomness.
    fn default() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }
}

/// An open local vault. Clones share it.
///
/// It needs no timers of a runtime, and none at all with another executor than [`SpawnBlocking`].
#[derive(Clone)]
pub struct LocalVault(Arc<Inner>);

struct Inner {
    path: PathBuf,
    name: String,
    keys: Option<FileKeys>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    rsa_keys: Arc<dyn RsaKeySource>,
    executor: Arc<dyn Executor>,
    lock_wait: Duration,
    /// The newest generation that was read or written: an older file is refused.
    seen: AtomicU64,
}

impl LocalVault {
    /// Opens a vault.
    ///
    /// # Errors
    /// [`LocalVaultError`] names what is wrong with the file or the passphrase.
    pub async fn open(path: impl AsRef<Path>, options: LocalVaultOptions) -> Result<Self, LocalVaultError> {
        let path = path.as_ref().to_path_buf();
        let executor = options.executor.clone();
        executor::run(&*executor, move || Inner::open(&path, options))
            .await?
            .map(|inner| Self(Arc::new(inner)))
    }

    /// Its name, the authority of its key ids.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where its file is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether a passphrase protects it. Otherwise it is for development: warn the user.
    pub fn protected(&self) -> bool {
        self.0.keys.is_some()
    }

    /// The id of a key by its name, without a version: whether there is one or not.
    ///
    /// # Errors
    /// [`LocalVaultError::BadName`] when the name is none.
    pub fn key_id(&self, name: &str) -> Result<KeyId, LocalVaultError> {
        names::check_name("key", name)?;
        KeyPath::key_id(&self.0.name, name, None)
    }

    /// Whether this is an id of a key that this vault could have: whether there is one or not.
    pub fn owns(&self, key_id: &KeyId) -> bool {
        KeyPath::parse(key_id, &self.0.name).is_ok()
    }

    /// Does work on the file where files are read and written.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, LocalVaultError> + Send + 'static,
    ) -> Result<T, LocalVaultError> {
        let inner = self.0.clone();
        executor::run(&*self.0.executor, move || work(&inner)).await?
    }

    /// What the vault says of the version that an id means.
    async fn ask<T: Send + 'static>(
        &self,
        key_id: &KeyId,
        answer: impl FnOnce(&Inner, &Document, &KeyRecord, &VersionRecord) -> Result<T, VaultError>
        + Send
        + 'static,
    ) -> Result<T, VaultError> {
        let inner = self.0.clone();
        let id = key_id.clone();
        let work = move || {
            let path = KeyPath::parse(&id, &inner.name).map_err(|e| e.into_vault_error(&id))?;
            let document = inner.load().map_err(|e| e.into_vault_error(&id))?;
            if document.offline {
                let message = "the local vault is switched offline: switch it online";
                return Err(VaultError::new(VaultErrorKind::Unavailable, message).about(&id));
            }
            let Some((key, version)) = document.find(&path) else {
                return Err(LocalVaultError::KeyNotFound { key_id: id.clone() }.into_vault_error(&id));
            };
            answer(&inner, &document, key, version)
        };
        match executor::run(&*self.0.executor, work).await {
            Ok(answer) => answer,
            Err(e) => Err(LocalVaultError::from(e).into_vault_error(key_id)),
        }
    }

    /// What the vault says of the version that an id means, if it may be used now; with its exact id.
    async fn use_key<T: Send + 'static>(
        &self,
        key_id: &KeyId,
        usage: impl FnOnce(&Inner, &KeyId, &Place<'_>, &KeyMaterial) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<(KeyId, T), VaultError> {
        self.ask(key_id, |inner, document, key, version| {
            let outage = |e: LocalVaultError| VaultError::new(e.kind(), e.to_string());
            let id = document.key_id(&key.name, Some(&version.version)).map_err(outage)?;
            inner.check_usable(&id, version)?;
            let place = Place { vault: &document.vault, name: &key.name, version: &version.version };
            let answer = usage(inner, &id, &place, &version.key)?;
            Ok((id, answer))
        })
        .await
    }
}

impl fmt::Debug for LocalVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalVault")
            .field("name", &self.0.name)
            .field("path", &self.0.path)
            .field("protected", &self.protected())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn open(path: &Path, options: LocalVaultOptions) -> Result<Self, LocalVaultError> {
        // Through a link to the file itself, which is what a change must replace.
        let path = &path.canonicalize().map_err(|e| file::io_error("find the vault", path, e))?;
        let (document, keys) = file::read(path, Access::First(options.passphrase.as_ref()))?;
        if file::open_to_others(path) {
            tracing::warn!(path = %path.display(), "others may read this vault's file: set its mode to 0600");
        }
        Ok(Self::new(path, &document, keys, options))
    }

    fn new(path: &Path, document: &Document, keys: Option<FileKeys>, options: LocalVaultOptions) -> Self {
        if keys.is_none() {
            tracing::warn!(
                path = %path.display(),
                "this vault has no passphrase: its keys are in the clear, use it for development only"
            );
        }
        Self {
            path: path.into(),
            name: document.vault.clone(),
            keys,
            clock: options.clock,
            entropy: options.entropy,
            rsa_keys: options.rsa_keys,
            executor: options.executor,
            lock_wait: options.lock_wait,
            seen: AtomicU64::new(document.generation),
        }
    }

    fn now(&self) -> Millis {
        self.clock.now().wall.into()
    }

    /// The file as it is now.
    fn load(&self) -> Result<Document, LocalVaultError> {
        // Before the file is read: what is read after it can't rightly be older.
        let seen = self.seen.load(Ordering::Acquire);
        let (document, _) = file::read(&self.path, Access::Again(self.keys.as_ref()))?;
        if document.vault != self.name {
            return Err(LocalVaultError::Replaced { path: self.path.clone() });
        }
        let found = document.generation;
        if found < seen {
            return Err(LocalVaultError::RolledBack { path: self.path.clone(), seen, found });
        }
        self.seen.fetch_max(found, Ordering::AcqRel);
        Ok(document)
    }

    fn check_usable(&self, key_id: &KeyId, version: &VersionRecord) -> Result<(), VaultError> {
        let (kind, message) = match version.state(self.now()) {
            KeyState::Enabled => return Ok(()),
            KeyState::Disabled => (VaultErrorKind::KeyDisabled, "the key is disabled: enable it"),
            KeyState::Expired => (VaultErrorKind::KeyDisabled, "the key has expired: set a later expiry"),
            KeyState::NotYetActive => {
                (VaultErrorKind::KeyDisabled, "the key is not active yet: wait, or set an earlier time")
            }
            KeyState::Deleted => (VaultErrorKind::KeyNotFound, "the key is deleted: recover it"),
        };
        Err(VaultError::new(kind, message).about(key_id))
    }

    fn aes(&self, place: &Place<'_>, material: &KeyMaterial) -> Result<Kek, LocalVaultError> {
        let kek = match (material, &self.keys) {
            (KeyMaterial::Clear(kek), None) => {
                let copied = Kek::try_from_fn(|out| -> Result<(), Infallible> {
                    out.copy_from_slice(kek.0.expose());
                    Ok(())
                });
                copied.ok()
            }
            (KeyMaterial::Sealed { nonce, ciphertext }, Some(keys)) => {
                keys.unseal(&nonce.0, &ciphertext.0, place)
            }
            _ => None,
        };
        kek.ok_or_else(|| self.does_not_open())
    }

    fn rsa(&self, place: &Place<'_>, material: &KeyMaterial) -> Result<RsaKek, LocalVaultError> {
        let (public, kek) = match (material, &self.keys) {
            (KeyMaterial::RsaClear { public, pkcs8 }, None) => (public, RsaKek::from_pkcs8(&pkcs8.0)),
            (KeyMaterial::RsaSealed { public, nonce, ciphertext }, Some(keys)) => {
                let pkcs8 = keys.unseal_rsa(&nonce.0, &ciphertext.0, place);
                (public, RsaKek::from_pkcs8(&pkcs8.ok_or_else(|| self.does_not_open())?))
            }
            _ => return Err(self.does_not_open()),
        };
        match kek {
            Ok(kek) if kek.public_key() == public => Ok(kek),
            Err(e @ RsaError::NeedsAwsLc) => Err(e.into()),
            _ => Err(self.does_not_open()),
        }
    }

    fn does_not_open(&self) -> LocalVaultError {
        LocalVaultError::Damaged { path: self.path.clone(), what: "a key does not open in its place" }
    }

    fn unwrap(
        &self,
        key_id: &KeyId,
        place: &Place<'_>,
        material: &KeyMaterial,
        wrapped: &WrappedKey,
    ) -> Result<Aek, VaultError> {
        let kind = material.kind();
        if kind.algorithm() != wrapped.algorithm {
            let message = format!("the key is {kind}: a key of another kind wrapped this one");
            return Err(corrupt(key_id, message));
        }
        let failed = |e: LocalVaultError| e.into_vault_error(key_id);
        if let KeyKind::Rsa(_) = kind {
            let kek = self.rsa(place, material).map_err(failed)?;
            kek.unwrap(&wrapped.bytes).map_err(|e| match e {
                RsaError::Length { .. } | RsaError::Refused | RsaError::NotAnAek { .. } => {
                    corrupt(key_id, e.to_string()).caused_by(e)
                }
                _ => failed(e.into()),
            })
        } else {
            let kek = self.aes(place, material).map_err(failed)?;
            kek.unwrap(&wrapped.bytes).map_err(|e| corrupt(key_id, e.to_string()).caused_by(e))
        }
    }
}

fn corrupt(key_id: &KeyId, message: impl Into<String>) -> VaultError {
    VaultError::new(VaultErrorKind::Corrupt, message).about(key_id)
}

/// What wraps: of an RSA key the public half, so its private half stays sealed.
enum Wrapping {
    Aes(Kek),
    Rsa(RsaPublicKey),
}

#[async_trait]
impl KeyVault for LocalVault {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        _context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        let usage = |inner: &Inner, id: &KeyId, place: &Place<'_>, material: &KeyMaterial| match material {
            KeyMaterial::RsaClear { public, .. } | KeyMaterial::RsaSealed { public, .. } => {
                Ok((material.kind(), Wrapping::Rsa(public.clone())))
            }
            KeyMaterial::Clear(_) | KeyMaterial::Sealed { .. } => {
                let kek = inner.aes(place, material).map_err(|e| e.into_vault_error(id))?;
                Ok((material.kind(), Wrapping::Aes(kek)))
            }
        };
        let (key_id, (kind, wrapping)) = self.use_key(key_id, usage).await?;
        let bytes = match wrapping {
            Wrapping::Aes(kek) => kek.wrap(aek).to_vec(),
            Wrapping::Rsa(public) => {
                public.wrap(aek).map_err(|e| LocalVaultError::from(e).into_vault_error(&key_id))?
            }
        };
        Ok(WrappedKey { key_id, algorithm: kind.algorithm(), bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, _context: &WrapContext) -> Result<Aek, VaultError> {
        let key_id = &wrapped.key_id;
        let len = wrapped.bytes.len();
        if !wrapped.algorithm.accepts_len(len) {
            let message = format!("the wrapped key has {len} bytes, which no key wraps an AEK into");
            return Err(corrupt(key_id, message));
        }
        if KeyPath::parse(key_id, &self.0.name).is_ok_and(|path| path.version.is_none()) {
            return Err(corrupt(key_id, "the wrapped key does not name the version that wrapped it"));
        }
        let wrapped = wrapped.clone();
        let usage = move |inner: &Inner, id: &KeyId, place: &Place<'_>, material: &KeyMaterial| {
            inner.unwrap(id, place, material, &wrapped)
        };
        Ok(self.use_key(key_id, usage).await?.1)
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.ask(key_id, |inner, document, key, version| {
            let outage = |e: LocalVaultError| VaultError::new(e.kind(), e.to_string());
            let id = |v: &VersionRecord| document.key_id(&key.name, Some(&v.version)).map_err(outage);
            let latest = id(key.latest().unwrap_or(version))?;
            let mut properties = KeyProperties::new(id(version)?, latest, version.key.kind());
            properties.state = version.state(inner.now());
            properties.not_before = version.not_before_ms.map(Into::into);
            properties.expires_at = version.expires_ms.map(Into::into);
            let recovery = Recovery::from(key.recovery);
            properties.soft_delete = recovery != Recovery::Off;
            properties.purge_protection = matches!(recovery, Recovery::Protected { .. });
            Ok(properties)
        })
        .await
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        let usage = |_: &Inner, id: &KeyId, _: &Place<'_>, material: &KeyMaterial| match material {
            KeyMaterial::RsaClear { public, .. } | KeyMaterial::RsaSealed { public, .. } => {
                Ok(public.clone())
            }
            KeyMaterial::Clear(_) | KeyMaterial::Sealed { .. } => Err(VaultError::not_rsa(id)),
        };
        let (key_id, key) = self.use_key(key_id, usage).await?;
        Ok(PublicKeyAnswer { key_id, key })
    }
}
