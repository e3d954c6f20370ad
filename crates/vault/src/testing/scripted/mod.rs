//! A vault that answers as its script says.

mod credential;
mod script;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{
    AccountId, Aek, KeyId, WrappedKey,
    kw::Kek,
    rsa::{RsaKek, RsaSize},
};
use tokio::time::Instant;

use self::script::{Flapping, Limit, Script};
pub use self::{
    credential::{ScriptedCredential, Token, TokenService},
    script::{Answer, Call, Outcome},
};
use super::{PublishedRsaKeys, SeededEntropy};
use crate::{
    Entropy, KeyKind, KeyProperties, KeyVault, PublicKeyAnswer, RsaKeySource, VaultError,
    VaultErrorKind as Kind, WrapContext,
};

/// An in-memory vault with real KEKs that does what a test scripts, and keeps count.
///
/// The answer to a call is settled when the call is sent; the latency passes after that. Where several things
/// that a test said apply, it is the first of: the next answers, what is said of the account, flapping, a limit, the
/// credential, every n-th call, chance, what is said of the KEK, what is said of all.
pub struct ScriptedVault {
    entropy: SeededEntropy,
    rsa_keys: PublishedRsaKeys,
    inner: Mutex<Inner>,
}

enum AnyKek {
    Aes(Kek),
    Rsa(Box<RsaKek>),
}

impl AnyKek {
    fn kind(&self) -> KeyKind {
        match self {
            Self::Aes(_) => KeyKind::Aes256,
            Self::Rsa(kek) => KeyKind::Rsa(kek.public_key().size()),
        }
    }

    fn wrap(&self, aek: &Aek) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Aes(kek) => Ok(kek.wrap(aek).to_vec()),
            Self::Rsa(kek) => Ok(kek.public_key().wrap(aek)?),
        }
    }

    fn unwrap(&self, wrapped: &WrappedKey) -> Result<Aek, Box<dyn std::error::Error + Send + Sync>> {
        match self {
            _ if self.kind().algorithm() != wrapped.algorithm => {
                Err("a key of another kind wrapped it".into())
            }
            Self::Aes(kek) => Ok(kek.unwrap(&wrapped.bytes)?),
            Self::Rsa(kek) => Ok(kek.unwrap(&wrapped.bytes)?),
        }
    }
}

struct Inner {
    keks: BTreeMap<KeyId, AnyKek>,
    script: Script,
    calls: Vec<Call>,
    in_flight: usize,
    max_in_flight: usize,
}

impl ScriptedVault {
    /// A vault without keys that works, at once.
    pub fn new(seed: u64) -> Self {
        Self {
            entropy: SeededEntropy::new(seed),
            rsa_keys: PublishedRsaKeys::default(),
            inner: Mutex::new(Inner {
                keks: BTreeMap::new(),
                script: Script::new(seed),
                calls: Vec::new(),
                in_flight: 0,
                max_in_flight: 0,
            }),
        }
    }

    /// Makes an AES KEK of this name; one that is there already stays.
    ///
    /// # Errors
    /// `Other` when randomness fails, which a seeded source never does.
    pub fn create_key(&self, key_id: &KeyId) -> Result<(), VaultError> {
        let kek = Kek::try_from_fn(|bytes| self.entropy.fill(bytes))
            .map_err(|e| VaultError::new(Kind::Other, "no randomness for a KEK").caused_by(e))?;
        self.lock().keks.entry(key_id.clone()).or_insert(AnyKek::Aes(kek));
        Ok(())
    }

    /// Makes an RSA KEK of this name, one of [`PublishedRsaKeys`] by turns; one that is there already stays.
    ///
    /// # Errors
    /// `Other` without the feature `aws-lc`.
    pub fn create_rsa_key(&self, key_id: &KeyId, size: RsaSize) -> Result<(), VaultError> {
        let failed = |e| VaultError::new(Kind::Other, "no RSA key for a KEK").about(key_id).caused_by(e);
        let kek = self.rsa_keys.draw(size).map_err(failed)?;
        self.lock().keks.entry(key_id.clone()).or_insert(AnyKek::Rsa(Box::new(kek)));
        Ok(())
    }

    /// From now on, every call without an answer of its own is answered so.
    pub fn answer(&self, answer: Answer) {
        self.lock().script.answer = answer;
    }

    /// The next calls are answered so, one each, before anything else applies.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.lock().script.next.extend(answers);
    }

    /// From now on, calls about this KEK are answered so; `None` lifts that.
    pub fn answer_for(&self, key_id: &KeyId, answer: Option<Answer>) {
        let by_key = &mut self.lock().script.by_key;
        match answer {
            Some(answer) => by_key.insert(key_id.clone(), answer),
            None => by_key.remove(key_id),
        };
    }

    /// From now on, calls made for this account are answered so, whatever is said of its KEK: a partial outage.
    /// `None` lifts that.
    pub fn answer_account(&self, account: AccountId, answer: Option<Answer>) {
        let by_account = &mut self.lock().script.by_account;
        match answer {
            Some(answer) => by_account.insert(account, answer),
            None => by_account.remove(&account),
        };
    }

    /// From now on, the vault is up and down by turns, beginning with up, and answers so while it is down. `None`
    /// ends that.
    pub fn flap(&self, turns: Option<(Duration, Duration, Answer)>) {
        let since = Instant::now();
        self.lock().script.flapping = turns.map(|(up, down, answer)| Flapping { since, up, down, answer });
    }

    /// From now on, every `n`-th call is answered so, as by a replica that lags. `None` ends that.
    pub fn answer_every(&self, every: Option<(usize, Answer)>) {
        self.lock().script.every = every;
    }

    /// From now on, of a hundred calls about so many are answered so, drawn from the seed. `None` ends that.
    pub fn answer_by_chance(&self, chance: Option<(u32, Answer)>) {
        self.lock().script.chance = chance;
    }

    /// From now on, the vault answers by throttling where more calls than this came within that time, the call
    /// included, and names this time. `None` ends that.
    pub fn throttle_above(&self, limit: Option<(usize, Duration, Option<Duration>)>) {
        self.lock().script.limit = limit.map(|(most, within, retry_after)| Limit {
            most,
            within,
            retry_after,
            sent: VecDeque::new(),
        });
    }

    /// From now on, the vault looks at this credential first, as its client presents it.
    pub fn set_credential(&self, credential: Arc<ScriptedCredential>) {
        self.lock().script.credential = Some(credential);
    }

    /// From now on, every call takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.set_latency_range(latency..=latency);
    }

    /// From now on, every call takes a time within this range, drawn from the seed.
    pub fn set_latency_range(&self, latency: RangeInclusive<Duration>) {
        self.lock().script.latency = latency;
    }

    /// Every call so far, in the order in which they were sent.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Forgets every call that has ended, and what its list took. Not while calls are under way.
    pub fn forget_calls(&self) {
        self.lock().calls = Vec::new();
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

    /// Takes a call in and lets its latency pass; it is under way until its end is noted or it is dropped.
    async fn receive(
        &self,
        key_id: &KeyId,
        account: Option<AccountId>,
        unwrap: bool,
    ) -> Result<(Answer, InFlight<'_>), VaultError> {
        let (answer, latency, mut in_flight) = {
            let mut inner = self.lock();
            let call = Call { sent: Instant::now(), key_id: key_id.clone(), account, unwrap, ended: None };
            let number = inner.calls.len();
            let (answer, latency) = inner.script.decide(number + 1, &call);
            inner.calls.push(call);
            inner.in_flight += 1;
            inner.max_in_flight = inner.max_in_flight.max(inner.in_flight);
            (answer, latency, InFlight { vault: self, number, outcome: Outcome::GivenUp })
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match answer {
            Answer::Fail(kind) => {
                in_flight.outcome = Outcome::Failed(kind);
                Err(VaultError::new(kind, "the script says so").about(key_id))
            }
            Answer::Hang => std::future::pending().await,
            Answer::Work | Answer::WrongKey => Ok((answer, in_flight)),
        }
    }

    fn with_kek<T>(&self, key_id: &KeyId, work: impl FnOnce(&AnyKek) -> T) -> Result<T, VaultError> {
        let inner = self.lock();
        let kek = inner.keks.get(key_id).ok_or_else(|| {
            VaultError::new(Kind::KeyNotFound, "the vault has no such key: create it first").about(key_id)
        })?;
        Ok(work(kek))
    }
}

struct InFlight<'a> {
    vault: &'a ScriptedVault,
    number: usize,
    outcome: Outcome,
}

impl InFlight<'_> {
    /// Notes how the call ends.
    fn end<T>(mut self, result: Result<T, VaultError>) -> Result<T, VaultError> {
        self.outcome = match &result {
            Ok(_) => Outcome::Worked,
            Err(failed) => Outcome::Failed(failed.kind()),
        };
        result
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut inner = self.vault.lock();
        inner.in_flight -= 1;
        if let Some(call) = inner.calls.get_mut(self.number) {
            call.ended = Some((Instant::now(), self.outcome));
        }
    }
}

impl fmt::Debug for ScriptedVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("ScriptedVault")
            .field("keys", &inner.keks.keys())
            .field("answer", &inner.script.answer)
            .field("calls", &inner.calls.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyVault for ScriptedVault {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        let (_, in_flight) = self.receive(key_id, Some(context.scope.account), false).await?;
        let failed = |e| VaultError::new(Kind::Other, "the KEK does not wrap").about(key_id).caused_by(e);
        let wrapped = self
            .with_kek(key_id, |kek| (kek.kind().algorithm(), kek.wrap(aek)))
            .and_then(|(algorithm, bytes)| Ok((algorithm, bytes.map_err(failed)?)));
        let (algorithm, bytes) = in_flight.end(wrapped)?;
        Ok(WrappedKey { key_id: key_id.clone(), algorithm, bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        let len = wrapped.bytes.len();
        if !wrapped.algorithm.accepts_len(len) {
            let message = format!("the wrapped key has {len} bytes, which no key wraps an AEK into");
            return Err(VaultError::new(Kind::Corrupt, message).about(&wrapped.key_id));
        }
        let account = Some(context.scope.account);
        let (answer, mut in_flight) = self.receive(&wrapped.key_id, account, true).await?;
        let unwrapped = self.with_kek(&wrapped.key_id, |kek| kek.unwrap(wrapped)).and_then(|unwrapped| {
            unwrapped.map_err(|e| {
                let error = VaultError::new(Kind::Corrupt, "the wrapped key is malformed");
                error.about(&wrapped.key_id).caused_by(e)
            })
        });
        if answer == Answer::WrongKey
            && let Ok(aek) = &unwrapped
        {
            in_flight.outcome = Outcome::WrongKey;
            return Aek::try_from_fn(|bytes| {
                bytes.copy_from_slice(aek.expose());
                bytes[0] ^= 1;
                Ok(())
            });
        }
        in_flight.end(unwrapped)
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let (_, in_flight) = self.receive(key_id, None, false).await?;
        let kind = in_flight.end(self.with_kek(key_id, AnyKek::kind))?;
        Ok(KeyProperties::new(key_id.clone(), key_id.clone(), kind))
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        let (_, in_flight) = self.receive(key_id, None, false).await?;
        in_flight.end(
            self.with_kek(key_id, |kek| match kek {
                AnyKek::Aes(_) => Err(VaultError::not_rsa(key_id)),
                AnyKek::Rsa(kek) => {
                    Ok(PublicKeyAnswer { key_id: key_id.clone(), key: kek.public_key().clone() })
                }
            })
            .flatten(),
        )
    }
}
