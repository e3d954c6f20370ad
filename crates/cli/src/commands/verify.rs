//! `verify`: reads everything and opens every block.
//!
//! Guarantees: what can be drained is drained first; every page of the store's file that anything uses is read and
//! verified, buffered blocks' too, and every block is opened under its key where there is one; what is damaged is listed,
//! and the rest is still checked. Exit code 5 on any damage, else 3 or 4 where a key was wanting.

use std::{collections::BTreeMap, fmt};

use cofferdam_crypto::{AccountId, BlockId};
use cofferdam_store::{Account, AccountName, BlockInfo, EngineError, EngineErrorKind, Outcome, Place};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{blocks::BlockLine, status::names};
use crate::{
    cli::Verify,
    error::CliError,
    home::{Home, Keys, OpenHome},
    output::{JsonBlock, Output, escape, size},
    writer::Written,
};

const PAGE: usize = 256;

/// Something that is damaged.
#[derive(Serialize)]
struct Damaged {
    damaged: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    block: Option<JsonBlock>,
    what: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DAMAGED {}", self.what)
    }
}

/// The store's file.
#[derive(Serialize)]
struct StoreReport {
    store: &'static str,
    blocks: u64,
    sealed_bytes: u64,
    buffered_blocks: u64,
    buffered_sealed_bytes: u64,
    records: u64,
    pages_verified: u64,
    pages_damaged: u64,
}

impl fmt::Display for StoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store: {} blocks, {} sealed, ", self.blocks, size(self.sealed_bytes))?;
        if self.buffered_blocks > 0 {
            write!(f, "{} buffered, {} sealed, ", self.buffered_blocks, size(self.buffered_sealed_bytes))?;
        }
        write!(
            f,
            "{} records; {} pages verified, {} damaged",
            self.records, self.pages_verified, self.pages_damaged
        )
    }
}

/// An account's blocks.
#[derive(Default, Serialize)]
struct AccountVerdict {
    account: String,
    opened: u64,
    bytes: u64,
    damaged: u64,
    /// Blocks that could not be judged, for want of the key. Their checksums were.
    unopened: u64,
    /// How many of those are buffered.
    unopened_buffered: u64,
}

impl fmt::Display for AccountVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, opened, bytes, damaged, unopened, unopened_buffered } = self;
        write!(f, "{account}: {opened} blocks opened, {}; {damaged} damaged", size(*bytes))?;
        if *unopened > 0 {
            write!(f, "; {unopened} not opened for want of the key")?;
            if *unopened_buffered > 0 {
                write!(f, ", {unopened_buffered} of them buffered")?;
            }
            f.write_str(": their checksums hold")?;
        }
        Ok(())
    }
}

pub(super) async fn run(home: Home, args: Verify, output: &mut Output) -> Result<(), CliError> {
    let mut open = home.open(Keys::Needed).await?;
    let found = match open.settle().await {
        Ok(()) => verify(&open, args, output).await,
        Err(e) => Err(e),
    };
    let closed = open.close().await;
    let found = found?;
    if found.damaged > 0 {
        let what = format!("{} damaged: restore what is listed above from a copy", found.damaged);
        return Err(CliError::Damage { what });
    }
    match found.refused {
        Some(e) => Err(e.into()),
        None => closed.map(drop),
    }
}

#[derive(Default)]
struct Findings {
    /// Whether a line is wanted for each block.
    digests: bool,
    damaged: u64,
    /// Why some blocks could not be opened.
    refused: Option<EngineError>,
}

async fn verify(open: &OpenHome, args: Verify, output: &mut Output) -> Result<Findings, CliError> {
    let mut findings = Findings { digests: args.digests, ..Findings::default() };
    let report = open.store.verify().await?;
    output.emit(&StoreReport {
        store: "blocks.store",
        blocks: report.blocks,
        sealed_bytes: report.bytes,
        buffered_blocks: report.buffered_blocks,
        buffered_sealed_bytes: report.buffered_bytes,
        records: report.records,
        pages_verified: report.pages_verified,
        pages_damaged: report.pages_damaged,
    })?;
    let mut unread: BTreeMap<AccountId, Vec<BlockId>> = BTreeMap::new();
    for (account, id) in report.damaged_blocks {
        unread.entry(account).or_default().push(id);
    }
    if let Some(e) = report.structure {
        findings.damaged += 1;
        output.emit(&Damaged {
            damaged: "store",
            account: None,
            block: None,
            what: escape(&e.to_string()),
        })?;
    }
    let names = match names(open, args.of.account).await {
        Err(CliError::Engine(e)) if e.kind() == EngineErrorKind::Corrupt => {
            findings.damaged += 1;
            output.emit(&Damaged {
                damaged: "accounts",
                account: None,
                block: None,
                what: escape(&e.to_string()),
            })?;
            Vec::new()
        }
        names => names?,
    };
    for name in names {
        if let Err(e) = verify_account(open, &name, &mut unread, &mut findings, output).await {
            match e {
                CliError::Engine(e) if e.kind() == EngineErrorKind::Corrupt => {
                    findings.damaged += 1;
                    let account = Some(name.to_string());
                    let what = escape(&e.to_string());
                    output.emit(&Damaged { damaged: "account", account, block: None, what })?;
                }
                e => return Err(e),
            }
        }
    }
    // Blocks of no account that was asked about, or of one that can't be listed.
    for (account, ids) in unread {
        for id in ids {
            findings.damaged += 1;
            output.emit(&unreadable(&account, &id))?;
        }
    }
    Ok(findings)
}

fn unreadable(account: &impl fmt::Display, id: &BlockId) -> Damaged {
    let what = format!("block {id} of the account {account} does not read");
    let (account, block) = (Some(account.to_string()), Some(JsonBlock::from(id)));
    Damaged { damaged: "block", account, block, what }
}

async fn verify_account(
    open: &OpenHome,
    name: &AccountName,
    unread: &mut BTreeMap<AccountId, Vec<BlockId>>,
    findings: &mut Findings,
    output: &mut Output,
) -> Result<(), CliError> {
    let account: Account = open.engine.account(name).await?;
    let mut verdict = AccountVerdict { account: name.to_string(), ..AccountVerdict::default() };
    let mut after = None;
    loop {
        let page = account.list(after.as_ref(), PAGE).await?;
        for info in &page.blocks {
            match account.get(&info.id).await {
                Ok(data) => {
                    verdict.opened += 1;
                    verdict.bytes += data.len() as u64;
                    if findings.digests {
                        let BlockInfo { id, version, len, .. } = info.clone();
                        let sha256 = Sha256::digest(&data).into();
                        output.emit(&BlockLine::opened(&Written {
                            id,
                            version,
                            len,
                            sha256,
                            outcome: Outcome::Stored,
                        }))?;
                    }
                }
                Err(EngineError::NoBlock { .. }) => {}
                Err(e) => match e.kind() {
                    EngineErrorKind::Corrupt => {
                        verdict.damaged += 1;
                        findings.damaged += 1;
                        let what = escape(&e.to_string());
                        let (account, block) = (Some(name.to_string()), Some(JsonBlock::from(&info.id)));
                        output.emit(&Damaged { damaged: "block", account, block, what })?;
                    }
                    EngineErrorKind::Revoked | EngineErrorKind::Unavailable => {
                        // One whose checksums do not hold is told of as that.
                        if unread.get(&account.id()).is_some_and(|ids| ids.contains(&info.id)) {
                            verdict.damaged += 1;
                            findings.damaged += 1;
                            output.emit(&unreadable(account.name(), &info.id))?;
                        } else {
                            verdict.unopened += 1;
                            verdict.unopened_buffered += u64::from(info.place == Place::Buffer);
                        }
                        findings.refused.get_or_insert(e);
                    }
                    _ => return Err(e.into()),
                },
            }
        }
        after = page.next;
        if after.is_none() {
            // The walk met them all.
            unread.remove(&account.id());
            return output.emit(&verdict);
        }
    }
}
