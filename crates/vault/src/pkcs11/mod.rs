//! Keys in a hardware security module, or in anything else that speaks PKCS #11.
//!
//! Guarantees:
//! - A KEK never leaves its token: one that could (extractable, or not sensitive) is refused.
//! - Nothing of a key is remembered between calls, so what its owner changes is felt by the next one.
//! - Only the owner's word on a key is a denial. A token that is gone, locked, busy or logged out of is an outage, also where
//!   its library then says that there is no such key.
//! - A wrong PIN is tried once: tokens lock.
//! - No call blocks an async task: the library is called by an [`Executor`], in a bounded number of sessions.
//!
//! By AES key wrap (CKM_AES_KEY_WRAP), where the AEK is a session object of the token while it is wrapped or read; and by
//! RSA-OAEP with SHA-256, wrapped here with the public half, unwrapped by the token.
//!
//! What it can't promise: PKCS #11 has no time-outs, so a library that hangs keeps its session and a thread; it can't bind a
//! wrap to its account, so a wrap that was moved is caught by the caller's key check value. An AEK that was unwrapped by
//! AES key wrap was also in a buffer of `cryptoki`'s, which is not wiped, and in the library's memory.

mod date;
mod error;
mod keys;
mod library;
mod manage;
mod pin;
#[cfg(feature = "serve")]
mod served;
mod token;
mod uri;

use std::{fmt, num::NonZeroUsize, path::PathBuf, sync::Arc, sync::Mutex, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

pub use error::{Answer, KeyFault, Pkcs11Error};
pub use pin::{Pin, PinError, PinFile, PinSource};

use crate::{
    Clock, Entropy, Executor, KeyKind, KeyProperties, KeyVault, PublicKeyAnswer, SpawnBlocking, SystemClock,
    SystemEntropy, VaultError, WorkLost, WrapContext, executor,
};
use keys::{Kek, Usage};
use library::Library;
use pin::Refusal;
use token::{Access, Connection, Known, Token};
use uri::KeyUri;

/// What a vault in a token works with.
#[derive(Debug)]
#[non_exhaustive]
pub struct Pkcs11Options {
    /// The HSM's library.
    pub library: PathBuf,
    /// The token's label.
    pub token: String,
    /// Where the PIN of its user comes from.
    pub pin: Arc<dyn PinSource>,
    /// How many sessions, and so calls at a time.
    pub sessions: NonZeroUsize,
    /// Whether the operator vouches that a deleted key can be brought back.
    pub recoverable: bool,
    /// How long after the library has looked for its tokens anew it is not made to again.
    pub reload_pause: Duration,
    /// Tells which keys are expired, and dates new ones.
    pub clock: Arc<dyn Clock>,
    /// Where the ids of new keys come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where the library is called.
    pub executor: Arc<dyn Executor>,
}

impl Pkcs11Options {
    const SESSIONS: NonZeroUsize = NonZeroUsize::new(8).unwrap();
    const RELOAD_PAUSE: Duration = Duration::from_secs(1);

    /// Eight sessions with the token of this label, not vouched for, the machine's clock and randomness, calls on tokio's
    /// blocking threads.
    pub fn new(library: impl Into<PathBuf>, token: impl Into<String>, pin: Arc<dyn PinSource>) -> Self {
        Self {
            library: library.into(),
            token: token.into(),
            pin,
            sessions: Self::SESSIONS,
            recoverable: false,
            reload_pause: Self::RELOAD_PAUSE,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            executor: Arc::new(SpawnBlocking),
        }
    }

    /// The same with so many sessions.
    #[must_use]
    pub fn sessions(mut self, sessions: NonZeroUsize) -> Self {
        self.sessions = sessions;
        self
    }

    /// The same where the operator vouches that a deleted key can be brought back: the token is backed up, and nobody can
    /// destroy the backup early. A token knows no soft delete and can't tell, and engines refuse keys that can be lost.
    #[must_use]
    pub fn recoverable(mut self, recoverable: bool) -> Self {
        self.recoverable = recoverable;
        self
    }

    /// The same with another pause between two looks for lost tokens. Default 1 s.
    #[must_use]
    pub fn reload_pause(mut self, pause: Duration) -> Self {
        self.reload_pause = pause;
        self
    }

    /// The same with this clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same with this source of randomness.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// The same with the library called there.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }
}

/// The keys of one token. Clones share its sessions.
#[derive(Clone)]
pub struct Pkcs11Vault(Arc<Inner>);

struct Inner {
    token: Arc<Token>,
    permits: Arc<Semaphore>,
    recoverable: bool,
    entropy: Arc<dyn Entropy>,
    executor: Arc<dyn Executor>,
}

impl Pkcs11Vault {
    /// Loads the library. The token is looked for, and logged in to, by the first call that needs it: so a service starts
    /// without its HSM too.
    ///
    /// # Errors
    /// [`Pkcs11Error::Library`], [`Pkcs11Error::BadLabel`], [`Pkcs11Error::Entropy`].
    pub async fn open(options: Pkcs11Options) -> Result<Self, Pkcs11Error> {
        if !uri::is_token(&options.token) {
            return Err(Pkcs11Error::BadLabel { what: "token", label: options.token });
        }
        let mut key = Zeroizing::new([0; 32]);
        options.entropy.fill(&mut *key)?;
        let path = options.library;
        let library = executor::run(&*options.executor, move || Library::load(&path)).await??;
        let token = Token {
            library,
            label: options.token,
            pin: options.pin,
            clock: options.clock,
            reload_pause: options.reload_pause,
            refusal: Mutex::new(Refusal::new(key)),
            known: Mutex::new(Known::default()),
        };
        Ok(Self(Arc::new(Inner {
            token: Arc::new(token),
            permits: Arc::new(Semaphore::new(options.sessions.get().min(Semaphore::MAX_PERMITS))),
            recoverable: options.recoverable,
            entropy: options.entropy,
            executor: options.executor,
        })))
    }

    /// The token's label.
    pub fn token(&self) -> &str {
        &self.0.token.label
    }

    /// Whether a key id is one of this token's, well-formed: whether there is such a key or not.
    pub fn owns(&self, key_id: &KeyId) -> bool {
        KeyUri::parse(key_id, self.token()).is_ok()
    }

    /// The id of a key by its label and kind, without a version: whether there is one or not.
    ///
    /// # Errors
    /// [`Pkcs11Error::BadLabel`]; [`Pkcs11Error::KindOfOthers`].
    pub fn key_id(&self, label: &str, kind: KeyKind) -> Result<KeyId, Pkcs11Error> {
        manage::uri(label, manage::class(kind)?)?.key_id(self.token())
    }

    /// Has the PIN that the token refused tried again: after the token's PIN was changed to it.
    pub fn forget_pin_refusal(&self) {
        self.0.token.forget_refusal();
    }

    /// Does something with the token, where work may block. Goes on to its end when the future is dropped.
    async fn run<T: Send + 'static>(
        &self,
        access: Access,
        work: impl FnMut(&Connection<'_>) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<T, Pkcs11Error> {
        let permit = self.0.permits.clone().acquire_owned().await.map_err(|_| WorkLost)?;
        let token = self.0.token.clone();
        let work = move || {
            let result = token.run(access, work);
            drop(permit);
            result
        };
        executor::run(&*self.0.executor, work).await?
    }

    /// Uses a key, if it may be used now. Answers with its exact id.
    async fn use_key<T: Send + 'static>(
        &self,
        key_id: &KeyId,
        usage: Usage,
        work: impl Fn(&Connection<'_>, &Kek) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<(KeyId, T), VaultError> {
        let fail = |e: Pkcs11Error| e.into_vault_error(key_id);
        let uri = KeyUri::parse(key_id, self.token()).map_err(fail)?;
        let (id, clock) = (key_id.clone(), self.0.token.clock.clone());
        let work = move |connection: &Connection<'_>| {
            let kek = keys::find(connection, &id, &uri)?;
            kek.check(usage, clock.now().wall)?;
            let done = work(connection, &kek)?;
            Ok((kek.key_id, done))
        };
        self.run(Access::Read, work).await.map_err(fail)
    }
}

impl Drop for Inner {
    /// Closes the sessions: with the last one the token is logged out of.
    fn drop(&mut self) {
        let token = self.token.clone();
        self.executor.execute(Box::new(move || token.close()));
    }
}

impl fmt::Debug for Pkcs11Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Vault")
            .field("token", &self.0.token)
            .field("recoverable", &self.0.recoverable)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyVault for Pkcs11Vault {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        _context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        let Ok(aek) = Aek::try_from_fn(|copy| -> Result<(), std::convert::Infallible> {
            copy.copy_from_slice(aek.expose());
            Ok(())
        });
        let work = move |connection: &Connection<'_>, kek: &Kek| {
            Ok((kek.kind.algorithm(), kek.wrap(connection, &aek)?))
        };
        let (key_id, (algorithm, bytes)) = self.use_key(key_id, Usage::Wrap, work).await?;
        Ok(WrappedKey { key_id, algorithm, bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, _context: &WrapContext) -> Result<Aek, VaultError> {
        let key_id = &wrapped.key_id;
        let corrupt =
            |why: String| Pkcs11Error::key(key_id, KeyFault::Corrupt { why }).into_vault_error(key_id);
        let len = wrapped.bytes.len();
        if !wrapped.algorithm.accepts_len(len) {
            return Err(corrupt(format!("the wrapped key has {len} bytes, which no key wraps an AEK into")));
        }
        if KeyUri::parse(key_id, self.token()).is_ok_and(|uri| uri.id.is_none()) {
            return Err(corrupt("the wrapped key does not name the version that wrapped it".into()));
        }
        let (algorithm, bytes) = (wrapped.algorithm, wrapped.bytes.clone());
        let work = move |connection: &Connection<'_>, kek: &Kek| kek.unwrap(connection, algorithm, &bytes);
        Ok(self.use_key(key_id, Usage::Unwrap, work).await?.1)
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let fail = |e: Pkcs11Error| e.into_vault_error(key_id);
        let uri = KeyUri::parse(key_id, self.token()).map_err(fail)?;
        let (id, clock, recoverable) = (key_id.clone(), self.0.token.clock.clone(), self.0.recoverable);
        let work = move |connection: &Connection<'_>| {
            let kek = keys::find(connection, &id, &uri)?;
            let any = KeyUri { id: None, ..uri.clone() };
            let latest = match keys::latest(keys::objects(connection, &any)?) {
                Ok(Some((id, _))) => KeyUri { id: Some(id), ..any }.key_id(connection.token_label())?,
                // Which of them nobody can tell, but this one is named.
                _ => kek.key_id.clone(),
            };
            let mut properties = KeyProperties::new(kek.key_id.clone(), latest, kek.kind);
            properties.state = kek.state(clock.now().wall);
            properties.not_before = kek.not_before;
            properties.expires_at = kek.expires_at;
            properties.soft_delete = recoverable;
            properties.purge_protection = recoverable;
            Ok(properties)
        };
        self.run(Access::Read, work).await.map_err(fail)
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        let work = |_: &Connection<'_>, kek: &Kek| {
            kek.public.clone().ok_or_else(|| Pkcs11Error::key(&kek.key_id, KeyFault::NotRsa))
        };
        let (key_id, key) = self.use_key(key_id, Usage::Wrap, work).await?;
        Ok(PublicKeyAnswer { key_id, key })
    }
}
