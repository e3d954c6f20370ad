//! The way from one node to one vault: weather, a token that expires, the vault's limit, and the vault at its end.
//!
//! Guarantees: what a KEK's owner wants is settled when a call is sent, so that an answer is as old as it can be; a call
//! counts against the limit when it is sent. Not its job: to see what the node makes of it (`link`).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use cofferdam_vault::{
    Clock, Credential, CredentialError, KeyProperties, KeyVault, PublicKeyAnswer, Timestamp, VaultError,
    VaultErrorKind, WrapContext, testing::TokioClock,
};
use tokio::time::sleep;

use crate::{
    dice::Dice,
    hub::Hub,
    site::House,
    weather::{Condition, Fate},
};

pub(crate) struct Way {
    pub(crate) node: usize,
    pub(crate) hub: Hub,
    pub(crate) house: House,
    pub(crate) token: Arc<Token>,
    pub(crate) dice: Mutex<Dice>,
}

impl Way {
    /// What becomes of a call that is sent now.
    fn fate(&self, kek: &KeyId) -> (Fate, Duration) {
        let condition = self.hub.state().weather.condition(self.node, kek, self.hub.at());
        condition.fate(&mut self.dice.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same of a call that no limit counts; `Ok` if it reaches the vault, with whether that answers wrongly.
    async fn reach(&self, kek: &KeyId) -> Result<(bool, Duration), VaultError> {
        let (fate, latency) = self.fate(kek);
        let failure = match (fate, self.token.refused()) {
            (Fate::Hangs, _) => std::future::pending().await,
            (Fate::Fails(kind), _) | (_, Some(kind)) => kind,
            (Fate::Absent, None) => VaultErrorKind::KeyNotFound,
            (Fate::Reaches | Fate::WrongKey, None) => return Ok((fate == Fate::WrongKey, latency)),
        };
        sleep(latency).await;
        Err(failed(failure, kek))
    }
}

/// Another key than this one: not what makes it right again that was made wrong at another byte.
fn other(aek: &Aek, byte: usize) -> Result<Aek, VaultError> {
    Aek::try_from_fn(|other| {
        other.copy_from_slice(aek.expose());
        other[byte] ^= 1;
        Ok(())
    })
}

fn failed(kind: VaultErrorKind, kek: &KeyId) -> VaultError {
    VaultError::new(kind, "the simulation says so").about(kek)
}

#[async_trait]
impl KeyVault for Way {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        let (is_wrong, latency) = self.reach(key_id).await?;
        let answer = match is_wrong {
            false => self.house.vault.wrap_key(key_id, aek, context).await,
            true => {
                let wrapped = self.house.vault.wrap_key(key_id, &other(aek, 1)?, context).await;
                if let Ok(wrapped) = &wrapped {
                    self.hub.state().keys.wraps_wrong(wrapped);
                }
                wrapped
            }
        };
        sleep(latency).await;
        answer
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        let kek = &wrapped.key_id;
        let (fate, latency) = self.fate(kek);
        let taken = match fate {
            Fate::Hangs | Fate::Fails(_) => Ok(()),
            _ => self.house.meter().admit(self.hub.at()),
        };
        let answer = match (fate, self.token.refused()) {
            (Fate::Hangs, _) => std::future::pending().await,
            (Fate::Fails(kind), _) => Err(failed(kind, kek)),
            (_, _) if let Err(kind) = taken => Err(failed(kind, kek)),
            (_, Some(kind)) => Err(failed(kind, kek)),
            (Fate::Absent, None) => Err(failed(VaultErrorKind::KeyNotFound, kek)),
            (Fate::Reaches | Fate::WrongKey, None) => self.house.vault.unwrap_key(wrapped, context).await,
        };
        if let (Ok(aek), Some(_)) = (&answer, context.scope.provider.segment()) {
            // Only its vault knows it until now.
            self.hub.state().keys.learn_aek(context.scope, *aek.expose());
        }
        sleep(latency).await;
        match (answer, fate) {
            (Ok(aek), Fate::WrongKey) => other(&aek, 0),
            (answer, _) => answer,
        }
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let (_, latency) = self.reach(key_id).await?;
        let answer = self.house.vault.key_properties(key_id).await;
        sleep(latency).await;
        answer
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        let (_, latency) = self.reach(key_id).await?;
        let answer = self.house.vault.public_key(key_id).await;
        sleep(latency).await;
        answer
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Way(node {}, {:?})", self.node, self.house)
    }
}

/// The token that a node shows to a vault. It expires, and comes from a service that can fail.
pub(crate) struct Token {
    node: usize,
    hub: Hub,
    clock: Arc<TokioClock>,
    /// What the weather calls the way to the token service.
    service: KeyId,
    state: Mutex<Issued>,
}

struct Issued {
    /// By the node's clock, and by the vault's, which nobody sets.
    asked_at: Timestamp,
    issued: Duration,
    /// Whether a vault answers 403 to one that expired, and not 401.
    is_stale: bool,
    lasts: Duration,
    dice: Dice,
}

impl Token {
    pub(crate) fn new(node: usize, hub: Hub, clock: Arc<TokioClock>, service: KeyId, mut dice: Dice) -> Self {
        let (asked_at, issued) = (clock.now(), hub.at());
        let (is_stale, lasts) = (dice.percent(50), draw_life(&mut dice));
        Self {
            node,
            hub,
            clock,
            service,
            state: Mutex::new(Issued { asked_at, issued, is_stale, lasts, dice }),
        }
    }

    /// What a vault says to it, if it does not take it.
    fn refused(&self) -> Option<VaultErrorKind> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.hub.at() < state.issued + state.lasts {
            return None;
        }
        Some(if state.is_stale { VaultErrorKind::AccessDenied } else { VaultErrorKind::Unauthenticated })
    }
}

/// Longer than a token counts as known good.
fn draw_life(dice: &mut Dice) -> Duration {
    dice.millis(61_000, 400_000)
}

#[async_trait]
impl Credential for Token {
    fn asked_at(&self) -> Option<Timestamp> {
        Some(self.state.lock().unwrap_or_else(PoisonError::into_inner).asked_at)
    }

    async fn renew(&self) -> Result<(), CredentialError> {
        let asked_at = self.clock.now();
        let condition = self.hub.state().weather.condition(self.node, &self.service, self.hub.at());
        let (fate, latency) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match condition {
                // It is not a key that could be wrong or missing.
                Condition::Lags | Condition::WrongKey => Condition::Hangs.fate(&mut state.dice),
                condition => condition.fate(&mut state.dice),
            }
        };
        sleep(latency).await;
        match fate {
            Fate::Hangs => std::future::pending().await,
            Fate::Reaches => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let (is_stale, lasts) = (state.dice.percent(50), draw_life(&mut state.dice));
                (state.asked_at, state.issued) = (asked_at, self.hub.at());
                (state.is_stale, state.lasts) = (is_stale, lasts);
                drop(state);
                self.hub.note(format_args!("node {}: a new token", self.node));
                Ok(())
            }
            _ => Err(CredentialError("the token service fails".into())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(node {})", self.node)
    }
}
