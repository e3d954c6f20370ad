//! Every package in the tree is allowed by `deny.toml`: its licence, its name, its source.
//!
//! `deny.toml` is the one list; cargo-deny reads it too and also asks the advisory database, which is not
//! this check's job. In the tree is what is built for some target: cargo's metadata also list what a feature that is not on
//! would bring.

use std::fs;

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    run::{cargo, output},
    workspace::{Package, Workspace, root},
};

/// What `deny.toml` allows.
#[derive(Debug, Default)]
struct Policy {
    licences: Vec<String>,
    banned: Vec<String>,
    registries: Vec<String>,
}

/// Packages that are not allowed, and how many were looked at.
///
/// # Errors
/// When `deny.toml` can't be read.
pub(crate) fn check(workspace: &Workspace) -> Result<(Vec<String>, usize)> {
    let text = fs::read_to_string(root().join("deny.toml")).context("deny.toml")?;
    let policy = Policy::parse(&text).context("deny.toml")?;
    let edges = ["--target", "all", "--edges", "normal,build,dev", "--prefix", "none"];
    let tree = output(cargo(&["tree", "--workspace", "--all-features"]).args(edges))?;
    let mut packages = workspace.packages();
    packages.retain(|package| built(&tree, package));
    Ok((packages.iter().flat_map(|package| policy.faults(package)).collect(), packages.len()))
}

/// Whether a tree has this package.
fn built(tree: &str, package: &Package) -> bool {
    let line = format!("{} v{}", package.name, package.version);
    tree.lines()
        .any(|found| found.strip_prefix(&line).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
}

impl Policy {
    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let list = |section: &str, key: &str| {
            let list =
                table.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array);
            list.with_context(|| format!("[{section}] has no list {key}"))
        };
        let text = |value: &toml::Value| {
            let name = value.as_str().or_else(|| value.get("crate")?.as_str());
            name.map(str::to_owned)
                .ok_or_else(|| anyhow!("{value:?} is neither a name nor {{ crate = name }}"))
        };
        Ok(Self {
            licences: list("licenses", "allow")?.iter().map(text).collect::<Result<_>>()?,
            banned: list("bans", "deny")?.iter().map(text).collect::<Result<_>>()?,
            registries: list("sources", "allow-registry")?.iter().map(text).collect::<Result<_>>()?,
        })
    }

    fn faults(&self, package: &Package) -> Vec<String> {
        let Package { name, version, licence, source } = package;
        let mut faults = Vec::new();
        let mut fault = |what: String| faults.push(format!("{name} {version}: {what}"));
        match licence {
            None => fault("states no licence".to_owned()),
            Some(licence) => match allowed(licence, &self.licences) {
                Ok(true) => {}
                Ok(false) => fault(format!("licence {licence} is not allowed")),
                Err(error) => fault(format!("licence {licence} can't be read: {error}")),
            },
        }
        if self.banned.contains(name) {
            fault("is banned".to_owned());
        }
        if let Some(source) = source
            && !self.registries.iter().any(|registry| source.strip_prefix("registry+") == Some(registry))
        {
            fault(format!("comes from {source}"));
        }
        faults
    }
}

/// Whether an SPDX expression can be met by these licences; `/` means OR, as it did in old manifests.
fn allowed(expression: &str, licences: &[String]) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens = spaced.split_whitespace().peekable();
    let met = any(&mut tokens, licences)?;
    match tokens.next() {
        None => Ok(met),
        Some(rest) => bail!("did not expect {rest:?}"),
    }
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(tokens: &mut Tokens<'_>, licences: &[String]) -> Result<bool> {
    let mut met = all(tokens, licences)?;
    while tokens.next_if_eq(&"OR").is_some() {
        met |= all(tokens, licences)?;
    }
    Ok(met)
}

fn all(tokens: &mut Tokens<'_>, licences: &[String]) -> Result<bool> {
    let mut met = one(tokens, licences)?;
    while tokens.next_if_eq(&"AND").is_some() {
        met &= one(tokens, licences)?;
    }
    Ok(met)
}

fn one(tokens: &mut Tokens<'_>, licences: &[String]) -> Result<bool> {
    match tokens.next() {
        Some("(") => {
            let met = any(tokens, licences)?;
            if tokens.next() == Some(")") { Ok(met) } else { bail!("a parenthesis is left open") }
        }
        None | Some(")" | "OR" | "AND" | "WITH") => bail!("a licence is missing"),
        Some(id) => {
            let mut id = id.to_owned();
            if tokens.next_if_eq(&"WITH").is_some() {
                id = format!("{id} WITH {}", tokens.next().context("an exception is missing")?);
            }
            Ok(licences.contains(&id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = r#"
[licenses]
allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"]
[bans]
deny = ["openssl", { crate = "rsa", reason = "RUSTSEC-2023-0071" }]
[sources]
allow-registry = ["https://github.com/rust-lang/crates.io-index"]
"#;

    fn package(name: &str, licence: Option<&str>, source: Option<&str>) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: licence.map(str::to_owned),
            source: source.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_the_tree_has_is_looked_at() {
        let tree = "cofferdam v0.1.0 (/somewhere)\nring-like v1.0.0\nring v1.0.1\n\nserde v1.0.0 (*)\n";
        let has = |name| built(tree, &package(name, None, None));
        assert!(has("ring-like") && has("serde"));
        assert!(!has("ring") && !has("serde_json") && !has("like"));
    }

    #[test]
    fn spdx_expressions_are_met_as_they_are_written() {
        let licences = Policy::parse(DENY).unwrap().licences;
        for (expression, met) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR GPL-3.0-only) AND ISC", true),
            ("MIT OR GPL-3.0-only AND GPL-2.0-only", true),
            ("(MIT OR GPL-3.0-only) AND GPL-2.0-only", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("ISC WITH LLVM-exception", false),
        ] {
            assert_eq!(allowed(expression, &licences).unwrap(), met, "{expression}");
        }
        for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT", "MIT WITH"] {
            assert!(allowed(broken, &licences).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_package_is_refused_by_licence_name_and_source() {
        let policy = Policy::parse(DENY).unwrap();
        let registry = Some("registry+https://github.com/rust-lang/crates.io-index");
        assert_eq!(policy.faults(&package("aes", Some("MIT"), registry)), Vec::<String>::new());
        assert_eq!(policy.faults(&package("ours", Some("MIT"), None)), Vec::<String>::new());
        assert_eq!(policy.faults(&package("rsa", Some("MIT"), registry)), ["rsa 1.0.0: is banned"]);
        assert_eq!(policy.faults(&package("aes", None, registry)), ["aes 1.0.0: states no licence"]);
        let elsewhere = policy.faults(&package("aes", Some("MIT"), Some("git+https://example.invalid/aes")));
        assert_eq!(elsewhere, ["aes 1.0.0: comes from git+https://example.invalid/aes"]);
    }

    #[test]
    fn a_policy_without_its_lists_is_an_error_and_allows_nothing() {
        assert!(Policy::parse("[licenses]\nallow = [\"MIT\"]\n").is_err());
    }
}
