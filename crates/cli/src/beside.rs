//! What a writer tells while it works: changes on standard error, and the status file that `status` reads beside it.
//!
//! Guarantees: the file is replaced each second, and at once when a key's state or a buffer changes; a failure to write
//! it fails no writer. Not its job: to say what was written, line by line.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cofferdam_crypto::Provider;
use cofferdam_keyring::{KeyEvent, KeyState, What};
use cofferdam_store::{Account, BufferChange, BufferEvent, Engine, Moved};
use cofferdam_vault::Timestamp;
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, error::RecvError},
    },
    task::JoinHandle,
    time,
};

use crate::{
    home::{AccountReport, BufferBounds, OpenHome, STATUS_EVERY, StatusFile},
    output::{escape, note, size},
};

/// How much was written.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    blocks: AtomicU64,
    bytes: AtomicU64,
    buffered: AtomicU64,
}

impl Counters {
    /// One block more.
    pub(crate) fn add(&self, bytes: u64, buffered: bool) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.buffered.fetch_add(u64::from(buffered), Ordering::Relaxed);
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn buffered(&self) -> u64 {
        self.buffered.load(Ordering::Relaxed)
    }
}

/// Tells until it is stopped.
pub(crate) struct Beside {
    stop: Arc<Notify>,
    task: JoinHandle<()>,
    home: PathBuf,
}

impl Beside {
    /// Starts to tell of a command's work on one account.
    pub(crate) fn start(
        open: &OpenHome,
        account: &Account,
        command: &'static str,
        counters: Arc<Counters>,
    ) -> Self {
        let stop = Arc::new(Notify::new());
        let home = open.home.path().to_path_buf();
        let teller = Teller {
            account: account.clone(),
            command,
            counters,
            bounds: open.home.buffer_bounds(),
            home: home.clone(),
            customer: None,
            service: None,
        };
        let task = tokio::spawn(teller.run(open.engine.clone(), stop.clone()));
        Self { stop, task, home }
    }

    /// Ends it, and removes the file.
    pub(crate) async fn stop(self) {
        self.stop.notify_one();
        // If it panicked, there is no more to be told.
        let _ = self.task.await;
        StatusFile::remove(&self.home);
    }
}

struct Teller {
    account: Account,
    command: &'static str,
    counters: Arc<Counters>,
    bounds: BufferBounds,
    home: PathBuf,
    /// When the state of each key changed last.
    customer: Option<Timestamp>,
    service: Option<Timestamp>,
}

impl Teller {
    async fn run(mut self, engine: Engine, stop: Arc<Notify>) {
        let (mut keys, mut buffers) = (engine.events(), engine.buffer_events());
        let mut tick = time::interval(STATUS_EVERY);
        loop {
            tokio::select! {
                biased;
                () = stop.notified() => return,
                Some(event) = next(&mut keys) => if !self.tell_key(&event) { continue },
                Some(event) = next(&mut buffers) => if !self.tell_buffer(&event) { continue },
                _ = tick.tick() => {}
            }
            self.write().await;
        }
    }

    /// Whether that is a reason to say how it is now.
    fn tell_key(&mut self, event: &KeyEvent) -> bool {
        let What::Changed { from, to, .. } = event.what else { return false };
        if event.account != self.account.id() {
            return false;
        }
        match event.provider {
            Provider::Customer => self.customer = Some(event.at),
            Provider::Service => self.service = Some(event.at),
            Provider::Buffer(_) => {}
        }
        if from != KeyState::Cold {
            note(format_args!("the {} key of {} is {to}", event.provider, self.account.name()));
        }
        true
    }

    fn tell_buffer(&self, event: &BufferEvent) -> bool {
        if event.account != self.account.id() {
            return false;
        }
        let name = self.account.name();
        let blocks = |Moved { blocks, bytes, .. }: &Moved| format!("{blocks} blocks, {}", size(*bytes));
        match &event.what {
            BufferChange::Began => note(format_args!("writes of {name} are buffered")),
            BufferChange::Finished { drained } => {
                note(format_args!("the buffer of {name} is drained: {}", blocks(drained)));
            }
            BufferChange::Trouble(trouble) => {
                note(format_args!("the buffer of {name}: {}", escape(&trouble.message)));
            }
            BufferChange::Discarded { gone, .. } => {
                note(format_args!("the buffer of {name} is discarded, its key is revoked: {}", blocks(gone)));
            }
            _ => return false,
        }
        true
    }

    async fn write(&self) {
        let Ok(status) = self.account.key_status().await else { return };
        let since = match status.provider {
            Provider::Customer => self.customer,
            Provider::Service | Provider::Buffer(_) => self.service,
        };
        let mut report = AccountReport::new(self.account.name(), status, since, &self.bounds);
        report.blocks = self.counters.blocks();
        report.bytes = self.counters.bytes();
        if let (Ok(keks), Ok(operation)) = (self.account.keks().await, self.account.operation().await) {
            report = report.with(keks, operation.as_ref());
        }
        // It informs only: a writer must not fail for it.
        let _ = StatusFile::new(self.command, vec![report]).write(&self.home);
    }
}

/// The next event; none once there are no more.
async fn next<T: Clone>(events: &mut Receiver<T>) -> Option<T> {
    loop {
        match events.recv().await {
            Ok(event) => return Some(event),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}
