//! The credentials that requests to KMS are signed with.
//!
//! Guarantees: one set is kept and used until shortly before it expires, and one load is under way at a time; a renewal
//! asks the source anew whatever is left of the one in use; secrets show in no `Debug` and are wiped on drop (by
//! `aws-credential-types`). Not its job: to say when a renewal is due, which is
//! [`Reauthenticating`](crate::Reauthenticating)'s.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use aws_config::{default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig};
use aws_credential_types::provider::{
    ProvideCredentials, Result as ProvideResult, error::CredentialsError, future,
};
use aws_sdk_kms::config::{Credentials, Region, SharedHttpClient};
use zeroize::Zeroizing;

use super::transport::SdkClock;
use crate::{Clock, Credential, CredentialError, Timestamp};

/// So long before they expire, credentials are no longer used.
const MARGIN: Duration = Duration::from_secs(60);

/// An access key of AWS, long-lived or of a session.
///
/// Not printed: its `Debug` shows nothing of it.
pub struct AwsCredentials(Credentials);

impl AwsCredentials {
    /// An access key; `session_token` and `expires_at`, as time since the Unix epoch, where it is a session's.
    pub fn new(
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        session_token: Option<String>,
        expires_at: Option<Duration>,
    ) -> Self {
        let expires_at = expires_at.map(|at| UNIX_EPOCH + at);
        Self(Credentials::new(access_key_id, secret_access_key, session_token, expires_at, "cofferdam"))
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsCredentials(..)")
    }
}

/// Where credentials come from, if not from AWS's default chain.
#[async_trait]
pub trait AwsCredentialSource: fmt::Debug + Send + Sync {
    /// Asks for credentials; must not answer with ones that it kept, as a renewal asks it too.
    ///
    /// # Errors
    /// [`CredentialError`] when there are none to be had.
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError>;
}

/// AWS's default chain, made anew at each load: some of its links read their files once.
pub(super) struct DefaultChain {
    pub(super) region: Region,
    pub(super) http: SharedHttpClient,
    pub(super) clock: SdkClock,
}

impl fmt::Debug for DefaultChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DefaultChain")
    }
}

#[async_trait]
impl AwsCredentialSource for DefaultChain {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        let config = ProviderConfig::without_region()
            .with_http_client(self.http.clone())
            .with_time_source(self.clock.clone());
        let chain =
            DefaultCredentialsChain::builder().configure(config).region(self.region.clone()).build().await;
        match chain.provide_credentials().await {
            Ok(credentials) => Ok(AwsCredentials(credentials)),
            Err(e) => Err(CredentialError(super::classify::chain_text(&e).into())),
        }
    }
}

/// The credentials in use.
pub(super) struct Held {
    source: Arc<dyn AwsCredentialSource>,
    clock: Arc<dyn Clock>,
    current: Mutex<Option<(Credentials, Timestamp)>>,
    loading: tokio::sync::Mutex<()>,
}

impl Held {
    pub(super) fn new(source: Arc<dyn AwsCredentialSource>, clock: Arc<dyn Clock>) -> Self {
        Self { source, clock, current: Mutex::default(), loading: tokio::sync::Mutex::default() }
    }

    fn current(&self) -> MutexGuard<'_, Option<(Credentials, Timestamp)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session token in use, which is sent with each request.
    pub(super) fn session_token(&self) -> Option<Zeroizing<String>> {
        let current = self.current();
        Some(Zeroizing::new(current.as_ref()?.0.session_token()?.to_owned()))
    }

    fn usable(&self) -> Option<Credentials> {
        let now = UNIX_EPOCH + self.clock.now().wall;
        let current = self.current();
        let (credentials, _) = current.as_ref()?;
        let is_usable = credentials.expiry().is_none_or(|expiry| now + MARGIN < expiry);
        is_usable.then(|| credentials.clone())
    }

    async fn load(&self) -> Result<Credentials, CredentialError> {
        let asked_at = self.clock.now();
        let AwsCredentials(credentials) = self.source.credentials().await?;
        *self.current() = Some((credentials.clone(), asked_at));
        Ok(credentials)
    }

    async fn provide(&self) -> ProvideResult {
        if let Some(credentials) = self.usable() {
            return Ok(credentials);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(credentials) = self.usable() {
            return Ok(credentials);
        }
        self.load().await.map_err(CredentialsError::provider_error)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not its source, which is a user's: AWS's SDK logs this at level trace.
        f.write_str("AwsCredentials(..)")
    }
}

#[async_trait]
impl Credential for Held {
    fn asked_at(&self) -> Option<Timestamp> {
        self.current().as_ref().map(|(_, asked_at)| *asked_at)
    }

    async fn renew(&self) -> Result<(), CredentialError> {
        let _one_at_a_time = self.loading.lock().await;
        self.load().await.map(drop)
    }
}

/// As the SDK asks for them.
#[derive(Clone, Debug)]
pub(super) struct Provided(pub(super) Arc<Held>);

impl ProvideCredentials for Provided {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.0.provide())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct StandingClock(Mutex<Duration>);

    impl Clock for StandingClock {
        fn now(&self) -> Timestamp {
            let wall = *self.0.lock().unwrap();
            Timestamp { boot: wall, wall }
        }
    }

    /// Numbers what it gives, each good for an hour from when the clock stood at zero.
    #[derive(Debug, Default)]
    struct Numbered(AtomicUsize);

    #[async_trait]
    impl AwsCredentialSource for Numbered {
        async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let expires_at = Duration::from_secs(3600) * u32::try_from(number + 1).unwrap();
            Ok(AwsCredentials::new(format!("AKIA{number}"), "canary-secret", None, Some(expires_at)))
        }
    }

    fn held() -> (Arc<StandingClock>, Arc<Held>) {
        let clock = Arc::new(StandingClock::default());
        let held = Arc::new(Held::new(Arc::new(Numbered::default()), clock.clone()));
        (clock, held)
    }

    async fn id(held: &Held) -> String {
        held.provide().await.unwrap().access_key_id().to_owned()
    }

    #[tokio::test]
    async fn credentials_are_kept_until_shortly_before_they_expire() {
        let (clock, held) = held();
        assert_eq!(held.asked_at(), None);
        assert_eq!((id(&held).await, id(&held).await), ("AKIA0".into(), "AKIA0".into()));
        *clock.0.lock().unwrap() = Duration::from_secs(3539);
        assert_eq!(id(&held).await, "AKIA0");
        *clock.0.lock().unwrap() = Duration::from_secs(3540);
        assert_eq!(id(&held).await, "AKIA1");
        assert_eq!(held.asked_at().unwrap().wall, Duration::from_secs(3540));
    }

    #[tokio::test]
    async fn a_renewal_asks_anew_whatever_is_left() {
        let (_, held) = held();
        assert_eq!(id(&held).await, "AKIA0");
        held.renew().await.unwrap();
        assert_eq!(id(&held).await, "AKIA1");
    }

    #[tokio::test]
    async fn callers_who_come_together_share_one_load() {
        let (_, held) = held();
        let ids = futures_util_join(&held).await;
        assert_eq!(ids, ["AKIA0", "AKIA0", "AKIA0"]);
    }

    async fn futures_util_join(held: &Arc<Held>) -> Vec<String> {
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let held = held.clone();
                tokio::spawn(async move { id(&held).await })
            })
            .collect();
        let mut ids = Vec::new();
        for task in tasks {
            ids.push(task.await.unwrap());
        }
        ids
    }

    #[tokio::test]
    async fn no_secret_shows_in_debug() {
        let (_, held) = held();
        id(&held).await;
        let shown = format!("{:?} {held:?} {:?}", held.source.credentials().await, Provided(held.clone()));
        assert!(!shown.contains("canary") && !shown.contains("AKIA"), "{shown}");
    }
}
