//! Making a local vault and changing its keys.
//!
//! Guarantees: a change is in the file, durably, when its call returns `Ok`; it is not when the call returns
//! an error, but where only the folder could not be made durable. Changes of any number of processes come one
//! after the other. Key ids without a version mean every version (`keys`).

use std::{path::Path, sync::Arc, time::Duration};

use cofferdam_crypto::{KeyId, kw::Kek, rsa::RsaKek};
use data_encoding::HEXLOWER;

use crate::{KeyKind, executor};

use super::{
    Deletion, Inner, KeyInfo, LocalVault, LocalVaultError, LocalVaultOptions, Recovery,
    file::{self, Lock},
    keys::version_record,
    names::{self, KeyPath, VERSION_LEN},
    protect::{FileKeys, Place},
    record::{ClearKek, ClearPkcs8, Document, Hex, HexVec, KeyMaterial, Protection, VersionRecord},
};

impl LocalVault {
    /// Makes a vault of this name in a new file.
    ///
    /// # Errors
    /// [`LocalVaultError::AlreadyExists`] when there is a file, [`LocalVaultError::BadName`], and those of writing.
    pub async fn create(
        path: impl AsRef<Path>,
        name: &str,
        options: LocalVaultOptions,
    ) -> Result<Self, LocalVaultError> {
        names::check_name("vault", name)?;
        let path = path.as_ref().to_path_buf();
        let name = name.to_owned();
        let executor = options.executor.clone();
        executor::run(&*executor, move || Inner::create(&path, name, options))
            .await?
            .map(|inner| Self(Arc::new(inner)))
    }

    /// Makes an AES key with its first version, recoverable for [`Recovery::DEFAULT_WINDOW`]. Answers with the
    /// version.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyExists`], also when it is deleted; [`LocalVaultError::BadName`].
    pub async fn create_key(&self, name: &str) -> Result<KeyId, LocalVaultError> {
        self.create_key_with(name, Recovery::default()).await
    }

    /// As [`create_key`](Self::create_key), and says what becomes of the key when it is deleted.
    ///
    /// # Errors
    /// As there.
    pub async fn create_key_with(&self, name: &str, recovery: Recovery) -> Result<KeyId, LocalVaultError> {
        self.create_key_of(name, KeyKind::Aes256, recovery).await
    }

    /// As [`create_key_with`](Self::create_key_with), and says what kind of key it is; later versions are of that
    /// kind too.
    ///
    /// # Errors
    /// As there; [`LocalVaultError::Rsa`].
    pub async fn create_key_of(
        &self,
        name: &str,
        kind: KeyKind,
        recovery: Recovery,
    ) -> Result<KeyId, LocalVaultError> {
        names::check_name("key", name)?;
        let name = name.to_owned();
        self.run(move |inner| {
            inner.load()?.check_new(&name)?;
            let kek = inner.draw(kind)?;
            inner.change(|inner, document| {
                let version = inner.version_of(kek, &name)?;
                document.create_key(&name, recovery, version)
            })
        })
        .await
    }

    /// Makes a new version of a key, of its kind, by its name. Answers with the version.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyNotFound`]; [`LocalVaultError::KeyDeleted`] when all its versions are deleted;
    /// [`LocalVaultError::Rsa`].
    pub async fn new_version(&self, name: &str) -> Result<KeyId, LocalVaultError> {
        names::check_name("key", name)?;
        let name = name.to_owned();
        self.run(move |inner| {
            let kek = inner.draw(inner.load()?.kind_of_next(&name)?)?;
            inner.change(|inner, document| {
                // Another process may have purged the key, and made it again of another kind.
                let kind = document.kind_of_next(&name)?;
                let kek = if kek.kind() == kind { kek } else { inner.draw(kind)? };
                let version = inner.version_of(kek, &name)?;
                document.new_version(&name, version)
            })
        })
        .await
    }

    /// Disables a version, or every version of a key: its next use is denied.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyNotFound`], [`LocalVaultError::KeyDeleted`].
    pub async fn disable(&self, key_id: &KeyId) -> Result<(), LocalVaultError> {
        self.change_key(key_id, |document, path, inner| {
            document.set(path, inner.now(), |v| v.enabled = false)
        })
        .await
    }

    /// Enables a version, or every version of a key.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyNotFound`], [`LocalVaultError::KeyDeleted`].
    pub async fn enable(&self, key_id: &KeyId) -> Result<(), LocalVaultError> {
        self.change_key(key_id, |document, path, inner| document.set(path, inner.now(), |v| v.enabled = true))
            .await
    }

    /// Sets from when a version, or every version of a key, can't be used; None is never. Time since the Unix epoch.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyNotFound`], [`LocalVaultError::KeyDeleted`].
    pub async fn set_expiry(&self, key_id: &KeyId, at: Option<Duration>) -> Result<(), LocalVaultError> {
        let at = at.map(Into::into);
        self.change_key(key_id, move |document, path, inner| {
            document.set(path, inner.now(), |v| v.expires_ms = at)
        })
        .await
    }

    /// Sets from when a version, or every version of a key, can be used; None is at once. Time since the Unix epoch.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyNotFound`], [`LocalVaultError::KeyDeleted`].
    pub async fn set_not_before(&self, key_id: &KeyId, at: Option<Duration>) -> Result<(), LocalVaultError> {
        let at = at.map(Into::into);
        self.change_key(key_id, move |document, path, inner| {
            document.set(path, inner.now(), |v| v.not_before_ms = at)
        })
        .await
    }

    /// Deletes a version, or every version of a key that is not deleted yet.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyNotFound`]; [`LocalVaultError::KeyDeleted`] when it is deleted already.
    pub async fn delete(&self, key_id: &KeyId) -> Result<Deletion, LocalVaultError> {
        self.change_key(key_id, |document, path, inner| document.delete(path, inner.now())).await
    }

    /// Recovers a deleted version, or every deleted version of a key; also after the window, until a purge.
    ///
    /// # Errors
    /// [`LocalVaultError::KeyNotFound`], [`LocalVaultError::NotDeleted`].
    pub async fn recover(&self, key_id: &KeyId) -> Result<(), LocalVaultError> {
        self.change_key(key_id, |document, path, _| document.recover(path)).await
    }

    /// Destroys a deleted version, or a key all of whose versions are deleted: nobody can undo it.
    ///
    /// # Errors
    /// [`LocalVaultError::PurgeProtected`] before the window is over, [`LocalVaultError::KeyNotFound`],
    /// [`LocalVaultError::NotDeleted`].
    pub async fn purge(&self, key_id: &KeyId) -> Result<(), LocalVaultError> {
        self.change_key(key_id, |document, path, inner| document.purge(path, inner.now())).await
    }

    /// Every key, deleted ones too, in the order in which they were made.
    ///
    /// # Errors
    /// [`LocalVaultError`] of reading the file.
    pub async fn list(&self) -> Result<Vec<KeyInfo>, LocalVaultError> {
        self.run(move |inner| inner.load()?.list(inner.now())).await
    }

    /// Switches the vault offline, so that it answers every use as one that can't be reached, or online.
    /// Changes go on either way.
    ///
    /// # Errors
    /// [`LocalVaultError`] of writing the file.
    pub async fn set_offline(&self, offline: bool) -> Result<(), LocalVaultError> {
        self.change(move |_, document| {
            document.offline = offline;
            Ok(())
        })
        .await
    }

    /// Whether it is switched offline.
    ///
    /// # Errors
    /// [`LocalVaultError`] of reading the file.
    pub async fn offline(&self) -> Result<bool, LocalVaultError> {
        self.run(|inner| Ok(inner.load()?.offline)).await
    }

    async fn change_key<T: Send + 'static>(
        &self,
        key_id: &KeyId,
        change: impl FnOnce(&mut Document, &KeyPath, &Inner) -> Result<T, LocalVaultError> + Send + 'static,
    ) -> Result<T, LocalVaultError> {
        let path = KeyPath::parse(key_id, &self.0.name)?;
        self.change(move |inner, document| change(document, &path, inner)).await
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Inner, &mut Document) -> Result<T, LocalVaultError> + Send + 'static,
    ) -> Result<T, LocalVaultError> {
        self.run(move |inner| inner.change(change)).await
    }
}

impl Inner {
    pub(super) fn create(
        path: &Path,
        name: String,
        options: LocalVaultOptions,
    ) -> Result<Self, LocalVaultError> {
        let path = &std::path::absolute(path).map_err(|e| file::io_error("find", path, e))?;
        let keys = match &options.passphrase {
            None => None,
            Some(passphrase) => {
                let mut salt = [0; _];
                options.entropy.fill(&mut salt)?;
                Some(FileKeys::derive(passphrase, options.cost, salt)?)
            }
        };
        let document = Document {
            format: Document::FORMAT.into(),
            version: Document::VERSION_WITHOUT_RSA,
            vault: name,
            generation: 1,
            protection: keys.as_ref().map_or(Protection::None, |keys| Protection::Argon2id {
                cost: keys.cost(),
                salt: Hex(*keys.salt()),
                check: Hex(*keys.check()),
            }),
            offline: false,
            keys: Vec::new(),
        };
        let lock = Lock::acquire(path, options.lock_wait)?;
        if path.symlink_metadata().is_ok() {
            return Err(LocalVaultError::AlreadyExists { path: path.clone() });
        }
        file::replace(path, &document, keys.as_ref(), &lock)?;
        Ok(Self::new(path, &document, keys, options))
    }

    pub(super) fn change<T, E: From<LocalVaultError>>(
        &self,
        change: impl FnOnce(&Self, &mut Document) -> Result<T, E>,
    ) -> Result<T, E> {
        let lock = Lock::acquire(&self.path, self.lock_wait)?;
        let mut document = self.load()?;
        let answer = change(self, &mut document)?;
        document.generation += 1;
        document.version = document.least_version();
        file::replace(&self.path, &document, self.keys.as_ref(), &lock)?;
        self.seen.fetch_max(document.generation, std::sync::atomic::Ordering::AcqRel);
        Ok(answer)
    }

    /// A new KEK. Without the lock: finding primes may take seconds.
    pub(super) fn draw(&self, kind: KeyKind) -> Result<NewKek, LocalVaultError> {
        match kind {
            KeyKind::Aes256 => Ok(NewKek::Aes(Kek::try_from_fn(|key| self.entropy.fill(key))?)),
            KeyKind::Rsa(size) => Ok(NewKek::Rsa(self.rsa_keys.draw(size)?)),
            kind @ (KeyKind::AwsKms | KeyKind::Transit) => Err(LocalVaultError::KindOfOthers { kind }),
        }
    }

    /// The record of a new KEK under a new version's name.
    pub(super) fn version_of(&self, kek: NewKek, name: &str) -> Result<VersionRecord, LocalVaultError> {
        let mut version = [0; VERSION_LEN / 2];
        self.entropy.fill(&mut version)?;
        let version = HEXLOWER.encode(&version);
        let place = Place { vault: &self.name, name, version: &version };
        let material = match (kek, &self.keys) {
            (NewKek::Aes(kek), None) => KeyMaterial::Clear(ClearKek(kek)),
            (NewKek::Aes(kek), Some(keys)) => {
                let (nonce, ciphertext) = keys.seal(&kek, &place, &*self.entropy)?;
                KeyMaterial::Sealed { nonce: Hex(nonce), ciphertext: Hex(ciphertext) }
            }
            (NewKek::Rsa(kek), None) => {
                KeyMaterial::RsaClear { public: kek.public_key().clone(), pkcs8: ClearPkcs8(kek.to_pkcs8()?) }
            }
            (NewKek::Rsa(kek), Some(keys)) => {
                let (nonce, ciphertext) = keys.seal_rsa(&kek.to_pkcs8()?, &place, &*self.entropy)?;
                let public = kek.public_key().clone();
                KeyMaterial::RsaSealed { public, nonce: Hex(nonce), ciphertext: HexVec(ciphertext) }
            }
        };
        Ok(version_record(version, self.now(), material))
    }
}

/// A KEK that is not in the file yet.
pub(super) enum NewKek {
    Aes(Kek),
    Rsa(RsaKek),
}

impl NewKek {
    fn kind(&self) -> KeyKind {
        match self {
            Self::Aes(_) => KeyKind::Aes256,
            Self::Rsa(kek) => KeyKind::Rsa(kek.public_key().size()),
        }
    }
}
