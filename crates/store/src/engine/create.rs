//! Making an account.
//!
//! Guarantees: the record is written last, so an account exists whole or not at all; each wrap was unwrapped
//! again and found right before it counts; no key version is taken that was fenced meanwhile.

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyScope, Provider, RecordKey, WrapAlgorithm, WrappedAek};

use super::{
    AccountKey, AccountName, AccountRecord, EngineError, Inner,
    account_record::{CustomerKey, Stage},
    kek::{self, NewKek},
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
    let now = inner.clock.now().wall;

    let customer = match &key {
        AccountKey::Service => None,
        AccountKey::Customer { principal, kek, buffer } => {
            let new = NewKek::of(inner, name, principal, kek)?;
            new.check(inner, *buffer).await?;
            let (aek, mut epoch) = new_epoch(inner, account, Epoch::FIRST, Provider::Customer)?;
            let (kek, wraps) = new.wrap(inner, &[(&aek, &epoch)], *buffer).await?;
            epoch.wraps = wraps;
            Some(CustomerKey { keks: vec![kek], epochs: vec![epoch], epoch_since: now, buffer: *buffer })
        }
    };
    let (service_aek, mut service) = new_epoch(inner, account, Epoch::FIRST, Provider::Service)?;
    let wrap = kek::wrap(inner, inner.vaults.service(), &inner.service_kek, &service_aek, &service).await?;
    if wrap.algorithm == WrapAlgorithm::RsaOaep256 {
        let reason = format!(
            "{} is an RSA key, and a record is believed because only the service's vault wraps under its KEK: \
             give the service a symmetric one",
            inner.service_kek
        );
        return Err(EngineError::UnfitKek { reason });
    }
    service.wraps.push(wrap);

    let record = AccountRecord {
        name: name.clone(),
        id: account,
        created_at: now,
        linked: customer.is_some(),
        service: vec![service],
        stage: Stage::Live,
        purge_protected: false,
        follows_latest: false,
        last_epoch: if customer.is_some() { Epoch::FIRST } else { Epoch::new(0) },
        customer,
        written_by: None,
    };
    let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Service };
    let bytes = record.seal(&RecordKey::derive(&service_aek, &scope))?;
    inner.fences.intend(account).await?;
    let inserted = insert(inner, &record, bytes).await;
    // One that is left behind counts for minutes only.
    let _ = inner.fences.intended(account).await;
    inserted.map(|()| record)
}

async fn insert(inner: &Inner, record: &AccountRecord, bytes: Vec<u8>) -> Result<(), EngineError> {
    for kek in record.customer.iter().flat_map(|customer| &customer.keks) {
        inner.fences.check(&kek.key_id).await?;
    }
    inner.records.insert(&record.name, record.id, bytes).await
}

/// A fresh AEK and its record, which has no wrap yet.
pub(super) fn new_epoch(
    inner: &Inner,
    account: AccountId,
    epoch: Epoch,
    provider: Provider,
) -> Result<(Aek, WrappedAek), EngineError> {
    let aek = Aek::try_from_fn(|bytes| inner.entropy.fill(bytes))?;
    let wrapped = WrappedAek::new(&aek, KeyScope { account, epoch, provider }, Vec::new());
    Ok((aek, wrapped))
}
