//! The vault of a command that needs no key.

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use cofferdam_vault::{KeyProperties, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind, WrapContext};

/// Stands in for vaults that are not opened; answers every question as one that can't be reached.
#[derive(Debug)]
pub(super) struct UnaskedVault;

fn unasked<T>() -> Result<T, VaultError> {
    Err(VaultError::new(VaultErrorKind::Unavailable, "this command opens no vault"))
}

#[async_trait]
impl KeyVault for UnaskedVault {
    async fn wrap_key(&self, _: &KeyId, _: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
        unasked()
    }

    async fn unwrap_key(&self, _: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
        unasked()
    }

    async fn key_properties(&self, _: &KeyId) -> Result<KeyProperties, VaultError> {
        unasked()
    }

    async fn public_key(&self, _: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        unasked()
    }
}
