//! The workspace as cargo sees it, reduced to what the checks ask for.
//!
//! The checks work on these plain types, so that their tests can build a graph by hand.

use std::{
    collections::BTreeMap,
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

    /// Every integration test: its package, its name, its file.
    pub(crate) fn tests(&self) -> Vec<(String, String, PathBuf)> {
        let packages = self.metadata.workspace_packages();
        let tests = |package: &&cargo_metadata::Package| {
            let name = package.name.to_string();
            let targets = package.targets.iter().filter(|target| target.is_test());
            let place = |target: &cargo_metadata::Target| {
                (name.clone(), target.name.clone(), target.src_path.clone().into_std_path_buf())
            };
            targets.map(place).collect::<Vec<_>>()
        };
        packages.iter().flat_map(tests).collect()
    }
}
