//! Waits for what is being drained, and shows how far that is.
//!
//! Guarantees: ends once every block that can be drained is, whatever is in the way of others; says what is in the way
//! where somebody must act. Not its job: an outage or a revocation, which are nobody's to mend here.

use std::collections::BTreeMap;

use cofferdam_crypto::AccountId;
use cofferdam_store::{BufferChange, BufferEvent, DrainBlocked, DrainReport, Trouble};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time,
};

use crate::{
    error::CliError,
    home::{AccountReport, OpenHome, STATUS_EVERY, StatusFile},
    output::{escape, note},
};

/// Waits for all accounts of a home. `events` are what happened to buffers since it was opened.
pub(crate) async fn finish(open: &OpenHome, events: &mut Receiver<BufferEvent>) -> Result<(), CliError> {
    let mut progress = Progress::default();
    let mut tick = time::interval_at(time::Instant::now() + STATUS_EVERY, STATUS_EVERY);
    let mut told = false;
    let mut drained = std::pin::pin!(open.engine.drain());
    let reports = loop {
        tokio::select! {
            biased;
            reports = &mut drained => break reports,
            event = events.recv() => match event {
                Ok(event) => progress.take(event.account, &event.what),
                Err(RecvError::Lagged(_)) => {}
                // The engine is closed, and the drain ends with it.
                Err(RecvError::Closed) => time::sleep(STATUS_EVERY).await,
            },
            _ = tick.tick() => {
                // It informs only.
                let _ = StatusFile::new("drain", waiting(open).await?).write(open.home.path());
                told = true;
            }
        }
    };
    // What has not been looked at yet.
    while let Ok(event) = events.try_recv() {
        progress.take(event.account, &event.what);
    }
    progress.bar.finish_and_clear();
    if told {
        StatusFile::remove(open.home.path());
    }
    let reports = match reports {
        Ok(reports) => reports,
        Err(e) => {
            // The store refuses by now; this is why.
            if let Some(trouble) = progress.trouble {
                note(format_args!("the drain ended: {}", escape(&trouble.message)));
            }
            return Err(e.into());
        }
    };
    reports.iter().for_each(tell_what_is_in_the_way);
    Ok(())
}

/// The accounts that have something buffered.
async fn waiting(open: &OpenHome) -> Result<Vec<AccountReport>, CliError> {
    let mut waiting = Vec::new();
    for name in open.accounts().await? {
        let status = open.engine.account(&name).await?.key_status().await?;
        if status.buffer.blocks > 0 {
            waiting.push(AccountReport::new(&name, status, None, &open.home.buffer_bounds()));
        }
    }
    Ok(waiting)
}

fn tell_what_is_in_the_way(report: &DrainReport) {
    let whose = report.name.as_ref().map_or_else(|| report.account.to_string(), ToString::to_string);
    match &report.blocked {
        None | Some(DrainBlocked::Revoked(_) | DrainBlocked::KeyUnavailable(_)) => {}
        Some(blocked) => {
            let left = report.left.map_or(0, |left| left.blocks);
            note(format_args!(
                "warning: {left} buffered blocks of {whose} are not drained: {}",
                escape(&blocked.to_string())
            ));
        }
    }
}

/// A bar on a terminal, nothing in a pipe.
struct Progress {
    bar: ProgressBar,
    left: BTreeMap<AccountId, u64>,
    trouble: Option<Trouble>,
}

impl Default for Progress {
    fn default() -> Self {
        // Hidden until there is something to show.
        Self { bar: ProgressBar::hidden(), left: BTreeMap::new(), trouble: None }
    }
}

impl Progress {
    fn take(&mut self, account: AccountId, what: &BufferChange) {
        if let BufferChange::Trouble(trouble) = what {
            // What comes later may only follow from it.
            self.trouble.get_or_insert_with(|| trouble.clone());
        }
        let BufferChange::Drained { moved, left } = what else { return };
        if self.left.is_empty() {
            self.bar = ProgressBar::new(0).with_message("draining");
            if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar} {bytes}/{total_bytes}") {
                self.bar.set_style(style);
            }
        }
        self.left.insert(account, left.bytes);
        self.bar.inc(moved.bytes);
        self.bar.set_length(self.bar.position() + self.left.values().sum::<u64>());
    }
}
