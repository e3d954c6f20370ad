//! Authenticates once more before a vault's "no" is believed.
//!
//! Guarantees: a credential that expired, or that no longer carries what it once did, is renewed once and the vault asked
//! again, before its answer counts; "access denied" is passed on only where the vault said it to a credential
//! that is known good; where none could be had, the failure is `Unauthenticated`, an outage, and never a denial.
//! However many callers there are, one renewal is under way at a time, no lock is held across it, and those who
//! wait for it go on in the order of waiting.
//!
//! A credential is **known good** for a call if it was renewed for it, that is by a renewal that ended after the
//! call was first sent, or if it was asked for less than [`KNOWN_GOOD_FOR`] before the call was sent, by the
//! clock that is passed in.
//!
//! Not its job: to retry anything else, to bound a call (a keyring's time-out spans the whole of it: both
//! questions and the renewal between them), to renew ahead of an expiry.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use thiserror::Error;
use tokio::{sync::Notify, time::timeout};

use crate::{
    Clock, KeyProperties, KeyVault, PublicKeyAnswer, Timestamp, VaultError, VaultErrorKind as Kind,
    WrapContext,
};

/// How long a credential is known good after it was asked for. A denial is believed at once within it; it is long
/// enough that polling a revoked key renews nothing twice, and short against what tokens live.
pub const KNOWN_GOOD_FOR: Duration = Duration::from_secs(60);

/// How long a renewal may take before it counts as failed: as long as the longest call.
const RENEWAL_LIMIT: Duration = Duration::from_secs(10);

/// What a vault's client proves with who it is: a token, a session, a certificate.
#[async_trait]
pub trait Credential: fmt::Debug + Send + Sync {
    /// When the credential in use was asked for; `None` if that is not known, or there is none yet.
    fn asked_at(&self) -> Option<Timestamp>;

    /// Asks for a new credential and uses it from now on, whatever is left of the one in use. May be dropped
    /// before its end; then either of the two is used.
    ///
    /// # Errors
    /// [`CredentialError`] when there is none to be had; the one in use stays.
    async fn renew(&self) -> Result<(), CredentialError>;
}

/// There is no credential to be had. Says why, without any secret.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct CredentialError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// A vault whose credential is renewed when it no longer serves, before the vault's answer counts.
///
/// Its methods must be called within a tokio runtime: a renewal goes on when who asked for it has given up.
#[derive(Debug)]
pub struct Reauthenticating<V> {
    vault: V,
    credential: Arc<dyn Credential>,
    clock: Arc<dyn Clock>,
    renewals: Arc<Renewals>,
}

impl<V: KeyVault> Reauthenticating<V> {
    /// The vault with the credential that its client uses.
    pub fn new(vault: V, credential: Arc<dyn Credential>, clock: Arc<dyn Clock>) -> Self {
        Self { vault, credential, clock, renewals: Arc::default() }
    }

    /// The vault as it is without this.
    pub fn inner(&self) -> &V {
        &self.vault
    }

    async fn call<T, F>(&self, ask: impl Fn() -> F) -> Result<T, VaultError>
    where
        F: Future<Output = Result<T, VaultError>>,
    {
        let ended = self.renewals.ended();
        let is_known_good = self.is_known_good();
        let failed = match ask().await {
            Err(failed) => failed,
            answered => return answered,
        };
        match failed.kind() {
            Kind::Unauthenticated => {}
            Kind::AccessDenied if !is_known_good => {}
            _ => return Err(failed),
        }
        match self.renew(ended).await {
            Ok(()) => ask().await,
            Err(error) => {
                let message = format!(
                    "{failed}; the service's credential could not be renewed ({error}): restore the service's \
                     access to where it comes from"
                );
                Err(VaultError::new(Kind::Unauthenticated, message).caused_by(failed))
            }
        }
    }

    fn is_known_good(&self) -> bool {
        self.credential.asked_at().is_some_and(|asked| self.clock.now().since(&asked) < KNOWN_GOOD_FOR)
    }

    /// Waits for a renewal that ends after the first `ended` ones: for the one under way, or for one begun now.
    async fn renew(&self, ended: u64) -> Result<(), RenewalFailed> {
        let renewal = {
            let mut state = self.renewals.state();
            if state.ended > ended {
                return Ok(());
            }
            state.under_way.get_or_insert_with(|| self.begin()).clone()
        };
        // Made before the look: told of an end after it.
        let told = renewal.told.notified();
        if renewal.result.get().is_none() {
            told.await;
        }
        renewal.result.get().cloned().unwrap_or_else(|| Err(RenewalFailed::cut_short()))
    }

    /// In a task of its own: a caller who gives up cancels nothing, and the next finds a credential.
    fn begin(&self) -> Arc<Renewal> {
        let renewal = Arc::<Renewal>::default();
        let end = End { renewals: self.renewals.clone(), renewal: renewal.clone(), result: None };
        let credential = self.credential.clone();
        tokio::spawn(async move {
            let result = match timeout(RENEWAL_LIMIT, credential.renew()).await {
                Ok(renewed) => renewed.map_err(|error| RenewalFailed(error.to_string().into())),
                Err(_) => Err(RenewalFailed(format!("no answer within {RENEWAL_LIMIT:?}").into())),
            };
            match &result {
                Ok(()) => tracing::info!(?credential, "credential renewed"),
                Err(error) => tracing::warn!(?credential, %error, "credential not renewed"),
            }
            end.with(result);
        });
        renewal
    }
}

/// What is known of renewals.
#[derive(Debug, Default)]
struct Renewals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many have ended well.
    ended: u64,
    under_way: Option<Arc<Renewal>>,
}

#[derive(Debug, Default)]
struct Renewal {
    result: OnceLock<Result<(), RenewalFailed>>,
    told: Notify,
}

#[derive(Clone, Debug, Error)]
#[error("{0}")]
struct RenewalFailed(Arc<str>);

impl RenewalFailed {
    fn cut_short() -> Self {
        Self("the renewal was cut short: its code panicked, or the runtime is shutting down".into())
    }
}

impl Renewals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> u64 {
        self.state().ended
    }
}

/// Ends a renewal when it is dropped, however that comes.
struct End {
    renewals: Arc<Renewals>,
    renewal: Arc<Renewal>,
    result: Option<Result<(), RenewalFailed>>,
}

impl End {
    fn with(mut self, result: Result<(), RenewalFailed>) {
        self.result = Some(result);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(RenewalFailed::cut_short()));
        let mut state = self.renewals.state();
        state.under_way = None;
        state.ended += u64::from(result.is_ok());
        drop(state);
        // Nobody else sets it.
        let _ = self.renewal.result.set(result);
        self.renewal.told.notify_waiters();
    }
}

#[async_trait]
impl<V: KeyVault> KeyVault for Reauthenticating<V> {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        self.call(|| self.vault.wrap_key(key_id, aek, context)).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        self.call(|| self.vault.unwrap_key(wrapped, context)).await
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.call(|| self.vault.key_properties(key_id)).await
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.call(|| self.vault.public_key(key_id)).await
    }
}
