//! The keys of an account that is imported: unwrapped by what its archive names, wrapped anew for here.
//!
//! Guarantees: no vault is asked that the importer has not allowed, and of those only for what the archive says is theirs; what
//! is unwrapped counts only if its check value is right. Every AEK that is kept is wrapped anew and that wrap proved, and
//! both sides start a new epoch, which says what it follows.
//!
//! Not its job: whether the archive is genuine (`import` holds its tags against these keys).

use std::{fmt, sync::Arc};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{Aek, Epoch, KeyId, Provider, RecordKey, WrappedAek, WrappedKey};
use cofferdam_vault::{KeyVault, Meaning, Principal, VaultError};

use super::{ImportOptions, ServiceVault};
use crate::engine::{
    AccountName, EngineError, Inner,
    account_record::{AccountRecord, CustomerKek, CustomerKey, Stage},
    create::next_epoch,
    kek::{self, NewKek},
};

/// A KEK that an archive names, and that did not unwrap its keys.
#[derive(Debug)]
pub struct RefusedKek {
    /// The version.
    pub key_id: KeyId,
    /// Whose vault it is in, as the archive says; `None` for the service's own.
    pub principal: Option<Principal>,
    /// Why it did not.
    pub why: Refusal,
}

/// Why a KEK did not unwrap the keys of an archive.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The importer does not allow its vault to be asked.
    NotAllowed,
    /// No vault is registered for the principal that the importer named.
    NoVault {
        /// Whose vault it would be.
        principal: Principal,
    },
    /// Its vault said no, or nothing.
    Vault(VaultError),
}

impl fmt::Display for RefusedKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.principal {
            Some(principal) => write!(f, "{} of {principal} ", self.key_id)?,
            None => write!(f, "the service's {} ", self.key_id)?,
        }
        match &self.why {
            Refusal::NotAllowed => f.write_str("(its vault is not allowed to be asked: allow it)"),
            Refusal::NoVault { principal } => {
                write!(f, "(no vault is registered for {principal}: register it)")
            }
            Refusal::Vault(e) => write!(f, "({e})"),
        }
    }
}

impl RefusedKek {
    /// What its vault's answer means; `None` where it was not asked.
    pub(in crate::engine) fn meaning(&self) -> Option<Meaning> {
        match &self.why {
            Refusal::Vault(e) => Some(e.kind().meaning()),
            Refusal::NotAllowed | Refusal::NoVault { .. } => None,
        }
    }
}

/// The customer's AEKs of an archive.
pub(super) struct Unwrapped {
    /// Of all epochs, oldest first.
    pub(super) aeks: Vec<Aek>,
    /// The version that unwrapped them.
    pub(super) key_id: KeyId,
    /// The KEK to use from here on, unless the importer names another.
    same: (Principal, KeyId),
}

/// The customer's AEKs, by the first KEK of the archive that unwraps them all.
pub(super) async fn unwrap_customer(
    inner: &Inner,
    options: &ImportOptions,
    record: &AccountRecord,
) -> Result<Option<Unwrapped>, EngineError> {
    let Some(customer) = &record.customer else { return Ok(None) };
    let mut refused = Vec::with_capacity(customer.keks.len());
    for kek in &customer.keks {
        let (ours, vault) = match vault_of(inner, options, kek) {
            Ok(found) => found,
            Err(why) => {
                refused.push(RefusedKek::of(kek, why));
                continue;
            }
        };
        match kek::unwrap_all(inner, vault, &kek.key_id, &customer.epochs).await {
            Ok(aeks) => {
                let same = (ours.clone(), kek.set.clone());
                return Ok(Some(Unwrapped { aeks, key_id: kek.key_id.clone(), same }));
            }
            Err(EngineError::Vault { source, .. }) => {
                refused.push(RefusedKek::of(kek, Refusal::Vault(source)))
            }
            Err(e) => return Err(e),
        }
    }
    Err(EngineError::NotImportable { account: record.name.clone(), refused })
}

impl RefusedKek {
    fn of(kek: &CustomerKek, why: Refusal) -> Self {
        Self { key_id: kek.key_id.clone(), principal: Some(kek.principal.clone()), why }
    }

    /// Of a wrap under a version that the vault of this KEK may have.
    pub(super) fn of_wrap(wrap: &WrappedKey, kek: &CustomerKek, why: Refusal) -> Self {
        Self { key_id: wrap.key_id.clone(), ..Self::of(kek, why) }
    }
}

/// The vault that may be asked for a KEK of the archive, and whose it is here.
pub(super) fn vault_of<'a>(
    inner: &'a Inner,
    options: &'a ImportOptions,
    kek: &'a CustomerKek,
) -> Result<(&'a Principal, &'a Arc<dyn KeyVault>), Refusal> {
    let allowed = options.vaults.get(&kek.principal);
    let allowed = allowed.or_else(|| is_planted(Bug::ImportCallsAnyVault).then_some(&kek.principal));
    let ours = allowed.ok_or(Refusal::NotAllowed)?;
    let vault = inner.vaults.customer(ours);
    Ok((ours, vault.ok_or_else(|| Refusal::NoVault { principal: ours.clone() })?))
}

/// The service's AEKs of an archive, or why they can't be had.
pub(super) async fn unwrap_service(
    inner: &Inner,
    options: &ImportOptions,
    record: &AccountRecord,
) -> Result<Result<Vec<Aek>, RefusedKek>, EngineError> {
    let Some(key_id) = record.service.last().and_then(|of| of.wraps.first()).map(|wrap| &wrap.key_id) else {
        return Err(record.bad("it has no key of the service's"));
    };
    let refused = |why| Ok(Err(RefusedKek { key_id: key_id.clone(), principal: None, why }));
    let vault = match &options.service {
        ServiceVault::Own => inner.vaults.service(),
        ServiceVault::Other(vault) => vault,
        ServiceVault::Nobody => return refused(Refusal::NotAllowed),
    };
    match kek::unwrap_all(inner, vault, key_id, &record.service).await {
        Ok(aeks) => Ok(Ok(aeks)),
        Err(EngineError::Vault { source, .. }) => refused(Refusal::Vault(source)),
        Err(e) => Err(e),
    }
}

/// The account's record as it is here: under this name, its keys wrapped anew, a new epoch on each side. With the key that it
/// is tagged under.
pub(super) async fn rewrap(
    inner: &Inner,
    options: &ImportOptions,
    name: &AccountName,
    old: &AccountRecord,
    customer: Option<&Unwrapped>,
    service: Option<&[Aek]>,
) -> Result<(AccountRecord, RecordKey), EngineError> {
    let (service, key) = rewrap_service(inner, old, service).await?;
    let mut last_epoch = old.last_epoch;
    let customer = match (&old.customer, customer) {
        (Some(of), Some(unwrapped)) => {
            let new = rewrap_customer(inner, options, name, old, of, unwrapped).await?;
            last_epoch = new.epochs.last().map_or(last_epoch, |of| of.scope.epoch);
            Some(new)
        }
        _ => None,
    };
    let record = AccountRecord {
        name: name.clone(),
        id: old.id,
        created_at: old.created_at,
        service,
        customer,
        linked: old.linked,
        stage: Stage::Live,
        purge_protected: old.purge_protected,
        follows_latest: old.follows_latest,
        last_epoch,
        written_by: None,
    };
    record.check(name).map_err(|reason| record.bad(reason))?;
    Ok((record, key))
}

async fn rewrap_customer(
    inner: &Inner,
    options: &ImportOptions,
    name: &AccountName,
    old: &AccountRecord,
    of: &CustomerKey,
    unwrapped: &Unwrapped,
) -> Result<CustomerKey, EngineError> {
    let newest = of.epochs.last().map_or(old.last_epoch, |newest| newest.scope.epoch.max(old.last_epoch));
    let previous = unwrapped.aeks.last().zip(of.epochs.last());
    let (aek, epoch) = next_epoch(inner, &old.name, old.id, newest, Provider::Customer, previous)?;
    let mut epochs = of.epochs.clone();
    epochs.push(epoch);
    let keys: Vec<(&Aek, &WrappedAek)> = unwrapped.aeks.iter().chain([&aek]).zip(&epochs).collect();

    let (principal, set) = options.under.as_ref().unwrap_or(&unwrapped.same);
    let new = NewKek::of(inner, name, principal, set)?;
    new.check(inner, of.buffer).await?;
    let (kek, wraps) = new.wrap(inner, &keys, of.buffer).await?;
    // Once more before the record is written: this is to know it early.
    inner.fences.check(&kek.key_id).await?;
    for (epoch, wrap) in epochs.iter_mut().zip(wraps) {
        epoch.wraps = vec![wrap];
    }
    Ok(CustomerKey { keks: vec![kek], epochs, epoch_since: inner.clock.now().wall, buffer: of.buffer })
}

/// The service's side: with the epochs of before where they were unwrapped.
async fn rewrap_service(
    inner: &Inner,
    old: &AccountRecord,
    aeks: Option<&[Aek]>,
) -> Result<(Vec<WrappedAek>, RecordKey), EngineError> {
    let newest = old.service.last().map_or(Epoch::new(0), |of| of.scope.epoch);
    let (former, aeks) = match aeks {
        Some(aeks) => (old.service.as_slice(), aeks),
        None => (&[][..], &[][..]),
    };
    let previous = aeks.last().zip(former.last());
    let (aek, epoch) = next_epoch(inner, &old.name, old.id, newest, Provider::Service, previous)?;
    let mut epochs = former.to_vec();
    epochs.push(epoch);
    let mut version = inner.service_kek.clone();
    for (aek, of) in aeks.iter().chain([&aek]).zip(&mut epochs) {
        let wrap = kek::wrap_by_service(inner, &version, aek, of).await?;
        version = wrap.key_id.clone();
        of.wraps = vec![wrap];
    }
    let key = epochs.last().map(|of| RecordKey::derive(&aek, &of.scope));
    Ok((epochs, key.ok_or_else(|| old.bad("it has no key of the service's"))?))
}
