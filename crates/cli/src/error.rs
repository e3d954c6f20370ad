//! What the program refuses, in one sentence, and its exit codes.
//!
//! Guarantees: every failure has one exit code, by the table of `cofferdam --help`; no message holds a
//! secret or a control character.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use cofferdam_crypto::{HeaderError, IdError, KeyId};
use cofferdam_keyring::PolicyError;
use cofferdam_store::{
    ArchiveError, EngineError, EngineErrorKind, Operation, OperationId, OperationStatus, ReceiptError,
    StoreError, StoreErrorKind,
};
use cofferdam_vault::LocalVaultError;
use serde_json::{Value, json};
use thiserror::Error;

use crate::output::{Time, escape};

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    /// A command that works on a home was given none.
    #[error("no home was given: name one with --home DIR, or set COFFERDAM_HOME")]
    NoHome,
    /// The folder holds no home.
    #[error("{} is not a home of cofferdam ({reason}): make one with `cofferdam --home DIR init`", .path.display())]
    NotAHome { path: PathBuf, reason: &'static str },
    /// An `init` was cut short there, or something else is in the way.
    #[error(
        "{} holds {found} but no cofferdam.json: if an init was cut short there, delete the folder and run \
         init again; else choose another folder", .path.display()
    )]
    InTheWay { path: PathBuf, found: &'static str },
    /// There is a home already.
    #[error("{} is a home already: use it, or choose another folder", .path.display())]
    HomeExists { path: PathBuf },
    /// The home was made by a later program.
    #[error("{} is a home of format {found}, this program knows {supported}: use a newer program", .path.display())]
    NewerHome { path: PathBuf, found: u64, supported: u64 },
    /// The home's settings can't be read.
    #[error("{} is damaged ({what}): restore it from a copy", .path.display())]
    DamagedSettings { path: PathBuf, what: String },
    /// Another process has the home's store open.
    #[error("{} is locked by another process{}: wait for it or end it", .path.display(), of_pid(*.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    /// What is there can't be written.
    #[error("can't {doing} {}: it is read-only, or belongs to somebody else: {source}; grant write access", .path.display())]
    ReadOnly { doing: &'static str, path: PathBuf, source: io::Error },
    /// No space is left.
    #[error("can't {doing} {}: the disk or quota is full; free some space and try again", .path.display())]
    Full { doing: &'static str, path: PathBuf, source: io::Error },
    /// A file could not be used.
    #[error("can't {doing} {}: {source}", .path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    /// The passphrase's file has none.
    #[error("{} holds no passphrase: {why}", .path.display())]
    PassphraseFile { path: PathBuf, why: &'static str },
    /// The file of vaults is wrong. It is never repeated what stands in it in place of a secret.
    #[error("{}: {what}", .path.display())]
    VaultConfig { path: PathBuf, what: String },
    /// A setting of `init` is out of its range.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// A block id can't be built from a file's name.
    #[error("{} can't name blocks: {source}; give a shorter name with --name", .path.display())]
    BlockName { path: PathBuf, source: IdError },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A block is longer than the program takes.
    #[error("{} has more than {max} bytes, which is the most for one block: use ingest, which cuts it into blocks", .path.display())]
    TooLarge { path: PathBuf, max: u64 },
    /// There are no files to work on.
    #[error("{}: no files to work on{}", .path.display(), .why)]
    NoFiles { path: PathBuf, why: String },
    /// Some of what was to be read could not be.
    #[error("{failed} of the files could not be read: the lines above name them; the others are stored")]
    SomeUnread { failed: u64 },
    /// A writer was told to stop before it had read everything.
    #[error("interrupted before all was read: what was printed is stored, the rest is not; run it again")]
    Interrupted,
    /// An operation failed, so the account is as it was.
    #[error("{} of account {} failed: {}", .operation.kind.name(), .operation.account, failure_of(.operation))]
    OperationFailed { operation: Box<Operation> },
    /// An operation goes on without this command.
    #[error(
        "{} of account {} is not done yet ({why}): it is operation {}, and goes on with the next command",
        .operation.kind.name(), .operation.account, .operation.id
    )]
    OperationLeft { operation: Box<Operation>, why: String },
    /// An operation was to be cancelled that has changed something, or ended.
    #[error("operation {operation} can't be cancelled: it is {}", .status.name())]
    TooLate { operation: OperationId, status: OperationStatus },
    /// A version of a KEK is needed still; what needs it was listed.
    #[error("{key_id} is not safe to disable yet: what is listed above needs it")]
    NotYet { key_id: KeyId },
    /// A receipt is not what was issued.
    #[error("{}: {source}", .path.display())]
    Receipt { path: PathBuf, source: ReceiptError },
    /// The key that a home signs receipts with can't be read.
    #[error("{} is damaged ({what}): restore it from a copy, or delete it to begin with another key", .path.display())]
    DamagedReceiptKey { path: PathBuf, what: String },
    /// What a home's key server is known by can't be read.
    #[cfg(feature = "serve")]
    #[error("{} is damaged ({what}): {why}", .path.display())]
    DamagedServing { path: PathBuf, what: &'static str, why: String },
    /// An archive can't be read or written.
    #[error("{}: {source}", .path.display())]
    Archive { path: PathBuf, source: ArchiveError },
    /// A command was told to stop, and left nothing.
    #[error("interrupted: {what}; run it again")]
    Stopped { what: &'static str },
    /// Something stored is damaged; it was listed.
    #[error("{what}")]
    Damage { what: String },
    /// The demonstration found a promise broken.
    #[error("the demonstration failed: {what}")]
    Demo { what: String },
    /// A sealed block's header.
    #[error("{}: {source}", .path.display())]
    Header { path: PathBuf, source: HeaderError },
    /// The customer's or the service's vault.
    #[error("{0}")]
    Vault(LocalVaultError),
    /// The server of keys.
    #[cfg(feature = "serve")]
    #[error("{0}")]
    Serve(#[from] cofferdam_vault::serve::ServeError),
    /// The engine.
    #[error("{}", told(.0))]
    Engine(#[from] EngineError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Standard output was closed or can't be written.
    #[error("can't write to standard output: {0}")]
    Output(io::Error),
    /// The runtime or a thread of it could not be had.
    #[error("can't {doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    /// A task ended early, which only a defect makes it do.
    #[error("a task ended early: this is a defect, please report it ({0})")]
    Task(String),
    /// The demonstration waited in vain.
    #[error("{what} within {waited:?}")]
    Overdue { what: &'static str, waited: Duration },
}

/// What a shell gets, by the table of section 8 of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Revoked = 3,
    Unavailable = 4,
    Corrupt = 5,
    NotFound = 6,
    NotYet = 7,
}

impl Exit {
    /// Its name in JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Revoked => "key_revoked",
            Self::Unavailable => "key_unavailable",
            Self::Corrupt => "corrupt",
            Self::NotFound => "not_found",
            Self::NotYet => "not_yet",
        }
    }
}

impl CliError {
    /// A file that could not be read.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        Self::File { doing: "read", path: path.to_path_buf(), source }
    }

    /// A file that could not be written; a full disk and a read-only place are told apart.
    pub(crate) fn writing(doing: &'static str, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind as E;
        let path = path.to_path_buf();
        match source.kind() {
            E::StorageFull | E::QuotaExceeded => Self::Full { doing, path, source },
            E::ReadOnlyFilesystem | E::PermissionDenied => Self::ReadOnly { doing, path, source },
            _ => Self::File { doing, path, source },
        }
    }

    /// What an export or an import ended with: the file is named where it is the file's fault.
    pub(crate) fn of_archive(path: &Path, e: EngineError) -> Self {
        match e {
            EngineError::Archive(source) => Self::Archive { path: path.into(), source },
            e => Self::Engine(e),
        }
    }

    /// What the shell gets.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::NoHome | Self::Usage(_) | Self::Policy(_) | Self::VaultConfig { .. } => Exit::Usage,
            Self::DamagedSettings { .. } | Self::Damage { .. } => Exit::Corrupt,
            Self::Header { source, .. } => match source {
                HeaderError::Format { .. } | HeaderError::NotASealedBlock => Exit::Failed,
                _ => Exit::Corrupt,
            },
            Self::Vault(e) => match e {
                LocalVaultError::KeyNotFound { .. } => Exit::NotFound,
                LocalVaultError::Damaged { .. } | LocalVaultError::NotAVault { .. } => Exit::Corrupt,
                LocalVaultError::BadKeyId { .. } | LocalVaultError::BadName { .. } => Exit::Usage,
                _ => Exit::Failed,
            },
            Self::NotYet { .. } => Exit::NotYet,
            Self::DamagedReceiptKey { .. } => Exit::Corrupt,
            #[cfg(feature = "serve")]
            Self::DamagedServing { .. } => Exit::Corrupt,
            Self::Receipt { source, .. } => match source {
                ReceiptError::Newer { .. } | ReceiptError::OtherIssuer { .. } => Exit::Failed,
                _ => Exit::Corrupt,
            },
            Self::OperationFailed { operation } => {
                match operation.failure.as_ref().map(|of| of.code.as_str()) {
                    Some("vault-denied" | "key-revoked") => Exit::Revoked,
                    Some("record-damaged" | "store-damaged" | "forged") => Exit::Corrupt,
                    Some("no-account") => Exit::NotFound,
                    _ => Exit::Failed,
                }
            }
            Self::Archive { source, .. } if source.is_damage() => Exit::Corrupt,
            // As a block that is not there: it may be made again, or recovered.
            Self::Engine(EngineError::AccountDeleted { .. }) => Exit::NotFound,
            Self::Engine(EngineError::BadSetting { .. }) => Exit::Usage,
            Self::Engine(e) => match e.kind() {
                EngineErrorKind::Revoked => Exit::Revoked,
                EngineErrorKind::Unavailable => Exit::Unavailable,
                EngineErrorKind::Corrupt => Exit::Corrupt,
                EngineErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            },
            Self::Store(e) => match e.kind() {
                StoreErrorKind::Corrupt | StoreErrorKind::NotAStore => Exit::Corrupt,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }

    /// Whether the reader of our output has gone, which is no failure of ours.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The one sentence, without control characters.
    pub(crate) fn sentence(&self) -> String {
        escape(&self.to_string())
    }

    /// As `--json` prints it.
    pub(crate) fn json(&self) -> Value {
        error_json(self.exit(), &self.sentence())
    }
}

impl From<LocalVaultError> for CliError {
    fn from(e: LocalVaultError) -> Self {
        use io::ErrorKind as E;
        match e {
            LocalVaultError::Io { what, path, source }
                if matches!(source.kind(), E::StorageFull | E::QuotaExceeded | E::ReadOnlyFilesystem) =>
            {
                Self::writing(what, &path, source)
            }
            e => Self::Vault(e),
        }
    }
}

/// An error as `--json` prints it.
pub(crate) fn error_json(exit: Exit, message: &str) -> Value {
    json!({ "error": { "kind": exit.name(), "exit_code": exit as u8, "message": message } })
}

/// As the engine says it, with times that people can read.
fn told(e: &EngineError) -> String {
    match e {
        EngineError::AccountDeleted { account, until } => {
            format!("account {account} is deleted: recover it before {}, or it is destroyed", Time(*until))
        }
        EngineError::PurgeProtected { account, until } => format!(
            "account {account} is protected from being purged: it is destroyed by itself at {}",
            Time(*until)
        ),
        EngineError::OperationRunning { account, operation, kind, since } => format!(
            "operation {operation} ({kind}) of account {account} goes on since {}: wait for it, or cancel it",
            Time(*since)
        ),
        e => e.to_string(),
    }
}

fn failure_of(operation: &Operation) -> &str {
    operation.failure.as_ref().map_or("it does not say why", |failure| failure.message.as_str())
}

fn of_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hold_no_control_characters() {
        let error =
            CliError::NotAHome { path: PathBuf::from("a\n\x1b[2Jb"), reason: "it has no cofferdam.json" };
        assert!(!error.sentence().chars().any(char::is_control), "{}", error.sentence());
    }

    #[test]
    fn a_full_disk_and_a_read_only_place_are_told_apart() {
        let of = |code| CliError::writing("write", Path::new("x"), io::Error::from_raw_os_error(code));
        assert!(matches!(of(28), CliError::Full { .. }));
        assert!(matches!(of(30), CliError::ReadOnly { .. }));
        assert!(matches!(of(5), CliError::File { .. }));
    }
}
