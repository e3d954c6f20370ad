//! The independent decoder: sealed blocks, opened by Python from the format's specification alone.
//!
//! It needs the package `cryptography`. With `--services` it gets an environment of its own under the target
//! folder, with the version pinned beside it; otherwise it runs where Python has the package already.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    debian,
    run::{Outcome, call, program, succeeds},
    workspace::root,
};

const DECODER: &str = "tests/decoder/decode.py";
const REQUIREMENTS: &str = "tests/decoder/requirements.txt";
const VECTORS: &str = "tests/vectors";

/// Opens the frozen vectors with the decoder.
///
/// # Errors
/// When a vector does not open, or `services` asks for an environment that can't be made.
pub(crate) fn decode(target: &Path, services: bool) -> Result<Outcome> {
    for path in [DECODER, REQUIREMENTS, VECTORS] {
        if !root().join(path).exists() {
            bail!("{path} is missing");
        }
    }
    let python = if services {
        environment(target)?
    } else if succeeds(&mut program("python3", &["-c", "import cryptography"])) {
        "python3".to_owned()
    } else {
        return Ok(Outcome::Skipped("python3 can't import cryptography; --services installs it".to_owned()));
    };
    call(&mut program(&python, &[DECODER, VECTORS]))?;
    Ok(Outcome::Ok(String::new()))
}

/// A virtual environment with the pinned package; returns its interpreter.
fn environment(target: &Path) -> Result<String> {
    let folder = target.join("decoder-python");
    let create = || python3(&["-m", "venv", "--clear"], &folder);
    let interpreter = folder.join("bin").join("python").to_string_lossy().into_owned();
    let works = || succeeds(&mut program(&interpreter, &["-m", "pip", "--version"]));
    let made = || call(&mut create()).is_ok() && works();
    if !works() && !made() {
        debian::install(&["python3", "python3-venv", "python3-pip"])?;
        call(&mut create())?;
    }
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", REQUIREMENTS];
    call(&mut program(&interpreter, &pip)).with_context(|| format!("can't install {REQUIREMENTS}"))?;
    Ok(interpreter)
}

fn python3(arguments: &[&str], folder: &Path) -> Command {
    let mut command = program("python3", arguments);
    command.arg(folder);
    command
}
