//! Waits for operations, and shows how far they are.
//!
//! Guarantees: ends once each operation has ended or can't go on by itself, and says what is in the way; an interrupt ends
//! the waiting and nothing else. Not its job: what operations do.

use std::time::Duration;

use cofferdam_store::{Operation, OperationHandle, OperationStatus, Step};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    error::CliError,
    home::OpenHome,
    output::{escape, note},
    signals::Interrupt,
};

/// How often it is looked how far an operation is.
const LOOK: Duration = Duration::from_millis(100);
/// How long is waited before it is told how operations stand.
const MOMENT: Duration = Duration::from_millis(300);
/// How long one that has something in its way is given before it is left: longer than the engine's first pause.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Waits for an operation that a command began.
pub(crate) async fn wait(handle: &OperationHandle) -> Result<Operation, CliError> {
    let interrupt = Interrupt::listen()?;
    tokio::select! {
        biased;
        operation = settle(handle) => operation,
        () = interrupt.wait() => {
            Err(CliError::OperationLeft { operation: Box::new(handle.status().await?), why: "interrupted".into() })
        }
    }
}

/// The operation once it has succeeded; an error says why it has not.
pub(crate) fn succeeded(operation: Operation) -> Result<Operation, CliError> {
    match operation.status {
        OperationStatus::Succeeded => Ok(operation),
        OperationStatus::Failed => Err(CliError::OperationFailed { operation: Box::new(operation) }),
        _ => {
            let why = operation.waits_for.clone().unwrap_or_else(|| "it was left".into());
            Err(CliError::OperationLeft { operation: Box::new(operation), why })
        }
    }
}

/// Waits for all operations of a home that go on.
pub(crate) async fn finish(open: &OpenHome) -> Result<(), CliError> {
    open.engine.settle_operations().await;
    for operation in open.engine.operations().await? {
        if operation.status.has_ended() {
            continue;
        }
        let operation = settle(&open.engine.operation(operation.id).await?).await?;
        let (kind, account) = (operation.kind.name(), &operation.account);
        match (&operation.failure, &operation.waits_for) {
            (Some(failure), _) => {
                note(format_args!("warning: {kind} of {account} failed: {}", escape(&failure.message)));
            }
            (None, Some(why)) => note(format_args!("warning: {kind} of {account} waits: {}", escape(why))),
            (None, None) => {}
        }
    }
    Ok(())
}

/// Gives operations that were left a moment, so that what is in the way of one is seen; one that has something to do takes its
/// time.
pub(crate) async fn begin_to_go_on(open: &OpenHome) {
    let _ = timeout(MOMENT, open.engine.settle_operations()).await;
}

/// Waits until the operation has ended, or has something in its way for a while.
async fn settle(handle: &OperationHandle) -> Result<Operation, CliError> {
    let mut progress = Progress::default();
    let mut seen = handle.status().await?;
    let mut moved_at = Instant::now();
    while !seen.status.has_ended() {
        progress.show(&seen);
        tokio::select! {
            biased;
            ended = handle.wait() => seen = ended?,
            settled = handle.settle(), if moved_at.elapsed() >= PATIENCE => return Ok(settled?),
            () = sleep(LOOK) => {
                let now = handle.status().await?;
                if (now.step, now.progress) != (seen.step, seen.progress) {
                    moved_at = Instant::now();
                }
                seen = now;
            }
        }
    }
    Ok(seen)
}

/// A bar on a terminal, nothing in a pipe.
#[derive(Default)]
struct Progress {
    bar: Option<(ProgressBar, Step)>,
}

impl Progress {
    fn show(&mut self, operation: &Operation) {
        let (step, progress) = (operation.step, operation.progress);
        let bar = match &mut self.bar {
            Some((bar, shown)) if *shown == step => bar,
            _ => {
                let message = format!("{}: {}", operation.kind.name(), step.name());
                let bar = ProgressBar::new(progress.total).with_message(message);
                let counts = matches!(step, Step::Reencrypt | Step::Remove);
                let template =
                    if counts { "{msg:24} {wide_bar} {pos}/{len} blocks" } else { "{msg} {spinner}" };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                if let Some((former, _)) = self.bar.take() {
                    former.finish_and_clear();
                }
                &mut self.bar.insert((bar, step)).0
            }
        };
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((bar, _)) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
