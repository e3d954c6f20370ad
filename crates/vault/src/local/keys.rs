//! The life of a local vault's keys, as changes of its document.
//!
//! Guarantees: pure: the time and new keys are passed in, so that every rule can be tested alone. An id without
//! a version names, for a use, the newest version that is not deleted; for a change, every version. A refused
//! change leaves the document as it was.

use std::time::Duration;

use cofferdam_crypto::KeyId;

use super::{
    LocalVaultError,
    names::KeyPath,
    record::{Document, KeyMaterial, KeyRecord, Millis, RecoveryRecord, VersionRecord},
};
use crate::{KeyKind, KeyState};

/// What becomes of a key when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// It can be recovered, and nobody can purge it before the window is over (soft delete, purge protection).
    Protected {
        /// How long after its deletion.
        window: Duration,
    },
    /// It can be recovered until somebody purges it (soft delete alone).
    Purgeable,
    /// It is gone at once, and with it all that is sealed under it.
    Off,
}

impl Recovery {
    /// 90 days, as Azure Key Vault has it.
    pub const DEFAULT_WINDOW: Duration = Duration::from_secs(90 * 24 * 60 * 60);
}

impl Default for Recovery {
    fn default() -> Self {
        Self::Protected { window: Self::DEFAULT_WINDOW }
    }
}

impl From<Recovery> for RecoveryRecord {
    fn from(recovery: Recovery) -> Self {
        match recovery {
            Recovery::Protected { window } => Self::Protected { window_ms: window.into() },
            Recovery::Purgeable => Self::Purgeable,
            Recovery::Off => Self::Off,
        }
    }
}

impl From<RecoveryRecord> for Recovery {
    fn from(record: RecoveryRecord) -> Self {
        match record {
            RecoveryRecord::Protected { window_ms } => Self::Protected { window: window_ms.into() },
            RecoveryRecord::Purgeable => Self::Purgeable,
            RecoveryRecord::Off => Self::Off,
        }
    }
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deletion {
    /// The key can be recovered until it is purged.
    Recoverable {
        /// Before when it can't be purged, as time since the Unix epoch; None without purge protection.
        protected_until: Option<Duration>,
    },
    /// The key is gone.
    Destroyed,
}

/// A key of a local vault, as [`list`](super::LocalVault::list) tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// The key, without a version.
    pub key_id: KeyId,
    /// What kind of key it is; all its versions are.
    pub kind: KeyKind,
    /// What becomes of it when it is deleted.
    pub recovery: Recovery,
    /// Its versions, oldest first.
    pub versions: Vec<VersionInfo>,
}

/// A version of a key. Times are since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// The key with this version.
    pub key_id: KeyId,
    /// Whether it can be used now.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Duration,
    /// Before when it can't be used.
    pub not_before: Option<Duration>,
    /// From when it can't be used.
    pub expires_at: Option<Duration>,
    /// When it was deleted.
    pub deleted_at: Option<Duration>,
    /// Before when it can't be purged, where it is deleted and under purge protection.
    pub protected_until: Option<Duration>,
}

impl VersionRecord {
    pub(super) fn state(&self, now: Millis) -> KeyState {
        if self.deleted_ms.is_some() {
            KeyState::Deleted
        } else if !self.enabled {
            KeyState::Disabled
        } else if self.expires_ms.is_some_and(|at| now >= at) {
            KeyState::Expired
        } else if self.not_before_ms.is_some_and(|at| now < at) {
            KeyState::NotYetActive
        } else {
            KeyState::Enabled
        }
    }
}

impl KeyRecord {
    fn protected_until(&self, version: &VersionRecord) -> Option<Millis> {
        match (self.recovery, version.deleted_ms) {
            (RecoveryRecord::Protected { window_ms }, Some(at)) => {
                Some(Millis(at.0.saturating_add(window_ms.0)))
            }
            _ => None,
        }
    }

    /// The newest version that is not deleted; where all are, the newest.
    pub(super) fn latest(&self) -> Option<&VersionRecord> {
        self.versions.iter().rfind(|v| v.deleted_ms.is_none()).or(self.versions.last())
    }

    fn is_deleted(&self) -> bool {
        self.versions.iter().all(|v| v.deleted_ms.is_some())
    }
}

impl Document {
    pub(super) fn key_id(&self, name: &str, version: Option<&str>) -> Result<KeyId, LocalVaultError> {
        KeyPath::key_id(&self.vault, name, version)
    }

    fn id_of(&self, path: &KeyPath) -> Result<KeyId, LocalVaultError> {
        self.key_id(&path.name, path.version.as_deref())
    }

    /// The version that a use of this id means.
    pub(super) fn find(&self, path: &KeyPath) -> Option<(&KeyRecord, &VersionRecord)> {
        let key = self.keys.iter().find(|key| key.name == path.name)?;
        let version = match &path.version {
            None => key.latest()?,
            Some(name) => key.versions.iter().find(|v| v.version == *name)?,
        };
        Some((key, version))
    }

    pub(super) fn check_new(&self, name: &str) -> Result<(), LocalVaultError> {
        match self.keys.iter().any(|key| key.name == name) {
            true => Err(LocalVaultError::KeyExists { key_id: self.key_id(name, None)? }),
            false => Ok(()),
        }
    }

    pub(super) fn create_key(
        &mut self,
        name: &str,
        recovery: Recovery,
        version: VersionRecord,
    ) -> Result<KeyId, LocalVaultError> {
        self.check_new(name)?;
        let key_id = self.key_id(name, Some(&version.version))?;
        self.keys.push(KeyRecord { name: name.into(), recovery: recovery.into(), versions: vec![version] });
        Ok(key_id)
    }

    /// What kind of key a new version of this one is, if it can have one.
    pub(super) fn kind_of_next(&self, name: &str) -> Result<KeyKind, LocalVaultError> {
        let key_id = self.key_id(name, None)?;
        match self.keys.iter().find(|key| key.name == name) {
            None => Err(LocalVaultError::KeyNotFound { key_id }),
            Some(key) if key.is_deleted() => Err(LocalVaultError::KeyDeleted { key_id }),
            Some(key) => Ok(key.kind()),
        }
    }

    pub(super) fn new_version(
        &mut self,
        name: &str,
        version: VersionRecord,
    ) -> Result<KeyId, LocalVaultError> {
        self.kind_of_next(name)?;
        let Some(key) = self.keys.iter_mut().find(|key| key.name == name) else {
            return Err(LocalVaultError::KeyNotFound { key_id: self.key_id(name, None)? });
        };
        let key_id = KeyPath::key_id(&self.vault, name, Some(&version.version))?;
        key.versions.push(version);
        Ok(key_id)
    }

    /// Changes every version that the id names and that is not deleted.
    pub(super) fn set(
        &mut self,
        path: &KeyPath,
        now: Millis,
        change: impl Fn(&mut VersionRecord),
    ) -> Result<(), LocalVaultError> {
        let key_id = self.id_of(path)?;
        let mut versions = named(&mut self.keys, path, &key_id)?.1;
        versions.retain(|v| v.deleted_ms.is_none());
        if versions.is_empty() {
            return Err(LocalVaultError::KeyDeleted { key_id });
        }
        for version in versions {
            change(version);
            if let Some(details) = &mut version.details {
                details.updated_ms = now;
            }
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, path: &KeyPath, now: Millis) -> Result<Deletion, LocalVaultError> {
        self.set(path, now, |version| version.deleted_ms = Some(now))?;
        let key_id = self.id_of(path)?;
        let recovery = named(&mut self.keys, path, &key_id)?.0;
        match recovery {
            RecoveryRecord::Protected { window_ms } => Ok(Deletion::Recoverable {
                protected_until: Some(Millis(now.0.saturating_add(window_ms.0)).into()),
            }),
            RecoveryRecord::Purgeable => Ok(Deletion::Recoverable { protected_until: None }),
            RecoveryRecord::Off => {
                self.remove(path);
                Ok(Deletion::Destroyed)
            }
        }
    }

    pub(super) fn recover(&mut self, path: &KeyPath) -> Result<(), LocalVaultError> {
        let key_id = self.id_of(path)?;
        let mut versions = named(&mut self.keys, path, &key_id)?.1;
        versions.retain(|v| v.deleted_ms.is_some());
        if versions.is_empty() {
            return Err(LocalVaultError::NotDeleted { key_id });
        }
        versions.into_iter().for_each(|version| version.deleted_ms = None);
        Ok(())
    }

    pub(super) fn purge(&mut self, path: &KeyPath, now: Millis) -> Result<(), LocalVaultError> {
        let key_id = self.id_of(path)?;
        let Some(key) = self.keys.iter().find(|key| key.name == path.name) else {
            return Err(LocalVaultError::KeyNotFound { key_id });
        };
        let mut versions =
            key.versions.iter().filter(|v| path.version.as_ref().is_none_or(|p| *p == v.version)).peekable();
        if versions.peek().is_none() {
            return Err(LocalVaultError::KeyNotFound { key_id });
        }
        let mut left = 0;
        for version in versions {
            if version.deleted_ms.is_none() {
                return Err(LocalVaultError::NotDeleted { key_id });
            }
            left = left.max(key.protected_until(version).map_or(0, |until| until.0.saturating_sub(now.0)));
        }
        if left > 0 {
            return Err(LocalVaultError::PurgeProtected { key_id, left: Millis(left).into() });
        }
        self.remove(path);
        Ok(())
    }

    /// Destroys what the path names; a key without a version left is none.
    fn remove(&mut self, path: &KeyPath) {
        for key in self.keys.iter_mut().filter(|key| key.name == path.name) {
            key.versions.retain(|v| path.version.as_ref().is_some_and(|p| *p != v.version));
        }
        self.keys.retain(|key| !key.versions.is_empty());
    }

    pub(super) fn list(&self, now: Millis) -> Result<Vec<KeyInfo>, LocalVaultError> {
        let info = |key: &KeyRecord| {
            let versions = key.versions.iter().map(|version| {
                Ok(VersionInfo {
                    key_id: self.key_id(&key.name, Some(&version.version))?,
                    state: version.state(now),
                    created_at: version.created_ms.into(),
                    not_before: version.not_before_ms.map(Into::into),
                    expires_at: version.expires_ms.map(Into::into),
                    deleted_at: version.deleted_ms.map(Into::into),
                    protected_until: key.protected_until(version).map(Into::into),
                })
            });
            Ok(KeyInfo {
                key_id: self.key_id(&key.name, None)?,
                kind: key.kind(),
                recovery: key.recovery.into(),
                versions: versions.collect::<Result<_, LocalVaultError>>()?,
            })
        };
        self.keys.iter().map(info).collect()
    }
}

/// The versions that a change of this id means.
fn named<'a>(
    keys: &'a mut [KeyRecord],
    path: &KeyPath,
    key_id: &KeyId,
) -> Result<(RecoveryRecord, Vec<&'a mut VersionRecord>), LocalVaultError> {
    let not_found = || LocalVaultError::KeyNotFound { key_id: key_id.clone() };
    let key = keys.iter_mut().find(|key| key.name == path.name).ok_or_else(not_found)?;
    let versions: Vec<_> =
        key.versions.iter_mut().filter(|v| path.version.as_ref().is_none_or(|p| *p == v.version)).collect();
    if versions.is_empty() { Err(not_found()) } else { Ok((key.recovery, versions)) }
}

/// A new version's record.
pub(super) fn version_record(version: String, now: Millis, key: KeyMaterial) -> VersionRecord {
    VersionRecord {
        version,
        created_ms: now,
        enabled: true,
        not_before_ms: None,
        expires_ms: None,
        deleted_ms: None,
        details: None,
        key,
    }
}
