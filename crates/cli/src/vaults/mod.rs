//! `--vault-config`: which vaults there are, how each is reached, and which principal may use which.
//!
//! Guarantees: a file that is wrong in any part is refused before a vault is asked, in one sentence that says where; no
//! secret stands in it, and no message repeats what stands in place of one; a principal reaches the vaults that are listed for it and
//! no others, and two of these never own one key id.
//!
//! Not its job: what a vault does with its settings (`cofferdam-vault`).

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
mod local;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod secret;
#[cfg(feature = "transit")]
mod transit;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cofferdam_crypto::KeyId;
use cofferdam_vault::{KeyVault, LocalVault, Principal, VaultRoutes};
use serde::{Deserialize, de::DeserializeOwned};

use crate::error::CliError;

/// The most bytes of the file.
const MAX_LEN: u64 = 1 << 20;

/// What the file holds; a vault's own settings are read when it is opened.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    vaults: BTreeMap<String, toml::Table>,
    #[serde(default)]
    principals: BTreeMap<String, Rights>,
}

/// What a principal may use.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Rights {
    vaults: Vec<String>,
}

/// The file, as far as it can be judged without opening a vault.
#[derive(Debug)]
pub(crate) struct VaultConfig {
    path: PathBuf,
    vaults: BTreeMap<String, Settings>,
    principals: BTreeMap<String, Rights>,
}

/// How a vault is reached.
#[derive(Debug)]
enum Settings {
    Local(local::Settings),
    #[cfg(feature = "pkcs11")]
    Pkcs11(pkcs11::Settings),
    #[cfg(feature = "azure")]
    Azure(azure::Settings),
    #[cfg(feature = "aws")]
    Aws(aws::Settings),
    #[cfg(feature = "transit")]
    Transit(transit::Settings),
}

/// A vault, which key ids are its own, and some of these.
#[derive(Clone)]
struct Opened {
    vault: Arc<dyn KeyVault>,
    owns: Arc<dyn Fn(&KeyId) -> bool + Send + Sync>,
    samples: Vec<KeyId>,
}

impl VaultConfig {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let len = fs::metadata(path).map_err(|e| CliError::reading(path, e))?.len();
        if len > MAX_LEN {
            return Err(CliError::reading(path, io::Error::other("it has more than 1 MiB")));
        }
        let bytes = fs::read(path).map_err(|e| CliError::reading(path, e))?;
        Self::parse(path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CliError> {
        let bad = |what: String| CliError::VaultConfig { path: path.into(), what };
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8 text".into()))?;
        // Not as toml shows its errors, with the line: there may be a secret on it.
        let document: Document = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|at| text[..at.start.min(text.len())].matches('\n').count() + 1);
            bad(line.map_or_else(|| e.message().into(), |line| format!("line {line}: {}", e.message())))
        })?;
        let Document { vaults, principals } = document;
        let read = |(name, table): (String, toml::Table)| match Settings::read(table) {
            Ok(settings) => Ok((name, settings)),
            Err(what) => Err(bad(format!("vaults.{name}: {what}"))),
        };
        let vaults = vaults.into_iter().map(read).collect::<Result<BTreeMap<_, _>, _>>()?;
        if principals.is_empty() {
            let what = "no principal may use any vault: add [principals.customer] with vaults = [\"NAME\"]";
            return Err(bad(what.into()));
        }
        for (principal, Rights { vaults: names }) in &principals {
            let bad = |what: String| bad(format!("principals.{principal}: {what}"));
            if names.is_empty() {
                return Err(bad("it may use no vault: list some, or leave the principal out".into()));
            }
            for (at, name) in names.iter().enumerate() {
                if !vaults.contains_key(name) {
                    return Err(bad(format!("there is no [vaults.{name}]")));
                }
                if names[..at].contains(name) {
                    return Err(bad(format!("{name} is listed twice")));
                }
            }
        }
        Ok(Self { path: path.into(), vaults, principals })
    }

    /// The vaults of every principal. Those that nobody may use are not opened. `home` is the home's own vault.
    pub(crate) async fn open(
        self,
        home: &LocalVault,
    ) -> Result<Vec<(Principal, Arc<dyn KeyVault>)>, CliError> {
        let Self { path, mut vaults, principals } = self;
        let bad = |what: String| CliError::VaultConfig { path: path.clone(), what };
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut opened: BTreeMap<String, Opened> = BTreeMap::new();
        let mut all: Vec<(Principal, Arc<dyn KeyVault>)> = Vec::new();
        for (principal, Rights { vaults: names }) in principals {
            let mut routes = VaultRoutes::new();
            let mut former: Vec<(&str, Opened)> = Vec::new();
            for name in &names {
                if let Some(settings) = vaults.remove(name) {
                    let vault = settings.open(folder, home).await;
                    opened.insert(name.clone(), vault.map_err(|what| bad(format!("vaults.{name}: {what}")))?);
                }
                let Some(vault) = opened.get(name).cloned() else { continue };
                if let Some((other, _)) = former.iter().find(|(_, other)| vault.shares_keys_with(other)) {
                    return Err(bad(format!(
                        "principals.{principal}: {other} and {name} have the same keys, and a key id must lead to one vault: \
                         leave one out"
                    )));
                }
                former.push((name, vault.clone()));
                let owns = vault.owns;
                routes = routes.with(name, vault.vault, move |key_id: &KeyId| owns(key_id));
            }
            all.push((Principal::new(principal), Arc::new(routes)));
        }
        Ok(all)
    }
}

#[cfg(all(feature = "pkcs11", feature = "serve"))]
impl VaultConfig {
    /// The token of this name, whoever may use it.
    pub(crate) async fn token(
        mut self,
        name: &str,
    ) -> Result<cofferdam_vault::pkcs11::Pkcs11Vault, CliError> {
        let bad = |what: String| CliError::VaultConfig { path: self.path.clone(), what };
        let folder = self.path.parent().unwrap_or(Path::new(""));
        match self.vaults.remove(name) {
            Some(Settings::Pkcs11(settings)) => {
                pkcs11::token(settings, folder).await.map_err(|what| bad(format!("vaults.{name}: {what}")))
            }
            Some(_) => Err(bad(format!("vaults.{name}: only a token is served so, of kind pkcs11"))),
            None => Err(bad(format!("there is no [vaults.{name}]"))),
        }
    }
}

impl Settings {
    const KINDS: [&str; 5] = ["local", "pkcs11", "azure", "aws", "transit"];

    fn read(mut table: toml::Table) -> Result<Self, String> {
        let kind = match table.remove("kind") {
            Some(toml::Value::String(kind)) => kind,
            _ => return Err("say its kind: local, pkcs11, azure, aws or transit".into()),
        };
        Ok(match kind.as_str() {
            "local" => Self::Local(read(table)?),
            #[cfg(feature = "pkcs11")]
            "pkcs11" => Self::Pkcs11(read(table)?),
            #[cfg(feature = "azure")]
            "azure" => Self::Azure(read(table)?),
            #[cfg(feature = "aws")]
            "aws" => Self::Aws(read(table)?),
            #[cfg(feature = "transit")]
            "transit" => Self::Transit(read(table)?),
            other if Self::KINDS.contains(&other) => {
                return Err(format!("this program was built without the feature {other}"));
            }
            other => {
                return Err(format!(
                    "{other:?} is no kind of vault: say local, pkcs11, azure, aws or transit"
                ));
            }
        })
    }

    async fn open(self, folder: &Path, home: &LocalVault) -> Result<Opened, String> {
        match self {
            Self::Local(settings) => local::open(settings, folder, home).await,
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11(settings) => pkcs11::open(settings, folder).await,
            #[cfg(feature = "azure")]
            Self::Azure(settings) => azure::open(settings, folder),
            #[cfg(feature = "aws")]
            Self::Aws(settings) => aws::open(settings, folder),
            #[cfg(feature = "transit")]
            Self::Transit(settings) => transit::open(settings, folder),
        }
    }
}

impl Opened {
    fn new(
        vault: impl KeyVault + 'static,
        samples: Vec<KeyId>,
        owns: impl Fn(&KeyId) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { vault: Arc::new(vault), owns: Arc::new(owns), samples }
    }

    fn shares_keys_with(&self, other: &Self) -> bool {
        self.samples.iter().any(|sample| (other.owns)(sample))
            || other.samples.iter().any(|sample| (self.owns)(sample))
    }
}

/// A vault's own settings.
fn read<T: DeserializeOwned>(settings: toml::Table) -> Result<T, String> {
    settings.try_into().map_err(|e: toml::de::Error| e.message().trim().to_owned())
}

/// The bytes of a file that the settings name, as of certificates.
#[cfg(any(feature = "aws", feature = "azure", feature = "transit"))]
fn file(folder: &Path, path: &Path) -> Result<Vec<u8>, String> {
    let path = folder.join(path);
    fs::read(&path).map_err(|e| format!("can't read {}: {e}", path.display()))
}

/// A time, as `5s` or `500ms`.
#[cfg(any(feature = "aws", feature = "azure", feature = "transit"))]
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Time(std::time::Duration);

#[cfg(any(feature = "aws", feature = "azure", feature = "transit"))]
impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        crate::values::duration(&text).map(Self)
    }
}
