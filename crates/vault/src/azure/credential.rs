//! Tokens: who the service is, to the vault.
//!
//! Guarantees:
//! - A token is asked for once, however many calls wait for it, and kept until shortly before its end.
//! - [`Credential::renew`] asks whoever gives tokens, past every cache on this machine's side: Microsoft's credentials keep
//!   theirs, so a new one is made each time; Microsoft's pipeline keeps its own, so each token is handed to it as one that
//!   must be asked for again.
//! - What can't be had is [`Unauthenticated`](crate::VaultErrorKind::Unauthenticated), never a denial.
//!
//! What remains: tokens, and a client secret while it is used, are in types of the SDK that do not wipe.

use std::{
    borrow::Cow,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use azure_core::{
    credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    http::ClientOptions,
    time::OffsetDateTime,
};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::answers::said;
use crate::{Clock, Credential, CredentialError, Timestamp};

type Made = azure_core::Result<Arc<dyn TokenCredential>>;
type Make = dyn Fn(ClientOptions) -> Made + Send + Sync;

/// How long before a token's end a new one is asked for, at most: as long as Microsoft's own client.
const AHEAD: Duration = Duration::from_secs(300);
/// How long a token that is still good is used after a new one could not be had, before that is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How long a failure answers for those who have no token: all who queue behind one that hangs must not wait in turn.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// Which managed identity of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManagedIdentity {
    /// The one that the system assigned.
    #[default]
    System,
    /// A user's, by its client id.
    ClientId(String),
    /// A user's, by its object id.
    ObjectId(String),
    /// A user's, by its resource id.
    ResourceId(String),
}

/// Where tokens come from.
#[derive(Clone)]
pub struct AzureCredential {
    name: &'static str,
    make: Arc<Make>,
    /// Whether what is made asks for its token anew.
    fresh: bool,
}

impl AzureCredential {
    /// Any credential of `azure_identity`, made by this function whenever a token is needed: it must not hand out one that
    /// it made before, which has a cache. The options that it is given carry the transport: without them the SDK has none and
    /// panics.
    pub fn new(name: &'static str, make: impl Fn(ClientOptions) -> Made + Send + Sync + 'static) -> Self {
        Self { name, make: Arc::new(make), fresh: true }
    }

    /// One that is already there, its cache included: a renewal may bring the same token again, and how old a token is is
    /// not known. So each "no" of the vault costs a question more, and a token that the vault no longer takes is an outage
    /// until this credential lets go of it. Prefer [`AzureCredential::new`].
    pub fn shared(credential: Arc<dyn TokenCredential>) -> Self {
        Self { name: "shared", make: Arc::new(move |_| Ok(credential.clone())), fresh: false }
    }

    /// The managed identity of the machine: a virtual machine's, a scale set's, App Service's, a container app's.
    ///
    /// Azure keeps its tokens for a day on its side, which nothing here can cut short: a group that the identity joins may
    /// take as long to be felt. Roles and access policies of the vault are not in the token and are felt at once.
    pub fn managed_identity(identity: ManagedIdentity) -> Self {
        Self::new("managed identity", move |client_options| {
            let user_assigned_id = match identity.clone() {
                ManagedIdentity::System => None,
                ManagedIdentity::ClientId(id) => Some(UserAssignedId::ClientId(id)),
                ManagedIdentity::ObjectId(id) => Some(UserAssignedId::ObjectId(id)),
                ManagedIdentity::ResourceId(id) => Some(UserAssignedId::ResourceId(id)),
            };
            let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
            Ok(ManagedIdentityCredential::new(Some(options))?)
        })
    }

    /// An application of a tenant with its secret, which is asked for each time that a token is: so it can come from a file,
    /// the environment or another vault, and change.
    pub fn client_secret(
        tenant_id: impl Into<String>,
        client_id: impl Into<String>,
        secret: impl Fn() -> io::Result<Zeroizing<String>> + Send + Sync + 'static,
    ) -> Self {
        let (tenant_id, client_id) = (tenant_id.into(), client_id.into());
        Self::new("client secret", move |client_options| {
            let secret = secret().map_err(|e| failed("the client secret can't be read", e))?;
            let secret = Secret::new(secret.as_str().to_owned());
            let options = ClientSecretCredentialOptions { client_options };
            Ok(ClientSecretCredential::new(&tenant_id, client_id.clone(), secret, Some(options))?)
        })
    }

    /// A workload identity of Kubernetes, by AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE, as its webhook
    /// sets them.
    pub fn workload_identity() -> Self {
        Self::new("workload identity", |client_options| {
            let credential_options = ClientAssertionCredentialOptions { client_options };
            let options = WorkloadIdentityCredentialOptions { credential_options, ..Default::default() };
            Ok(WorkloadIdentityCredential::new(Some(options))?)
        })
    }

    /// Whoever is logged in with `az` or `azd`, for development: it runs them.
    pub fn developer_tools() -> Self {
        Self::new("developer tools", |_| Ok(DeveloperToolsCredential::new(None)?))
    }
}

impl fmt::Debug for AzureCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AzureCredential").field(&self.name).finish()
    }
}

fn failed(
    message: impl Into<Cow<'static, str>>,
    e: impl std::error::Error + Send + Sync + 'static,
) -> azure_core::Error {
    azure_core::Error::with_error(ErrorKind::Credential, e, message.into())
}

/// The tokens of one vault's client.
pub(super) struct Tokens {
    credential: AzureCredential,
    options: ClientOptions,
    clock: Arc<dyn Clock>,
    limit: Duration,
    state: Mutex<State>,
    /// Held by who asks for a token.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// What the vault wants a token for, once it said so.
    scope: Option<String>,
    held: Option<Held>,
    failed: Option<(Timestamp, Arc<str>)>,
}

struct Held {
    token: Secret,
    scope: String,
    asked_at: Option<Timestamp>,
    /// By the wall clock, as is its end.
    renew_at: Duration,
    ends_at: Duration,
}

impl Tokens {
    pub(super) fn new(
        credential: AzureCredential,
        options: ClientOptions,
        clock: Arc<dyn Clock>,
        limit: Duration,
    ) -> Self {
        Self { credential, options, clock, limit, state: Mutex::default(), asking: Default::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token in use, unless it is to be asked for now.
    fn held(&self, scope: &str) -> Option<AccessToken> {
        let now = self.clock.now();
        let state = self.state();
        let held = state.held.as_ref().filter(|held| held.scope == scope && now.wall < held.ends_at)?;
        let failed_lately = state.failed.as_ref().is_some_and(|(at, _)| now.since(at) < TRY_AGAIN_AFTER);
        (now.wall < held.renew_at || failed_lately).then(|| held.handed_out())
    }

    /// The token that was sent last.
    pub(super) fn in_use(&self) -> Option<Secret> {
        self.state().held.as_ref().map(|held| held.token.clone())
    }

    /// How the last attempt failed, if that was just now.
    fn failed(&self) -> Option<azure_core::Error> {
        let now = self.clock.now();
        let state = self.state();
        let (at, said) = state.failed.as_ref()?;
        (now.since(at) < FAILED_FOR)
            .then(|| azure_core::Error::with_message(ErrorKind::Credential, said.to_string()))
    }

    /// After a failure, the token in use, if it is not over its time.
    fn last_resort(&self, scope: &str, failed: &azure_core::Error) -> Option<AccessToken> {
        let now = self.clock.now();
        let mut state = self.state();
        state.failed = Some((now, said(failed).into()));
        let held = state.held.as_ref().filter(|held| held.scope == scope && now.wall < held.ends_at)?;
        Some(held.handed_out())
    }

    /// Asks for a token and uses it from now on.
    async fn ask(&self, scope: &str) -> azure_core::Result<AccessToken> {
        let asked_at = self.clock.now();
        let credential = (self.credential.make)(self.options.clone())?;
        let token = timeout(self.limit, credential.get_token(&[scope], None)).await;
        let token = token.map_err(|e| failed("the token service did not answer in time", e))??;
        let ends_at = wall(token.expires_on);
        let ahead = AHEAD.min(ends_at.saturating_sub(asked_at.wall) / 4);
        let held = Held {
            token: token.token,
            scope: scope.into(),
            asked_at: self.credential.fresh.then_some(asked_at),
            renew_at: ends_at.saturating_sub(ahead),
            ends_at,
        };
        let handed_out = held.handed_out();
        let mut state = self.state();
        (state.held, state.failed) = (Some(held), None);
        Ok(handed_out)
    }
}

impl Held {
    /// As one that is long over: so the pipeline, which would keep it, asks each time.
    fn handed_out(&self) -> AccessToken {
        AccessToken::new(self.token.clone(), OffsetDateTime::UNIX_EPOCH)
    }
}

fn wall(time: OffsetDateTime) -> Duration {
    Duration::from_secs(u64::try_from(time.unix_timestamp()).unwrap_or(0))
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential.fmt(f)
    }
}

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let scope = scopes.join(" ");
        self.state().scope = Some(scope.clone());
        if let Some(token) = self.held(&scope) {
            return Ok(token);
        }
        let _turn = self.asking.lock().await;
        if let Some(token) = self.held(&scope) {
            return Ok(token);
        }
        if let Some(failed) = self.failed() {
            return Err(failed);
        }
        match self.ask(&scope).await {
            Ok(token) => Ok(token),
            // Of this kind whatever it was: who asks must know a token's failure from the vault's.
            Err(e) => self.last_resort(&scope, &e).ok_or_else(|| failed(said(&e), e)),
        }
    }
}

#[async_trait]
impl Credential for Tokens {
    fn asked_at(&self) -> Option<Timestamp> {
        self.state().held.as_ref()?.asked_at
    }

    async fn renew(&self) -> Result<(), CredentialError> {
        let scope = self.state().scope.clone();
        let scope =
            scope.ok_or_else(|| CredentialError("the vault did not say what it wants a token for".into()))?;
        let _turn = self.asking.lock().await;
        self.ask(&scope).await.map(drop).map_err(|e| CredentialError(said(&e).into()))
    }
}
