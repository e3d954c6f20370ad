//! What the engine asks of vaults itself: to check a KEK, to wrap AEKs under it, to unwrap them afresh.
//!
//! Guarantees: a KEK counts only after its vault has described it as usable and recoverable, and each wrap only after the
//! vault has given back what was wrapped; the public half of an RSA KEK is pinned only once its vault has unwrapped what
//! was wrapped by it. No AEK that is wrapped here comes out of the keyring's cache.
//!
//! Not its job: budgets (these calls are few), what follows from an answer.

use std::sync::Arc;

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, Provider, WrapAlgorithm, WrappedAek, WrappedKey};
use cofferdam_vault::{
    KeyKind, KeyProperties, KeyState, KeyVault, Principal, VaultError, VaultErrorKind, WrapContext,
};

use super::{
    AccountName, BufferMode, EngineError, Inner,
    account_record::{CustomerKek, PinnedKey},
    create::new_epoch,
};

/// A KEK to wrap AEKs under, as a customer named it.
#[derive(Clone, Copy)]
pub(super) struct NewKek<'a> {
    pub(super) vault: &'a Arc<dyn KeyVault>,
    pub(super) principal: &'a Principal,
    /// With a version, or without for the latest.
    pub(super) set: &'a KeyId,
}

impl<'a> NewKek<'a> {
    /// The KEK in the vault that is registered for the principal.
    pub(super) fn of(
        inner: &'a Inner,
        account: &AccountName,
        principal: &'a Principal,
        set: &'a KeyId,
    ) -> Result<Self, EngineError> {
        Ok(Self { vault: vault_of(inner, account, principal)?, principal, set })
    }

    /// Refuses a KEK that a customer could lose for good, that can't be used now, or that does not fit the buffer.
    pub(super) async fn check(
        &self,
        inner: &Inner,
        buffer: BufferMode,
    ) -> Result<KeyProperties, EngineError> {
        if buffer == BufferMode::WriteOnly && !cfg!(feature = "aws-lc") {
            let reason = "its keys are wrapped by aws-lc: build with the feature aws-lc".into();
            return Err(EngineError::NoWriteOnly { reason });
        }
        let properties = ask(inner, "describe the KEK", self.vault.key_properties(self.set)).await?;
        match properties.state {
            KeyState::Enabled => {}
            state => {
                return Err(unfit(format!("{} is {state:?}: enable or recover it first", properties.key_id)));
            }
        }
        if !properties.recoverable() {
            return Err(unfit(format!(
                "{} is not recoverable: turn on soft delete and purge protection in its vault, or one mistake there \
                 loses the account's data for good",
                properties.key_id
            )));
        }
        if buffer == BufferMode::WriteOnly && !matches!(properties.kind, KeyKind::Rsa(_)) {
            return Err(no_write_only(self.set));
        }
        Ok(properties)
    }

    /// Whether its vault wraps and unwraps with it now, with a key that is good for nothing.
    pub(super) async fn try_out(&self, inner: &Inner, account: AccountId) -> Result<(), EngineError> {
        let (aek, of) = new_epoch(inner, account, Epoch::new(0), Provider::Customer)?;
        wrap(inner, self.vault, self.set, &aek, &of).await.map(drop)
    }

    /// Wraps the AEKs of all epochs, oldest first, under one version of the KEK, proves each wrap, and pins the public
    /// half where there is one.
    pub(super) async fn wrap(
        &self,
        inner: &Inner,
        keys: &[(&Aek, &WrappedAek)],
        buffer: BufferMode,
    ) -> Result<(CustomerKek, Vec<WrappedKey>), EngineError> {
        let (mut version, mut wraps) = (self.set.clone(), Vec::with_capacity(keys.len()));
        for (aek, of) in keys {
            let wrap = wrap(inner, self.vault, &version, aek, of).await?;
            // All under the version that the first was: a new one may be made meanwhile.
            version = wrap.key_id.clone();
            wraps.push(wrap);
        }
        let newest = keys.last().zip(wraps.last());
        let public_key = match newest {
            Some(((aek, of), wrap)) => public_key(inner, self.vault, aek, of, wrap).await?,
            None => None,
        };
        if buffer == BufferMode::WriteOnly && public_key.is_none() {
            return Err(no_write_only(self.set));
        }
        let (principal, set) = (self.principal.clone(), self.set.clone());
        Ok((CustomerKek { principal, set, key_id: version, public_key }, wraps))
    }
}

/// The vault that is registered for a principal.
pub(super) fn vault_of<'a>(
    inner: &'a Inner,
    account: &AccountName,
    principal: &Principal,
) -> Result<&'a Arc<dyn KeyVault>, EngineError> {
    inner
        .vaults
        .customer(principal)
        .ok_or_else(|| EngineError::NoVault { account: account.clone(), principal: Some(principal.clone()) })
}

fn unfit(reason: String) -> EngineError {
    EngineError::UnfitKek { reason }
}

fn no_write_only(kek: &KeyId) -> EngineError {
    let reason = format!(
        "{kek} is not an RSA key, so it has no public half that could wrap without its vault: take an RSA key, or a \
         service-managed buffer"
    );
    EngineError::NoWriteOnly { reason }
}

/// Wraps an AEK, and proves the wrap.
pub(super) async fn wrap(
    inner: &Inner,
    vault: &Arc<dyn KeyVault>,
    kek: &KeyId,
    aek: &Aek,
    of: &WrappedAek,
) -> Result<WrappedKey, EngineError> {
    let context = WrapContext { scope: of.scope };
    let wrap = ask(inner, "wrap a key", vault.wrap_key(kek, aek, &context)).await?;
    if !wrap.algorithm.accepts_len(wrap.bytes.len()) {
        return Err(unfit(format!(
            "{kek}: its vault wrapped a key into {} bytes, which no unwrap takes",
            wrap.bytes.len()
        )));
    }
    prove(inner, vault, of, &wrap).await?;
    Ok(wrap)
}

/// The same under a KEK of the service's, which must not be RSA.
pub(super) async fn wrap_by_service(
    inner: &Inner,
    kek: &KeyId,
    aek: &Aek,
    of: &WrappedAek,
) -> Result<WrappedKey, EngineError> {
    let wrap = wrap(inner, inner.vaults.service(), kek, aek, of).await?;
    if wrap.algorithm == WrapAlgorithm::RsaOaep256 {
        return Err(unfit(format!(
            "{} is an RSA key, and a record is believed because only the service's vault wraps under its KEK: \
             give the service a symmetric one",
            inner.service_kek
        )));
    }
    Ok(wrap)
}

/// Whether the vault unwraps this to the AEK that it should be.
async fn prove(
    inner: &Inner,
    vault: &Arc<dyn KeyVault>,
    of: &WrappedAek,
    wrap: &WrappedKey,
) -> Result<(), EngineError> {
    let context = WrapContext { scope: of.scope };
    let again = ask(inner, "unwrap the key that was wrapped", vault.unwrap_key(wrap, &context)).await?;
    of.verify(&again)
        .map_err(|e| unfit(format!("{}: {e}; its vault does not give back what was wrapped", wrap.key_id)))
}

/// Unwraps the AEKs of these epochs afresh, each by its wrap under this KEK.
pub(super) async fn unwrap_all(
    inner: &Inner,
    vault: &Arc<dyn KeyVault>,
    key_id: &KeyId,
    epochs: &[WrappedAek],
) -> Result<Vec<Aek>, EngineError> {
    let mut aeks = Vec::with_capacity(epochs.len());
    for of in epochs {
        let wrap = of.wraps.iter().find(|wrap| wrap.key_id == *key_id);
        let wrap = wrap.ok_or_else(|| unfit(format!("{key_id} has not wrapped {}", of.scope)))?;
        let context = WrapContext { scope: of.scope };
        let aek = ask(inner, "unwrap the account's key", vault.unwrap_key(wrap, &context)).await?;
        of.verify(&aek).map_err(|e| EngineError::Vault {
            action: "unwrap the account's key",
            source: VaultError::new(VaultErrorKind::Corrupt, e.to_string()),
        })?;
        aeks.push(aek);
    }
    Ok(aeks)
}

/// The public half to pin, where the AEK is wrapped under an RSA KEK: of the version that wrapped it, and the vault's.
async fn public_key(
    inner: &Inner,
    vault: &Arc<dyn KeyVault>,
    aek: &Aek,
    of: &WrappedAek,
    wrap: &WrappedKey,
) -> Result<Option<PinnedKey>, EngineError> {
    if wrap.algorithm != WrapAlgorithm::RsaOaep256 || is_planted(Bug::PublicKeyNotPinned) {
        return Ok(None);
    }
    let answer = ask(inner, "give the KEK's public half", vault.public_key(&wrap.key_id)).await?;
    let pinned = PinnedKey { key_id: answer.key_id, key: answer.key };
    if is_planted(Bug::PublicKeyOfAnotherVersion) {
        return Ok(Some(PinnedKey { key_id: wrap.key_id.clone(), ..pinned }));
    }
    if !pinned.may_have_wrapped(wrap) {
        return Err(unfit(format!(
            "{} wrapped the account's key, and its vault gave the public half of {}, {} bits: ask who runs the vault",
            wrap.key_id,
            pinned.key_id,
            pinned.key.bits()
        )));
    }
    let bytes = pinned.key.wrap(aek).map_err(|e| unfit(format!("{}: {e}", wrap.key_id)))?;
    let by_public_half = WrappedKey { bytes, ..wrap.clone() };
    prove(inner, vault, of, &by_public_half).await?;
    Ok(Some(pinned))
}

/// A vault's answer, within the time that a vault call may take.
pub(super) async fn ask<T>(
    inner: &Inner,
    action: &'static str,
    call: impl Future<Output = Result<T, VaultError>>,
) -> Result<T, EngineError> {
    let limit = inner.policy.call_timeout();
    let answer = tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        let message = format!("no answer within {limit:?}: check the way to the vault, then try again");
        Err(VaultError::new(VaultErrorKind::Unavailable, message))
    });
    answer.map_err(|source| EngineError::Vault { action, source })
}
