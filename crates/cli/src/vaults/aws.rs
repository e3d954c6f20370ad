//! AWS KMS of one region.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    CredentialError,
    aws::{AwsCredentialSource, AwsCredentials, AwsOptions, AwsVault},
};
use serde::Deserialize;

use super::{Opened, Time, file, secret::SecretPlace};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    region: String,
    /// Whose keys may be asked for.
    accounts: Vec<String>,
    partition: Option<String>,
    home_region: Option<String>,
    #[serde(default)]
    replica_regions: Vec<String>,
    /// Else AWS's default chain.
    credentials: Option<AccessKey>,
    endpoint: Option<String>,
    #[serde(default)]
    allow_plain_http_to_loopback: bool,
    ca_file: Option<PathBuf>,
    connect_timeout: Option<Time>,
    call_timeout: Option<Time>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct AccessKey {
    access_key_id: SecretPlace,
    secret_access_key: SecretPlace,
    session_token: Option<SecretPlace>,
}

#[async_trait]
impl AwsCredentialSource for AccessKey {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        let read = |place: &SecretPlace| match place.read() {
            Ok(text) => Ok(text.as_str().to_owned()),
            Err(e) => Err(CredentialError(e.into())),
        };
        let session = self.session_token.as_ref().map(read).transpose()?;
        Ok(AwsCredentials::new(read(&self.access_key_id)?, read(&self.secret_access_key)?, session, None))
    }
}

pub(super) fn open(settings: Settings, folder: &Path) -> Result<Opened, String> {
    let mut options = AwsOptions::new(&settings.region, "");
    options.accounts.clone_from(&settings.accounts);
    options.partition = settings.partition;
    options.home_region = settings.home_region;
    options.replica_regions = settings.replica_regions;
    options.endpoint = settings.endpoint;
    options.allow_plain_http_to_loopback = settings.allow_plain_http_to_loopback;
    options.trust_only = settings.ca_file.map(|path| file(folder, &path)).transpose()?;
    if let Some(key) = settings.credentials {
        options = options.credentials(Arc::new(AccessKey {
            access_key_id: key.access_key_id.within(folder),
            secret_access_key: key.secret_access_key.within(folder),
            session_token: key.session_token.map(|place| place.within(folder)),
        }));
    }
    let (connect, call) = (options.connect_timeout, options.call_timeout);
    options = options.timeouts(
        settings.connect_timeout.map_or(connect, |Time(timeout)| timeout),
        settings.call_timeout.map_or(call, |Time(timeout)| timeout),
    );
    let vault = Arc::new(AwsVault::connect(options).map_err(|e| e.to_string())?);
    // Ids of keys of this region, in whichever partition it turns out to be in.
    let ids = settings.accounts.iter().flat_map(|account| {
        ["aws", "aws-cn", "aws-us-gov"].map(|partition| {
            format!(
                "arn:{partition}:kms:{}:{account}:key/00000000-0000-0000-0000-000000000000",
                settings.region
            )
        })
    });
    let samples = ids.filter_map(|id| KeyId::new(id).ok()).filter(|id| vault.inner().owns(id)).collect();
    Ok(Opened::new(vault.clone(), samples, move |key_id| vault.inner().owns(key_id)))
}
