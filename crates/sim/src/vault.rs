//! The vaults of a simulated world: real KEKs, whose owner can take them away.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use cofferdam_crypto::{
    Aek, KeyId, WrappedKey,
    kw::Kek,
    rsa::{RsaError, RsaKek, RsaSize},
};
use cofferdam_vault::{
    Entropy, KeyKind, KeyProperties, KeyState, KeyVault, PublicKeyAnswer, RsaKeySource, VaultError,
    VaultErrorKind, WrapContext,
    testing::{PublishedRsaKeys, SeededEntropy},
};

use crate::weather::base_of;

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
    /// Makes a KEK of this kind, enabled and recoverable; one that is there already stays. The simulation asks for AES
    /// with 256 bits and for RSA with 2,048. Ids end in `/v1`, `/v2` and so on: those are versions of one key.
    ///
    /// # Errors
    /// [`VaultError`]; the run ends then.
    fn create_key(&self, key_id: &KeyId, kind: KeyKind) -> Result<(), VaultError>;

    /// Takes a KEK away, or gives it back: what is answered from now on.
    fn set_state(&self, key_id: &KeyId, state: KekState);
}

/// The vault of a simulation that was given no other: KEKs in memory, whose ids end in `/v` and a number; without that,
/// the latest version is meant. Its RSA keys are published ones: to find primes
/// would take longer than a run.
pub struct MemoryVault {
    entropy: SeededEntropy,
    seed: u64,
    keks: Mutex<BTreeMap<KeyId, Held>>,
}

struct Held {
    kek: AnyKek,
    state: KekState,
}

enum AnyKek {
    Aes(Kek),
    Rsa(Arc<RsaKek>, Known),
}

/// What was unwrapped before, by its wrapped bytes: private halves are slow, and answer the same each time.
type Known = Mutex<BTreeMap<Vec<u8>, [u8; Aek::LEN]>>;

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl AnyKek {
    fn kind(&self) -> KeyKind {
        match self {
            Self::Aes(_) => KeyKind::Aes256,
            Self::Rsa(kek, _) => KeyKind::Rsa(kek.public_key().size()),
        }
    }

    fn wrap(&self, aek: &Aek) -> Result<Vec<u8>, Failed> {
        match self {
            Self::Aes(kek) => Ok(kek.wrap(aek).to_vec()),
            Self::Rsa(kek, _) => Ok(kek.public_key().wrap(aek)?),
        }
    }

    fn unwrap(&self, wrapped: &WrappedKey) -> Result<Aek, Failed> {
        if wrapped.algorithm != self.kind().algorithm() {
            return Err("a key of another kind wrapped it".into());
        }
        match self {
            Self::Aes(kek) => Ok(kek.unwrap(&wrapped.bytes)?),
            Self::Rsa(kek, known) => {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bytes) = known.get(&wrapped.bytes) {
                    return Aek::try_from_fn(|aek| {
                        *aek = *bytes;
                        Ok(())
                    });
                }
                let aek = kek.unwrap(&wrapped.bytes)?;
                known.insert(wrapped.bytes.clone(), *aek.expose());
                Ok(aek)
            }
        }
    }
}

/// One of the published keys, which are read once.
fn rsa_kek(number: u64) -> Result<Arc<RsaKek>, RsaError> {
    static KEKS: OnceLock<Result<Vec<Arc<RsaKek>>, RsaError>> = OnceLock::new();
    let read = || {
        let source = PublishedRsaKeys::default();
        (0..4).map(|_| source.draw(RsaSize::Rsa2048).map(Arc::new)).collect()
    };
    let keks = KEKS.get_or_init(read).as_ref().map_err(|error| *error)?;
    Ok(keks[(number % keks.len() as u64) as usize].clone())
}

impl MemoryVault {
    /// A vault without keys.
    pub fn new(seed: u64) -> Self {
        Self { entropy: SeededEntropy::new(seed), seed, keks: Mutex::default() }
    }

    fn keks(&self) -> MutexGuard<'_, BTreeMap<KeyId, Held>> {
        self.keks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_kek<T>(&self, key_id: &KeyId, work: impl FnOnce(&KeyId, &AnyKek) -> T) -> Result<T, VaultError> {
        let keks = self.keks();
        let (key_id, held) = find(&keks, key_id).ok_or_else(|| unknown(key_id))?;
        match held.state.denial() {
            Some(kind) => Err(VaultError::new(kind, "its owner took it away").about(key_id)),
            None => Ok(work(key_id, &held.kek)),
        }
    }
}

/// A version; the latest of the key where none is named.
fn find<'a>(keks: &'a BTreeMap<KeyId, Held>, key_id: &KeyId) -> Option<(&'a KeyId, &'a Held)> {
    keks.get_key_value(key_id).or_else(|| latest(keks, key_id.as_str()))
}

fn latest<'a>(keks: &'a BTreeMap<KeyId, Held>, base: &str) -> Option<(&'a KeyId, &'a Held)> {
    let version = |id: &KeyId| id.as_str().strip_prefix(base)?.strip_prefix("/v")?.parse::<u64>().ok();
    let versions = keks.iter().filter_map(|(id, held)| Some((version(id)?, id, held)));
    versions.max_by_key(|(version, _, _)| *version).map(|(_, id, held)| (id, held))
}

fn unknown(key_id: &KeyId) -> VaultError {
    VaultError::new(VaultErrorKind::KeyNotFound, "there is no such key: create it").about(key_id)
}

impl SimVault for MemoryVault {
    fn create_key(&self, key_id: &KeyId, kind: KeyKind) -> Result<(), VaultError> {
        let failed = |e: Failed| {
            VaultError::new(VaultErrorKind::Other, "the key can't be made").about(key_id).caused_by(e)
        };
        let mut keks = self.keks();
        if keks.contains_key(key_id) {
            return Ok(());
        }
        let kek = match kind {
            KeyKind::Rsa(RsaSize::Rsa2048) => {
                let number = self.seed.wrapping_add(keks.len() as u64);
                AnyKek::Rsa(rsa_kek(number).map_err(|e| failed(e.into()))?, Known::default())
            }
            KeyKind::Aes256 => {
                let kek = Kek::try_from_fn(|bytes| self.entropy.fill(bytes));
                AnyKek::Aes(kek.map_err(|e| failed(e.into()))?)
            }
            kind => return Err(failed(format!("the simulation has no keys of kind {kind}").into())),
        };
        keks.insert(key_id.clone(), Held { kek, state: KekState::Enabled });
        Ok(())
    }

    fn set_state(&self, key_id: &KeyId, state: KekState) {
        if let Some(held) = self.keks().get_mut(key_id) {
            held.state = state;
        }
    }
}

#[async_trait]
impl KeyVault for MemoryVault {
    async fn wrap_key(&self, key_id: &KeyId, aek: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
        let (key_id, algorithm, bytes) =
            self.with_kek(key_id, |id, kek| (id.clone(), kek.kind().algorithm(), kek.wrap(aek)))?;
        let bytes = bytes.map_err(|e| {
            VaultError::new(VaultErrorKind::Other, "the key can't be wrapped").about(&key_id).caused_by(e)
        })?;
        Ok(WrappedKey { key_id, algorithm, bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
        self.with_kek(&wrapped.key_id, |_, kek| kek.unwrap(wrapped))?.map_err(|e| {
            VaultError::new(VaultErrorKind::Corrupt, "the wrapped key is malformed")
                .about(&wrapped.key_id)
                .caused_by(e)
        })
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let keks = self.keks();
        let (key_id, held) = find(&keks, key_id).ok_or_else(|| unknown(key_id))?;
        let latest = latest(&keks, base_of(key_id)).map_or(key_id, |(latest, _)| latest);
        let mut properties = KeyProperties::new(key_id.clone(), latest.clone(), held.kek.kind());
        properties.soft_delete = true;
        properties.purge_protection = true;
        properties.state = match held.state {
            KekState::Disabled => KeyState::Disabled,
            KekState::Deleted => KeyState::Deleted,
            KekState::Enabled | KekState::Denied => KeyState::Enabled,
        };
        Ok(properties)
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        let public = self.with_kek(key_id, |id, kek| match kek {
            AnyKek::Rsa(kek, _) => {
                Some(PublicKeyAnswer { key_id: id.clone(), key: kek.public_key().clone() })
            }
            AnyKek::Aes(_) => None,
        })?;
        match public {
            Some(answer) => Ok(answer),
            None => Err(VaultError::not_rsa(key_id)),
        }
    }
}

impl fmt::Debug for MemoryVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryVault({} keys)", self.keks().len())
    }
}
