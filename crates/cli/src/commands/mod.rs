//! The commands, one module for each group of them.

mod account;
mod archive;
mod blocks;
mod ingest;
mod init;
mod inspect;
mod operations;
mod rotation;
mod safe;
#[cfg(feature = "serve")]
mod serve;
mod status;
mod vault;
mod verify;
mod watch;

use crate::{
    cli::{Cli, Command},
    demo,
    error::CliError,
    home::{Drains, Home, PassphraseSource},
    output::Output,
};

/// Runs one command to its end.
pub(crate) async fn run(cli: Cli) -> Result<(), CliError> {
    let mut output = Output::new(cli.json);
    let out = &mut output;
    let passphrase = PassphraseSource::new(cli.passphrase_file);
    let path = cli.home.as_deref();
    let drains = if cli.no_wait { Drains::Leave } else { Drains::Finish };
    let home = || Home::find(path, passphrase.clone(), cli.vault_config.clone(), drains);
    match cli.command {
        Command::Demo(args) => demo::run(args, passphrase, out).await,
        Command::Init(args) => init::run(path, &args, passphrase, out).await,
        Command::Vault(command) => vault::run(&home()?, command, out).await,
        Command::Account(command) => account::run(home()?, command, out).await,
        Command::Put(args) => blocks::put(home()?, args, out).await,
        Command::Get(args) => blocks::get(home()?, args, out).await,
        Command::Ingest(args) => ingest::run(home()?, args, out).await,
        Command::Ls(args) => blocks::list(home()?, args, out).await,
        Command::Rm(args) => blocks::remove(home()?, args, out).await,
        Command::Status(args) if args.watch => watch::run(home()?, args.of.account, out).await,
        Command::Status(args) => status::run(home()?, args.of.account, out).await,
        Command::Verify(args) => verify::run(home()?, args, out).await,
        Command::Inspect(args) => inspect::run(&args.file, out).await,
        Command::RotateKek(args) => rotation::rotate_kek(home()?, args, out).await,
        Command::RotateAek(args) => rotation::rotate_aek(home()?, args, out).await,
        Command::AddKek(args) => rotation::add_kek(home()?, args, out).await,
        Command::RemoveKek(args) => rotation::remove_kek(home()?, args, out).await,
        Command::Link(args) => rotation::link(home()?, args, out).await,
        Command::Unlink(args) => rotation::unlink(home()?, args, out).await,
        Command::Operations(args) => operations::run(home()?, args, out).await,
        Command::SafeToDisable(args) => safe::run(home()?, args, out).await,
        Command::VerifyReceipt(args) => safe::verify(&args, out),
        Command::Export(args) => archive::export(home()?, args, out).await,
        Command::Archives(args) => archive::list(home()?, args, out).await,
        Command::Import(args) => archive::import(home()?, args, out).await,
    }?;
    output.flush()
}
