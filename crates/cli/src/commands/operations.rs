//! `operations` and `operations cancel`; and what every command does that begins one.
//!
//! Guarantees: an operation is told of once it has ended, or with why it has not. Not its job: to run them.

use std::fmt;

use cofferdam_crypto::KeyId;
use cofferdam_store::{AccountName, EngineError, Operation, OperationHandle, OperationKind, OperationStatus};
use serde::Serialize;

use crate::{
    cli::{Operations, OperationsCommand},
    error::CliError,
    home::{Drains, Home, Keys, OpenHome},
    operation,
    output::{Output, Time, escape},
};

/// An operation, as it is printed.
#[derive(Serialize)]
pub(super) struct OperationLine {
    operation: String,
    account: String,
    kind: &'static str,
    status: &'static str,
    step: &'static str,
    /// The KEK that is replaced or removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<KeyId>,
    /// The KEK that is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reencrypt: Option<bool>,
    /// Blocks that are done, of `total`.
    done: u64,
    total: u64,
    started: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    cancellable: bool,
}

#[derive(Serialize)]
struct Failure {
    code: String,
    message: String,
}

impl From<&Operation> for OperationLine {
    fn from(of: &Operation) -> Self {
        use OperationKind as K;
        let (from, to, reencrypt) = match of.kind.clone() {
            K::RotateKek { from, to, .. } => (Some(from), Some(to), None),
            K::AddKek { kek, .. } => (None, Some(kek), None),
            K::RemoveKek { kek, .. } => (Some(kek), None, None),
            K::RotateAek { reencrypt } | K::Unlink { reencrypt } => (None, None, Some(reencrypt)),
            K::Link { kek, reencrypt, .. } => (None, Some(kek), Some(reencrypt)),
            _ => (None, None, None),
        };
        Self {
            operation: of.id.to_string(),
            account: of.account.to_string(),
            kind: of.kind.name(),
            status: of.status.name(),
            step: of.step.name(),
            from,
            to,
            reencrypt,
            done: of.progress.done,
            total: of.progress.total,
            started: Time(of.started_at),
            ended: of.ended_at.map(Time),
            failure: of
                .failure
                .as_ref()
                .map(|failure| Failure { code: failure.code.clone(), message: escape(&failure.message) }),
            waits_for: of.waits_for.as_deref().map(escape),
            cancellable: of.is_cancellable(),
        }
    }
}

impl fmt::Display for OperationLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, account, kind, status, step, done, total, started, .. } = self;
        write!(f, "{operation} {account} {kind} {status}")?;
        if self.ended.is_none() {
            write!(f, " at {step}")?;
        }
        if let Some(from) = &self.from {
            write!(f, ", from {from}")?;
        }
        if let Some(to) = &self.to {
            write!(f, ", to {to}")?;
        }
        if *total > 0 {
            write!(f, ", {done} of {total} blocks")?;
        }
        write!(f, ", started {started}")?;
        if let Some(ended) = &self.ended {
            write!(f, ", ended {ended}")?;
        }
        if let Some(Failure { code, message }) = &self.failure {
            write!(f, ", {code}: {message}")?;
        }
        match &self.waits_for {
            Some(why) => write!(f, ", waits: {why}"),
            None => Ok(()),
        }
    }
}

/// Begins an operation and waits for it, unless the command is told not to; tells how it ended.
pub(super) async fn run_one(
    home: Home,
    output: &mut Output,
    begin: impl AsyncFnOnce(&OpenHome) -> Result<OperationHandle, EngineError>,
) -> Result<(), CliError> {
    let open = home.open(Keys::Needed).await?;
    let told = one(&open, output, begin).await;
    let closed = match told {
        // Who interrupts it does not want to wait for anything else either.
        Err(CliError::OperationLeft { .. }) => open.close_now().await,
        _ => open.close().await,
    };
    told?;
    closed.map(drop)
}

async fn one(
    open: &OpenHome,
    output: &mut Output,
    begin: impl AsyncFnOnce(&OpenHome) -> Result<OperationHandle, EngineError>,
) -> Result<(), CliError> {
    if open.home.drains() == Drains::Leave {
        let begun = begin(open).await?.status().await?;
        return output.emit(&OperationLine::from(&begun));
    }
    finish_first(open).await?;
    let ended = operation::wait(&begin(open).await?).await?;
    let ended = operation::succeeded(ended)?;
    output.emit(&OperationLine::from(&ended))?;
    // A drain may follow.
    output.flush()
}

/// Finishes what a command before has left, or was killed at: it would be in the way.
pub(super) async fn finish_first(open: &OpenHome) -> Result<(), CliError> {
    match open.home.drains() {
        Drains::Finish => operation::finish(open).await,
        Drains::Leave => Ok(()),
    }
}

pub(super) async fn run(home: Home, args: Operations, output: &mut Output) -> Result<(), CliError> {
    let open = home.open(Keys::Needed).await?;
    let told = match args.command {
        Some(OperationsCommand::Cancel { id }) => {
            async {
                let ended = open.engine.operation(id).await?.cancel().await?;
                match (ended.status, &ended.failure) {
                    (OperationStatus::Failed, Some(failure)) if failure.code == "cancelled" => {
                        output.emit(&OperationLine::from(&ended))
                    }
                    (status, _) => Err(CliError::TooLate { operation: id, status }),
                }
            }
            .await
        }
        None => list(&open, args.account.as_ref(), output).await,
    };
    let closed = open.close().await;
    told?;
    closed.map(drop)
}

async fn list(open: &OpenHome, only: Option<&AccountName>, output: &mut Output) -> Result<(), CliError> {
    operation::begin_to_go_on(open).await;
    let mut all = open.engine.operations().await?;
    if let Some(only) = only {
        // Also of an account that is deleted.
        all.retain(|operation| operation.account == *only);
        if all.is_empty() {
            open.engine.account(only).await?;
        }
    }
    all.sort_by_key(|operation| operation.started_at);
    all.iter().try_for_each(|operation| output.emit(&OperationLine::from(operation)))?;
    output.flush()
}
