//! `account create` and `account list`.

use std::fmt;

use cofferdam_store::{AccountKey, BufferMode};
use serde::Serialize;

use crate::{
    cli::AccountCommand,
    error::CliError,
    home::{Home, Keys, principal},
    output::Output,
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
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.account)
    }
}

pub(super) async fn run(home: Home, command: AccountCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        AccountCommand::Create { name, kek, write_only_buffer } => {
            let open = home.open(Keys::Needed).await?;
            let buffer = if write_only_buffer { BufferMode::WriteOnly } else { BufferMode::ServiceManaged };
            let key = match kek.clone() {
                Some(kek) => AccountKey::Customer { principal: principal(), kek, buffer },
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
        AccountCommand::List => {
            let open = home.open(Keys::Unused).await?;
            for name in open.accounts().await? {
                output.emit(&Name { account: name.to_string() })?;
            }
            open.close().await.map(drop)
        }
    }
}
