//! The token: how it is come by, kept alive, and found good or bad.
//!
//! Guarantees: a token is taken into use only when Vault has said that it is one; it is renewed when two thirds of its time
//! are over, and where it can't be, a new one is asked for; whoever holds the vault may say at any time "once more"
//! (`Reauthenticating` does, when a token no longer serves).
//!
//! Not its job: to revoke the tokens that it replaces; calls under way may hold them, and each ends by its own time.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::Notify, time};

use super::{
    Secret, TransitError, TransitLogin, TransitOptions,
    http::{Answer, Body, Http, Request},
    place::check_path,
    said,
};
use crate::{Clock, Credential, CredentialError, Executor, Timestamp, VaultError, VaultErrorKind as Kind};

/// The shortest wait before a token is renewed, and the longest after a failure to.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A token of Vault's, renewed as it must be.
pub struct TransitCredential {
    http: Http,
    login: TransitLogin,
    namespace: String,
    clock: Arc<dyn Clock>,
    executor: Arc<dyn Executor>,
    held: Mutex<Option<Held>>,
    /// Told when there is another token or time, or none any more.
    changed: Arc<Notify>,
}

/// The token in use.
struct Held {
    token: Arc<Secret>,
    asked_at: Timestamp,
    lease: Lease,
}

/// How long a token lives.
#[derive(Clone, Copy)]
struct Lease {
    /// From when on.
    since: Timestamp,
    /// How long; none is for ever.
    lasts: Option<Duration>,
    renewable: bool,
}

#[derive(Serialize)]
struct AppRoleLogin<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Deserialize)]
struct LoggedIn {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Secret,
    lease_duration: u64,
    renewable: bool,
}

#[derive(Deserialize)]
struct LookedUp {
    data: Looked,
}

#[derive(Deserialize)]
struct Looked {
    /// In whole seconds, so zero is the last one.
    ttl: u64,
    expire_time: Option<String>,
    #[serde(default)]
    renewable: bool,
}

impl TransitCredential {
    pub(super) fn new(
        http: Http,
        login: TransitLogin,
        options: &TransitOptions,
    ) -> Result<Self, TransitError> {
        let namespace = options.login_namespace.as_ref().or(options.namespace.as_ref());
        let namespace = namespace.cloned().unwrap_or_default();
        check_path("a namespace", &namespace, true)?;
        if let TransitLogin::AppRole { mount, .. } = &login {
            check_path("a mount", mount, false)?;
        }
        Ok(Self {
            http,
            login,
            namespace,
            clock: options.clock.clone(),
            executor: options.executor.clone(),
            held: Mutex::default(),
            changed: Arc::default(),
        })
    }

    /// Renews it ahead of its expiry, until it is dropped.
    pub(super) fn keep_alive(self: &Arc<Self>) -> Result<(), TransitError> {
        let runtime = Handle::try_current().map_err(|_| TransitError::NoRuntime)?;
        runtime.spawn(keep_alive(Arc::downgrade(self), self.changed.clone()));
        Ok(())
    }

    /// The token in use.
    pub(super) fn token(&self) -> Option<Arc<Secret>> {
        self.held().as_ref().map(|held| held.token.clone())
    }

    /// Whether a token that was refused something is one: whoever bears one may look it up.
    pub(super) async fn is_good(&self, token: &Secret) -> Result<bool, VaultError> {
        match self.look_up(token).await {
            Ok(_) => Ok(true),
            Err(failed) if failed.kind() == Kind::AccessDenied => Ok(false),
            Err(failed) => Err(failed),
        }
    }

    async fn look_up(&self, token: &Secret) -> Result<Lease, VaultError> {
        let since = self.clock.now();
        let answer = self.ask("auth/token/lookup-self", Some(token), None).await?;
        let LookedUp { data } = parse(&answer, &[token.expose()])?;
        let lasts = data.expire_time.map(|_| Duration::from_secs(data.ttl));
        Ok(Lease { since, lasts, renewable: data.renewable })
    }

    async fn ask(
        &self,
        path: &str,
        token: Option<&Secret>,
        body: Option<Body>,
    ) -> Result<Answer, VaultError> {
        self.http.ask(Request { namespace: &self.namespace, path, token, body }).await
    }

    /// A new token where it comes from.
    async fn log_in(&self) -> Result<Held, LoginFailed> {
        let asked_at = self.clock.now();
        let token = match &self.login {
            TransitLogin::Token(source) => source.read("the token", &*self.executor).await?,
            TransitLogin::AppRole { mount, role_id, secret_id } => {
                let role_id = role_id.read("the role id", &*self.executor).await?;
                let secret_id = secret_id.read("the secret id", &*self.executor).await?;
                let (role_id, secret_id) = (role_id.expose(), secret_id.expose());
                let login = AppRoleLogin { role_id, secret_id };
                let body = Body::json(&login, 2 * (role_id.len() + secret_id.len()) + 64)?;
                let answer = self.ask(&format!("auth/{mount}/login"), None, Some(body)).await?;
                parse::<LoggedIn>(&answer, &[role_id, secret_id])?.auth.client_token
            }
        };
        let lease = self.look_up(&token).await.map_err(|failed| match failed.kind() {
            Kind::AccessDenied => LoginFailed::Lookup(failed),
            _ => LoginFailed::Vault(failed),
        })?;
        Ok(Held { token: Arc::new(token), asked_at, lease })
    }

    /// More time for the token in use, or another one.
    async fn renew_ahead(&self) -> Result<(), LoginFailed> {
        let held = self.held().as_ref().map(|held| (held.token.clone(), held.lease));
        let Some((token, lease)) = held else { return Ok(()) };
        if lease.renewable {
            match self.extend(&token).await {
                // Near the most that it may live, Vault gives less and less.
                Ok(longer) if longer.lasts >= lease.lasts.map(|before| before / 2) => {
                    if let Some(held) = self.held().as_mut().filter(|held| Arc::ptr_eq(&held.token, &token)) {
                        held.lease = longer;
                    }
                    return Ok(());
                }
                Ok(_) => {}
                Err(failed) if failed.kind() == Kind::AccessDenied => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        self.replace().await
    }

    async fn extend(&self, token: &Secret) -> Result<Lease, VaultError> {
        let since = self.clock.now();
        let body = Body::json(&serde_json::Map::new(), 64)?;
        let answer = self.ask("auth/token/renew-self", Some(token), Some(body)).await?;
        let LoggedIn { auth } = parse(&answer, &[token.expose()])?;
        let lasts = Some(Duration::from_secs(auth.lease_duration));
        Ok(Lease { since, lasts, renewable: auth.renewable })
    }

    async fn replace(&self) -> Result<(), LoginFailed> {
        let held = self.log_in().await?;
        *self.held() = Some(held);
        self.changed.notify_one();
        Ok(())
    }

    /// In how long it is to be renewed; `None` while that is never.
    fn due_in(&self) -> Option<Duration> {
        let held = self.held();
        let Lease { since, lasts, .. } = held.as_ref()?.lease;
        // Divided first, as a server may say any number.
        Some((lasts? / 3 * 2).saturating_sub(self.clock.now().since(&since)).max(WAITS.0))
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds the credential only while it works on it, so that this ends with it.
async fn keep_alive(credential: Weak<TransitCredential>, changed: Arc<Notify>) {
    let mut pause = Duration::ZERO;
    loop {
        let Some(due) = credential.upgrade().map(|it| it.due_in()) else { return };
        let Some(due) = due else {
            changed.notified().await;
            continue;
        };
        if time::timeout(due.max(pause), changed.notified()).await.is_ok() {
            continue;
        }
        let Some(it) = credential.upgrade() else { return };
        match it.renew_ahead().await {
            Ok(()) => pause = Duration::ZERO,
            Err(error) => {
                pause = (pause * 2).clamp(WAITS.0, WAITS.1);
                tracing::warn!(credential = ?it, error = &error as &dyn std::error::Error, "token not renewed ahead");
            }
        }
    }
}

impl Drop for TransitCredential {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

#[async_trait]
impl Credential for TransitCredential {
    fn asked_at(&self) -> Option<Timestamp> {
        self.held().as_ref().map(|held| held.asked_at)
    }

    async fn renew(&self) -> Result<(), CredentialError> {
        Ok(self.replace().await.map_err(Box::<dyn std::error::Error + Send + Sync>::from)?)
    }
}

impl fmt::Debug for TransitCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransitCredential").field("login", &self.login).finish_non_exhaustive()
    }
}

/// Why there is no token to be had.
#[derive(Debug, thiserror::Error)]
enum LoginFailed {
    #[error(transparent)]
    Secret(#[from] TransitError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(
        "the token is none, or may not look itself up (update its role or give it the policy `default`): {0}"
    )]
    Lookup(#[source] VaultError),
}

/// What a success says; what else was said, as an error with Vault's words but for these secrets.
pub(super) fn parse<'a, T: Deserialize<'a>>(answer: &'a Answer, secrets: &[&str]) -> Result<T, VaultError> {
    let Answer { status, retry_after, body } = answer;
    if *status == 200 {
        return serde_json::from_slice(body).map_err(|e| {
            // Without the error's text: it may quote what it stumbled over.
            let message = format!(
                "the vault answered something else than was asked for (line {}): see who answers",
                e.line()
            );
            VaultError::new(Kind::Other, message)
        });
    }
    let errors = said::errors(body);
    let kind = said::kind(*status, errors.as_deref(), *retry_after);
    let words = said::words(errors.as_deref(), secrets);
    Err(VaultError::new(kind, format!("{}: {status}, {words}", advice(*status, kind))))
}

fn advice(status: u16, kind: Kind) -> &'static str {
    match kind {
        Kind::AccessDenied => "the vault denies access: grant it by a policy of the token's",
        Kind::KeyDisabled => "the key's settings keep this version from use: lower its minimum version",
        Kind::KeyNotFound => "the vault has no such key, version, mount or namespace: restore it",
        Kind::Throttled { .. } => "the vault has too many requests: raise its quota if that lasts",
        Kind::Unavailable if status == 503 => "the vault is sealed or locked: unseal it",
        Kind::Unavailable => "the vault does not serve",
        Kind::Unauthenticated => "the vault takes no such credential: renew it",
        Kind::Corrupt => "the wrapped key is not one of this key, account and epoch",
        _ if (300..400).contains(&status) => {
            "the vault redirects, which is not followed: give the address that it redirects to"
        }
        _ => "the vault refuses the request",
    }
}
