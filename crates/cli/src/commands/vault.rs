//! `vault`: the customer's side. It takes no lock of the home's, so a writer feels what it does.

use std::fmt;

use cofferdam_crypto::KeyId;
use cofferdam_vault::{KeyInfo, KeyState, Recovery};
use serde::Serialize;

use crate::{
    cli::Vault,
    error::CliError,
    home::Home,
    output::{Output, Time},
};

/// A key id, printed whole and alone.
#[derive(Serialize)]
struct Key {
    key_id: KeyId,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key_id.fmt(f)
    }
}

/// What became of a key.
#[derive(Serialize)]
struct Changed {
    key_id: KeyId,
    state: &'static str,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.key_id, self.state)
    }
}

#[derive(Serialize)]
struct Switched {
    vault: &'static str,
}

impl fmt::Display for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The customer's vault is {}", self.vault)
    }
}

/// A version in a list.
#[derive(Serialize)]
struct Listed {
    key_id: KeyId,
    state: &'static str,
    created: Time,
    kind: String,
    recoverable: bool,
    latest: bool,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.key_id, self.state, self.created, self.kind)?;
        if self.latest {
            f.write_str(" latest")?;
        }
        if !self.recoverable {
            f.write_str(" not-recoverable")?;
        }
        Ok(())
    }
}

pub(super) async fn run(home: &Home, command: Vault, output: &mut Output) -> Result<(), CliError> {
    let vault = home.customer_vault().await?;
    match command {
        Vault::CreateKey { name, kind, not_recoverable } => {
            let recovery = if not_recoverable { Recovery::Off } else { Recovery::default() };
            let key_id = vault.create_key_of(&name, kind, recovery).await?;
            output.emit(&Key { key_id })
        }
        Vault::NewVersion { name } => output.emit(&Key { key_id: vault.new_version(&name).await? }),
        Vault::Disable(key) => {
            vault.disable(&key.key_id).await?;
            output.emit(&Changed { key_id: key.key_id, state: "disabled" })
        }
        Vault::Enable(key) => {
            vault.enable(&key.key_id).await?;
            output.emit(&Changed { key_id: key.key_id, state: "enabled" })
        }
        Vault::Delete(key) => {
            vault.delete(&key.key_id).await?;
            output.emit(&Changed { key_id: key.key_id, state: "deleted" })
        }
        Vault::Recover(key) => {
            vault.recover(&key.key_id).await?;
            output.emit(&Changed { key_id: key.key_id, state: "recovered" })
        }
        Vault::List => vault.list().await?.into_iter().flat_map(listed).try_for_each(|key| output.emit(&key)),
        Vault::Offline => {
            vault.set_offline(true).await?;
            output.emit(&Switched { vault: "offline" })
        }
        Vault::Online => {
            vault.set_offline(false).await?;
            output.emit(&Switched { vault: "online" })
        }
        #[cfg(feature = "serve")]
        Vault::Serve(args) => super::serve::run(home, vault, args, output).await,
    }
}

fn listed(key: KeyInfo) -> Vec<Listed> {
    let recoverable = matches!(key.recovery, Recovery::Protected { .. });
    let latest = key.versions.iter().rposition(|v| v.state != KeyState::Deleted);
    let version = |(at, version): (usize, cofferdam_vault::VersionInfo)| Listed {
        key_id: version.key_id,
        state: state_name(version.state),
        created: Time(version.created_at),
        kind: key.kind.to_string(),
        recoverable,
        latest: Some(at) == latest,
    };
    key.versions.into_iter().enumerate().map(version).collect()
}

fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "enabled",
        KeyState::Disabled => "disabled",
        KeyState::Expired => "expired",
        KeyState::NotYetActive => "not-yet-active",
        KeyState::Deleted => "deleted",
        _ => "unknown",
    }
}
