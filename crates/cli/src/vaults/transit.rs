//! A Transit engine of HashiCorp Vault or OpenBao.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cofferdam_vault::transit::{Secret, SecretSource, TransitLogin, TransitOptions, TransitVault, Trust};
use serde::Deserialize;

use super::{Opened, Time, file, secret::SecretPlace};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    /// `https://HOST[:PORT]`.
    url: String,
    login: Login,
    /// The server's name in key ids.
    authority: Option<String>,
    namespace: Option<String>,
    login_namespace: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    allow_plain_http_to_loopback: bool,
    connect_timeout: Option<Time>,
    call_timeout: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Login {
    Token(SecretPlace),
    AppRole(AppRole),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct AppRole {
    role_id: SecretPlace,
    secret_id: SecretPlace,
    mount: Option<String>,
}

pub(super) fn open(settings: Settings, folder: &Path) -> Result<Opened, String> {
    let mut options = TransitOptions::new(settings.url);
    options.authority = settings.authority;
    options.namespace = settings.namespace;
    options.login_namespace = settings.login_namespace;
    options.allow_plain_http_to_loopback = settings.allow_plain_http_to_loopback;
    if let Some(path) = settings.ca_file {
        options = options.trust(Trust::Only(file(folder, &path)?));
    }
    if let Some(Time(timeout)) = settings.connect_timeout {
        options = options.connect_timeout(timeout);
    }
    if let Some(Time(timeout)) = settings.call_timeout {
        options = options.call_timeout(timeout);
    }
    let source = |place: SecretPlace| {
        let place = place.within(folder);
        SecretSource::callback(move || Ok(Secret::new(place.read()?.as_str().to_owned())))
    };
    let login = match settings.login {
        Login::Token(token) => TransitLogin::Token(source(token)),
        Login::AppRole(AppRole { role_id, secret_id, mount }) => TransitLogin::AppRole {
            mount: mount.unwrap_or_else(|| "approle".into()),
            role_id: source(role_id),
            secret_id: source(secret_id),
        },
    };
    let vault = Arc::new(TransitVault::connect(options, login).map_err(|e| e.to_string())?);
    let samples = vec![vault.inner().key_id("transit", "k").map_err(|e| e.to_string())?];
    Ok(Opened::new(vault.clone(), samples, move |key_id| vault.inner().owns(key_id)))
}
