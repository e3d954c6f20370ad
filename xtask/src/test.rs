//! `cargo xtask test`: every check, in one order, with one summary.
//!
//! Cheap checks come first. All cargo calls build with every feature on, so that they share what is built.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Result, bail};
use cargo_metadata::{Message, TargetKind};

use crate::{
    arrows, debian, deps, house, licences, prove, python,
    run::{Outcome, Runner, Tally, call, call_tests, cargo, output, program, verdict},
    services::{self, Services},
    workspace::{Workspace, root},
};

/// The facade, whose examples and benchmarks these are.
pub(crate) const FACADE: &str = "cofferdam";

/// Runs all steps, or those named; whether they held.
///
/// # Errors
/// When the workspace can't be read, or a named step does not exist.
pub(crate) fn run(services: bool, only: &[String]) -> Result<bool> {
    let workspace = Workspace::load()?;
    let mut runner = Runner::new(services, only);
    runner.step("format", |_| plain(&["fmt", "--all", "--check"]));
    runner.step("arrows", |_| verdict(&arrows::check(&workspace), "imports run downward only"));
    runner.step("house", |_| {
        let mut faults = house::check(&workspace)?;
        faults.extend(prove::check(&workspace)?);
        verdict(&faults, "")
    });
    runner.step("deps", |_| verdict(&deps::check(&workspace)?, "each has a reason and a use"));
    runner.step("licences", |_| {
        let (faults, packages) = licences::check(&workspace)?;
        verdict(&faults, format!("{packages} packages, as deny.toml allows"))
    });
    runner.step("tree", |_| duplicates());
    runner.step("lints", |_| {
        plain(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])
    });
    runner.step("docs", |_| {
        call(
            cargo(&["doc", "--no-deps", "--workspace", "--all-features"]).env("RUSTDOCFLAGS", "-D warnings"),
        )?;
        Ok(Outcome::Ok(String::new()))
    });
    runner.step("strace", |_| debian::strace(services));
    let mut installed = None;
    runner.step("services", |_| {
        if !services {
            return Ok(services::skipped());
        }
        Ok(installed.insert(Services::install(workspace.target_dir())?).outcome())
    });
    runner.step("tests", |tally| {
        let installed = match installed.take() {
            // The step before was left out, or failed.
            None if services => Services::install(workspace.target_dir())?,
            installed => installed.unwrap_or_default(),
        };
        let mut tests = cargo(&["test", "--workspace", "--all-features", "--no-fail-fast"]);
        counted(installed.give(&mut tests), tally)
    });
    runner.step("schedules", |tally| {
        let before = tally.passed;
        call_tests(&mut prove::schedules(&["--profile", "schedules"]), tally)?;
        Ok(Outcome::Ok(format!("{} passed", tally.passed - before)))
    });
    runner.step("examples", |_| examples(&workspace));
    runner.step("benches", |_| benches(&workspace));
    runner.step("decoder", |_| python::decode(workspace.target_dir(), services));
    runner.step("rustcrypto", rustcrypto);
    runner.finish()
}

fn plain(arguments: &[&str]) -> Result<Outcome> {
    call(&mut cargo(arguments))?;
    Ok(Outcome::Ok(String::new()))
}

/// Runs tests; a harness that ignores one has not shown what it says.
fn counted(tests: &mut Command, tally: &mut Tally) -> Result<Outcome> {
    let before = *tally;
    call_tests(tests, tally)?;
    if tally.ignored > before.ignored {
        bail!("{} tests were ignored", tally.ignored - before.ignored);
    }
    Ok(Outcome::Ok(format!("{} passed", tally.passed - before.passed)))
}

/// What tries the house out on systems of others, which bring what the house does without.
const APART: [&str; 4] = ["--exclude", "cofferdam-with-parquet", "--exclude", "cofferdam-with-slatedb"];

/// The house without a C compiler: it builds without aws-lc, and crypto's tests hold on RustCrypto alone.
fn rustcrypto(tally: &mut Tally) -> Result<Outcome> {
    let edges = ["--edges", "normal,build", "--prefix", "none"];
    let built = output(cargo(&["tree", "--workspace", "--no-default-features"]).args(APART).args(edges))?;
    if built.lines().any(|line| line.starts_with("aws-lc-")) {
        bail!("aws-lc is built under --no-default-features");
    }
    call(cargo(&["check", "--workspace", "--no-default-features"]).args(APART))?;
    counted(&mut cargo(&["test", "--package", "cofferdam-crypto", "--no-default-features"]), tally)
}

/// Packages in several versions: shown, not forbidden, since most are others' to mend.
fn duplicates() -> Result<Outcome> {
    let tree = output(cargo(&["tree", "--workspace", "--all-features", "--duplicates"]).args(APART))?;
    println!("{tree}");
    let names = in_several_versions(&tree);
    Ok(Outcome::Ok(format!("in several versions: {} {}", names.len(), names.join(", "))))
}

/// The names that `cargo tree --duplicates` lists in more than one version; it also lists one version that is
/// built twice, for the program and for a build script.
fn in_several_versions(tree: &str) -> Vec<&str> {
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    for line in tree.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric())) {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    versions.into_iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| name).collect()
}

/// Whose examples are run.
const WITH_EXAMPLES: [&str; 3] = [FACADE, "cofferdam-with-parquet", "cofferdam-with-slatedb"];

/// Builds and runs every example.
fn examples(workspace: &Workspace) -> Result<Outcome> {
    let mut names = Vec::new();
    for package in WITH_EXAMPLES {
        let found = workspace.targets(package, &TargetKind::Example);
        if found.is_empty() {
            bail!("{package} has no examples");
        }
        names.extend(found);
    }
    // Built with the whole workspace, for the same features as before, then run as they are.
    let build =
        ["build", "--workspace", "--all-features", "--examples", "--message-format=json-render-diagnostics"];
    let built = output(&mut cargo(&build))?;
    let mut ran = Vec::new();
    for message in Message::parse_stream(built.as_bytes()) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.target.is_example()
            && names.contains(&artifact.target.name)
            && let Some(executable) = artifact.executable
        {
            // As `cargo run` would: the folder of the example's package, not of xtask's.
            call(program(executable.as_str(), &[]).env("CARGO_MANIFEST_DIR", root()))?;
            ran.push(artifact.target.name);
        }
    }
    if ran.len() != names.len() {
        bail!("ran {ran:?} of {names:?}");
    }
    Ok(Outcome::Ok(ran.join(", ")))
}

/// Runs each benchmark of the facade once, unmeasured.
fn benches(workspace: &Workspace) -> Result<Outcome> {
    let names = workspace.targets(FACADE, &TargetKind::Bench);
    if names.is_empty() {
        bail!("{FACADE} has no benchmarks");
    }
    let mut arguments = vec!["test", "--workspace", "--all-features"];
    arguments.extend(names.iter().flat_map(|name| ["--bench", name]));
    arguments.extend(["--", "--test"]);
    call(&mut cargo(&arguments))?;
    Ok(Outcome::Ok(names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_that_is_built_twice_is_no_duplicate() {
        let tree = "libc v0.2.1\n└── a v1.0.0\n\nlibc v0.2.1\n└── b v1.0.0\n\nsyn v2.0.1\n\nsyn v3.0.0\n";
        assert_eq!(in_several_versions(tree), ["syn"]);
    }
}
