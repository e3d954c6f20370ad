//! The program `cofferdam`: the life cycle of customer-managed keys on one machine.
//!
//! Guarantees: every failure is one sentence on standard error and an exit code of the documented table; a
//! closed standard output ends it quietly.
//!
//! Not its job: keys, sealing, storage: those are the library's.

mod beside;
mod cli;
mod commands;
mod demo;
mod drain;
mod error;
mod feed;
mod files;
mod home;
mod operation;
mod output;
mod signals;
mod values;
mod vaults;
mod writer;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, error::ErrorKind};

use cli::Cli;
use error::{CliError, Exit, error_json};
use output::note;

/// How long calls of vaults that nobody waits for any longer may take to end.
const LAST_CALLS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return refuse(&e, json),
    };
    let foreign = cli.vault_config.is_some();
    let done = runtime().and_then(|runtime| {
        let done = runtime.block_on(commands::run(cli));
        if foreign {
            // The library of an HSM clears up when the process ends, which no thread that is in it survives.
            runtime.shutdown_timeout(LAST_CALLS);
        } else {
            // A thread that waits for standard input would never let it end.
            runtime.shutdown_background();
        }
        done
    });
    let exit = match done {
        Ok(()) => Exit::Done,
        Err(e) if e.is_closed_pipe() => Exit::Done,
        Err(e) => {
            if json {
                note(format_args!("{}", e.json()));
            } else {
                note(format_args!("cofferdam: {}", e.sentence()));
            }
            e.exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::System { doing: "start the runtime", source })
}

/// What clap has to say: help and version on standard output, the rest with exit code 2.
fn refuse(e: &clap::Error, json: bool) -> ExitCode {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // If nobody reads the help, nobody needs it.
        let _ = e.print();
        return ExitCode::from(Exit::Done as u8);
    }
    if json {
        let text = e.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = output::escape(first.strip_prefix("error: ").unwrap_or(first));
        note(format_args!("{}", error_json(Exit::Usage, &message)));
    } else {
        let _ = e.print();
    }
    ExitCode::from(Exit::Usage as u8)
}
