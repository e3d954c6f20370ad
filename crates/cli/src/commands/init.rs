//! `init`: makes a home.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::{
    cli::Init,
    error::CliError,
    home::{Home, PassphraseSource},
    output::{Output, note},
};

#[derive(Serialize)]
struct Made {
    home: String,
    protected: bool,
    /// What checks the receipts that it signs.
    receipt_public_key: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Made a home in {}", self.home)
    }
}

pub(super) async fn run(
    path: Option<&Path>,
    args: &Init,
    passphrase: PassphraseSource,
    output: &mut Output,
) -> Result<(), CliError> {
    let path = path.ok_or(CliError::NoHome)?;
    let home = Home::create(path, args.settings(), passphrase).await?;
    let protected = home.customer_vault().await?.protected();
    let receipt_public_key = home.receipt_key()?.public().to_string();
    output.emit(&Made { home: home.name(), protected, receipt_public_key })?;
    if !protected {
        note(format_args!(
            "warning: no passphrase was given, so the keys in this home's vaults are in the clear: use it for \
             development only, or make it again with COFFERDAM_PASSPHRASE set"
        ));
    }
    Ok(())
}
