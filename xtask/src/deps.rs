//! The direct dependencies and why each is there.
//!
//! The reasons stand once: as comments in the root manifest, one a line. Guarantees that each listed
//! dependency has one and is used. Not its job: the dependencies of dependencies (`cargo tree`).

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};

use crate::{
    house::dependencies,
    workspace::{Workspace, root},
};

/// A dependency of the workspace.
#[derive(Debug, PartialEq, Eq)]
struct Reason {
    section: String,
    name: String,
    why: String,
}

/// Prints the direct dependencies, by section.
///
/// # Errors
/// When the root manifest can't be read.
pub(crate) fn print() -> Result<()> {
    let reasons = reasons(&manifest()?);
    let width = reasons.iter().map(|reason| reason.name.len()).max().unwrap_or_default();
    let mut section = "";
    for reason in &reasons {
        if section != reason.section {
            section = &reason.section;
            println!("\n{section}");
        }
        println!("  {:<width$}  {}", reason.name, reason.why);
    }
    println!("\n{} direct dependencies", reasons.len());
    Ok(())
}

/// Dependencies without a reason, and dependencies that no package uses.
///
/// # Errors
/// When a manifest can't be read.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let text = manifest()?;
    let root: toml::Table = text.parse().context("Cargo.toml")?;
    let listed = root.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    let listed =
        listed.and_then(toml::Value::as_table).context("Cargo.toml has no [workspace.dependencies]")?;
    let foreign =
        listed.iter().filter(|(_, value)| value.get("path").is_none()).map(|(name, _)| name.as_str());

    let mut used = BTreeSet::new();
    for manifest in workspace.manifests().values() {
        let table: toml::Table = fs::read_to_string(manifest)?.parse().context("a manifest")?;
        used.extend(dependencies(&table).into_iter().map(|(_, name, _)| name.to_owned()));
    }
    Ok(faults(&foreign.collect::<Vec<_>>(), &reasons(&text), &used))
}

fn faults(listed: &[&str], reasons: &[Reason], used: &BTreeSet<String>) -> Vec<String> {
    let explained = |name: &str| reasons.iter().any(|reason| reason.name == name && !reason.why.is_empty());
    let unexplained = listed
        .iter()
        .filter(|name| !explained(name))
        .map(|name| format!("{name}: give it a reason, as a comment on its line in Cargo.toml"));
    let unused = listed
        .iter()
        .filter(|name| !used.contains(**name))
        .map(|name| format!("{name}: listed in Cargo.toml, used by no package"));
    unexplained.chain(unused).collect()
}

fn manifest() -> Result<String> {
    fs::read_to_string(root().join("Cargo.toml")).context("Cargo.toml")
}

/// Reads `name = value # why` lines below section comments; our own crates, which have a path, aside.
fn reasons(manifest: &str) -> Vec<Reason> {
    let mut section = String::new();
    let mut reasons = Vec::new();
    let lines = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    for line in lines.take_while(|line| !line.starts_with('[')) {
        if let Some(comment) = line.strip_prefix("# ") {
            section = comment.trim_end_matches('.').to_owned();
        } else if let Some((name, rest)) = line.split_once(" = ")
            && !rest.contains("path = ")
        {
            let why = rest.split_once(" # ").map_or("", |(_, why)| why);
            reasons.push(Reason { section: section.clone(), name: name.to_owned(), why: why.to_owned() });
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
[workspace.dependencies]
# The house.
cofferdam = { path = "." }

# Cryptography.
aes = { version = "0.9", features = ["zeroize"] } # block cipher
hkdf = "0.13"

[package]
name = "x" # no dependency
"#;

    #[test]
    fn reasons_are_read_from_the_comments_of_the_manifest() {
        let reason = |name: &str, why: &str| Reason {
            section: "Cryptography".to_owned(),
            name: name.to_owned(),
            why: why.to_owned(),
        };
        assert_eq!(reasons(MANIFEST), [reason("aes", "block cipher"), reason("hkdf", "")]);
    }

    #[test]
    fn a_dependency_without_reason_or_use_is_named() {
        let used = BTreeSet::from(["hkdf".to_owned()]);
        let faults = faults(&["aes", "hkdf"], &reasons(MANIFEST), &used);
        assert_eq!(faults.len(), 2);
        assert!(faults[0].starts_with("hkdf: give it a reason"), "{faults:?}");
        assert!(faults[1].starts_with("aes: listed"), "{faults:?}");
    }
}
