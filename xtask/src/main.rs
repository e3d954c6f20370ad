//! `cargo xtask`: what CI and people call.
//!
//! Every command exits with 0 only when all that it was asked to do was done and held. Not its job: to be
//! fast at the price of leaving something out; whatever is left out is said, and with `--services` it fails.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(clippy::disallowed_methods, reason = "it times other programs: there is no injected clock")]

mod arrows;
mod bench;
mod debian;
mod deps;
mod house;
mod licences;
mod prove;
mod python;
mod run;
mod services;
mod test;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Tests, proofs and benchmarks of Cofferdam")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs every check of the house: format, lints, docs, arrows, tests, examples, decoder, benchmarks
    Test {
        /// Installs what a check needs; a check that is skipped is then a failure
        #[arg(long)]
        services: bool,
        /// Only these steps, by name
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Runs the tests whose figures an issue asks to show, optimised and at full scale
    Prove {
        /// Only proofs whose title or target contains one of these words
        words: Vec<String>,
    },
    /// Runs the benchmarks and prints each rate as a percentage of its baseline in the same run
    Bench {
        /// Writes the numbers to this file as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Passed on to the benchmarks: words that "group size" must contain, --seconds N for one comparison
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Installs the real vaults that tests run against, and prints the variables that say where they are
    Services,
    /// Lists the direct dependencies with the reason for each
    Deps,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Test { services, only } => test::run(services, &only),
        Command::Prove { words } => prove::run(&words),
        Command::Bench { json, arguments } => bench::run(json.as_deref(), &arguments),
        Command::Services => services::print(),
        Command::Deps => deps::print().map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
