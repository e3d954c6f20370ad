//! The vaults of a simulated world: real KEKs, whose owner can take them away.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrapAlgorithm, WrappedKey, kw::Kek};
use cofferdam_vault::{
    Entropy, KeyKind, KeyProperties, KeyState, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind,
    WrapContext, testing::SeededEntropy,
};

/// How a KEK is, by its owner's will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KekState {
    /// It can be used.
    Enabled,
    /// The service may no longer use it.
    Denied,
    /// It is disabled.
    Disabled,
    /// It is deleted, and can be recovered.
    Deleted,
}

impl KekState {
    /// What a vault answers who wants to use it.
    pub fn denial(self) -> Option<VaultErrorKind> {
        match self {
            Self::Enabled => None,
            Self::Denied => Some(VaultErrorKind::AccessDenied),
            Self::Disabled => Some(VaultErrorKind::KeyDisabled),
            Self::Deleted => Some(VaultErrorKind::KeyNotFound),
        }
    }
}

/// A vault whose keys a simulation can take away and give back. Its calls must not wait: the way to it is the
/// simulation's.
pub trait SimVault: KeyVault {
    /// Makes a KEK, enabled and recoverable.
    ///
    /// # Errors
    /// [`VaultError`]; the run ends then.
    fn create_key(&self, key_id: &KeyId) -> Result<(), VaultError>;

    /// Takes a KEK away, or gives it back: what is answered from now on.
    fn set_state(&self, key_id: &KeyId, state: KekState);
}

/// The vault of a simulation that was given no other: AES KEKs in memory.
pub struct MemoryVault {
    entropy: SeededEntropy,
    keks: Mutex<BTreeMap<KeyId, (Kek, KekState)>>,
}

impl MemoryVault {
    /// A vault without keys.
    pub fn new(seed: u64) -> Self {
        Self { entropy: SeededEntropy::new(seed), keks: Mutex::default() }
    }

    fn keks(&self) -> MutexGuard<'_, BTreeMap<KeyId, (Kek, KekState)>> {
        self.keks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_kek<T>(&self, key_id: &KeyId, work: impl FnOnce(&Kek) -> T) -> Result<T, VaultError> {
        let keks = self.keks();
        let (kek, state) = keks.get(key_id).ok_or_else(|| {
            VaultError::new(VaultErrorKind::KeyNotFound, "there is no such key: create it").about(key_id)
        })?;
        match state.denial() {
            Some(kind) => Err(VaultError::new(kind, "its owner took it away").about(key_id)),
            None => Ok(work(kek)),
        }
    }
}

impl SimVault for MemoryVault {
    fn create_key(&self, key_id: &KeyId) -> Result<(), VaultError> {
        let kek = Kek::try_from_fn(|bytes| self.entropy.fill(bytes))
            .map_err(|e| VaultError::new(VaultErrorKind::Other, "no randomness for a KEK").caused_by(e))?;
        self.keks().entry(key_id.clone()).or_insert((kek, KekState::Enabled));
        Ok(())
    }

    fn set_state(&self, key_id: &KeyId, state: KekState) {
        if let Some(held) = self.keks().get_mut(key_id) {
            held.1 = state;
        }
    }
}

#[async_trait]
impl KeyVault for MemoryVault {
    async fn wrap_key(&self, key_id: &KeyId, aek: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
        let bytes = self.with_kek(key_id, |kek| kek.wrap(aek).to_vec())?;
        Ok(WrappedKey { key_id: key_id.clone(), algorithm: WrapAlgorithm::Aes256Kw, bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
        self.with_kek(&wrapped.key_id, |kek| kek.unwrap(&wrapped.bytes))?.map_err(|e| {
            VaultError::new(VaultErrorKind::Corrupt, "the wrapped key is malformed")
                .about(&wrapped.key_id)
                .caused_by(e)
        })
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let mut properties = KeyProperties::new(key_id.clone(), key_id.clone(), KeyKind::Aes256);
        properties.soft_delete = true;
        properties.purge_protection = true;
        properties.state = match self.keks().get(key_id) {
            None => {
                let text = "there is no such key: create it";
                return Err(VaultError::new(VaultErrorKind::KeyNotFound, text).about(key_id));
            }
            Some((_, KekState::Disabled)) => KeyState::Disabled,
            Some((_, KekState::Deleted)) => KeyState::Deleted,
            Some((_, KekState::Enabled | KekState::Denied)) => KeyState::Enabled,
        };
        Ok(properties)
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.with_kek(key_id, |_| ())?;
        Err(VaultError::not_rsa(key_id))
    }
}

impl fmt::Debug for MemoryVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryVault({} keys)", self.keks().len())
    }
}
