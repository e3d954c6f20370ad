//! Making an account.
//!
//! Guarantees: the record is written last, so an account exists whole or not at all; each wrap was unwrapped
//! again and found right before it counts; no key version is taken that was fenced meanwhile.

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyScope, Provider, RecordKey, WrappedAek};

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
    let wrap = kek::wrap_by_service(inner, &inner.service_kek, &service_aek, &service).await?;
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
    insert(inner, &record, &RecordKey::derive(&service_aek, &scope)).await?;
    Ok(record)
}

/// Writes the record of an account that is not there yet, unless a version that it takes was fenced meanwhile.
pub(super) async fn insert(inner: &Inner, record: &AccountRecord, by: &RecordKey) -> Result<(), EngineError> {
    let bytes = record.seal(by)?;
    inner.fences.intend(record.id).await?;
    let inserted = async {
        inner.fences.check_record(record).await?;
        inner.records.insert(&record.name, record.id, bytes).await
    };
    let inserted = inserted.await;
    // One that is left behind counts for minutes only.
    let _ = inner.fences.intended(record.id).await;
    inserted
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

/// The same of the epoch after this one; it follows the previous one where there is that.
pub(super) fn next_epoch(
    inner: &Inner,
    name: &AccountName,
    account: AccountId,
    last: Epoch,
    provider: Provider,
    previous: Option<(&Aek, &WrappedAek)>,
) -> Result<(Aek, WrappedAek), EngineError> {
    let number = last.number().checked_add(1).ok_or_else(|| EngineError::BadRecord {
        account: name.clone(),
        reason: "it has no epoch left".into(),
    })?;
    let (aek, epoch) = new_epoch(inner, account, Epoch::new(number), provider)?;
    let epoch = match previous {
        Some((previous, of)) => epoch.following(&RecordKey::derive(previous, &of.scope)),
        None => epoch,
    };
    Ok((aek, epoch))
}
