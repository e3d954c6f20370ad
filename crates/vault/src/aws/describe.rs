//! What KMS says of a key, as [`KeyProperties`].
//!
//! Guarantees: only a symmetric key for encryption that a customer manages has properties; `recoverable` is true only where
//! nobody can destroy the key within AWS's window of 7 to 30 days.

use std::time::Duration;

use aws_sdk_kms::types::{
    ExpirationModelType, KeyManagerType, KeyMetadata, KeySpec, KeyState as AwsState, KeyUsageType, OriginType,
};
use cofferdam_crypto::KeyId;

use crate::{KeyKind, KeyProperties, KeyState, VaultError, VaultErrorKind as Kind};

/// The properties of `exact`, the key that was asked for.
pub(super) fn properties(exact: KeyId, said: &KeyMetadata) -> Result<KeyProperties, VaultError> {
    let failed = |kind, message: String| Err(VaultError::new(kind, message).about(&exact));
    if said.key_spec() != Some(&KeySpec::SymmetricDefault)
        || said.key_usage() != Some(&KeyUsageType::EncryptDecrypt)
    {
        let (spec, usage) = (said.key_spec(), said.key_usage());
        let (spec, usage) = (spec.map_or("?", KeySpec::as_str), usage.map_or("?", KeyUsageType::as_str));
        let message = format!(
            "the key is {spec} for {usage}: use a symmetric one, SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT"
        );
        return failed(Kind::Other, message);
    }
    if said.key_manager() == Some(&KeyManagerType::Aws) {
        let message = "AWS manages this key, so nobody could take it away: make one of your own".into();
        return failed(Kind::Other, message);
    }
    let state = match said.key_state() {
        // While a multi-region key's primary moves, its keys encrypt and decrypt.
        Some(AwsState::Enabled | AwsState::Updating) => KeyState::Enabled,
        Some(AwsState::Disabled) => KeyState::Disabled,
        // Material that was deleted or has expired can be imported again.
        Some(AwsState::PendingDeletion | AwsState::PendingReplicaDeletion | AwsState::PendingImport) => {
            KeyState::Deleted
        }
        Some(AwsState::Creating) => {
            return failed(Kind::Unavailable, "the key is still being made: wait".into());
        }
        Some(AwsState::Unavailable) => {
            let message = "the key's custom key store is disconnected: connect it".into();
            return failed(Kind::Unavailable, message);
        }
        state => {
            let state = state.map_or("missing", AwsState::as_str);
            return failed(
                Kind::Other,
                format!("the key's state is {state}, which is not known: use a newer program"),
            );
        }
    };
    let mut properties = KeyProperties::new(exact.clone(), exact.clone(), KeyKind::AwsKms);
    properties.state = state;
    (properties.soft_delete, properties.purge_protection) = match said.origin() {
        Some(OriginType::AwsKms | OriginType::AwsCloudhsm) => (true, true),
        // Its deletion can be cancelled, but its material be deleted at once.
        Some(OriginType::External) => (true, false),
        _ => (false, false),
    };
    if said.expiration_model() == Some(&ExpirationModelType::KeyMaterialExpires) {
        let expires_at = said.valid_to().and_then(|at| u64::try_from(at.secs()).ok());
        properties.expires_at = expires_at.map(Duration::from_secs);
    }
    Ok(properties)
}
