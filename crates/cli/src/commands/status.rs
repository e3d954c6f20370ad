//! `status`: how the accounts and their keys are.
//!
//! Guarantees: asks the vaults, so what it says of a key is so now; beside a writer, which has the store open,
//! it says what that one said last.

use std::{fmt, time::Duration};

use cofferdam_store::{AccountKeyStatus, AccountName, AccountStatus};
use serde::Serialize;

use crate::{
    error::CliError,
    home::{AccountReport, Home, Keys, OpenHome, StatusFile},
    operation,
    output::{Output, escape},
};

/// How long to wait for the first word of a process that has the home open, in steps.
const WAIT: Duration = Duration::from_millis(50);
const STEPS: u32 = 20;

/// An account, and who says so if it is not this process.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    account: AccountReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<Writer>,
}

#[derive(Clone, Serialize)]
struct Writer {
    pid: u32,
    at: String,
    command: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.account.fmt(f)
    }
}

pub(super) async fn run(home: Home, only: Option<AccountName>, output: &mut Output) -> Result<(), CliError> {
    for step in 0.. {
        match home.lock() {
            Ok(lock) => {
                let open = home.open_locked(lock, Keys::Needed).await?;
                let told = tell(&open, only, output).await;
                open.close().await?;
                return told;
            }
            Err(locked @ CliError::Locked { .. }) => match StatusFile::read(home.path()) {
                Some(status) => return tell_writers(&status, only.as_ref(), output),
                // A short command, or a writer that has just begun.
                None if step < STEPS => tokio::time::sleep(WAIT).await,
                None => return Err(locked),
            },
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

async fn tell(open: &OpenHome, only: Option<AccountName>, output: &mut Output) -> Result<(), CliError> {
    operation::begin_to_go_on(open).await;
    let reports = reports(open, only).await?;
    if reports.is_empty() {
        output.text(format_args!("There are no accounts yet: make one with account create"))?;
    }
    reports.into_iter().try_for_each(|account| output.emit(&Line { account, writer: None }))?;
    // A drain or an operation may follow.
    output.flush()
}

/// How accounts are, after asking their vaults.
pub(super) async fn reports(
    open: &OpenHome,
    only: Option<AccountName>,
) -> Result<Vec<AccountReport>, CliError> {
    let mut reports = Vec::new();
    for name in names(open, only).await? {
        let account = open.engine.account(&name).await?;
        // What it brings is in the status.
        let checked = account.check_key().await;
        let AccountStatus { provider, key, buffer_mode, blocks, bytes, buffer, .. } =
            account.status().await?;
        let status = AccountKeyStatus { provider, key, buffer_mode, buffer };
        let mut report = AccountReport::new(&name, status, None, &open.home.buffer_bounds());
        report.last_failure = report.last_failure.or_else(|| checked.err().map(|e| e.to_string()));
        report.blocks = blocks;
        report.bytes = bytes;
        reports.push(report.with(account.keks().await?, account.operation().await?.as_ref()));
    }
    Ok(reports)
}

/// One account, or all of a home.
pub(super) async fn names(open: &OpenHome, only: Option<AccountName>) -> Result<Vec<AccountName>, CliError> {
    match only {
        Some(name) => Ok(vec![name]),
        None => open.accounts().await,
    }
}

fn tell_writers(
    status: &StatusFile,
    only: Option<&AccountName>,
    output: &mut Output,
) -> Result<(), CliError> {
    let StatusFile { pid, at, command, .. } = status;
    output.text(format_args!("As {} (pid {pid}) said at {}:", escape(command), escape(at)))?;
    let writer = Writer { pid: *pid, at: at.clone(), command: command.clone() };
    let mut told = false;
    for account in of_writer(status, only) {
        output.emit(&Line { account: account.clone(), writer: Some(writer.clone()) })?;
        told = true;
    }
    match only {
        Some(only) if !told => Err(CliError::Usage(format!(
            "a writer of another account has the home open, so nothing can be said of {only} now: try again later"
        ))),
        _ => Ok(()),
    }
}

/// The accounts that a writer tells of and that are asked about.
pub(super) fn of_writer<'a>(
    status: &'a StatusFile,
    only: Option<&'a AccountName>,
) -> impl Iterator<Item = &'a AccountReport> {
    status.accounts.iter().filter(move |account| only.is_none_or(|only| only.as_str() == account.account))
}
