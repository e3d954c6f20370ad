//! A key vault of Azure, or a managed HSM.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cofferdam_crypto::KeyId;
use cofferdam_vault::azure::{AzureCredential, AzureOptions, AzureVault, ManagedIdentity};
use serde::Deserialize;

use super::{Opened, Time, file, secret::SecretPlace};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    /// `https://NAME.vault.azure.net`.
    url: String,
    credential: Credential,
    /// What hosts end in, in a cloud that is not known.
    suffix: Option<String>,
    /// Any host and port, without the check that it asks for a token for itself.
    #[serde(default)]
    test_server: bool,
    authority_host: Option<String>,
    ca_file: Option<PathBuf>,
    connect_timeout: Option<Time>,
    call_timeout: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Credential {
    /// The machine's, which the system assigned.
    ManagedIdentity,
    /// One that a user assigned to the machine.
    UserAssignedIdentity(UserAssigned),
    WorkloadIdentity,
    DeveloperTools,
    ClientSecret(ClientSecret),
}

#[derive(Debug, Deserialize)]
enum UserAssigned {
    #[serde(rename = "client-id")]
    Client(String),
    #[serde(rename = "object-id")]
    Object(String),
    #[serde(rename = "resource-id")]
    Resource(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ClientSecret {
    tenant_id: String,
    client_id: String,
    secret: SecretPlace,
}

pub(super) fn open(settings: Settings, folder: &Path) -> Result<Opened, String> {
    let url = settings.url.trim_end_matches('/').to_owned();
    let mut options = AzureOptions::new(&url, credential(settings.credential, folder));
    if let Some(suffix) = settings.suffix {
        options = options.suffix(suffix);
    }
    if settings.test_server {
        options = options.test_server();
    }
    if let Some(host) = settings.authority_host {
        options = options.authority_host(host);
    }
    if let Some(path) = settings.ca_file {
        options = options.roots_pem(file(folder, &path)?);
    }
    if let Some(Time(timeout)) = settings.connect_timeout {
        options = options.connect_timeout(timeout);
    }
    if let Some(Time(timeout)) = settings.call_timeout {
        options = options.call_timeout(timeout);
    }
    let vault = Arc::new(AzureVault::connect(options).map_err(|e| e.to_string())?);
    let samples = KeyId::new(format!("{url}/keys/k")).into_iter().collect();
    Ok(Opened::new(vault.clone(), samples, move |key_id| vault.inner().owns(key_id)))
}

fn credential(credential: Credential, folder: &Path) -> AzureCredential {
    match credential {
        Credential::ManagedIdentity => AzureCredential::managed_identity(ManagedIdentity::System),
        Credential::UserAssignedIdentity(of) => AzureCredential::managed_identity(match of {
            UserAssigned::Client(id) => ManagedIdentity::ClientId(id),
            UserAssigned::Object(id) => ManagedIdentity::ObjectId(id),
            UserAssigned::Resource(id) => ManagedIdentity::ResourceId(id),
        }),
        Credential::WorkloadIdentity => AzureCredential::workload_identity(),
        Credential::DeveloperTools => AzureCredential::developer_tools(),
        Credential::ClientSecret(ClientSecret { tenant_id, client_id, secret }) => {
            let place = secret.within(folder);
            AzureCredential::client_secret(tenant_id, client_id, move || place.read())
        }
    }
}
