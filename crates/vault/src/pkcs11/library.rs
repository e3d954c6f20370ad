//! A PKCS #11 library in this process.
//!
//! Guarantees: a library is loaded and initialised once, however many vaults use it, as PKCS #11 has one state a process;
//! whoever has [entered](Library::enter) it finds it initialised until it leaves; it is never finalised under anybody, nor
//! where other code of the process initialised it. Handles of sessions from before belong to an earlier generation.
//!
//! It stays loaded until the process ends: a vendor's library seldom survives being unloaded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as CryptokiError, RvError},
};

use super::error::Pkcs11Error;
use crate::Timestamp;

static LIBRARIES: Mutex<BTreeMap<PathBuf, Arc<Library>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
pub(super) struct Library {
    path: PathBuf,
    client: Pkcs11,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How often it was initialised.
    generation: u64,
    ready: bool,
    /// Whether it was initialised here, and so may be finalised here.
    ours: bool,
    reloaded_at: Option<Timestamp>,
}

/// The library while it stays initialised.
pub(super) struct Entered<'a> {
    pub(super) client: &'a Pkcs11,
    state: RwLockReadGuard<'a, State>,
}

impl Entered<'_> {
    pub(super) fn generation(&self) -> u64 {
        self.state.generation
    }
}

impl Library {
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, Pkcs11Error> {
        // What is found by the system's own search has no path to be made canonical.
        let name = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = libraries.get(&name) {
            return Ok(library.clone());
        }
        let client = Pkcs11::new(path)
            .map_err(|error| Pkcs11Error::Library { path: path.into(), why: error.to_string() })?;
        let library = Arc::new(Self { path: name.clone(), client, state: RwLock::default() });
        libraries.insert(name, library.clone());
        Ok(library)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn enter(&self) -> Result<Entered<'_>, Pkcs11Error> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.ready {
                return Ok(Entered { client: &self.client, state });
            }
            drop(state);
            self.initialise()?;
        }
    }

    fn initialise(&self) -> Result<(), Pkcs11Error> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.ready {
            return Ok(());
        }
        state.ours = match self.client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) => true,
            Err(CryptokiError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => false,
            Err(error) => return Err(error.into()),
        };
        state.ready = true;
        state.generation += 1;
        Ok(())
    }

    /// Lets the library look for its tokens anew, unless somebody did since that generation. Waits until nobody is in it.
    /// Whether it did: not twice within `pause`, as it costs every vault of the library its sessions.
    pub(super) fn reload(&self, generation: u64, now: Timestamp, pause: Duration) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.generation != generation || !state.ready {
            return true;
        }
        if state.reloaded_at.is_some_and(|at| now.since(&at) < pause) {
            return false;
        }
        tracing::info!(library = %self.path.display(), "looking for the tokens anew");
        state.reloaded_at = Some(now);
        state.ready = false;
        if state.ours {
            // Whatever it says, it is initialised next.
            let _ = self.client.clone().finalize();
        }
        true
    }
}
