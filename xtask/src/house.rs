//! Rules of the house that no other tool holds.
//!
//! Read from the files that git tracks or would track. Source files are short and open with what they
//! guarantee; no test is switched off; nothing committed names a path of one machine; every package takes
//! the workspace's lints and dependencies.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    run::{output, program},
    workspace::{Workspace, root},
};

/// The most lines of a source file, its tests aside.
const MAX_LINES: usize = 500;

// In pieces, so that this file does not break the rules that it holds.
const UNFINISHED: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[", "ignore"),
    concat!("#![", "ignore"),
];
const SHARED: &str = concat!("../", "shared");

/// What breaks a rule, each with its place.
///
/// # Errors
/// When git, or a file, can't be read.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let root = root();
    let machine = machine_paths(&root);
    let mut faults = Vec::new();
    for path in files()? {
        // Listed by git and deleted since, or no text: nothing to hold a rule against.
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        faults.extend(check_file(&path, &text, &machine));
    }
    for (name, manifest) in workspace.manifests() {
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let table = text.parse().with_context(|| manifest.display().to_string())?;
        faults.extend(check_manifest(&name, &table));
    }
    Ok(faults)
}

fn files() -> Result<Vec<String>> {
    let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let files = output(&mut program("git", &listed)).context("the house rules are read from git's files")?;
    Ok(files.split_terminator('\0').map(str::to_owned).collect())
}

/// Folders whose name in a committed file would tie it to this machine.
fn machine_paths(root: &Path) -> Vec<String> {
    let mut paths = vec![root.to_owned()];
    // A clone in a folder for temporary files has a parent that many a text may name.
    let temporary = [Path::new("/"), Path::new("/tmp"), &std::env::temp_dir()];
    paths.extend(root.parent().filter(|parent| !temporary.contains(parent)).map(Path::to_owned));
    paths.extend(std::env::home_dir().filter(|home| home.components().count() > 1));
    paths.iter().map(|path| format!("{}/", path.display())).collect()
}

fn check_file(path: &str, text: &str, machine: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    if path.ends_with(".rs") {
        faults.extend(check_source(path, text));
        faults.extend(check_driver(path, text));
    }
    let in_tests = path.split('/').any(|part| part == "tests");
    for (number, line) in (1..).zip(text.lines()) {
        if line.contains(SHARED) && !in_tests {
            faults.push(format!("{path}:{number}: names {SHARED}, which a clone does not have"));
        }
        if machine.iter().any(|folder| names_path(line, folder)) {
            faults.push(format!("{path}:{number}: names a path of this machine"));
        }
    }
    faults
}

/// Whether a line has this absolute path, and not only a longer one that contains it.
fn names_path(line: &str, folder: &str) -> bool {
    let starts = |at: usize| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-*/".contains(before))
    };
    line.match_indices(folder).any(|(at, _)| starts(at))
}

fn check_source(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<&str> = path.split('/').collect();
    let is_src = parts.contains(&"src") && !parts.contains(&"tests") && parts.last() != Some(&"tests.rs");
    if is_src || parts.contains(&"examples") {
        if !text.starts_with("//!") {
            faults.push(format!(
                "{path}:1: does not open with //!, what it guarantees and what is not its job"
            ));
        }
        let lines = lines_before_tests(text);
        if lines > MAX_LINES {
            faults.push(format!("{path}: {lines} lines before its tests, more than {MAX_LINES}: split it"));
        }
    }
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(found) = UNFINISHED.iter().find(|found| line.contains(**found)) {
            faults.push(format!("{path}:{number}: {found} leaves something unfinished or unproved"));
        }
    }
    faults
}

/// What the keyring's driver must take from its module `rt`, where tests of schedules stand in for it.
const FROM_RT: &[&str] = &[
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::atomic",
    "arc_swap::",
    "tokio::spawn",
    "tokio::time::sleep",
    "tokio::time::timeout",
    "tokio::sync::Notify",
    "tokio::sync::watch",
    "tokio::sync::broadcast",
];

/// Names that are spelled out: rustfmt's nested imports are spread first.
fn check_driver(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("crates/keyring/src/driver/") || path.ends_with("tests.rs") {
        return Vec::new();
    }
    let source: Vec<&str> = text
        .lines()
        .take(lines_before_tests(text))
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let source = source.join("\n");
    let named = |name: &&&str| {
        let (parent, last) = name.trim_end_matches("::").rsplit_once("::").unwrap_or(("", name));
        let listed = source.match_indices(&format!("use {parent}::{{")).any(|(at, _)| {
            let list = source[at..].split(';').next().unwrap_or_default();
            list.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == last)
        });
        source.contains(**name) || (!parent.is_empty() && listed)
    };
    let found = FROM_RT.iter().filter(named);
    found.map(|name| format!("{path}: takes {name} from elsewhere than crate::rt")).collect()
}

fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}

fn check_manifest(name: &str, manifest: &toml::Table) -> Vec<String> {
    let inherits = |value: &toml::Value| value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
    let mut faults = Vec::new();
    if !manifest.get("lints").is_some_and(inherits) {
        faults.push(format!("{name}: its manifest lacks [lints] workspace = true"));
    }
    for (kind, dependency, value) in dependencies(manifest) {
        if !inherits(value) {
            faults.push(format!(
                "{name}: {kind} {dependency} is not taken from the workspace, where its reason is"
            ));
        }
    }
    faults
}

/// The dependencies of a manifest, those of single platforms too: kind, name, value.
pub(crate) fn dependencies(manifest: &toml::Table) -> Vec<(&str, &str, &toml::Value)> {
    let platforms = manifest.get("target").and_then(toml::Value::as_table);
    let platforms =
        platforms.into_iter().flat_map(|platforms| platforms.values()).filter_map(toml::Value::as_table);
    std::iter::once(manifest)
        .chain(platforms)
        .flatten()
        .filter(|(key, _)| key.ends_with("dependencies"))
        .filter_map(|(key, value)| Some((key, value.as_table()?)))
        .flat_map(|(key, table)| table.iter().map(move |(name, value)| (key.as_str(), name.as_str(), value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<String> {
        check_file(path, text, &["/somewhere/house/".to_owned()])
    }

    #[test]
    fn a_source_file_that_keeps_the_rules_passes() {
        let text = format!("//! What it guarantees.\n{}", "fn f() {}\n".repeat(MAX_LINES - 1));
        assert_eq!(source("crates/crypto/src/lib.rs", &text), Vec::<String>::new());
    }

    #[test]
    fn a_long_source_file_is_named_but_its_tests_do_not_count() {
        let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(MAX_LINES));
        assert_eq!(source("crates/crypto/src/lib.rs", &long).len(), 1);
        assert_eq!(source("crates/crypto/tests/swaps.rs", &long), Vec::<String>::new());
        let tested =
            format!("//! Short.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(MAX_LINES));
        assert_eq!(source("crates/crypto/src/lib.rs", &tested), Vec::<String>::new());
    }

    #[test]
    fn a_source_file_must_say_what_it_guarantees() {
        assert_eq!(source("src/lib.rs", "use std::fmt;\n").len(), 1);
        assert_eq!(source("examples/sealer.rs", "fn main() {}\n").len(), 1);
        assert_eq!(source("benches/seal.rs", "fn main() {}\n"), Vec::<String>::new());
    }

    #[test]
    fn unfinished_work_and_switched_off_tests_are_found_in_tests_too() {
        for found in UNFINISHED {
            let faults = source("tests/kill.rs", &format!("// fine\n    {found}\n"));
            assert_eq!(faults.len(), 1, "{found}");
            assert!(faults[0].starts_with("tests/kill.rs:2:"), "{faults:?}");
        }
    }

    #[test]
    fn the_driver_takes_locks_tasks_and_time_from_one_module() {
        let driver =
            |text: &str| source("crates/keyring/src/driver/lane.rs", &format!("//! Said.\n{text}\n"));
        assert_eq!(driver("use std::sync::{Arc, PoisonError};\nuse crate::rt::Mutex;"), Vec::<String>::new());
        for found in ["use std::sync::{Arc, Mutex};", "use std::sync::{\n    Arc,\n    atomic::Ordering,\n};"]
        {
            assert_eq!(driver(found).len(), 1, "{found}");
        }
        assert_eq!(driver("use arc_swap::ArcSwap;").len(), 1);
        assert_eq!(driver("fn f() { tokio::spawn(g()); }").len(), 1);
        assert_eq!(driver("#[cfg(test)]\nmod tests {\n    use std::sync::Mutex;\n}"), Vec::<String>::new());
    }

    #[test]
    fn paths_of_a_machine_are_refused_everywhere() {
        assert_eq!(source("docs/format.md", "see /somewhere/house/notes\n").len(), 1);
        assert_eq!(source("tests/logs.rs", "// \"/somewhere/house/notes\"\n").len(), 1);
        assert_eq!(source("docs/format.md", "see target/somewhere/house/notes\n"), Vec::<String>::new());
        assert_eq!(source("README.md", &format!("see {SHARED}/data\n")).len(), 1);
        assert_eq!(source("tests/logs.rs", &format!("// {SHARED}/data\n")), Vec::<String>::new());
    }

    #[test]
    fn a_manifest_takes_lints_and_dependencies_from_the_workspace() {
        let good = "[dependencies]\nserde.workspace = true\n[lints]\nworkspace = true\n";
        assert_eq!(check_manifest("a", &good.parse().unwrap()), Vec::<String>::new());
        let bad = "[dev-dependencies]\nserde = \"1\"\n[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n";
        let faults = check_manifest("a", &bad.parse().unwrap());
        assert_eq!(faults.len(), 3, "{faults:?}");
    }

    #[test]
    fn the_parent_of_a_temporary_clone_may_be_named() {
        let paths = machine_paths(&std::env::temp_dir().join("clone"));
        assert!(!paths.contains(&format!("{}/", std::env::temp_dir().display())), "{paths:?}");
        assert!(paths.iter().any(|path| path.ends_with("clone/")), "{paths:?}");
    }
}
