//! `account`: accounts are made, listed, deleted, recovered and purged.

use std::fmt;

use cofferdam_crypto::KeyId;
use cofferdam_store::{AccountKey, AccountName, BufferMode, DeletedAccount};
use serde::Serialize;

use super::operations::{finish_first, run_one};
use crate::{
    cli::{AccountCommand, Switch},
    error::CliError,
    home::{Home, Keys, OpenHome},
    output::{Output, Time},
};

#[derive(Serialize)]
struct Created {
    account: String,
    id: String,
    provider: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// What writes are sealed under that wait for that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer: Option<&'static str>,
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Created {} under ", self.account)?;
        match &self.key_id {
            Some(key_id) => f.write_str(key_id)?,
            None => f.write_str("the service's key")?,
        }
        if self.buffer == Some(BufferMode::WriteOnly.name()) {
            f.write_str(", with a write-only buffer")?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Name {
    account: String,
    /// The versions that its keys are wrapped under, as its record says; none under the service's key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    key_ids: Vec<KeyId>,
    /// When it was deleted, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Time>,
    /// Until when it can be recovered then.
    #[serde(skip_serializing_if = "Option::is_none")]
    recoverable_until: Option<Time>,
}

impl Name {
    async fn live(open: &OpenHome, name: &AccountName) -> Self {
        let keks = async { open.engine.account(name).await?.keks().await }.await;
        // A damaged record does not keep the others from being listed.
        let key_ids = keks.unwrap_or_default().into_iter().map(|kek| kek.key_id).collect();
        Self { account: name.to_string(), key_ids, deleted: None, recoverable_until: None }
    }

    fn deleted(of: &DeletedAccount) -> Self {
        Self {
            account: of.name.to_string(),
            key_ids: Vec::new(),
            deleted: Some(Time(of.at)),
            recoverable_until: Some(Time(of.until)),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.account)?;
        match (&self.deleted, &self.recoverable_until) {
            (Some(at), Some(until)) => write!(f, " deleted {at}, recoverable until {until}"),
            _ => Ok(()),
        }
    }
}

/// A setting of an account that was changed.
#[derive(Serialize)]
struct Set {
    account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    purge_protection: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    follow_latest: Option<bool>,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.follow_latest {
            None => write!(f, "{} can't be purged before its time any longer", self.account),
            Some(true) => write!(f, "{} goes to the latest versions of its KEKs by itself", self.account),
            Some(false) => write!(f, "{} stays under the versions that are set", self.account),
        }
    }
}

pub(super) async fn run(home: Home, command: AccountCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        AccountCommand::Create { name, kek, whose, write_only_buffer } => {
            let open = home.open(Keys::Needed).await?;
            let buffer = if write_only_buffer { BufferMode::WriteOnly } else { BufferMode::ServiceManaged };
            let key = match kek.clone() {
                Some(kek) => AccountKey::Customer { principal: whose.principal, kek, buffer },
                None => AccountKey::Service,
            };
            let created = open.engine.create_account(&name, key).await;
            open.close().await?;
            let account = created?;
            output.emit(&Created {
                account: name.to_string(),
                id: account.id().to_string(),
                provider: if kek.is_some() { "customer" } else { "service" },
                buffer: kek.is_some().then_some(buffer.name()),
                key_id: kek.map(String::from),
            })
        }
        AccountCommand::List { deleted } => {
            let open = home.open(Keys::Unused).await?;
            let mut all = Vec::new();
            for name in open.accounts().await? {
                all.push(Name::live(&open, &name).await);
            }
            if deleted {
                all.extend(open.deleted_accounts().await?.iter().map(Name::deleted));
                all.sort_by(|one, other| one.account.cmp(&other.account));
            }
            all.iter().try_for_each(|name| output.emit(name))?;
            open.close().await.map(drop)
        }
        AccountCommand::Delete { name } => {
            run_one(home, output, async |open| open.engine.account(&name).await?.delete_account().await).await
        }
        AccountCommand::Recover { name } => {
            run_one(home, output, async |open| open.engine.recover_account(&name).await).await
        }
        AccountCommand::Purge { name, yes } => {
            if !yes {
                return Err(CliError::Usage(format!(
                    "a purge of {name} can't be undone: say --yes if it is meant"
                )));
            }
            run_one(home, output, async |open| open.engine.purge_account(&name).await).await
        }
        AccountCommand::Protect { name } => protect(home, &name, output).await,
        AccountCommand::FollowLatest { name, switch } => {
            follow_latest(home, &name, switch == Switch::On, output).await
        }
    }
}

async fn protect(home: Home, name: &AccountName, output: &mut Output) -> Result<(), CliError> {
    let open = home.open(Keys::Needed).await?;
    finish_first(&open).await?;
    let set = async { open.engine.account(name).await?.protect_from_purge().await }.await;
    open.close().await?;
    set?;
    output.emit(&Set { account: name.to_string(), purge_protection: Some(true), follow_latest: None })
}

async fn follow_latest(
    home: Home,
    name: &AccountName,
    on: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    let open = home.open(Keys::Needed).await?;
    finish_first(&open).await?;
    let set = async { open.engine.account(name).await?.follow_latest(on).await }.await;
    open.close().await?;
    set?;
    output.emit(&Set { account: name.to_string(), purge_protection: None, follow_latest: Some(on) })
}
