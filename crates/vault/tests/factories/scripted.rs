//! The vault of tests, behind what renews its credential.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{KeyId, rsa::RsaSize};
use cofferdam_vault::{
    KeyKind, KeyVault, Reauthenticating, VaultErrorKind as Kind,
    conformance::{Factory, Hook, NotDone, Subject},
    testing::{Answer, ScriptedCredential, ScriptedVault, Token, TokenService, TokioClock},
};

/// How long it asks to wait when it throttles.
const RETRY_AFTER: Duration = Duration::from_secs(7);

pub(crate) struct ScriptedFactory {
    vault: Arc<ScriptedVault>,
    credential: Arc<ScriptedCredential>,
    clock: Arc<TokioClock>,
    kind: KeyKind,
    renewing: bool,
    made: AtomicUsize,
}

impl ScriptedFactory {
    pub(crate) fn new(kind: KeyKind) -> Self {
        let vault = Arc::new(ScriptedVault::new(11));
        let clock = Arc::new(TokioClock::new());
        let credential = Arc::new(ScriptedCredential::new(clock.clone()));
        vault.set_credential(credential.clone());
        Self { vault, credential, clock, kind, renewing: true, made: AtomicUsize::new(0) }
    }

    /// Whether its credential is renewed.
    pub(crate) fn renewing(self, renewing: bool) -> Self {
        Self { renewing, ..self }
    }

    fn all(&self, answer: Answer) -> Hook {
        self.vault.answer(answer);
        Ok(())
    }

    fn of(&self, key: &KeyId, kind: Option<Kind>) -> Hook {
        self.vault.answer_for(key, kind.map(Answer::Fail));
        Ok(())
    }
}

impl fmt::Debug for ScriptedFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScriptedFactory({})", self.kind)
    }
}

#[async_trait]
impl Factory for ScriptedFactory {
    fn subject(&self) -> Subject {
        Subject::new(format!("ScriptedVault, {}", self.kind), self.kind)
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        if !self.renewing {
            return Ok(self.vault.clone());
        }
        Ok(Arc::new(Reauthenticating::new(self.vault.clone(), self.credential.clone(), self.clock.clone())))
    }

    fn excuse(&self, check: &str) -> Option<std::borrow::Cow<'static, str>> {
        (check == "disabled-properties").then(|| "its script says the same to every question".into())
    }

    async fn new_key(&self) -> Hook<KeyId> {
        let key = KeyId::new(format!("test://acme/keys/{}/1", self.made.fetch_add(1, Ordering::Relaxed)))?;
        match self.kind {
            KeyKind::Rsa(_) => self.vault.create_rsa_key(&key, RsaSize::Rsa2048)?,
            _ => self.vault.create_key(&key)?,
        }
        Ok(key)
    }

    async fn disable(&self, key: &KeyId) -> Hook {
        self.of(key, Some(Kind::KeyDisabled))
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        self.of(key, None)
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        self.of(key, Some(Kind::KeyNotFound))
    }

    async fn recover(&self, key: &KeyId) -> Hook {
        self.of(key, None)
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        Ok(KeyId::new("test://acme/keys/never/1")?)
    }

    async fn unknown_version(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(KeyId::new(format!("{key}000"))?)
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        Err(NotDone::unsupported("any id may be one of its keys"))
    }

    async fn deny(&self, key: &KeyId) -> Hook {
        self.of(key, Some(Kind::AccessDenied))
    }

    async fn allow(&self, key: &KeyId) -> Hook {
        self.of(key, None)
    }

    async fn outage(&self) -> Hook {
        self.all(Answer::Fail(Kind::Unavailable))
    }

    async fn restore(&self) -> Hook {
        self.all(Answer::Work)
    }

    async fn throttle(&self) -> Hook<Option<Duration>> {
        self.all(Answer::Fail(Kind::Throttled { retry_after: Some(RETRY_AFTER) }))?;
        Ok(Some(RETRY_AFTER))
    }

    async fn unthrottle(&self) -> Hook {
        self.all(Answer::Work)
    }

    async fn expire_credential(&self) -> Hook {
        self.credential.turn(Token::Expired);
        Ok(())
    }

    async fn lose_credential(&self) -> Hook {
        self.credential.turn(Token::Expired);
        self.credential.service(TokenService::Down);
        Ok(())
    }

    async fn regain_credential(&self) -> Hook {
        self.credential.service(TokenService::Gives(Token::Good));
        Ok(())
    }

    async fn untrust(&self) -> Hook {
        self.all(Answer::Fail(Kind::Untrusted))
    }

    async fn trust(&self) -> Hook {
        self.all(Answer::Work)
    }

    async fn sent(&self) -> Hook<u64> {
        Ok(self.vault.calls().len() as u64)
    }

    async fn unversioned(&self, _: &KeyId) -> Hook<KeyId> {
        Err(NotDone::unsupported("its keys have no versions"))
    }

    async fn new_version(&self, _: &KeyId) -> Hook<KeyId> {
        Err(NotDone::unsupported("its keys have no versions"))
    }

    async fn expire(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("its keys have no dates"))
    }

    async fn defer(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("its keys have no dates"))
    }
}
