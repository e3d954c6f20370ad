//! `status.json`: what a writer tells others while it has the home open.
//!
//! Guarantees: replaced atomically, so a reader sees one state or another. It is removed by the writer when
//! it ends, and by the next one if it was killed.

use std::{fs, path::Path, time::Duration};

use cofferdam_vault::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::{error::CliError, files::replace, output::Time};

const NAME: &str = "status.json";

/// A writer's word on what it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusFile {
    /// The writer's process.
    pub(crate) pid: u32,
    /// When it was written, by RFC 3339.
    pub(crate) at: String,
    /// The command.
    pub(crate) command: String,
    /// The accounts that it works on.
    pub(crate) accounts: Vec<AccountReport>,
}

/// An account and the state of its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccountReport {
    pub(crate) account: String,
    pub(crate) provider: String,
    pub(crate) key_state: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) last_failure: Option<String>,
    /// All its blocks; beside a writer those that this writer has stored.
    pub(crate) blocks: u64,
    /// Their bytes, as they were put.
    pub(crate) bytes: u64,
}

impl StatusFile {
    pub(crate) fn new(command: &str, accounts: Vec<AccountReport>) -> Self {
        let at = Time(SystemClock.now().wall).to_string();
        Self { pid: std::process::id(), at, command: command.into(), accounts }
    }

    /// Replaces the home's.
    pub(crate) fn write(&self, home: &Path) -> Result<(), CliError> {
        let path = home.join(NAME);
        let json = serde_json::to_vec(self)
            .map_err(|e| CliError::writing("write", &path, std::io::Error::other(e)))?;
        replace(&path, &json)
    }

    /// What the writer said last; none if it has not spoken yet.
    pub(crate) fn read(home: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(home.join(NAME)).ok()?).ok()
    }

    /// Removes the home's, if there is one.
    pub(crate) fn remove(home: &Path) {
        let _ = fs::remove_file(home.join(NAME));
    }
}

/// How often a writer replaces its status.
pub(crate) const STATUS_EVERY: Duration = Duration::from_secs(1);
