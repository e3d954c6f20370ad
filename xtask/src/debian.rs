//! What tests need from the system's packages: looked for, and with `--services` installed where they are Debian's.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::run::{Outcome, call, program, succeeds};

/// Whether the tests that kill the program at its system calls can run: without strace, or where tracing is
/// forbidden, they skip.
///
/// # Errors
/// When `services` asks for strace and it can't be installed.
pub(crate) fn strace(services: bool) -> Result<Outcome> {
    let installed = || succeeds(&mut program("strace", &["--version"]));
    if !installed() {
        if !services {
            let why =
                "strace is missing, so no test kills the program at its system calls; --services installs it";
            return Ok(Outcome::Skipped(why.to_owned()));
        }
        install(&["strace"])?;
    }
    if !succeeds(&mut program("strace", &["-f", "-o", "/dev/null", "true"])) {
        let why = "strace may not trace here, so no test kills the program at its system calls: allow ptrace";
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    Ok(Outcome::Ok("tests may kill the program at its system calls".to_owned()))
}

/// Installs packages where the system's are Debian's and we may.
///
/// # Errors
/// When they are not, or we may not.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(", ");
    if !fs::exists("/usr/bin/apt-get")? {
        bail!("{names} needed: install it");
    }
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    for arguments in [&["update"][..], &install] {
        call(program("apt-get", arguments).env("DEBIAN_FRONTEND", "noninteractive"))
            .with_context(|| format!("{names} needed, and installing it takes root"))?;
    }
    Ok(())
}
