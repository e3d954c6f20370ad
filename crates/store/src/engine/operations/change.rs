//! What each kind of operation changes of an account's record.
//!
//! Guarantees: one compare-and-swap writes all of it, and only over the record that the operation was begun for. AEKs that are
//! wrapped here come from the vault, just now; each new wrap has been unwrapped again; no version is taken that was fenced
//! by then.
//!
//! Not its job: what other engines make of it (`announce`), blocks.

use std::time::Duration;

use cofferdam_crypto::{Aek, Epoch, KeyId, Provider, WrapAlgorithm, WrappedAek, WrappedKey};
use cofferdam_keyring::KeyRecords;
use cofferdam_vault::Principal;
use data_encoding::HEXLOWER;

use super::{
    OperationKind,
    row::Begun,
    runner::{Stop, Task, failed, stop},
};
use crate::engine::{
    AccountName, EngineError, Inner,
    account_record::{AccountRecord, CustomerKek, CustomerKey, MAX_KEKS, Stage, VerifiedRecord},
    create::next_epoch,
    kek::{self, NewKek},
    segment_record::{SegmentRecord, UnverifiedSegment},
};

/// How many segments are looked up at once.
const PAGE: usize = 64;

/// Changes the record, unless this operation has.
pub(super) async fn change(task: &Task, begun: &Begun) -> Result<(), Stop> {
    let (engine, operation) = (&task.engine, &begun.operation);
    let (verified, service) = engine.verified(&operation.account).await.map_err(|e| stop(e, false))?;
    let VerifiedRecord { record, revision, tag } = verified;
    if record.id != operation.account_id {
        return Err(failed("no-account", format_args!("account {} is another one now", operation.account)));
    }
    if record.written_by == Some(operation.id) {
        return Ok(());
    }
    if begun.cancelled {
        return Err(failed("cancelled", "it was cancelled before it had changed anything"));
    }
    if !begun.is_genuine(service.record_key()) {
        return Err(failed("forged", "its record is not what was written: begin it again"));
    }
    if begun.base != HEXLOWER.encode(&tag) {
        let message =
            format_args!("account {} was changed meanwhile: look at it, and begin again", record.name);
        return Err(failed("conflict", message));
    }
    let name = record.name.clone();
    let mut changed = apply(engine, &operation.kind, record).await.map_err(|e| stop(e, false))?;
    changed.written_by = Some(operation.id);
    let bytes = changed.seal(service.record_key()).map_err(|e| stop(e, false))?;
    // Last of all: who fences one of these versions after this sees that the operation goes on.
    engine.fences.check_record(&changed).await.map_err(|e| stop(e, false))?;
    match engine.records.replace(&name, &revision, Some(bytes)).await {
        Ok(true) => {
            if let OperationKind::RemoveKek { kek, .. } | OperationKind::RotateKek { from: kek, .. } =
                &operation.kind
            {
                // Left behind, it is a row that nothing asks for.
                let _ = engine.records.note_bridge(task.account, kek, None).await;
            }
            Ok(())
        }
        // Looked at again: it may have been this one, whose answer was lost.
        Ok(false) => Err(Stop::Soon("another engine changed the account at the same time".into())),
        Err(e) => Err(stop(e, true)),
    }
}

/// The record as the operation leaves it.
async fn apply(
    engine: &Inner,
    kind: &OperationKind,
    mut record: AccountRecord,
) -> Result<AccountRecord, EngineError> {
    let (name, now) = (record.name.clone(), engine.clock.now().wall);
    match kind {
        OperationKind::RotateKek { from, principal, to, .. } => {
            let customer = customer(&mut record)?;
            let at = position(&name, customer, from)?;
            let old = &customer.keks[at];
            let vault = kek::vault_of(engine, &name, &old.principal)?;
            let aeks = kek::unwrap_all(engine, vault, &old.key_id, &customer.epochs).await?;
            let (kek, wraps) = wrap_all(engine, &name, principal, to, customer, &aeks).await?;
            customer.keks[at] = kek;
            for (epoch, wrap) in customer.epochs.iter_mut().zip(wraps) {
                epoch.wraps[at] = wrap;
            }
        }
        OperationKind::AddKek { principal, kek } => {
            let customer = customer(&mut record)?;
            if customer.keks.len() >= MAX_KEKS {
                return Err(EngineError::TooManyKeks { account: name, most: MAX_KEKS });
            }
            let aeks = unwrap_by_any(engine, &name, &customer.keks, &customer.epochs).await?;
            let (kek, wraps) = wrap_all(engine, &name, principal, kek, customer, &aeks).await?;
            customer.keks.push(kek);
            for (epoch, wrap) in customer.epochs.iter_mut().zip(wraps) {
                epoch.wraps.push(wrap);
            }
        }
        OperationKind::RemoveKek { kek, .. } => {
            let customer = customer(&mut record)?;
            let at = position(&name, customer, kek)?;
            let removed = customer.keks.remove(at);
            if customer.keks.is_empty() {
                return Err(EngineError::LastKek { account: name, key_id: removed.key_id });
            }
            // What is left must be enough.
            unwrap_by_any(engine, &name, &customer.keks, &customer.epochs).await?;
            for epoch in &mut customer.epochs {
                epoch.wraps.remove(at);
            }
        }
        OperationKind::RotateAek { .. } => {
            let last = record.last_epoch;
            let customer = customer(&mut record)?;
            let epoch = begin_epoch(engine, &name, customer, last).await?;
            record.last_epoch = epoch;
            if let Some(customer) = &mut record.customer {
                customer.epoch_since = now;
            }
        }
        OperationKind::Link { principal, kek, buffer, .. } => {
            link(engine, &mut record, principal, kek, *buffer, now).await?;
        }
        OperationKind::Unlink { .. } => record.linked = false,
        OperationKind::Delete => {
            record.stage = Stage::Deleted { at: now, until: now + engine.retention };
        }
        OperationKind::Recover => record.stage = Stage::Live,
        // It changes nothing: it destroys.
        OperationKind::Purge => {}
    }
    Ok(record)
}

/// Starts a new epoch under all KEKs of the account: its number.
async fn begin_epoch(
    engine: &Inner,
    name: &AccountName,
    customer: &mut CustomerKey,
    last: Epoch,
) -> Result<Epoch, EngineError> {
    let Some(newest) = customer.epochs.last() else {
        return Err(EngineError::NotLinked { account: name.clone() });
    };
    let aeks = unwrap_by_any(engine, name, &customer.keks, std::slice::from_ref(newest)).await?;
    let (account, previous) = (newest.scope.account, aeks.last().zip(Some(newest)));
    let (aek, mut epoch) = next_epoch(engine, name, account, last, Provider::Customer, previous)?;
    let number = epoch.scope.epoch;
    let mut wraps = Vec::with_capacity(customer.keks.len());
    for kek in &customer.keks {
        let vault = kek::vault_of(engine, name, &kek.principal)?;
        wraps.push(kek::wrap(engine, vault, &kek.key_id, &aek, &epoch).await?);
    }
    epoch.wraps = wraps;
    customer.epochs.push(epoch);
    Ok(number)
}

/// Links the account: under a new epoch, which follows those of before where there are any.
async fn link(
    engine: &Inner,
    record: &mut AccountRecord,
    principal: &Principal,
    kek: &KeyId,
    buffer: crate::engine::BufferMode,
    now: Duration,
) -> Result<(), EngineError> {
    let name = record.name.clone();
    let (former, mut epochs) = match record.customer.take() {
        Some(former) => (former.keks, former.epochs),
        None => (Vec::new(), Vec::new()),
    };
    let mut aeks = match epochs.as_slice() {
        [] => Vec::new(),
        epochs => unwrap_by_any(engine, &name, &former, epochs).await?,
    };
    let (last, previous) = (record.last_epoch, aeks.last().zip(epochs.last()));
    let (aek, epoch) = next_epoch(engine, &name, record.id, last, Provider::Customer, previous)?;
    let number = epoch.scope.epoch;
    aeks.push(aek);
    epochs.push(epoch);
    let new = NewKek::of(engine, &name, principal, kek)?;
    new.check(engine, buffer).await?;
    let keys: Vec<(&Aek, &WrappedAek)> = aeks.iter().zip(&epochs).collect();
    let (kek, wraps) = new.wrap(engine, &keys, buffer).await?;
    for (epoch, wrap) in epochs.iter_mut().zip(wraps) {
        epoch.wraps = vec![wrap];
    }
    record.customer = Some(CustomerKey { keks: vec![kek], epochs, epoch_since: now, buffer });
    (record.linked, record.last_epoch) = (true, number);
    Ok(())
}

fn customer(record: &mut AccountRecord) -> Result<&mut CustomerKey, EngineError> {
    let account = record.name.clone();
    record.customer.as_mut().ok_or(EngineError::NotLinked { account })
}

fn position(name: &AccountName, customer: &CustomerKey, key_id: &KeyId) -> Result<usize, EngineError> {
    let at = customer.keks.iter().position(|kek| kek.key_id == *key_id);
    at.ok_or_else(|| EngineError::NoSuchKek {
        account: name.clone(),
        named: Some(key_id.clone()),
        has: customer.keks.iter().map(|kek| kek.key_id.clone()).collect(),
    })
}

/// Wraps all epochs under a KEK that the account does not have yet.
async fn wrap_all(
    engine: &Inner,
    name: &AccountName,
    principal: &Principal,
    set: &KeyId,
    customer: &CustomerKey,
    aeks: &[Aek],
) -> Result<(CustomerKek, Vec<WrappedKey>), EngineError> {
    let new = NewKek::of(engine, name, principal, set)?;
    new.check(engine, customer.buffer).await?;
    let keys: Vec<(&Aek, &WrappedAek)> = aeks.iter().zip(&customer.epochs).collect();
    let (kek, wraps) = new.wrap(engine, &keys, customer.buffer).await?;
    if customer.keks.iter().any(|of| of.key_id == kek.key_id) {
        return Err(EngineError::KekInUse { account: name.clone(), key_id: kek.key_id });
    }
    Ok((kek, wraps))
}

/// The AEKs of these epochs, from the first KEK that unwraps them all.
async fn unwrap_by_any(
    engine: &Inner,
    name: &AccountName,
    keks: &[CustomerKek],
    epochs: &[WrappedAek],
) -> Result<Vec<Aek>, EngineError> {
    let mut last = Err(EngineError::NotLinked { account: name.clone() });
    for kek in keks {
        let vault = kek::vault_of(engine, name, &kek.principal)?;
        last = kek::unwrap_all(engine, vault, &kek.key_id, epochs).await;
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Wraps the segments anew that a version has wrapped which the account has no longer.
pub(super) async fn rewrap_segments(task: &Task, begun: &Begun) -> Result<(), Stop> {
    let (engine, operation) = (&task.engine, &begun.operation);
    let (OperationKind::RotateKek { of, from, .. } | OperationKind::RemoveKek { principal: of, kek: from }) =
        &operation.kind
    else {
        return Ok(());
    };
    let mut after = None;
    loop {
        let page = engine.blocks.segments(task.account, after, PAGE).await;
        let page = page.map_err(|e| stop(e.into(), true))?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (segment, row) in page {
            let (verified, service) = engine.verified(&operation.account).await.map_err(|e| stop(e, true))?;
            let Ok(read) = UnverifiedSegment::parse(task.account, segment, &row.record) else { continue };
            // A forged one is told of by the drain, and drained by nobody.
            let Ok(genuine) = read.verify(service.record_key()) else { continue };
            if genuine.key.wraps.iter().all(|wrap| wrap.key_id != *from) {
                continue;
            }
            let mut keks = verified.record.customer.iter().flat_map(|customer| &customer.keks);
            let Some(to) = keks.find(|kek| kek.public_key.is_some()) else { continue };
            let rewrapped = rewrap(engine, &operation.account, (of, from), to, genuine).await;
            let rewrapped = rewrapped.map_err(|e| stop(e, true))?;
            let bytes = rewrapped.seal(service.record_key());
            let bytes = bytes.map_err(|e| stop(verified.record.bad(e), true))?;
            // Where it is gone, it was drained.
            let replaced = engine.blocks.replace_segment(task.account, segment, &row.record, bytes).await;
            replaced.map_err(|e| stop(e.into(), true))?;
        }
    }
}

/// The segment under the public half of this KEK in place of its wrap under that version, which unwraps it afresh.
async fn rewrap(
    engine: &Inner,
    name: &AccountName,
    (principal, from): (&Principal, &KeyId),
    to: &CustomerKek,
    mut segment: SegmentRecord,
) -> Result<SegmentRecord, EngineError> {
    let Some(pinned) = &to.public_key else { return Ok(segment) };
    let vault = kek::vault_of(engine, name, principal)?;
    let aeks = kek::unwrap_all(engine, vault, from, std::slice::from_ref(&segment.key)).await?;
    let Some(aek) = aeks.first() else { return Ok(segment) };
    let unfit = |e| EngineError::UnfitKek { reason: format!("{}: {e}", pinned.key_id) };
    let new = WrappedKey {
        key_id: pinned.key_id.clone(),
        algorithm: WrapAlgorithm::RsaOaep256,
        bytes: pinned.key.wrap(aek).map_err(unfit)?,
    };
    for wrap in segment.key.wraps.iter_mut().filter(|wrap| wrap.key_id == *from) {
        *wrap = new.clone();
    }
    let vault = kek::vault_of(engine, name, &to.principal)?;
    kek::unwrap_all(engine, vault, &pinned.key_id, std::slice::from_ref(&segment.key)).await?;
    Ok(segment)
}
