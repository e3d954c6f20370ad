//! `safe-to-disable` and `verify-receipt`: whether a version of a KEK may be disabled, and the proof of it.

use std::{fmt, fs::File, io::Read};

use cofferdam_crypto::KeyId;
use cofferdam_store::{Receipt, ReceiptError};
use serde::Serialize;

use super::operations::finish_first;
use crate::{
    cli::{SafeToDisable, VerifyReceipt},
    error::CliError,
    files::replace,
    home::{Home, Keys},
    output::{Output, Time, escape},
};

/// More than the longest receipt has.
const MAX_RECEIPT: u64 = 1 << 20;

/// What was found.
#[derive(Serialize)]
struct Found {
    key_id: KeyId,
    safe: bool,
    /// What still needs the version.
    needed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
    /// Where the receipt was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// What checks the receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key_id, safe, needed, .. } = self;
        if !safe {
            write!(f, "not yet: {key_id} is needed")?;
            return needed.iter().try_for_each(|what| write!(f, "\n  {what}"));
        }
        write!(f, "yes: nothing needs {key_id}, and nothing is wrapped under it any longer")?;
        if let Some(public_key) = &self.public_key {
            write!(f, "\nreceipt by {public_key}")?;
        }
        match (&self.file, &self.receipt) {
            (Some(file), _) => write!(f, ", in {file}"),
            (None, Some(receipt)) => write!(f, ":\n{}", receipt.trim_end()),
            (None, None) => Ok(()),
        }
    }
}

pub(super) async fn run(home: Home, args: SafeToDisable, output: &mut Output) -> Result<(), CliError> {
    let SafeToDisable { kek, receipt: file } = args;
    let open = home.open(Keys::Needed).await?;
    let asked = async {
        // What was left would need the version, and perhaps only until it is done.
        finish_first(&open).await?;
        Ok::<_, CliError>(open.engine.safe_to_disable(&kek).await?)
    }
    .await;
    open.close().await?;
    let found = asked?;
    let safe = found.is_safe();
    let mut told = Found {
        key_id: kek.clone(),
        safe,
        needed: found.needed.iter().map(|what| escape(&what.to_string())).collect(),
        receipt: None,
        file: None,
        public_key: None,
    };
    if let Some(receipt) = &found.receipt {
        told.public_key = Some(receipt.issuer().to_string());
        match &file {
            Some(file) => {
                replace(file, receipt.as_bytes())?;
                told.file = Some(escape(&file.display().to_string()));
            }
            None => told.receipt = Some(receipt.to_string()),
        }
    }
    output.emit(&told)?;
    output.flush()?;
    if safe { Ok(()) } else { Err(CliError::NotYet { key_id: kek }) }
}

/// A receipt that was found right.
#[derive(Serialize)]
struct Verified {
    key_id: KeyId,
    issued: Time,
    public_key: String,
    examined: cofferdam_store::Examined,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key_id, issued, examined: of, .. } = self;
        write!(
            f,
            "The receipt is right: at {issued} nothing needed {key_id}, of {} accounts, {} deleted ones, {} wraps, {} segments, \
             {} operations, {} archives and {} engines",
            of.accounts, of.deleted_accounts, of.wraps, of.segments, of.operations, of.archives, of.nodes
        )
    }
}

pub(super) fn verify(args: &VerifyReceipt, output: &mut Output) -> Result<(), CliError> {
    let VerifyReceipt { file: path, public_key } = args;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_RECEIPT).read_to_end(&mut bytes))
        .map_err(|e| CliError::reading(path, e))?;
    let refused = |source: ReceiptError| CliError::Receipt { path: path.clone(), source };
    let receipt = Receipt::from_bytes(&bytes).map_err(refused)?;
    receipt.verify(public_key).map_err(refused)?;
    let statement = receipt.statement();
    output.emit(&Verified {
        key_id: statement.key_id.clone(),
        issued: Time(statement.issued_at),
        public_key: public_key.to_string(),
        examined: statement.examined,
    })
}
