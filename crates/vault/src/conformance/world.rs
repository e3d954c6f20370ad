//! One check's vault, and what all checks ask of it.
//!
//! Guarantees: a panic of the vault or of a hook is caught where it comes and fails that check alone; what was done to the
//! vault as a whole is undone, however the check ends; what an error prints is looked through for the key.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use cofferdam_crypto::{
    AccountId, Aek, Epoch, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedAek, WrappedKey,
};
use futures_util::{FutureExt, future};

use super::{Factory, Hook, NotDone, Subject, canary::Canary};
use crate::{
    Entropy, KeyKind, KeyProperties, KeyState, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind as Kind,
    WrapContext,
};

/// Why a check goes no further.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    Failed { expected: String, came: String },
    NotApplicable(Cow<'static, str>),
}

/// A step of a check.
pub(super) type Step<T> = Result<T, Stop>;

/// How a promise is kept, where there is more than one way.
pub(super) type Note = Option<Cow<'static, str>>;

pub(super) fn failed<T>(expected: impl Into<String>, came: impl Into<String>) -> Step<T> {
    Err(Stop::Failed { expected: expected.into(), came: came.into() })
}

pub(super) fn not_applicable<T>(reason: impl Into<Cow<'static, str>>) -> Step<T> {
    Err(Stop::NotApplicable(reason.into()))
}

/// What is kept from one check to the next.
#[derive(Debug, Default)]
pub(super) struct Heard {
    errors: usize,
    /// The first error that printed the key, without the key.
    leak: Option<String>,
}

pub(super) struct World<'a> {
    pub(super) factory: &'a dyn Factory,
    pub(super) subject: &'a Subject,
    pub(super) vault: Arc<dyn KeyVault>,
    entropy: &'a dyn Entropy,
    canary: &'a Canary,
    heard: &'a Mutex<Heard>,
}

impl<'a> World<'a> {
    pub(super) async fn new(
        factory: &'a dyn Factory,
        subject: &'a Subject,
        entropy: &'a dyn Entropy,
        canary: &'a Canary,
        heard: &'a Mutex<Heard>,
    ) -> Step<Self> {
        let vault = hook("vault", factory.vault()).await?;
        Ok(Self { factory, subject, vault, entropy, canary, heard })
    }

    // What a check is made with.

    /// The AEK that most checks wrap: no text may show it.
    pub(super) fn aek(&self) -> &Aek {
        self.canary.aek()
    }

    pub(super) fn canary(&self) -> &Canary {
        self.canary
    }

    pub(super) fn random<const N: usize>(&self) -> Step<[u8; N]> {
        let mut bytes = [0; N];
        match self.entropy.fill(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(e) => failed("random bytes", format!("{e}")),
        }
    }

    pub(super) fn random_aek(&self) -> Step<Aek> {
        Aek::try_from_fn(|bytes| self.entropy.fill(bytes)).or_else(|e| failed("random bytes", format!("{e}")))
    }

    pub(super) fn is_rsa(&self) -> bool {
        matches!(self.subject.kind, KeyKind::Rsa(_))
    }

    /// Whether wraps are in a format of the vault's own, whose bytes need not each count.
    pub(super) fn is_opaque(&self) -> bool {
        !matches!(self.subject.kind.algorithm(), WrapAlgorithm::Aes256Kw | WrapAlgorithm::RsaOaep256)
    }

    // Hooks.

    pub(super) async fn hook<T>(&self, name: &str, hooked: impl Future<Output = Hook<T>> + Send) -> Step<T> {
        let done = hook(name, hooked).await?;
        self.settle().await?;
        Ok(done)
    }

    async fn settle(&self) -> Step<()> {
        caught(self.factory.settle()).await.or_else(|panic| failed("the hook settle to work", panic))
    }

    pub(super) async fn new_key(&self) -> Step<KeyId> {
        self.hook("new_key", self.factory.new_key()).await
    }

    /// A new key, and the canary wrapped under it.
    pub(super) async fn new_wrap(&self) -> Step<(KeyId, WrappedKey)> {
        let key = self.new_key().await?;
        let wrapped = self.must_wrap(&key).await?;
        Ok((key, wrapped))
    }

    /// Does `body` while the vault as a whole is in a state, which is undone however that ends.
    pub(super) async fn within<T>(
        &self,
        (begin, begins): (&str, impl Future<Output = Hook> + Send),
        (end, ends): (&str, impl Future<Output = Hook> + Send),
        body: impl Future<Output = Step<T>> + Send,
    ) -> Step<T> {
        let begun = self.hook(begin, begins).await;
        if let Err(Stop::NotApplicable(_)) = begun {
            return begun.and_then(|()| not_applicable(""));
        }
        let result = match begun {
            Ok(()) => body.await,
            Err(stop) => Err(stop),
        };
        let ended = self.hook(end, ends).await;
        let value = result?;
        ended?;
        Ok(value)
    }

    /// Holds that `asks` sends nothing to the vault: its requests are counted, or it can't be reached meanwhile.
    pub(super) async fn sends_nothing(&self, asks: impl Future<Output = Step<()>> + Send) -> Step<Note> {
        match self.sent().await {
            Ok(before) => {
                asks.await?;
                match self.sent().await? - before {
                    0 => Ok(Some("its requests were counted".into())),
                    sent => failed("nothing to be sent", format!("{sent} requests")),
                }
            }
            Err(Stop::NotApplicable(_)) => {
                let (begins, ends) = (self.factory.outage(), self.factory.restore());
                self.within(("outage", begins), ("restore", ends), asks).await?;
                Ok(Some("the same while it can't be reached".into()))
            }
            Err(stop) => Err(stop),
        }
    }

    /// How many requests have reached the vault.
    pub(super) async fn sent(&self) -> Step<u64> {
        hook("sent", self.factory.sent()).await
    }

    // Calls.

    pub(super) async fn wrap(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Step<Result<WrappedKey, VaultError>> {
        self.call(self.vault.wrap_key(key_id, aek, context)).await
    }

    pub(super) async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &WrapContext,
    ) -> Step<Result<Aek, VaultError>> {
        self.call(self.vault.unwrap_key(wrapped, context)).await
    }

    pub(super) async fn properties(&self, key_id: &KeyId) -> Step<Result<KeyProperties, VaultError>> {
        self.call(self.vault.key_properties(key_id)).await
    }

    pub(super) async fn public_key(&self, key_id: &KeyId) -> Step<Result<PublicKeyAnswer, VaultError>> {
        self.call(self.vault.public_key(key_id)).await
    }

    async fn call<T>(
        &self,
        asked: impl Future<Output = Result<T, VaultError>> + Send,
    ) -> Step<Result<T, VaultError>> {
        let asked = std::pin::pin!(caught(asked));
        let patience = std::pin::pin!(caught(self.factory.patience()));
        let answer = match future::select(asked, patience).await {
            future::Either::Left((answer, _)) => answer,
            future::Either::Right(_) => return failed("an answer", "none within the factory's patience"),
        };
        match answer {
            Ok(answer) => {
                if let Err(error) = &answer {
                    self.hear(error);
                }
                Ok(answer)
            }
            Err(panic) => failed("an answer", panic),
        }
    }

    /// Looks for the key in what an error prints.
    fn hear(&self, error: &VaultError) {
        let mut texts = vec![format!("{error:?}"), error.to_string()];
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            texts.extend([format!("{cause:?}"), cause.to_string()]);
            source = cause.source();
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.errors += 1;
        let found = texts.iter().find_map(|text| self.canary.found_in(text.as_bytes()));
        if let (Some(how), None) = (found, &heard.leak) {
            heard.leak = Some(format!("an error of kind {} prints it {how}", error.kind()));
        }
    }

    /// How many errors were looked through, if none printed the key.
    pub(super) fn errors_heard(&self) -> Step<usize> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match &heard.leak {
            Some(leak) => failed("no error to print the key", leak.clone()),
            None => Ok(heard.errors),
        }
    }

    /// How the vault prints itself, in a line and in many.
    pub(super) fn printed(&self) -> Step<(String, String)> {
        let print = || (format!("{:?}", self.vault), format!("{:#?}", self.vault));
        catch_unwind(AssertUnwindSafe(print))
            .or_else(|panic| failed("a Debug that prints", say_panic(&*panic)))
    }

    // What calls must come to.

    pub(super) async fn must_wrap(&self, key_id: &KeyId) -> Step<WrappedKey> {
        answered("wrap", self.wrap(key_id, self.aek(), &context()).await?)
    }

    /// Holds that it unwraps to the canary.
    pub(super) async fn must_unwrap(&self, wrapped: &WrappedKey) -> Step<()> {
        let aek = answered("unwrap", self.unwrap(wrapped, &context()).await?)?;
        is_same(&aek, self.aek())
    }

    pub(super) async fn must_tell(&self, key_id: &KeyId) -> Step<KeyProperties> {
        answered("properties", self.properties(key_id).await?)
    }

    /// Holds that the key wraps, unwraps what it wrapped before, and is said to be enabled.
    pub(super) async fn works(&self, key_id: &KeyId, wrapped: &WrappedKey) -> Step<()> {
        self.must_unwrap(wrapped).await?;
        self.must_wrap(key_id).await?;
        if self.is_rsa() {
            answered("public key", self.public_key(key_id).await?)?;
        }
        match self.must_tell(key_id).await?.state {
            KeyState::Enabled => Ok(()),
            state => failed("properties: Enabled", format!("{state:?}")),
        }
    }

    /// Holds that every use of the key is answered so: to unwrap first, then to wrap, and its public half.
    pub(super) async fn refuses(&self, key_id: &KeyId, wrapped: &WrappedKey, kind: Kind) -> Step<()> {
        is_kind("unwrap", kind, &self.unwrap(wrapped, &context()).await?)?;
        is_kind("wrap", kind, &self.wrap(key_id, self.aek(), &context()).await?)?;
        if self.is_rsa() {
            is_kind("public key", kind, &self.public_key(key_id).await?)?;
        }
        Ok(())
    }

    /// The same of questions for properties too.
    pub(super) async fn refuses_all(&self, key_id: &KeyId, wrapped: &WrappedKey, kind: Kind) -> Step<()> {
        self.refuses(key_id, wrapped, kind).await?;
        is_kind("properties", kind, &self.properties(key_id).await?)
    }
}

/// What most checks wrap under: the account is made up.
pub(super) fn context() -> WrapContext {
    context_of(0x5a)
}

pub(super) fn context_of(account: u8) -> WrapContext {
    let account = AccountId::from_random_bytes([account; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

/// Whether a keyring would refuse this AEK for a record that was moved to another context.
pub(super) fn is_caught_by_us(aek: &Aek, made: &WrapContext, moved: &WrapContext) -> bool {
    let record = WrappedAek::new(aek, made.scope, Vec::new());
    WrappedAek { scope: moved.scope, ..record }.verify(aek).is_err()
}

pub(super) fn is_same(aek: &Aek, expected: &Aek) -> Step<()> {
    if aek.expose() == expected.expose() { Ok(()) } else { failed("the key that was wrapped", "another key") }
}

pub(super) fn is_equal<T: PartialEq + fmt::Debug>(what: &str, expected: &T, came: &T) -> Step<()> {
    if expected == came {
        return Ok(());
    }
    failed(format!("{what}: {expected:?}"), format!("{came:?}"))
}

pub(super) fn answered<T>(what: &str, answer: Result<T, VaultError>) -> Step<T> {
    answer.or_else(|e| failed(format!("{what}: an answer"), say(&e)))
}

/// Holds that it failed, in this way.
pub(super) fn is_kind<T>(what: &str, kind: Kind, answer: &Result<T, VaultError>) -> Step<()> {
    match answer {
        Err(e) if e.kind() == kind => Ok(()),
        Err(e) => failed(format!("{what}: {}", name(kind)), say(e)),
        Ok(_) => failed(format!("{what}: {}", name(kind)), "it worked"),
    }
}

pub(super) fn say(error: &VaultError) -> String {
    format!("{}: {error}", name(error.kind()))
}

fn name(kind: Kind) -> String {
    match kind {
        Kind::Throttled { retry_after: Some(wait) } => format!("{kind} for {wait:?}"),
        Kind::Throttled { retry_after: None } => format!("{kind}, without a word on how long"),
        _ => kind.to_string(),
    }
}

async fn hook<T>(name: &str, hooked: impl Future<Output = Hook<T>> + Send) -> Step<T> {
    let expected = || format!("the hook {name} to work");
    match caught(hooked).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(NotDone::Unsupported(reason))) => not_applicable(reason),
        Ok(Err(NotDone::Failed(error))) => failed(expected(), error.to_string()),
        Err(panic) => failed(expected(), panic),
    }
}

/// What comes of foreign code, or the word on its panic.
pub(super) async fn caught<T>(work: impl Future<Output = T> + Send) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| say_panic(&*panic))
}

pub(super) fn say_panic(panic: &(dyn Any + Send)) -> String {
    let message =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(|s| &**s));
    message.map_or_else(|| "a panic".into(), |message| format!("a panic: {message}"))
}
