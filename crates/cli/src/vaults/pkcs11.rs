//! A token of an HSM.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use cofferdam_vault::{
    KeyKind,
    pkcs11::{Pin, PinError, PinSource, Pkcs11Options, Pkcs11Vault},
};
use serde::Deserialize;

use super::{Opened, secret::SecretPlace};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    /// The HSM's PKCS #11 library.
    library: PathBuf,
    /// The token's label.
    token: String,
    pin: SecretPlace,
    sessions: Option<NonZeroUsize>,
    /// Whether the operator vouches that a deleted key can be brought back.
    #[serde(default)]
    recoverable: bool,
}

/// Reads the PIN at each login.
#[derive(Debug)]
struct Placed(SecretPlace);

impl PinSource for Placed {
    fn pin(&self) -> Result<Pin, PinError> {
        let text = self.0.read().map_err(|e| PinError::Source(e.into()))?;
        Pin::new(text.as_bytes().to_vec())
    }
}

pub(super) async fn open(settings: Settings, folder: &Path) -> Result<Opened, String> {
    let vault = token(settings, folder).await?;
    let samples = vec![vault.key_id("k", KeyKind::Aes256).map_err(|e| e.to_string())?];
    Ok(Opened::new(vault.clone(), samples, move |key_id| vault.owns(key_id)))
}

pub(super) async fn token(settings: Settings, folder: &Path) -> Result<Pkcs11Vault, String> {
    let Settings { library, token, pin, sessions, recoverable } = settings;
    let pin = Arc::new(Placed(pin.within(folder)));
    let mut options = Pkcs11Options::new(library, token, pin).recoverable(recoverable);
    if let Some(sessions) = sessions {
        options = options.sessions(sessions);
    }
    Pkcs11Vault::open(options).await.map_err(|e| e.to_string())
}
