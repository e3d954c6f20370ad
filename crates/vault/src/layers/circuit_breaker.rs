//! Spares a vault that is away, and its callers the wait.
//!
//! Guarantees: after so many outages in a row nothing is sent for the cool-down, and every call is answered at once by the kind of the
//! last of them, so that it stays told why; then one call is let through, and what comes of it decides for all. Whatever the vault itself says closes the circuit, a denial as well as
//! a key. The cool-down is at most [`BreakerPolicy::LONGEST_COOL_DOWN`], shorter than the shortest refresh of a keyring, so that a recovery and a denial are
//! heard within one.
//!
//! Invariants: at most one call is let through while the circuit is half open; if its caller gives up, the next is.
//!
//! Not its job: to tell one key from another: an outage is the vault's. What says nothing of the vault (`Corrupt`, `Other`) neither opens
//! nor closes it.

use std::{
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::time::Instant;

use super::{Question, metrics};
use crate::{KeyVault, VaultError, VaultErrorKind as Kind};

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    outages: NonZeroU32,
    cool_down: Duration,
}

impl Default for BreakerPolicy {
    /// Five outages in a row, for 2 s.
    fn default() -> Self {
        const OUTAGES: NonZeroU32 = NonZeroU32::new(5).unwrap();
        Self { outages: OUTAGES, cool_down: Duration::from_secs(2) }
    }
}

impl BreakerPolicy {
    /// The longest cool-down: shorter than the shortest time between two refreshes of a key.
    pub const LONGEST_COOL_DOWN: Duration = Duration::from_secs(5);

    /// The same that opens after so many outages in a row. Default 5.
    #[must_use]
    pub fn with_outages(self, outages: NonZeroU32) -> Self {
        Self { outages, ..self }
    }

    /// The same that stays open for so long before one call is let through. Default 2 s.
    ///
    /// # Errors
    /// [`CoolDownTooLong`] when it is more than [`Self::LONGEST_COOL_DOWN`].
    pub fn with_cool_down(self, cool_down: Duration) -> Result<Self, CoolDownTooLong> {
        if cool_down > Self::LONGEST_COOL_DOWN {
            return Err(CoolDownTooLong { cool_down });
        }
        Ok(Self { cool_down, ..self })
    }
}

/// A cool-down is so long that a denial would be heard too late.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a cool-down of {cool_down:?} keeps a denial from being heard for too long: take {:?} or less",
    BreakerPolicy::LONGEST_COOL_DOWN
)]
pub struct CoolDownTooLong {
    /// The cool-down given.
    pub cool_down: Duration,
}

/// A vault that is left alone for a while when it is away.
#[derive(Debug)]
pub struct CircuitBreaker<V> {
    vault: V,
    policy: BreakerPolicy,
    circuit: Mutex<Circuit>,
}

#[derive(Debug, Default)]
struct Circuit {
    /// Outages since the vault last answered, and what the last of them was.
    outages: u32,
    last: Option<Kind>,
    /// Until when nothing is sent; `None`: it is closed.
    open_until: Option<Instant>,
    /// Whether a call is under way that decides.
    is_probed: bool,
}

/// What a call's end says of the vault.
enum Evidence {
    Answer,
    Outage(Kind),
    Nothing,
}

impl Evidence {
    fn of<T>(answer: &Result<T, VaultError>) -> Self {
        match answer.as_ref().map_err(VaultError::kind) {
            Ok(_) | Err(Kind::AccessDenied | Kind::KeyDisabled | Kind::KeyNotFound) => Self::Answer,
            Err(Kind::Corrupt | Kind::Other) => Self::Nothing,
            Err(kind) => Self::Outage(kind),
        }
    }
}

impl<V: KeyVault> CircuitBreaker<V> {
    /// The vault, left alone by this policy.
    pub fn new(vault: V, policy: BreakerPolicy) -> Self {
        Self { vault, policy, circuit: Mutex::default() }
    }

    /// The vault as it is without this.
    pub fn inner(&self) -> &V {
        &self.vault
    }

    /// Whether calls are answered in the vault's place.
    pub fn is_open(&self) -> bool {
        self.circuit().open_until.is_some()
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(
        &self,
        question: Question<'_>,
        asked: impl Future<Output = Result<T, VaultError>>,
    ) -> Result<T, VaultError> {
        let admitted = self.admit().map_err(|refused| refused.about(question.key_id))?;
        let answer = asked.await;
        admitted.end(&Evidence::of(&answer));
        answer
    }

    fn admit(&self) -> Result<Admitted<'_, V>, VaultError> {
        let mut circuit = self.circuit();
        let is_probe = match circuit.open_until {
            None => false,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if circuit.is_probed || !left.is_zero() {
                    return Err(circuit.refusal(left));
                }
                circuit.is_probed = true;
                true
            }
        };
        Ok(Admitted { breaker: self, is_probe })
    }
}

impl Circuit {
    fn refusal(&self, left: Duration) -> VaultError {
        let (times, last) = (self.outages, self.last.unwrap_or(Kind::Unavailable));
        let when = if left.is_zero() { "one call is under way".into() } else { format!("again in {left:?}") };
        let message =
            format!("the vault failed {times} times in a row, last by {last}, and is not asked now: {when}");
        VaultError::new(last, message)
    }
}

/// A call that was let through.
struct Admitted<'a, V: KeyVault> {
    breaker: &'a CircuitBreaker<V>,
    is_probe: bool,
}

impl<V: KeyVault> Admitted<'_, V> {
    fn end(self, evidence: &Evidence) {
        let policy = self.breaker.policy;
        let mut circuit = self.breaker.circuit();
        match *evidence {
            Evidence::Nothing => {}
            Evidence::Answer => {
                if circuit.open_until.take().is_some() {
                    tracing::info!(outages = circuit.outages, "the vault answers again");
                }
                (circuit.outages, circuit.last) = (0, None);
            }
            Evidence::Outage(kind) => {
                circuit.outages = circuit.outages.saturating_add(1);
                circuit.last = Some(kind);
                let opens = circuit.open_until.is_none() && circuit.outages >= policy.outages.get();
                if opens {
                    metrics::count_break();
                    tracing::warn!(outages = circuit.outages, last = %kind, "the vault is away: left alone");
                }
                // What was sent before it opened says nothing of how long it is to stay so.
                if opens || self.is_probe {
                    circuit.open_until = Some(Instant::now() + policy.cool_down);
                }
            }
        }
    }
}

impl<V: KeyVault> Drop for Admitted<'_, V> {
    /// However it ended, another may be let through.
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.circuit().is_probed = false;
        }
    }
}

layer!(CircuitBreaker);
