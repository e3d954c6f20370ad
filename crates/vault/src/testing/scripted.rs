//! A vault that answers as its script says.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrapAlgorithm, WrappedKey, kw::Kek};
use tokio::time::Instant;

use super::SeededEntropy;
use crate::{Entropy, KeyKind, KeyProperties, KeyVault, VaultError, VaultErrorKind as Kind, WrapContext};

/// What the vault does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// What it was asked.
    Work,
    /// It fails with an error of this kind.
    Fail(Kind),
    /// It never answers.
    Hang,
    /// It unwraps to a key that is not the one that was wrapped.
    WrongKey,
}

/// A call that reached the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was sent, by tokio's clock.
    pub sent: Instant,
    /// The KEK it was about.
    pub key_id: KeyId,
    /// Whether it was an unwrap; otherwise a wrap or a question for properties.
    pub unwrap: bool,
}

/// An in-memory vault with real AES KEKs that does what a test scripts, and keeps count.
///
/// The answer to a call is settled when the call is sent; the latency passes after that.
pub struct ScriptedVault {
    entropy: SeededEntropy,
    inner: Mutex<Inner>,
}

struct Inner {
    keks: BTreeMap<KeyId, Kek>,
    answer: Answer,
    next: VecDeque<Answer>,
    by_key: BTreeMap<KeyId, Answer>,
    latency: Duration,
    calls: Vec<Call>,
    in_flight: usize,
    max_in_flight: usize,
}

impl ScriptedVault {
    /// A vault without keys that works, at once.
    pub fn new(seed: u64) -> Self {
        Self {
            entropy: SeededEntropy::new(seed),
            inner: Mutex::new(Inner {
                keks: BTreeMap::new(),
                answer: Answer::Work,
                next: VecDeque::new(),
                by_key: BTreeMap::new(),
                latency: Duration::ZERO,
                calls: Vec::new(),
                in_flight: 0,
                max_in_flight: 0,
            }),
        }
    }

    /// Makes a KEK of this name; one that is there already stays.
    ///
    /// # Errors
    /// `Other` when randomness fails, which a seeded source never does.
    pub fn create_key(&self, key_id: &KeyId) -> Result<(), VaultError> {
        let kek = Kek::try_from_fn(|bytes| self.entropy.fill(bytes))
            .map_err(|e| VaultError::new(Kind::Other, "no randomness for a KEK").caused_by(e))?;
        self.lock().keks.entry(key_id.clone()).or_insert(kek);
        Ok(())
    }

    /// From now on, every call without an answer of its own is answered so.
    pub fn answer(&self, answer: Answer) {
        self.lock().answer = answer;
    }

    /// The next calls are answered so, one each, before anything else applies.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.lock().next.extend(answers);
    }

    /// From now on, calls about this KEK are answered so; `None` lifts that.
    pub fn answer_for(&self, key_id: &KeyId, answer: Option<Answer>) {
        let by_key = &mut self.lock().by_key;
        match answer {
            Some(answer) => by_key.insert(key_id.clone(), answer),
            None => by_key.remove(key_id),
        };
    }

    /// From now on, every call takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Every call so far, in the order in which they were sent.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How many unwraps were sent so far.
    pub fn unwraps(&self) -> usize {
        self.lock().calls.iter().filter(|call| call.unwrap).count()
    }

    /// The most calls that were under way at one time.
    pub fn max_in_flight(&self) -> usize {
        self.lock().max_in_flight
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call in and lets its latency pass; the guard counts it as under way until it is dropped.
    async fn receive(&self, key_id: &KeyId, unwrap: bool) -> Result<(Answer, InFlight<'_>), VaultError> {
        let (answer, latency) = {
            let mut inner = self.lock();
            inner.calls.push(Call { sent: Instant::now(), key_id: key_id.clone(), unwrap });
            inner.in_flight += 1;
            inner.max_in_flight = inner.max_in_flight.max(inner.in_flight);
            let scripted = inner.next.pop_front().or_else(|| inner.by_key.get(key_id).copied());
            (scripted.unwrap_or(inner.answer), inner.latency)
        };
        let in_flight = InFlight(self);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match answer {
            Answer::Fail(kind) => Err(VaultError::new(kind, "the script says so").about(key_id)),
            Answer::Hang => std::future::pending().await,
            Answer::Work | Answer::WrongKey => Ok((answer, in_flight)),
        }
    }

    fn with_kek<T>(&self, key_id: &KeyId, work: impl FnOnce(&Kek) -> T) -> Result<T, VaultError> {
        let inner = self.lock();
        let kek = inner.keks.get(key_id).ok_or_else(|| {
            VaultError::new(Kind::KeyNotFound, "the vault has no such key: create it first").about(key_id)
        })?;
        Ok(work(kek))
    }
}

struct InFlight<'a>(&'a ScriptedVault);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

impl fmt::Debug for ScriptedVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("ScriptedVault")
            .field("keys", &inner.keks.keys())
            .field("answer", &inner.answer)
            .field("calls", &inner.calls.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyVault for ScriptedVault {
    async fn wrap_key(&self, key_id: &KeyId, aek: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
        let _in_flight = self.receive(key_id, false).await?;
        let bytes = self.with_kek(key_id, |kek| kek.wrap(aek).to_vec())?;
        Ok(WrappedKey { key_id: key_id.clone(), algorithm: WrapAlgorithm::Aes256Kw, bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
        let (answer, _in_flight) = self.receive(&wrapped.key_id, true).await?;
        let aek = self.with_kek(&wrapped.key_id, |kek| kek.unwrap(&wrapped.bytes))?.map_err(|e| {
            VaultError::new(Kind::Corrupt, "the wrapped key is malformed").about(&wrapped.key_id).caused_by(e)
        })?;
        if answer == Answer::WrongKey {
            return Aek::try_from_fn(|bytes| {
                bytes.copy_from_slice(aek.expose());
                bytes[0] ^= 1;
                Ok(())
            });
        }
        Ok(aek)
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let _in_flight = self.receive(key_id, false).await?;
        self.with_kek(key_id, |_| ())?;
        Ok(KeyProperties::new(key_id.clone(), key_id.clone(), KeyKind::Aes256))
    }
}
