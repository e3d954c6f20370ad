//! Sessions with one token: found by its label, logged in, kept for the next call, made anew when they are lost.
//!
//! Guarantees: a call that finds its session or its token lost is done once more with new ones, and where that finds no
//! token either, once more after the library has looked for its tokens anew; a PIN that was refused is not tried again;
//! "there is no such key" is believed only of a token that is there and logged in to ([`Connection::confirm_present`]).
//!
//! A library closes a session by its number alone, and after it is initialised again the numbers are given again: so a
//! session is closed by hand, within the generation it was opened in, or not at all.

use std::{
    cell::Cell,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cryptoki::{
    context::{Function, Pkcs11},
    error::{Error as CryptokiError, RvError},
    session::{Session, SessionState, UserType},
    slot::Slot,
};

use super::{
    error::{Answer, Loss, Pkcs11Error},
    library::{Entered, Library},
    pin::{PinSource, Refusal},
};
use crate::Clock;

/// What a call does to the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// Makes or changes keys.
    Write,
}

pub(super) struct Token {
    pub(super) library: Arc<Library>,
    pub(super) label: String,
    pub(super) pin: Arc<dyn PinSource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) reload_pause: Duration,
    pub(super) refusal: Mutex<Refusal>,
    pub(super) known: Mutex<Known>,
}

/// What is known of the token from before.
#[derive(Default)]
pub(super) struct Known {
    idle: Vec<Open>,
    /// How often the sessions were given up.
    given_up: u64,
    /// Its serial number, from when it was first seen.
    serial: Option<String>,
    /// Whether it can do RSA-OAEP with SHA-256; None until it was tried.
    oaep_sha256: Option<bool>,
}

struct Open {
    session: Session,
    slot: Slot,
    generation: u64,
    given_up: u64,
}

/// A session that is logged in, for one call.
pub(super) struct Connection<'a> {
    pub(super) session: &'a Session,
    token: &'a Token,
    client: &'a Pkcs11,
    slot: Slot,
    /// Something was left in the session: close it.
    spoilt: Cell<bool>,
}

impl Token {
    /// Does something with the token. May do it up to three times, the last one's error counts.
    pub(super) fn run<T>(
        &self,
        access: Access,
        mut work: impl FnMut(&Connection<'_>) -> Result<T, Pkcs11Error>,
    ) -> Result<T, Pkcs11Error> {
        for may_reload in [false, true] {
            let library = self.library.enter()?;
            let generation = library.generation();
            let failed = match self.attempt(&library, access, &mut work) {
                Err(failed) if failed.loss() != Loss::Nothing => failed,
                answered => return answered,
            };
            tracing::warn!(token = self.label, error = %failed, "lost a session with the token");
            self.give_up(&library);
            drop(library);
            if may_reload {
                let is_gone = failed.loss() == Loss::Token;
                if !is_gone || !self.library.reload(generation, self.clock.now(), self.reload_pause) {
                    return Err(failed);
                }
            }
        }
        self.attempt(&self.library.enter()?, access, &mut work)
    }

    fn attempt<T>(
        &self,
        library: &Entered<'_>,
        access: Access,
        work: &mut impl FnMut(&Connection<'_>) -> Result<T, Pkcs11Error>,
    ) -> Result<T, Pkcs11Error> {
        let idle = if access == Access::Read { self.take_idle(library) } else { None };
        let open = match idle {
            Some(open) => open,
            None => self.open(library, access)?,
        };
        let connection = Connection {
            session: &open.session,
            token: self,
            client: library.client,
            slot: open.slot,
            spoilt: Cell::new(false),
        };
        let result = work(&connection);
        let is_lost = result.as_ref().is_err_and(|e| e.loss() != Loss::Nothing);
        if is_lost || connection.spoilt.get() || access == Access::Write {
            close(open);
        } else {
            self.keep(open);
        }
        result
    }

    fn take_idle(&self, library: &Entered<'_>) -> Option<Open> {
        let mut known = self.known();
        // Those of an earlier generation are closed already, and their numbers may be others' by now.
        known.idle.retain(|open| open.generation == library.generation());
        known.idle.pop()
    }

    fn keep(&self, open: Open) {
        let mut known = self.known();
        if open.given_up == known.given_up {
            known.idle.push(open);
        } else {
            drop(known);
            close(open);
        }
    }

    /// Closes the sessions that are not in use, and those that are when they are given back.
    fn give_up(&self, library: &Entered<'_>) {
        let mut known = self.known();
        known.given_up += 1;
        known.oaep_sha256 = None;
        let idle = std::mem::take(&mut known.idle);
        drop(known);
        idle.into_iter().filter(|open| open.generation == library.generation()).for_each(close);
    }

    /// Closes all its sessions.
    pub(super) fn close(&self) {
        if let Ok(library) = self.library.enter() {
            self.give_up(&library);
        }
    }

    fn open(&self, library: &Entered<'_>, access: Access) -> Result<Open, Pkcs11Error> {
        let slot = self.find_slot(library.client)?;
        let given_up = self.known().given_up;
        let session = match access {
            Access::Read => library.client.open_ro_session_no_drop(slot)?,
            Access::Write => library.client.open_rw_session_no_drop(slot)?,
        };
        let open = Open { session, slot, generation: library.generation(), given_up };
        match self.log_in(&open.session) {
            Ok(()) => Ok(open),
            Err(error) => {
                close(open);
                Err(error)
            }
        }
    }

    fn find_slot(&self, client: &Pkcs11) -> Result<Slot, Pkcs11Error> {
        let mut found = None;
        for slot in client.get_slots_with_token()? {
            // A slot that does not answer holds some other token, or this one out of reach.
            let Ok(info) = client.get_token_info(slot) else { continue };
            if !info.token_initialized() || info.label() != self.label {
                continue;
            }
            if found.replace((slot, info.serial_number().to_owned())).is_some() {
                return Err(Pkcs11Error::TokenTwice { token: self.label.clone() });
            }
        }
        let (slot, serial) = found.ok_or_else(|| self.missing())?;
        let mut known = self.known();
        let expected = known.serial.get_or_insert_with(|| serial.clone());
        if *expected == serial {
            return Ok(slot);
        }
        let expected = expected.clone();
        Err(Pkcs11Error::TokenReplaced { token: self.label.clone(), expected, found: serial })
    }

    /// A login is the process's: every session with the token shares it.
    fn log_in(&self, session: &Session) -> Result<(), Pkcs11Error> {
        // Held while the token is asked, so that two calls do not try one wrong PIN.
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if is_logged_in(session)? {
            return Ok(());
        }
        let token = || self.label.clone();
        let pin = self.pin.pin().map_err(|source| Pkcs11Error::Pin { token: token(), source })?;
        if refusal.is_of(&pin) {
            return Err(Pkcs11Error::PinRefused { token: token() });
        }
        match session.login_with_raw(UserType::User, &pin.for_token()) {
            Ok(()) | Err(CryptokiError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                refusal.forget();
                tracing::info!(token = self.label, "logged in to the token");
                Ok(())
            }
            Err(CryptokiError::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange,
                _,
            )) => {
                refusal.note(&pin);
                tracing::warn!(token = self.label, "the token refused the PIN: not trying it again");
                Err(Pkcs11Error::PinRefused { token: token() })
            }
            Err(CryptokiError::Pkcs11(RvError::PinLocked, _)) => {
                tracing::warn!(token = self.label, "the token has locked its PIN");
                Err(Pkcs11Error::PinLocked { token: token() })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn forget_refusal(&self) {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).forget();
    }

    fn missing(&self) -> Pkcs11Error {
        Pkcs11Error::TokenMissing { token: self.label.clone() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("label", &self.label)
            .field("library", &self.library.path())
            .finish_non_exhaustive()
    }
}

impl Connection<'_> {
    pub(super) fn token_label(&self) -> &str {
        &self.token.label
    }

    /// An error unless the token is there and logged in to, so that what it says of its keys is its word.
    ///
    /// SoftHSM2 finds no object when its files are gone, and every token hides its keys from who is logged out.
    pub(super) fn confirm_present(&self) -> Result<(), Pkcs11Error> {
        if !is_logged_in(self.session)? {
            let answer = Answer { function: Function::GetSessionInfo, code: RvError::UserNotLoggedIn };
            return Err(Pkcs11Error::Answered(answer));
        }
        let info = self.client.get_token_info(self.slot)?;
        let serial = self.token.known().serial.clone();
        if info.label() == self.token.label && serial.is_some_and(|serial| serial == info.serial_number()) {
            return Ok(());
        }
        Err(self.token.missing())
    }

    /// Has the session closed after this call, and what is left in it destroyed.
    pub(super) fn spoil(&self) {
        self.spoilt.set(true);
    }

    pub(super) fn oaep_sha256(&self) -> Option<bool> {
        self.token.known().oaep_sha256
    }

    pub(super) fn note_oaep_sha256(&self, can: bool) {
        self.token.known().oaep_sha256 = Some(can);
    }
}

fn is_logged_in(session: &Session) -> Result<bool, Pkcs11Error> {
    let state = session.get_session_info()?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

fn close(open: Open) {
    // Closed or gone with its token: both will do.
    let _ = open.session.close();
}
