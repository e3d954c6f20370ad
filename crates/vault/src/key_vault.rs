//! The trait that a key vault implements.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{
    Aek, KeyId, KeyScope, WrapAlgorithm, WrappedKey,
    rsa::{RsaPublicKey, RsaSize},
};
use thiserror::Error;

use crate::VaultError;

/// Which AEK is wrapped or unwrapped.
///
/// A vault that can bind it (an encryption context, AAD) must; where it can't, the key check value of the
/// [`WrappedAek`](cofferdam_crypto::WrappedAek) catches a wrapped key that was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrapContext {
    /// Account, epoch and provider of the AEK.
    pub scope: KeyScope,
}

/// A key vault: wraps and unwraps AEKs under KEKs that never leave it.
///
/// Implementations must be safe to call from many tasks, must not retry or cache (layers around them do),
/// and must tell a denial from an outage by the table of [`VaultErrorKind`](crate::VaultErrorKind).
/// A call whose future is dropped may or may not have reached the vault; none changes the vault's keys.
#[async_trait]
pub trait KeyVault: fmt::Debug + Send + Sync {
    /// Wraps an AEK under a KEK. The answer names the KEK's version, also where `key_id` does not.
    ///
    /// # Errors
    /// [`VaultError`] of the kind that the table gives.
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError>;

    /// Unwraps an AEK by the KEK version that wrapped it.
    ///
    /// The caller verifies the key check value before it uses the key.
    ///
    /// # Errors
    /// [`VaultError`] of the kind that the table gives; `Corrupt` when the length is wrong before the vault
    /// is asked, or when the vault finds the wrapped key malformed.
    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError>;

    /// What the vault says of a KEK: of the version named, or of the latest. Needs no usable key: where the
    /// vault tells the properties of a disabled or deleted key, this does.
    ///
    /// # Errors
    /// [`VaultError`] of the kind that the table gives.
    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError>;

    /// The public half of an RSA KEK: of the version named, or of the latest. It is for wrapping, so a vault that
    /// would deny a wrap denies this.
    ///
    /// A vault without RSA answers [`VaultError::not_rsa`], and so does one whose key is of another kind.
    ///
    /// # Errors
    /// [`VaultError`] of the kind that the table gives.
    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError>;
}

/// The public half of an RSA KEK, as its vault answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeyAnswer {
    /// The KEK, with the version that this is of.
    pub key_id: KeyId,
    /// The public half.
    pub key: RsaPublicKey,
}

#[async_trait]
impl<V: KeyVault + ?Sized> KeyVault for Arc<V> {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        (**self).wrap_key(key_id, aek, context).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        (**self).unwrap_key(wrapped, context).await
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        (**self).key_properties(key_id).await
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        (**self).public_key(key_id).await
    }
}

/// What kind of key a KEK is. Printed and read as `aes-256`, `rsa-2048`, `rsa-3072`, `rsa-4096`, `aws-kms` and
/// `transit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// AES with 256 bits.
    #[default]
    Aes256,
    /// RSA with so many bits.
    Rsa(RsaSize),
    /// A symmetric key of AWS KMS (SYMMETRIC_DEFAULT), which wraps in a format of its own.
    AwsKms,
    /// A symmetric key of a Transit engine (aes256-gcm96), which wraps in a format of its own.
    Transit,
}

impl KeyKind {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Aes256,
        Self::Rsa(RsaSize::Rsa2048),
        Self::Rsa(RsaSize::Rsa3072),
        Self::Rsa(RsaSize::Rsa4096),
        Self::AwsKms,
        Self::Transit,
    ];

    /// How it wraps AEKs.
    pub const fn algorithm(self) -> WrapAlgorithm {
        match self {
            Self::Aes256 => WrapAlgorithm::Aes256Kw,
            Self::Rsa(_) => WrapAlgorithm::RsaOaep256,
            Self::AwsKms => WrapAlgorithm::AwsKms,
            Self::Transit => WrapAlgorithm::Transit,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aes256 => f.write_str("aes-256"),
            Self::Rsa(size) => write!(f, "rsa-{}", size.bits()),
            Self::AwsKms => f.write_str("aws-kms"),
            Self::Transit => f.write_str("transit"),
        }
    }
}

impl FromStr for KeyKind {
    type Err = UnknownKeyKind;

    fn from_str(text: &str) -> Result<Self, UnknownKeyKind> {
        let mut kinds = Self::ALL.into_iter();
        kinds
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| UnknownKeyKind(text.chars().take(32).collect()))
    }
}

/// A text names no kind of key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no kind of key: use aes-256, rsa-2048, rsa-3072, rsa-4096, aws-kms or transit")]
pub struct UnknownKeyKind(String);

/// Whether a key version can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// It can.
    Enabled,
    /// It was disabled.
    Disabled,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetActive,
    /// It is soft-deleted and can be recovered.
    Deleted,
}

/// What a vault says of a KEK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyProperties {
    /// The key with the version that this is about.
    pub key_id: KeyId,
    /// The key with its latest version.
    pub latest: KeyId,
    /// What kind of key it is.
    pub kind: KeyKind,
    /// Whether it can be used.
    pub state: KeyState,
    /// Before when it can't be used, as time since the Unix epoch.
    pub not_before: Option<Duration>,
    /// From when it can't be used, as time since the Unix epoch.
    pub expires_at: Option<Duration>,
    /// Whether a deleted key can be recovered (soft delete).
    pub soft_delete: bool,
    /// Whether nobody can purge a deleted key early (purge protection).
    pub purge_protection: bool,
    /// Whether the vault gives the key itself away, to who may export it or back it up in the clear. Then a revocation
    /// reaches nobody who did: for a service to warn of, no reason to refuse the customer's own choice.
    pub exportable: bool,
}

impl KeyProperties {
    /// The properties of an enabled key that is not recoverable, never expires and never leaves its vault.
    pub fn new(key_id: KeyId, latest: KeyId, kind: KeyKind) -> Self {
        Self {
            key_id,
            latest,
            kind,
            state: KeyState::Enabled,
            not_before: None,
            expires_at: None,
            soft_delete: false,
            purge_protection: false,
            exportable: false,
        }
    }

    /// Whether a deletion of the key can be undone for certain: soft delete and purge protection are both on.
    pub fn recoverable(&self) -> bool {
        self.soft_delete && self.purge_protection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_way_to_text_and_back() {
        let names = KeyKind::ALL.map(|kind| kind.to_string());
        assert_eq!(names, ["aes-256", "rsa-2048", "rsa-3072", "rsa-4096", "aws-kms", "transit"]);
        for kind in KeyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for bad in ["", "aes", "AES-256", "rsa", "rsa-1024", "rsa-2048 ", "ec-256"] {
            assert!(bad.parse::<KeyKind>().is_err(), "{bad}");
        }
    }
}
