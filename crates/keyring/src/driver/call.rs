//! One call to a vault, for an account's key or a segment's.
//!
//! Guarantees: only a wrap of a length that can be is sent; a call takes at most its time-out; what is unwrapped is used only
//! once its check value is found right, and says nothing else. Not its job: turns (`lane`), what a failure means.

use std::time::Duration;

use cofferdam_crypto::{Aek, WrappedAek, WrappedKey};
use cofferdam_vault::{KeyVault, VaultError, VaultErrorKind, WrapContext};

use crate::rt::timeout;

/// The wrap that is to be unwrapped, by the KEK at this place; `lacking` says what it means that there is none.
pub(super) fn wrap_of<'a>(
    of: &'a WrappedAek,
    kek: usize,
    lacking: &str,
) -> Result<&'a WrappedKey, VaultError> {
    let corrupt = |message: String| VaultError::new(VaultErrorKind::Corrupt, message);
    let wrapped = of.wraps.get(kek).ok_or_else(|| corrupt(lacking.into()))?;
    let len = wrapped.bytes.len();
    if !wrapped.algorithm.accepts_len(len) {
        return Err(corrupt(format!("a wrapped key can't have {len} bytes")).about(&wrapped.key_id));
    }
    Ok(wrapped)
}

/// What the vault unwraps, not verified yet.
pub(super) async fn unwrap(
    vault: &dyn KeyVault,
    wrapped: &WrappedKey,
    of: &WrappedAek,
    limit: Duration,
) -> Result<Aek, VaultError> {
    let context = WrapContext { scope: of.scope };
    match timeout(limit, vault.unwrap_key(wrapped, &context)).await {
        Ok(answer) => answer.map_err(|failed| failed.about(&wrapped.key_id)),
        Err(_) => {
            let message = format!("the vault did not answer within {limit:?}");
            Err(VaultError::new(VaultErrorKind::Unavailable, message).about(&wrapped.key_id))
        }
    }
}

/// Whether it is the key that it should be.
pub(super) fn verify(aek: &Aek, wrapped: &WrappedKey, of: &WrappedAek) -> Result<(), VaultError> {
    of.verify(aek).map_err(|mismatch| {
        VaultError::new(VaultErrorKind::Corrupt, mismatch.to_string())
            .about(&wrapped.key_id)
            .caused_by(mismatch)
    })
}
