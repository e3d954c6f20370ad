//! Being asked to stop: SIGINT and SIGTERM.
//!
//! Guarantees: the first asks, so that what is under way can be finished; a second one ends the process.

use std::io;

use crate::error::{CliError, Exit};

/// Listens from when it is made.
pub(crate) struct Interrupt {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
}

impl Interrupt {
    pub(crate) fn listen() -> Result<Self, CliError> {
        Self::new().map_err(|source| CliError::System { doing: "listen to signals", source })
    }

    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the first; from then on a second one ends the process.
    pub(crate) async fn wait(mut self) {
        self.once().await;
        tokio::spawn(async move {
            self.once().await;
            std::process::exit(i32::from(Exit::Failed as u8));
        });
    }

    #[cfg(unix)]
    async fn once(&mut self) {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn once(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
