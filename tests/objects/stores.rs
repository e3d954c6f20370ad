//! Plain object stores, each new and empty, and the encrypting one before them.

use std::sync::Arc;

use cofferdam::{
    store::{Account, encrypted::EncryptedObjectStore},
    vault::testing::servers::{Azurite, Moto},
};
use object_store::{
    ObjectStore, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder, integration::MarkerHttpConnector,
    local::LocalFileSystem, memory::InMemory,
};
use tempfile::TempDir;

/// Where stores of one kind are.
pub(crate) enum Place {
    Memory,
    Files(TempDir),
    S3(Moto),
    Azure(Azurite),
}

impl Place {
    pub(crate) fn files() -> Self {
        Self::Files(tempfile::tempdir().unwrap())
    }

    /// A new store; its name is no other's: lower-case letters, digits and hyphens.
    pub(crate) fn store(&self, name: &str) -> Arc<dyn ObjectStore> {
        match self {
            Self::Memory => Arc::new(InMemory::new()),
            Self::Files(folder) => {
                let folder = folder.path().join(name);
                std::fs::create_dir(&folder).unwrap();
                Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap())
            }
            Self::S3(moto) => {
                moto.bucket(name);
                let builder = AmazonS3Builder::new().with_bucket_name(name);
                let set = |builder: AmazonS3Builder, (key, value): (&str, String)| {
                    builder.with_config(key.to_ascii_lowercase().parse().unwrap(), value)
                };
                let builder = moto.s3().into_iter().fold(builder, set);
                Arc::new(builder.with_http_connector(MarkerHttpConnector::default()).build().unwrap())
            }
            Self::Azure(azurite) => {
                azurite.container(name);
                let builder = MicrosoftAzureBuilder::new().with_container_name(name);
                let set = |builder: MicrosoftAzureBuilder, (key, value): (&str, String)| {
                    builder.with_config(key.to_ascii_lowercase().parse().unwrap(), value)
                };
                let builder = azurite.azure().into_iter().fold(builder, set);
                Arc::new(builder.with_http_connector(MarkerHttpConnector::default()).build().unwrap())
            }
        }
    }
}

/// What seals before a store, under an account.
pub(crate) async fn sealed(account: &Account, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    Arc::new(EncryptedObjectStore::open(inner, account.clone()).await.unwrap())
}
