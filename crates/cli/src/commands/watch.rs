//! `status --watch`: tells of each change until it is interrupted.
//!
//! Guarantees: a change of a key's state, of what is stored or of what is buffered is told within seconds; nothing
//! is told twice. It has the home open for moments only, unless it drains or an operation goes on, so that other commands get it; while another
//! one has it, it reads what that one says. Times that move by themselves are no change.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal},
    time::{Duration, SystemTime},
};

use cofferdam_store::AccountName;
use cofferdam_vault::{Clock, SystemClock, Timestamp};
use serde::Serialize;

use super::status::{of_writer, reports};
use crate::{
    error::CliError,
    home::{AccountReport, Drains, Home, HomeLock, Keys, StatusFile},
    output::{Output, Time, escape},
    signals::Interrupt,
};

/// How often it is looked for something new.
const EVERY: Duration = Duration::from_millis(250);
/// How often the vaults are asked although no file has changed: a key may expire.
const ASK: Duration = Duration::from_secs(10);
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// An account that is not as it was.
#[derive(Serialize)]
struct Change {
    at: Time,
    #[serde(flatten)]
    account: AccountReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.account)?;
        self.pid.map_or(Ok(()), |pid| write!(f, " (as pid {pid} says)"))
    }
}

pub(super) async fn run(home: Home, only: Option<AccountName>, output: &mut Output) -> Result<(), CliError> {
    let mut stop = std::pin::pin!(Interrupt::listen()?.wait());
    let screen = !output.is_json() && io::stdout().is_terminal();
    let mut watch = Watch { only, output, screen, shown: BTreeMap::new() };
    let mut home = home;
    let mut looked: Option<(Timestamp, Files)> = None;
    loop {
        match home.lock() {
            Ok(lock) => {
                let found = files(&home);
                let due = looked
                    .as_ref()
                    .is_none_or(|(at, before)| *before != found || SystemClock.now().since(at) >= ASK);
                if due {
                    home = watch.look(home, lock, &mut stop).await?;
                    // What it changed in the store itself is nothing new.
                    let [store, ..] = files(&home);
                    let [_, customer, service] = found;
                    looked = Some((SystemClock.now(), [store, customer, service]));
                }
            }
            Err(CliError::Locked { .. }) => {
                looked = None;
                if let Some(status) = StatusFile::read(home.path()) {
                    let accounts = of_writer(&status, watch.only.as_ref());
                    watch.show(accounts.cloned().collect(), Some(status.pid))?;
                }
            }
            Err(e) => return Err(e),
        }
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// What tells that something may have changed.
type Files = [Option<(SystemTime, u64)>; 3];

fn files(home: &Home) -> Files {
    home.files().map(|path| {
        let found = path.metadata().ok()?;
        Some((found.modified().ok()?, found.len()))
    })
}

struct Watch<'a> {
    only: Option<AccountName>,
    output: &'a mut Output,
    /// On a terminal all is drawn anew.
    screen: bool,
    /// What was said last of each account, and since when its key is in its state as far as we saw.
    shown: BTreeMap<String, (AccountReport, Option<String>)>,
}

impl Watch<'_> {
    /// Opens the home and tells how it is; while it drains, again and again.
    async fn look(
        &mut self,
        home: Home,
        lock: HomeLock,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<Home, CliError> {
        let open = home.open_locked(lock, Keys::Needed).await?;
        let told = loop {
            let reports = match reports(&open, self.only.clone()).await {
                Ok(reports) => reports,
                Err(e) => break Err(e),
            };
            let goes_on = reports.iter().any(AccountReport::goes_on);
            let told = StatusFile::new("status --watch", reports.clone());
            if let Err(e) = self.show(reports, None) {
                break Err(e);
            }
            if !goes_on || open.home.drains() == Drains::Leave {
                break Ok(());
            }
            // Others find the home locked: they can read this.
            let _ = told.write(open.home.path());
            tokio::select! {
                biased;
                () = &mut *stop => break Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
        };
        StatusFile::remove(open.home.path());
        let home = open.close_now().await?;
        told.map(|()| home)
    }

    /// Tells what has changed.
    fn show(&mut self, accounts: Vec<AccountReport>, pid: Option<u32>) -> Result<(), CliError> {
        let at = Time(SystemClock.now().wall);
        let mut changes = Vec::new();
        for mut account in accounts {
            let before = self.shown.get(&account.account);
            let since = match before {
                Some((before, since)) if before.key_state == account.key_state => since.clone(),
                Some(_) => Some(at.to_string()),
                // It may have been so for long.
                None => None,
            };
            account.key_since = account.key_since.or_else(|| since.clone());
            if before.is_none_or(|(before, _)| before.timeless() != account.timeless()) {
                changes.push(Change { at, account: account.clone(), pid });
            }
            self.shown.insert(account.account.clone(), (account, since));
        }
        if changes.is_empty() && !self.screen {
            return Ok(());
        }
        if self.screen {
            let whose = pid.map(|pid| format!(", as the process {pid} says")).unwrap_or_default();
            self.output.text(format_args!("{CLEAR}{at}{whose}; interrupt to end"))?;
            for (account, _) in self.shown.values() {
                self.output.text(format_args!("{}", escape(&account.to_string())))?;
            }
        } else {
            changes.iter().try_for_each(|change| self.output.emit(change))?;
        }
        self.output.flush()
    }
}
