//! The keys are rotated, the account is unlinked and linked, deleted and recovered.
//!
//! Guarantees: the old version is disabled only once nothing is said to need it; after all of it every file reads back as it
//! was, with the new version alone; each operation is checked to have succeeded.

use cofferdam_crypto::{KeyId, Provider};
use cofferdam_store::{
    Account, BufferMode, Engine, EngineError, LinkTo, Operation, OperationHandle, OperationStatus, Reencrypt,
};
use cofferdam_vault::{Clock, LocalVault, SystemClock};

use super::{
    bar,
    pack::{self, Packing},
    report::Report,
    revoke::count,
};
use crate::{
    error::CliError,
    home::principal,
    output::{Output, size},
};

/// All of it. The key's name in the vault is `name`, and the account is under its version `old`.
pub(super) async fn rotate(
    engine: &Engine,
    account: &Account,
    vault: &LocalVault,
    (name, old): (&str, &KeyId),
    packing: &Packing,
    output: &mut Output,
    report: &mut Report,
) -> Result<(), CliError> {
    let new = rotate_kek(engine, account, vault, (name, old), output, report).await?;
    rotate_aek(account, packing, output, report).await?;
    unlink_and_link(account, new, output, report).await?;
    delete_and_recover(engine, account, packing, output, report).await
}

async fn rotate_kek(
    engine: &Engine,
    account: &Account,
    vault: &LocalVault,
    (name, old): (&str, &KeyId),
    output: &mut Output,
    report: &mut Report,
) -> Result<KeyId, CliError> {
    let before = engine.safe_to_disable(old).await?;
    if before.is_safe() {
        return failed("a version was said to be needed no longer that is");
    }
    report.needed_before = before.needed.len() as u64;
    let new = vault.new_version(name).await?;
    let began = SystemClock.now();
    done(account.rotate_kek(None, new.clone(), None).await?).await?;
    report.rotate_kek_seconds = SystemClock.now().since(&began).as_secs_f64();
    let after = engine.safe_to_disable(old).await?;
    if !after.is_safe() {
        let what: Vec<String> = after.needed.iter().map(ToString::to_string).collect();
        return failed(&format!("the old version is still needed: {}", what.join("; ")));
    }
    vault.disable(old).await?;
    output.text(format_args!(
        "Rotated the customer's key to {new} in {:.0} ms: no block was touched; the old version was needed before, is safe to \
         disable now, and is disabled",
        report.rotate_kek_seconds * 1000.0
    ))?;
    output.flush()?;
    Ok(new)
}

async fn rotate_aek(
    account: &Account,
    packing: &Packing,
    output: &mut Output,
    report: &mut Report,
) -> Result<(), CliError> {
    let (began, blocks) = (SystemClock.now(), count(account).await?);
    let operation = done(account.rotate_aek(Reencrypt::Yes).await?).await?;
    report.reencrypted_blocks = operation.progress.done;
    report.reencrypt_seconds = SystemClock.now().since(&began).as_secs_f64();
    if report.reencrypted_blocks != blocks {
        return failed("not every block was sealed anew");
    }
    output.text(format_args!(
        "Rotated the account's own key and sealed all {} blocks anew, more than {}, in {:.1} s; the former key is destroyed",
        report.reencrypted_blocks,
        size(packing.bytes),
        report.reencrypt_seconds
    ))?;
    output.flush()
}

async fn unlink_and_link(
    account: &Account,
    kek: KeyId,
    output: &mut Output,
    report: &mut Report,
) -> Result<(), CliError> {
    done(account.unlink(Reencrypt::No).await?).await?;
    if account.key_status().await?.provider != Provider::Service {
        return failed("the account is still under the customer's key");
    }
    let to = LinkTo { principal: principal(), kek, buffer: BufferMode::default() };
    done(account.link(to, Reencrypt::No).await?).await?;
    if account.key_status().await?.provider != Provider::Customer {
        return failed("the account is still under the service's key");
    }
    report.relinked = true;
    output.text(format_args!("Unlinked the account from the customer's key, and linked it again"))
}

async fn delete_and_recover(
    engine: &Engine,
    account: &Account,
    packing: &Packing,
    output: &mut Output,
    report: &mut Report,
) -> Result<(), CliError> {
    let name = account.name().clone();
    done(account.delete_account().await?).await?;
    if !matches!(engine.account(&name).await, Err(EngineError::AccountDeleted { .. })) {
        return failed("a deleted account can still be used");
    }
    done(engine.recover_account(&name).await?).await?;
    let account = engine.account(&name).await?;
    let bar = bar("reading back", packing.bytes);
    let read = pack::read_back(&account, &packing.files, &bar).await;
    bar.finish_and_clear();
    read?;
    report.recovered_equal = packing.files.len() as u64;
    output.text(format_args!(
        "Deleted the account and recovered it: all {} SHA-256 digests are equal\n",
        report.recovered_equal
    ))
}

async fn done(handle: OperationHandle) -> Result<Operation, CliError> {
    let operation = handle.wait().await?;
    match operation.status {
        OperationStatus::Succeeded => Ok(operation),
        _ => Err(CliError::OperationFailed { operation: Box::new(operation) }),
    }
}

fn failed<T>(what: &str) -> Result<T, CliError> {
    Err(CliError::Demo { what: what.into() })
}
