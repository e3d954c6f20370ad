//! A local vault: the home's own, or another file.

use std::path::{Path, PathBuf};

use cofferdam_vault::{LocalVault, LocalVaultOptions, Passphrase};
use serde::Deserialize;

use super::{Opened, secret::SecretPlace};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    /// Another one than the home's own.
    file: Option<PathBuf>,
    passphrase: Option<SecretPlace>,
}

pub(super) async fn open(settings: Settings, folder: &Path, home: &LocalVault) -> Result<Opened, String> {
    let vault = match settings.file {
        None if settings.passphrase.is_some() => {
            return Err(
                "the home's own vault has the home's passphrase: leave passphrase out, or name a file".into(),
            );
        }
        None => home.clone(),
        Some(file) => {
            let mut options = LocalVaultOptions::default();
            if let Some(place) = settings.passphrase {
                let text = place.within(folder).read().map_err(|e| format!("its passphrase: {e}"))?;
                let passphrase = Passphrase::new(text.as_str().to_owned()).map_err(|e| e.to_string())?;
                options = options.passphrase(passphrase);
            }
            LocalVault::open(folder.join(file), options).await.map_err(|e| e.to_string())?
        }
    };
    let samples = vec![vault.key_id("k").map_err(|e| e.to_string())?];
    Ok(Opened::new(vault.clone(), samples, move |key_id| vault.owns(key_id)))
}
