//! The one joint through which redb is called.
//!
//! Guarantees: a panic of redb ends here, as `Corrupt`, and nothing calls that database again; after a failed
//! sync nothing is acknowledged until the store is opened anew; a page that does not verify fails the call
//! that met it and no other.
//!
//! redb answers everything after an I/O failure with an error, also reads of sound pages. Where the failure
//! leaves no doubt on what is durable (a damaged page, a failed read, a full disk before the commit) the joint
//! opens redb again on the same locked file, once no call is inside it. Where it does leave a doubt (a failed
//! sync or write, a panic) the handle is poisoned: the page cache may then hold what the disk does not.
//!
//! A database that panicked is leaked, since its destructor would lock what the panic poisoned and abort the
//! process; the file's lock is given up all the same.
//!
//! The joint can go on with another file that holds the same (`take_over`): no call is inside meanwhile.
//!
//! Not its job: what is read or written.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{Builder, Database, StorageError};

use super::{
    checksummed::{Checksummed, Counters, Failure, Health},
    layer::FileLayer,
};
use crate::error::{StoreError, StoreErrorKind, io_kind};

/// How often a call is tried that fails only because another met damage; the last time it runs alone.
const TRIES: usize = 3;

/// Why a call inside the joint failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// redb said so.
    Redb(redb::Error),
    /// Our code said so; the database is sound.
    Store(StoreError),
}

macro_rules! fault_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
fault_from!(
    StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::CompactionError
);

/// A failed call, and whether it was merely inside while another failed.
#[derive(Debug)]
pub(crate) struct Broke {
    pub(crate) error: StoreError,
    /// Nothing is wrong with what this call touched, as far as it is known.
    pub(crate) bystander: bool,
}

enum State {
    Open {
        database: Database,
        health: Arc<Health>,
    },
    /// To be opened again before the next call.
    Broken,
    Poisoned,
    Closed,
}

/// A redb database behind the joint.
pub(crate) struct Joint {
    /// Changes only while `state` is locked for writing.
    layer: Mutex<Arc<dyn FileLayer>>,
    path: Option<PathBuf>,
    cache_bytes: usize,
    state: RwLock<State>,
    caught: AtomicU64,
    counters: Arc<Counters>,
}

impl Joint {
    /// Makes a new store in an empty file.
    pub(crate) fn create(
        layer: Arc<dyn FileLayer>,
        path: Option<PathBuf>,
        cache_bytes: usize,
    ) -> Result<Self, StoreError> {
        let joint = Self::over(layer, path, cache_bytes, Arc::default());
        joint.start(Checksummed::create, Health::new)?;
        Ok(joint)
    }

    /// Makes a store in an empty file that is to take this one's place, and that nobody counts on before [`Self::finish`].
    pub(crate) fn create_beside(&self, layer: Arc<dyn FileLayer>) -> Result<Self, StoreError> {
        let joint = Self::over(layer, self.path.clone(), self.cache_bytes, self.counters.clone());
        joint.start(Checksummed::create, Health::unused)?;
        Ok(joint)
    }

    /// Makes all that was written durable.
    pub(crate) fn finish(&self) -> Result<(), StoreError> {
        let state = self.state_mut();
        let State::Open { health, .. } = &*state else { return Err(self.error(StoreErrorKind::Closed)) };
        health.is_used();
        self.layer().sync().map_err(|error| {
            health.note(Failure::Sync(error.kind()));
            self.located(StoreError::from_io("syncing the compacted file", error))
        })?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Opens the store in a file.
    pub(crate) fn open(
        layer: Arc<dyn FileLayer>,
        path: Option<PathBuf>,
        cache_bytes: usize,
    ) -> Result<Self, StoreError> {
        let joint = Self::over(layer.clone(), path, cache_bytes, Arc::default());
        // An earlier handle's sync may have failed: what it left in memory is not what is on the disk.
        layer.forget();
        joint.start(Checksummed::open, Health::new)?;
        // Not before it is known to be a store.
        layer
            .clear_beside()
            .map_err(|error| joint.located(StoreError::from_io("removing what a compaction left", error)))?;
        Ok(joint)
    }

    fn over(
        layer: Arc<dyn FileLayer>,
        path: Option<PathBuf>,
        cache_bytes: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            layer: Mutex::new(layer),
            path,
            cache_bytes,
            state: RwLock::new(State::Broken),
            caught: AtomicU64::new(0),
            counters,
        }
    }

    /// The file that is in use.
    pub(crate) fn layer(&self) -> Arc<dyn FileLayer> {
        self.layer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `call` on the database; runs it again if it failed only because another met damage, in the end
    /// alone, so that no other can.
    pub(crate) fn run<T>(&self, call: impl Fn(&Database) -> Result<T, Fault>) -> Result<T, StoreError> {
        for _ in 1..TRIES {
            match self.run_once(&call) {
                Err(Broke { bystander: true, .. }) => {}
                result => return result.map_err(|broke| broke.error),
            }
        }
        self.run_alone(|database| call(database))
    }

    /// Runs `call` on the database once.
    pub(crate) fn run_once<T>(&self, call: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, Broke> {
        self.with(|state| match state {
            State::Open { database, health } => Some((guarded(health, || call(database)), health.clone())),
            _ => None,
        })
    }

    /// Runs `call` on the database alone: no other call is inside meanwhile.
    pub(crate) fn run_alone<T>(
        &self,
        call: impl FnOnce(&mut Database) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let mut state = loop {
            drop(self.ready().map_err(|broke| broke.error)?);
            let state = self.state_mut();
            // In between, a call may have met damage.
            if matches!(*state, State::Open { .. }) {
                break state;
            }
        };
        let State::Open { database, health } = &mut *state else {
            return Err(self.error(StoreErrorKind::Closed));
        };
        let health = health.clone();
        let result = guarded(&health, || call(database));
        drop(state);
        self.settle(result, &health).map_err(|broke| broke.error)
    }

    fn with<T>(
        &self,
        call: impl FnOnce(&State) -> Option<(std::thread::Result<Result<T, Fault>>, Arc<Health>)>,
    ) -> Result<T, Broke> {
        let state = self.ready()?;
        let Some((result, health)) = call(&state) else {
            return Err(Broke { error: self.error(StoreErrorKind::Closed), bystander: false });
        };
        drop(state);
        self.settle(result, &health)
    }

    /// Turns what came out of redb into what is told, and decides what becomes of the handle.
    fn settle<T>(
        &self,
        result: std::thread::Result<Result<T, Fault>>,
        health: &Arc<Health>,
    ) -> Result<T, Broke> {
        let fault = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(fault)) => fault,
            Err(_) => {
                self.caught.fetch_add(1, Ordering::Relaxed);
                self.retire(health);
                let error = self.error(StoreErrorKind::Corrupt).with_detail("redb panicked");
                return Err(Broke { error, bystander: false });
            }
        };
        let bystander = matches!(&fault, Fault::Redb(redb::Error::PreviousIo | redb::Error::DatabaseClosed));
        match health.failure() {
            Some(failure) => {
                self.retire(health);
                // Until the last call had left the database, there may have come a graver one.
                let failure = health.failure().unwrap_or(failure);
                let bystander = bystander && !failure.leaves_doubt();
                Err(Broke { error: self.explain(failure), bystander })
            }
            None => Err(Broke { error: self.translate(fault, health), bystander: false }),
        }
    }

    /// The database, opened again first if that is due.
    fn ready(&self) -> Result<RwLockReadGuard<'_, State>, Broke> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let kind = match &*state {
                State::Open { .. } => return Ok(state),
                State::Broken => None,
                State::Poisoned => Some(StoreErrorKind::Poisoned),
                State::Closed => Some(StoreErrorKind::Closed),
            };
            drop(state);
            match kind {
                Some(kind) => return Err(Broke { error: self.error(kind), bystander: false }),
                None => self
                    .start(Checksummed::open, Health::new)
                    .map_err(|error| Broke { error, bystander: false })?,
            }
        }
    }

    fn start(
        &self,
        backend: impl FnOnce(Arc<dyn FileLayer>, Arc<Health>) -> Result<Checksummed, StoreError>,
        health: impl FnOnce(Arc<Counters>) -> Health,
    ) -> Result<(), StoreError> {
        let mut state = self.state_mut();
        if !matches!(*state, State::Broken) {
            return Ok(());
        }
        let health = Arc::new(health(self.counters.clone()));
        let backend = backend(self.layer(), health.clone()).map_err(|error| {
            if health.failure().is_some_and(Failure::leaves_doubt) {
                *state = State::Poisoned;
            }
            self.located(error)
        })?;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Builder::new().set_cache_size(self.cache_bytes).create_with_backend(backend)
        }));
        match opened {
            Ok(Ok(database)) => {
                *state = State::Open { database, health };
                Ok(())
            }
            Ok(Err(error)) => match health.failure() {
                Some(failure) => {
                    if failure.leaves_doubt() {
                        *state = State::Poisoned;
                    }
                    Err(self.explain(failure))
                }
                None => Err(self.kind_of(&error.into())),
            },
            Err(_) => {
                self.caught.fetch_add(1, Ordering::Relaxed);
                *state = State::Poisoned;
                Err(self.error(StoreErrorKind::Corrupt).with_detail("redb panicked while opening it"))
            }
        }
    }

    /// Finishes and releases the file.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let mut state = self.state_mut();
        let result = match mem::replace(&mut *state, State::Closed) {
            State::Open { database, health } if health.failure() == Some(Failure::Panicked) => {
                mem::forget(database);
                Ok(())
            }
            State::Open { database, health } => match catch_unwind(AssertUnwindSafe(|| database.close())) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(match health.failure() {
                    Some(failure) => self.explain(failure),
                    None => self.kind_of(&error.into()),
                }),
                Err(_) => {
                    self.caught.fetch_add(1, Ordering::Relaxed);
                    Err(self.error(StoreErrorKind::Corrupt).with_detail("redb panicked while closing it"))
                }
            },
            State::Closed => return Ok(()),
            State::Broken | State::Poisoned => Ok(()),
        };
        self.layer().release();
        result
    }

    /// Goes on with the file of `new`, which holds what this one's does and is durable. It takes this one's place.
    ///
    /// Until the other file has the place, a failure leaves this one in use. After that, as long as it is not durable which
    /// of them a crash leaves, the handle is poisoned.
    pub(crate) fn take_over(&self, new: &Self) -> Result<(), StoreError> {
        let mut state = self.state_mut();
        match mem::replace(&mut *state, State::Broken) {
            // Its last words go to its own file.
            State::Open { database, health } => *state = self.let_go(database, &health),
            State::Broken => {}
            other => *state = other,
        }
        match &*state {
            State::Broken => {}
            State::Closed => return Err(self.error(StoreErrorKind::Closed)),
            State::Open { .. } | State::Poisoned => return Err(self.error(StoreErrorKind::Poisoned)),
        }
        let failed = |doing, error| self.located(StoreError::from_io(doing, error));
        let layer = self.layer();
        layer.replace().map_err(|error| failed("putting the compacted file in place", error))?;
        layer.sync_place().map_err(|error| {
            *state = State::Poisoned;
            failed("syncing the folder of the store's file", error)
        })?;
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner) = new.layer();
        *state = mem::replace(&mut *new.state_mut(), State::Closed);
        Ok(())
    }

    /// How many panics of redb ended here.
    pub(crate) fn caught(&self) -> u64 {
        self.caught.load(Ordering::Relaxed)
    }

    /// How the disk was used.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes the database of `health` out of use, unless somebody has done so already.
    fn retire(&self, health: &Arc<Health>) {
        let mut state = self.state_mut();
        // No call is inside any more, so nothing is noted after this but by the drop.
        match &*state {
            State::Open { health: current, .. } if Arc::ptr_eq(current, health) => {}
            _ => return,
        }
        let State::Open { database, .. } = mem::replace(&mut *state, State::Poisoned) else { return };
        *state = self.let_go(database, health);
    }

    /// Drops a database that no call is inside any more; what becomes of the handle.
    fn let_go(&self, database: Database, health: &Health) -> State {
        if health.failure() == Some(Failure::Panicked) {
            mem::forget(database);
            self.layer().release();
        } else if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            self.caught.fetch_add(1, Ordering::Relaxed);
        } else if !health.failure().is_some_and(Failure::leaves_doubt) {
            return State::Broken;
        }
        State::Poisoned
    }

    fn translate(&self, fault: Fault, health: &Arc<Health>) -> StoreError {
        match fault {
            Fault::Store(error) => self.located(error),
            Fault::Redb(error) => {
                let told = self.kind_of(&error);
                if told.kind() == StoreErrorKind::Corrupt {
                    self.retire(health);
                }
                told.caused_by(error)
            }
        }
    }

    fn explain(&self, failure: Failure) -> StoreError {
        let (kind, detail) = match failure {
            Failure::Damaged { page } => (StoreErrorKind::Corrupt, format!("page {page} does not verify")),
            Failure::Truncated => (StoreErrorKind::Corrupt, "the file was cut".into()),
            Failure::Full => (StoreErrorKind::Full, "writing a page; nothing of this write was kept".into()),
            Failure::Read(kind) => (io_kind(&kind.into()), format!("reading a page: {kind}")),
            Failure::Write(kind) => (io_kind(&kind.into()), format!("writing a page: {kind}")),
            Failure::Sync(kind) => (
                match io_kind(&kind.into()) {
                    StoreErrorKind::Full => StoreErrorKind::Full,
                    _ => StoreErrorKind::Io,
                },
                format!(
                    "syncing the file failed ({kind}): what is on disk is unknown, so nothing more is accepted"
                ),
            ),
            Failure::Panicked => (StoreErrorKind::Poisoned, "redb panicked".into()),
        };
        self.error(kind).with_detail(detail)
    }

    fn kind_of(&self, error: &redb::Error) -> StoreError {
        let kind = match error {
            redb::Error::DatabaseAlreadyOpen => StoreErrorKind::Locked,
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. } => StoreErrorKind::Corrupt,
            redb::Error::ValueTooLarge(_) => StoreErrorKind::TooLarge,
            redb::Error::Io(error) => io_kind(error),
            redb::Error::DatabaseClosed => StoreErrorKind::Closed,
            redb::Error::PreviousIo | redb::Error::LockPoisoned(_) => StoreErrorKind::Poisoned,
            _ => StoreErrorKind::Io,
        };
        self.error(kind).with_detail(error.to_string())
    }

    fn error(&self, kind: StoreErrorKind) -> StoreError {
        self.located(StoreError::new(kind))
    }

    fn located(&self, error: StoreError) -> StoreError {
        match &self.path {
            Some(path) => error.at(path),
            None => error,
        }
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls redb. A panic is noted before anybody else can take the database out of use, who would drop it.
fn guarded<T>(
    health: &Health,
    call: impl FnOnce() -> Result<T, Fault>,
) -> std::thread::Result<Result<T, Fault>> {
    catch_unwind(AssertUnwindSafe(call)).inspect_err(|_| health.note(Failure::Panicked))
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests;
