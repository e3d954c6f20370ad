//! Python: environments with pinned packages, and the independent decoder, which opens sealed blocks from the format's
//! specification alone.
//!
//! The decoder needs the package `cryptography`. With `--services` it gets an environment of its own under the target
//! folder, with the version pinned beside it; otherwise it runs where Python has the package already.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    debian,
    run::{Outcome, call, output, program, succeeds},
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
        environment(&target.join("decoder-python"), REQUIREMENTS)?.to_string_lossy().into_owned()
    } else if succeeds(&mut program("python3", &["-c", "import cryptography"])) {
        "python3".to_owned()
    } else {
        return Ok(Outcome::Skipped("python3 can't import cryptography; --services installs it".to_owned()));
    };
    call(&mut program(&python, &[DECODER, VECTORS]))?;
    Ok(Outcome::Ok(String::new()))
}

/// A virtual environment with the packages that a file of the repository lists; returns its interpreter. Nothing is asked where
/// it has them already.
///
/// # Errors
/// When it can't be made, or a package can't be had.
pub(crate) fn environment(folder: &Path, requirements: &str) -> Result<PathBuf> {
    let interpreter = folder.join("bin").join("python");
    let python = |arguments: &[&str]| program(&interpreter.to_string_lossy(), arguments);
    let works = || succeeds(&mut python(&["-m", "pip", "--version"]));
    let wanted = fs::read(root().join(requirements)).with_context(|| requirements.to_owned())?;
    let stamp = folder.join("installed.txt");
    if works() && fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(interpreter);
    }
    let create = || call(program("python3", &["-m", "venv", "--clear"]).arg(folder));
    let made = || create().is_ok() && works();
    if !works() && !made() {
        debian::install(&["python3", "python3-venv", "python3-pip"])?;
        create()?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"];
    call(python(&pip).args(["--requirement", requirements]))
        .with_context(|| format!("can't install {requirements}"))?;
    fs::write(stamp, wanted)?;
    Ok(interpreter)
}

/// Where an environment has its packages.
///
/// # Errors
/// When its interpreter does not say.
pub(crate) fn site_packages(interpreter: &Path) -> Result<PathBuf> {
    let ask = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"];
    Ok(output(&mut program(&interpreter.to_string_lossy(), &ask))?.trim().into())
}
