//! `status.json`: what a writer tells others while it has the home open.
//!
//! Guarantees: replaced atomically, so a reader sees one state or another. It is removed by the writer when
//! it ends, and by the next one if it was killed.

use std::{fmt, fs, path::Path, time::Duration};

use cofferdam_keyring::KeyState;
use cofferdam_store::{AccountKeyStatus, AccountName, BufferMode, KekStatus, Operation};
use cofferdam_vault::{Clock, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};

use super::config::BufferBounds;
use crate::{
    error::CliError,
    files::replace,
    output::{Time, escape, size},
};

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

/// An account, the state of its key, and what waits for it. Times are by RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccountReport {
    pub(crate) account: String,
    pub(crate) provider: String,
    pub(crate) key_state: String,
    /// Since when, if whoever says so saw it change.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) key_since: Option<String>,
    /// When the vault was asked last with success, if a key is held.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) verified_at: Option<String>,
    /// Until when the key is active without another success.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) fresh_until: Option<String>,
    /// Until when the key is used without another success.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) usable_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) last_failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) last_failure_at: Option<String>,
    /// All its blocks, buffered ones too; beside a writer those that this writer has written.
    pub(crate) blocks: u64,
    /// Their bytes, as they were put.
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) buffer: BufferReport,
    /// What its AEKs are wrapped under; none for an account under the service's key.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) keks: Vec<KekReport>,
    /// The operation that goes on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) operation: Option<OperationReport>,
}

/// A KEK of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KekReport {
    /// The version that the account's AEKs are wrapped under.
    pub(crate) key_id: String,
    /// Since when it has not answered while another did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) bridged_since: Option<String>,
}

/// An operation that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OperationReport {
    pub(crate) operation: String,
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) step: String,
    /// Blocks that are done, of `total`.
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// What keeps it from going on, while something does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) waits_for: Option<String>,
}

impl From<&Operation> for OperationReport {
    fn from(operation: &Operation) -> Self {
        Self {
            operation: operation.id.to_string(),
            kind: operation.kind.name().into(),
            status: operation.status.name().into(),
            step: operation.step.name().into(),
            done: operation.progress.done,
            total: operation.progress.total,
            waits_for: operation.waits_for.clone(),
        }
    }
}

impl fmt::Display for OperationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, status, step, done, total, .. } = self;
        write!(f, "; {} {}, step {}", escape(kind), escape(status), escape(step))?;
        if *total > 0 {
            write!(f, ", {done} of {total} blocks")?;
        }
        match &self.waits_for {
            Some(why) => write!(f, ", waits: {}", escape(why)),
            None => Ok(()),
        }
    }
}

/// What waits for an account's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BufferReport {
    /// What its blocks are sealed under: `service-managed` or `write-only`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) mode: Option<String>,
    pub(crate) blocks: u64,
    /// Their sealed bytes.
    pub(crate) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) since: Option<String>,
    /// Until when it takes writes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) takes_until: Option<String>,
    /// The most sealed bytes that it takes; 0 when it takes none.
    pub(crate) max_bytes: u64,
    /// Whether it is being drained.
    pub(crate) draining: bool,
    /// How many blocks this process has drained.
    pub(crate) drained_blocks: u64,
    /// What went wrong with it last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) trouble: Option<String>,
}

impl AccountReport {
    /// Of what the engine says. `since` is when the key's state changed, where that was seen.
    pub(crate) fn new(
        account: &AccountName,
        status: AccountKeyStatus,
        since: Option<Timestamp>,
        bounds: &BufferBounds,
    ) -> Self {
        let AccountKeyStatus { provider, key, buffer_mode, buffer } = status;
        let time = |at: Option<Timestamp>| at.map(|at| Time(at.wall).to_string());
        let draining = buffer.blocks > 0
            && buffer.trouble.is_none()
            && matches!(key.state, KeyState::Active | KeyState::Grace);
        Self {
            account: account.to_string(),
            provider: provider.to_string(),
            key_state: key.state.to_string(),
            key_since: time(since),
            verified_at: time(key.verified_at),
            fresh_until: time(key.fresh_until),
            usable_until: time(key.usable_until),
            key_id: key.key_id.map(String::from),
            last_failure_at: time(key.last_failure.as_ref().map(|failure| failure.at)),
            last_failure: key.last_failure.map(|failure| failure.message),
            blocks: 0,
            bytes: 0,
            buffer: BufferReport {
                mode: buffer_mode.map(|mode| mode.to_string()),
                blocks: buffer.blocks,
                bytes: buffer.bytes,
                since: buffer.since.map(|since| Time(since).to_string()),
                takes_until: buffer.since.map(|since| Time(since + bounds.max_time()).to_string()),
                max_bytes: if bounds.is_on() { bounds.max_bytes } else { 0 },
                draining,
                drained_blocks: buffer.drained.blocks,
                trouble: buffer.trouble.map(|trouble| trouble.message),
            },
            keks: Vec::new(),
            operation: None,
        }
    }

    /// With what is known of the account beside the state of its key.
    pub(crate) fn with(mut self, keks: Vec<KekStatus>, operation: Option<&Operation>) -> Self {
        let report = |kek: KekStatus| KekReport {
            key_id: kek.key_id.into(),
            bridged_since: kek.bridged_since.map(|since| Time(since).to_string()),
        };
        self.keks = keks.into_iter().map(report).collect();
        self.operation = operation.filter(|of| !of.status.has_ended()).map(OperationReport::from);
        self
    }

    /// Whether something of it is under way that ends by itself.
    pub(crate) fn goes_on(&self) -> bool {
        self.buffer.draining || self.operation.as_ref().is_some_and(|operation| operation.waits_for.is_none())
    }

    /// The same without what changes as time goes by.
    pub(crate) fn timeless(&self) -> Self {
        Self {
            verified_at: None,
            fresh_until: None,
            usable_until: None,
            key_since: None,
            last_failure_at: None,
            ..self.clone()
        }
    }
}

impl fmt::Display for AccountReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, provider, key_state, blocks, bytes, buffer, .. } = self;
        write!(f, "{account}: {provider} key {key_state}")?;
        if let Some(since) = &self.key_since {
            write!(f, " since {}", escape(since))?;
        }
        write!(f, ", {blocks} blocks, {}", size(*bytes))?;
        for (what, of) in
            [("", &self.key_id), ("active until ", &self.fresh_until), ("usable until ", &self.usable_until)]
        {
            if let Some(of) = of {
                write!(f, ", {what}{}", escape(of))?;
            }
        }
        if self.keks.len() > 1 {
            write!(f, "; {} KEKs:", self.keks.len())?;
            for (at, kek) in self.keks.iter().enumerate() {
                write!(f, "{} {}", if at > 0 { "," } else { "" }, escape(&kek.key_id))?;
                if let Some(since) = &kek.bridged_since {
                    write!(f, " (bridged since {})", escape(since))?;
                }
            }
        }
        buffer.fmt(f)?;
        if let Some(operation) = &self.operation {
            operation.fmt(f)?;
        }
        if let Some(failure) = &self.last_failure {
            let at =
                self.last_failure_at.as_ref().map(|at| format!(" at {}", escape(at))).unwrap_or_default();
            write!(f, "; last failure{at}: {}", escape(failure))?;
        }
        Ok(())
    }
}

impl fmt::Display for BufferReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, bytes, max_bytes, drained_blocks, .. } = self;
        if self.mode.as_deref() == Some(BufferMode::WriteOnly.name()) {
            f.write_str("; write-only buffer")?;
        }
        if *blocks > 0 {
            write!(f, "; {blocks} blocks buffered, {} of {}", size(*bytes), size(*max_bytes))?;
            if let Some(since) = &self.since {
                write!(f, ", since {}", escape(since))?;
            }
            match &self.takes_until {
                _ if *max_bytes == 0 => f.write_str(", takes no more")?,
                Some(until) => write!(f, ", takes more until {}", escape(until))?,
                None => {}
            }
        }
        if self.draining {
            write!(f, "; draining, {drained_blocks} blocks done")?;
        } else if *drained_blocks > 0 {
            write!(f, "; {drained_blocks} blocks drained")?;
        }
        if let Some(trouble) = &self.trouble {
            write!(f, "; buffer trouble: {}", escape(trouble))?;
        }
        Ok(())
    }
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
