//! `rotate-kek`, `rotate-aek`, `add-kek`, `remove-kek`, `link` and `unlink`: what changes an account's keys.
//!
//! Guarantees: each waits for what it began, unless it is told not to. Not its job: the changes (`cofferdam-store`).

use cofferdam_store::{Account, AccountName, EngineError, LinkTo, OperationHandle, Reencrypt};

use super::operations::run_one;
use crate::{
    cli::{AddKek, Link, RemoveKek, RotateAek, RotateKek, Unlink},
    error::CliError,
    home::Home,
    output::Output,
};

pub(super) async fn rotate_kek(home: Home, args: RotateKek, output: &mut Output) -> Result<(), CliError> {
    let RotateKek { account, kek, replacing, principal } = args;
    on(home, &account, output, async |account: &Account| account.rotate_kek(principal, kek, replacing).await)
        .await
}

pub(super) async fn rotate_aek(home: Home, args: RotateAek, output: &mut Output) -> Result<(), CliError> {
    let reencrypt = reencrypt(args.reencrypt);
    on(home, &args.account, output, async |account: &Account| account.rotate_aek(reencrypt).await).await
}

pub(super) async fn add_kek(home: Home, args: AddKek, output: &mut Output) -> Result<(), CliError> {
    let AddKek { account, kek, whose } = args;
    on(home, &account, output, async |account: &Account| account.add_kek(whose.principal, kek).await).await
}

pub(super) async fn remove_kek(home: Home, args: RemoveKek, output: &mut Output) -> Result<(), CliError> {
    let RemoveKek { account, kek } = args;
    on(home, &account, output, async |account: &Account| account.remove_kek(&kek).await).await
}

pub(super) async fn link(home: Home, args: Link, output: &mut Output) -> Result<(), CliError> {
    let Link { account, kek, whose, buffer, reencrypt: anew } = args;
    let to = LinkTo { principal: whose.principal, kek, buffer: buffer.into() };
    on(home, &account, output, async |account: &Account| account.link(to, reencrypt(anew)).await).await
}

pub(super) async fn unlink(home: Home, args: Unlink, output: &mut Output) -> Result<(), CliError> {
    let reencrypt = reencrypt(args.reencrypt);
    on(home, &args.account, output, async |account: &Account| account.unlink(reencrypt).await).await
}

fn reencrypt(anew: bool) -> Reencrypt {
    if anew { Reencrypt::Yes } else { Reencrypt::No }
}

async fn on(
    home: Home,
    name: &AccountName,
    output: &mut Output,
    begin: impl AsyncFnOnce(&Account) -> Result<OperationHandle, EngineError>,
) -> Result<(), CliError> {
    run_one(home, output, async |open| begin(&open.engine.account(name).await?).await).await
}
