//! A local vault behind a server that speaks another vault's API.
//!
//! Guarantees: as the trait says; a key's state is looked at in the same reading of the file that its material comes
//! from. What wraps any bytes is reached from here alone: everybody else wraps AEKs.

use async_trait::async_trait;
use cofferdam_crypto::rsa::RsaError;
use zeroize::Zeroizing;

use super::{
    Inner, LocalVault, LocalVaultError,
    manage::NewKek,
    names::KeyPath,
    protect::Place,
    record::{DetailsRecord, Document, KeyMaterial, KeyRecord, Millis, VersionRecord},
};
use crate::{
    KeyKind, KeyOperation, KeyState,
    serve::{
        BackendError, KeyChange, KeyDetails, KeyStoreBackend, NewKey, NewMaterial, StoredKey, StoredVersion,
    },
};

#[async_trait]
impl KeyStoreBackend for LocalVault {
    fn name(&self) -> &str {
        LocalVault::name(self)
    }

    async fn keys(&self) -> Result<Vec<StoredKey>, BackendError> {
        self.read(|document, _| Ok(document.keys.iter().map(stored).collect())).await
    }

    async fn key(&self, name: &str) -> Result<StoredKey, BackendError> {
        let name = name.to_owned();
        self.read(move |document, _| document.record(&name).map(stored)).await
    }

    async fn create(&self, name: &str, new: NewKey) -> Result<(StoredKey, String), BackendError> {
        super::names::check_name("key", name)?;
        let name = name.to_owned();
        let kind = new.material.kind();
        let work = move |inner: &Inner| {
            // Before a key is drawn, which may take seconds.
            online(&inner.load()?)?.check_next(&name, kind)?;
            let kek = match new.material {
                NewMaterial::Draw(kind) => inner.draw(kind)?,
                NewMaterial::Aes(kek) => NewKek::Aes(kek),
                NewMaterial::Rsa(kek) => NewKek::Rsa(kek),
            };
            inner.change(|inner, document| {
                online(document)?.check_next(&name, kind)?;
                let mut version = inner.version_of(kek, &name)?;
                let exact = version.version.clone();
                let details = KeyDetails { hsm: new.hsm, ..version.details(kind) };
                apply(&mut version, details, new.said, inner.now());
                match document.record(&name) {
                    Ok(_) => document.new_version(&name, version)?,
                    Err(_) => document.create_key(&name, new.recovery, version)?,
                };
                Ok((document.record(&name).map(stored)?, exact))
            })
        };
        self.on_executor(work).await
    }

    async fn update(
        &self,
        name: &str,
        version: Option<&str>,
        change: KeyChange,
    ) -> Result<(StoredKey, String), BackendError> {
        let (name, version) = (name.to_owned(), version.map(str::to_owned));
        self.write(move |document, now| {
            let key = document.record_mut(&name)?;
            let kind = key.kind();
            let exact = key.usable(version.as_deref())?.version.clone();
            for version in key.versions.iter_mut().filter(|v| v.version == exact) {
                let details = version.details(kind);
                apply(version, details, change.clone(), now);
            }
            Ok((stored(key), exact))
        })
        .await
    }

    async fn delete(&self, name: &str) -> Result<StoredKey, BackendError> {
        let path = KeyPath { name: name.to_owned(), version: None };
        self.write(move |document, now| {
            let mut was = document.record(&path.name).map(stored)?;
            document.delete(&path, now)?;
            // As it is now, unless it is gone.
            if let Ok(key) = document.record(&path.name) {
                was = stored(key);
            }
            Ok(was)
        })
        .await
    }

    async fn recover(&self, name: &str) -> Result<StoredKey, BackendError> {
        let path = KeyPath { name: name.to_owned(), version: None };
        self.write(move |document, _| {
            if document.record(&path.name).map(stored)?.deleted().is_none() {
                return Err(BackendError::NotDeleted);
            }
            document.recover(&path)?;
            document.record(&path.name).map(stored)
        })
        .await
    }

    async fn purge(&self, name: &str) -> Result<(), BackendError> {
        let path = KeyPath { name: name.to_owned(), version: None };
        self.write(move |document, now| Ok(document.purge(&path, now)?)).await
    }

    async fn wrap(
        &self,
        name: &str,
        version: Option<&str>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<(String, Vec<u8>), BackendError> {
        let work = move |inner: &Inner, place: &Place<'_>, version: &VersionRecord, kind| {
            version.check_use(kind, KeyOperation::WrapKey, inner.now())?;
            match &version.key {
                KeyMaterial::RsaClear { public, .. } | KeyMaterial::RsaSealed { public, .. } => {
                    public.wrap_bytes(&key).map_err(rsa)
                }
                material => {
                    let kek = inner.aes(place, material)?;
                    kek.wrap_bytes(&key).map_err(|e| BackendError::Value { what: e.to_string() })
                }
            }
        };
        self.with_version(name, version, work).await
    }

    async fn unwrap(
        &self,
        name: &str,
        version: Option<&str>,
        wrapped: Vec<u8>,
    ) -> Result<(String, Zeroizing<Vec<u8>>), BackendError> {
        let work = move |inner: &Inner, place: &Place<'_>, version: &VersionRecord, kind| {
            version.check_use(kind, KeyOperation::UnwrapKey, inner.now())?;
            if let KeyKind::Rsa(_) = kind {
                let kek = inner.rsa(place, &version.key)?;
                kek.unwrap_bytes(&wrapped).map_err(rsa)
            } else {
                let kek = inner.aes(place, &version.key)?;
                kek.unwrap_bytes(&wrapped).map_err(|e| BackendError::Value { what: e.to_string() })
            }
        };
        self.with_version(name, version, work).await
    }
}

impl LocalVault {
    async fn on_executor<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        self.run(|inner| Ok(work(inner))).await?
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Document, &Inner) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        self.on_executor(|inner| work(online(&inner.load()?)?, inner)).await
    }

    /// Changes the document, unless the change is refused.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Document, Millis) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        self.on_executor(|inner| {
            inner.change(|inner, document| {
                online(document)?;
                work(document, inner.now())
            })
        })
        .await
    }

    async fn with_version<T: Send + 'static>(
        &self,
        name: &str,
        version: Option<&str>,
        work: impl FnOnce(&Inner, &Place<'_>, &VersionRecord, KeyKind) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<(String, T), BackendError> {
        let (name, version) = (name.to_owned(), version.map(str::to_owned));
        self.read(move |document, inner| {
            let key = document.record(&name)?;
            let version = key.usable(version.as_deref())?;
            let place = Place { vault: &document.vault, name: &key.name, version: &version.version };
            let answer = work(inner, &place, version, key.kind())?;
            Ok((version.version.clone(), answer))
        })
        .await
    }
}

impl Document {
    fn record(&self, name: &str) -> Result<&KeyRecord, BackendError> {
        self.keys.iter().find(|key| key.name == name).ok_or(BackendError::NotFound)
    }

    fn record_mut(&mut self, name: &str) -> Result<&mut KeyRecord, BackendError> {
        self.keys.iter_mut().find(|key| key.name == name).ok_or(BackendError::NotFound)
    }

    /// Whether a key of this kind can be made under this name, as its first version or the next.
    fn check_next(&self, name: &str, kind: KeyKind) -> Result<(), BackendError> {
        match self.record(name) {
            Err(_) => Ok(()),
            Ok(key) if stored(key).deleted().is_some() => Err(BackendError::Deleted),
            Ok(key) if key.kind() != kind => Err(BackendError::OtherKind { has: key.kind() }),
            Ok(_) => Ok(()),
        }
    }
}

impl KeyRecord {
    /// The version that a use or an update means.
    fn usable(&self, version: Option<&str>) -> Result<&VersionRecord, BackendError> {
        let version = match version {
            None => self.latest(),
            Some(version) => self.versions.iter().find(|v| v.version == version),
        };
        match version {
            None => Err(BackendError::NotFound),
            Some(version) if version.deleted_ms.is_some() => Err(BackendError::Deleted),
            Some(version) => Ok(version),
        }
    }
}

impl VersionRecord {
    fn details(&self, kind: KeyKind) -> KeyDetails {
        match &self.details {
            Some(details) => KeyDetails {
                updated: details.updated_ms.into(),
                hsm: details.hsm,
                operations: details.operations.clone(),
                tags: details.tags.clone(),
            },
            None => KeyDetails {
                updated: self.created_ms.into(),
                hsm: false,
                operations: KeyOperation::defaults(kind),
                tags: Default::default(),
            },
        }
    }

    fn check_use(&self, kind: KeyKind, operation: KeyOperation, now: Millis) -> Result<(), BackendError> {
        match (self.state(now), operation) {
            (KeyState::Enabled, _)
            | (KeyState::Expired | KeyState::NotYetActive, KeyOperation::UnwrapKey) => {}
            (KeyState::Expired, _) => return Err(BackendError::Expired),
            (KeyState::NotYetActive, _) => return Err(BackendError::NotYetValid),
            (KeyState::Deleted, _) => return Err(BackendError::Deleted),
            (KeyState::Disabled, _) => return Err(BackendError::Disabled),
        }
        if self.details(kind).operations.contains(&operation) {
            Ok(())
        } else {
            Err(BackendError::NotPermitted)
        }
    }
}

fn apply(version: &mut VersionRecord, details: KeyDetails, change: KeyChange, now: Millis) {
    version.enabled = change.enabled.unwrap_or(version.enabled);
    version.not_before_ms = change.not_before.map(Into::into).or(version.not_before_ms);
    version.expires_ms = change.expires.map(Into::into).or(version.expires_ms);
    version.details = Some(DetailsRecord {
        updated_ms: now,
        hsm: details.hsm,
        operations: change.operations.unwrap_or(details.operations),
        tags: change.tags.unwrap_or(details.tags),
    });
}

fn online(document: &Document) -> Result<&Document, BackendError> {
    match document.offline {
        true => {
            Err(BackendError::Unavailable("the local vault is switched offline: switch it online".into()))
        }
        false => Ok(document),
    }
}

fn stored(key: &KeyRecord) -> StoredKey {
    let version = |version: &VersionRecord| StoredVersion {
        version: version.version.clone(),
        public: match &version.key {
            KeyMaterial::RsaClear { public, .. } | KeyMaterial::RsaSealed { public, .. } => {
                Some(public.clone())
            }
            KeyMaterial::Clear(_) | KeyMaterial::Sealed { .. } => None,
        },
        enabled: version.enabled,
        created: version.created_ms.into(),
        not_before: version.not_before_ms.map(Into::into),
        expires: version.expires_ms.map(Into::into),
        deleted: version.deleted_ms.map(Into::into),
        details: version.details(key.kind()),
    };
    StoredKey {
        name: key.name.clone(),
        kind: key.kind(),
        recovery: key.recovery.into(),
        versions: key.versions.iter().map(version).collect(),
    }
}

fn rsa(error: RsaError) -> BackendError {
    match error {
        RsaError::TooLong { .. } | RsaError::Length { .. } | RsaError::Refused => {
            BackendError::Value { what: error.to_string() }
        }
        _ => BackendError::Unavailable(error.into()),
    }
}

impl From<LocalVaultError> for BackendError {
    fn from(error: LocalVaultError) -> Self {
        match error {
            LocalVaultError::KeyNotFound { .. } => Self::NotFound,
            LocalVaultError::KeyDeleted { .. } | LocalVaultError::KeyExists { .. } => Self::Deleted,
            LocalVaultError::NotDeleted { .. } => Self::NotDeleted,
            LocalVaultError::PurgeProtected { .. } => Self::PurgeProtected,
            LocalVaultError::BadName { .. } | LocalVaultError::KindOfOthers { .. } => {
                Self::Unsupported { what: error.to_string() }
            }
            _ => Self::Unavailable(error.into()),
        }
    }
}
