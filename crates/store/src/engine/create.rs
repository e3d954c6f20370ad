//! Making an account.
//!
//! Guarantees: the record is written last, so an account exists whole or not at all; each wrap was unwrapped
//! again and found right before it counts. The public half of an RSA KEK is pinned only once its vault has unwrapped what
//! was wrapped by it.

use std::sync::Arc;

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{
    AccountId, Aek, Epoch, KeyId, KeyScope, Provider, RecordKey, WrapAlgorithm, WrappedAek, WrappedKey,
};
use cofferdam_vault::{KeyKind, KeyState, KeyVault, VaultError, VaultErrorKind, WrapContext};

use super::{
    AccountKey, AccountName, AccountRecord, BufferMode, EngineError, Inner,
    account_record::{CustomerKey, PinnedKey},
};

pub(super) async fn create(
    inner: &Inner,
    name: &AccountName,
    key: AccountKey,
) -> Result<AccountRecord, EngineError> {
    match inner.records.load(name).await {
        Err(EngineError::NoAccount { .. }) => {}
        Ok(_) => return Err(EngineError::AccountExists { account: name.clone() }),
        Err(e) => return Err(e),
    }
    let mut id = [0; 16];
    inner.entropy.fill(&mut id)?;
    let account = AccountId::from_random_bytes(id);

    let customer = match key {
        AccountKey::Service => None,
        AccountKey::Customer { principal, kek, buffer } => {
            let vault = inner.vaults.customer(&principal).ok_or_else(|| EngineError::NoVault {
                account: name.clone(),
                principal: Some(principal.clone()),
            })?;
            if buffer == BufferMode::WriteOnly && !cfg!(feature = "aws-lc") {
                let reason = "its keys are wrapped by aws-lc: build with the feature aws-lc".into();
                return Err(EngineError::NoWriteOnly { reason });
            }
            let kind = check_kek(inner, vault, &kek).await?;
            if buffer == BufferMode::WriteOnly && !matches!(kind, KeyKind::Rsa(_)) {
                return Err(no_write_only(&kek));
            }
            let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer };
            let (aek, wrapped) = new_aek(inner, vault, &kek, scope).await?;
            let public_key = public_key(inner, vault, &aek, &wrapped).await?;
            if buffer == BufferMode::WriteOnly && public_key.is_none() {
                return Err(no_write_only(&kek));
            }
            Some(CustomerKey { principal, kek, epochs: vec![wrapped], public_key, buffer })
        }
    };
    let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Service };
    let (service_aek, service) = new_aek(inner, inner.vaults.service(), &inner.service_kek, scope).await?;
    if service.wraps.iter().any(|wrap| wrap.algorithm == WrapAlgorithm::RsaOaep256) {
        let reason = format!(
            "{} is an RSA key, and a record is believed because only the service's vault wraps under its KEK: \
             give the service a symmetric one",
            inner.service_kek
        );
        return Err(EngineError::UnfitKek { reason });
    }

    let record = AccountRecord {
        name: name.clone(),
        id: account,
        created_at: inner.clock.now().wall,
        service: vec![service],
        customer,
    };
    let bytes = record.seal(&RecordKey::derive(&service_aek, &scope))?;
    inner.records.insert(name, account, bytes).await?;
    Ok(record)
}

/// Refuses a KEK that a customer could lose for good, or that can't be used now; tells its kind.
async fn check_kek(inner: &Inner, vault: &Arc<dyn KeyVault>, kek: &KeyId) -> Result<KeyKind, EngineError> {
    let properties = ask(inner, "describe the KEK", vault.key_properties(kek)).await?;
    let unfit = |reason: String| Err(EngineError::UnfitKek { reason });
    match properties.state {
        KeyState::Enabled => {}
        state => return unfit(format!("{} is {state:?}: enable or recover it first", properties.key_id)),
    }
    if !properties.recoverable() {
        return unfit(format!(
            "{} is not recoverable: turn on soft delete and purge protection in its vault, or one mistake there \
             loses the account's data for good",
            properties.key_id
        ));
    }
    Ok(properties.kind)
}

fn no_write_only(kek: &KeyId) -> EngineError {
    let reason = format!(
        "{kek} is not an RSA key, so it has no public half that could wrap without its vault: take an RSA key, or a \
         service-managed buffer"
    );
    EngineError::NoWriteOnly { reason }
}

/// A fresh AEK and its record, proved by unwrapping.
async fn new_aek(
    inner: &Inner,
    vault: &Arc<dyn KeyVault>,
    kek: &KeyId,
    scope: KeyScope,
) -> Result<(Aek, WrappedAek), EngineError> {
    let aek = Aek::try_from_fn(|bytes| inner.entropy.fill(bytes))?;
    let context = WrapContext { scope };
    let wrap = ask(inner, "wrap a key", vault.wrap_key(kek, &aek, &context)).await?;
    if !wrap.algorithm.accepts_len(wrap.bytes.len()) {
        let reason =
            format!("{kek}: its vault wrapped a key into {} bytes, which no unwrap takes", wrap.bytes.len());
        return Err(EngineError::UnfitKek { reason });
    }
    let wrapped = WrappedAek::new(&aek, scope, vec![wrap.clone()]);
    prove(inner, vault, &wrapped, &wrap).await?;
    Ok((aek, wrapped))
}

/// Whether the vault unwraps this to the AEK that it should be.
async fn prove(
    inner: &Inner,
    vault: &Arc<dyn KeyVault>,
    wrapped: &WrappedAek,
    wrap: &WrappedKey,
) -> Result<(), EngineError> {
    let context = WrapContext { scope: wrapped.scope };
    let again = ask(inner, "unwrap the key that was wrapped", vault.unwrap_key(wrap, &context)).await?;
    wrapped.verify(&again).map_err(|e| EngineError::UnfitKek {
        reason: format!("{}: {e}; its vault does not give back what was wrapped", wrap.key_id),
    })
}

/// The public half to pin, where the AEK is wrapped under an RSA KEK: of the version that wrapped it, and the vault's.
async fn public_key(
    inner: &Inner,
    vault: &Arc<dyn KeyVault>,
    aek: &Aek,
    wrapped: &WrappedAek,
) -> Result<Option<PinnedKey>, EngineError> {
    let Some(wrap) = wrapped.wraps.iter().find(|wrap| wrap.algorithm == WrapAlgorithm::RsaOaep256) else {
        return Ok(None);
    };
    if is_planted(Bug::PublicKeyNotPinned) {
        return Ok(None);
    }
    let unfit = |reason: String| EngineError::UnfitKek { reason };
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
    prove(inner, vault, wrapped, &by_public_half).await?;
    Ok(Some(pinned))
}

/// A vault's answer, within the time that a vault call may take.
async fn ask<T>(
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
