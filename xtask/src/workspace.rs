//! The workspace as cargo sees it, reduced to what the checks ask for.
//!
//! The checks work on these plain types, so that their tests can build a graph by hand.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // As cargo says it now: what it said at compile time may be another clone with the same target folder.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    // The manifest's own folder is `xtask/`, below the root.
    let manifest = Path::new(&manifest);
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// A package of the workspace and what it imports from the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) imports: Vec<Import>,
}

/// An arrow between two packages of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) name: String,
    pub(crate) for_tests: bool,
    pub(crate) default_features: bool,
}

/// A package of anybody's in the dependency graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: Option<String>,
    /// None for the packages of the workspace.
    pub(crate) source: Option<String>,
}

/// What `cargo metadata` says with every feature on.
#[derive(Debug)]
pub(crate) struct Workspace {
    metadata: Metadata,
}

impl Workspace {
    /// With every feature.
    pub(crate) fn load() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(root().join("Cargo.toml"))
            .features(CargoOpt::AllFeatures)
            .exec()
            .context("cargo metadata failed")?;
        Ok(Self { metadata })
    }

    /// Where cargo builds.
    pub(crate) fn target_dir(&self) -> &Path {
        self.metadata.target_directory.as_std_path()
    }

    /// The packages of the workspace.
    pub(crate) fn members(&self) -> Vec<Member> {
        let packages = self.metadata.workspace_packages();
        let is_ours = |name: &str| packages.iter().any(|package| package.name == name);
        let member = |package: &&cargo_metadata::Package| Member {
            name: package.name.to_string(),
            imports: package
                .dependencies
                .iter()
                .filter(|dependency| dependency.path.is_some() && is_ours(&dependency.name))
                .map(|dependency| Import {
                    name: dependency.name.clone(),
                    for_tests: dependency.kind == DependencyKind::Development,
                    default_features: dependency.uses_default_features,
                })
                .collect(),
        };
        packages.iter().map(member).collect()
    }

    /// The manifests of the workspace's packages, by name.
    pub(crate) fn manifests(&self) -> BTreeMap<String, PathBuf> {
        let packages = self.metadata.workspace_packages();
        packages.iter().map(|p| (p.name.to_string(), p.manifest_path.clone().into_std_path_buf())).collect()
    }

    /// Every package that is built for the workspace on some platform, tests included.
    pub(crate) fn packages(&self) -> Vec<Package> {
        self.metadata
            .packages
            .iter()
            .map(|package| Package {
                name: package.name.to_string(),
                version: package.version.to_string(),
                licence: package.license.clone(),
                source: package.source.as_ref().map(ToString::to_string),
            })
            .collect()
    }

    /// The names of a package's targets of one kind.
    pub(crate) fn targets(&self, package: &str, kind: &cargo_metadata::TargetKind) -> Vec<String> {
        let packages = self.metadata.workspace_packages();
        packages
            .iter()
            .filter(|found| found.name == package)
            .flat_map(|found| &found.targets)
            .filter(|target| target.kind.contains(kind))
            .map(|target| target.name.clone())
            .collect()
    }

    /// Every integration test: its package, its name, its file. A target in a folder of its own is there as a whole,
    /// and with each module that has tests, as `target::module`.
    ///
    /// # Errors
    /// When a target's folder, or a file in it, can't be read.
    pub(crate) fn tests(&self) -> Result<Vec<(String, String, PathBuf)>> {
        let packages = self.metadata.workspace_packages();
        let mut tests = Vec::new();
        for package in packages {
            for target in package.targets.iter().filter(|target| target.is_test()) {
                let (package, file) = (package.name.to_string(), target.src_path.as_std_path());
                for (module, file) in modules(file)? {
                    tests.push((package.clone(), format!("{}::{module}", target.name), file));
                }
                tests.push((package, target.name.clone(), file.to_owned()));
            }
        }
        Ok(tests)
    }
}

/// The modules with tests beside a target's `main.rs`.
fn modules(main: &Path) -> Result<Vec<(String, PathBuf)>> {
    let Some(folder) = main.parent().filter(|_| main.ends_with("main.rs")) else { return Ok(Vec::new()) };
    let mut modules = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let file = entry?.path();
        if file == main || file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        // As `#[test]`, `#[tokio::test(...)]`, and in `proptest!`.
        if text.contains("test]") || text.contains("::test(") || text.contains("proptest!") {
            let module = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            modules.push((module, file));
        }
    }
    Ok(modules)
}
