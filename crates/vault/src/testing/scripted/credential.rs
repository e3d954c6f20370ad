//! A credential that follows a script, and the service that it comes from.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use crate::{Clock, Credential, CredentialError, Timestamp, VaultErrorKind as Kind};

/// How a vault finds a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Token {
    /// In order.
    Good,
    /// Over its time: the vault says 401.
    Expired,
    /// Without what it once carried, such as a role that was granted anew since: the vault says 403.
    Stale,
}

impl Token {
    /// What a vault answers to it, if not what it was asked.
    pub(super) fn refused(self) -> Option<Kind> {
        match self {
            Self::Good => None,
            Self::Expired => Some(Kind::Unauthenticated),
            Self::Stale => Some(Kind::AccessDenied),
        }
    }
}

/// What the service does that credentials come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenService {
    /// It gives one of this kind.
    Gives(Token),
    /// It fails.
    Down,
    /// It never answers.
    Hangs,
}

/// A credential that expires and is renewed as a test says.
pub struct ScriptedCredential {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    token: Token,
    asked_at: Timestamp,
    service: TokenService,
    latency: Duration,
    renewals: usize,
}

impl ScriptedCredential {
    /// A good one, asked for now, of a service that gives good ones at once.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let asked_at = clock.now();
        let service = TokenService::Gives(Token::Good);
        let inner = Inner { token: Token::Good, asked_at, service, latency: Duration::ZERO, renewals: 0 };
        Self { clock, inner: Mutex::new(inner) }
    }

    /// From now on, it is one of this kind.
    pub fn turn(&self, token: Token) {
        self.lock().token = token;
    }

    /// From now on, the service that it comes from does this.
    pub fn service(&self, service: TokenService) {
        self.lock().service = service;
    }

    /// From now on, a renewal takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// How it is.
    pub fn token(&self) -> Token {
        self.lock().token
    }

    /// How many renewals were begun.
    pub fn renewals(&self) -> usize {
        self.lock().renewals
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Credential for ScriptedCredential {
    fn asked_at(&self) -> Option<Timestamp> {
        Some(self.lock().asked_at)
    }

    async fn renew(&self) -> Result<(), CredentialError> {
        let asked_at = self.clock.now();
        let (service, latency) = {
            let mut inner = self.lock();
            inner.renewals += 1;
            (inner.service, inner.latency)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match service {
            TokenService::Gives(token) => {
                let mut inner = self.lock();
                (inner.token, inner.asked_at) = (token, asked_at);
                Ok(())
            }
            TokenService::Down => Err(CredentialError("the script says so".into())),
            TokenService::Hangs => std::future::pending().await,
        }
    }
}

impl fmt::Debug for ScriptedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScriptedCredential({:?})", self.lock().token)
    }
}
