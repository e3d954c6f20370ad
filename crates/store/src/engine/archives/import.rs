//! Restoring an account from an archive.
//!
//! Guarantees: nothing is stored before all of the archive was found whole and a key of the account's has authenticated it;
//! the account's record is written last, so it is there whole or not at all, and what an import left behind is removed. No
//! account that is there is touched.
//!
//! Not its job: whether the archive is the newest of its account.

use std::sync::Arc;

use cofferdam_crypto::{Aek, WrappedAek};
use cofferdam_crypto::{KeyScope, PageSize, ProviderKind, RecordKey, sealed_len};
use tokio::io::{AsyncRead, AsyncSeek};

use super::{
    AccountPart, ImportOptions, ImportReport,
    claims::Claim,
    keys::{self, Refusal, RefusedKek, Unwrapped},
    load::{Load, Loaded},
};
use crate::{
    ArchiveError,
    archive::{Checked, UncheckedArchive},
    engine::{
        Account, AccountName, Engine, EngineError, Inner, account_record::AccountRecord, create::insert,
    },
};

impl Engine {
    /// Restores an account from an archive, with its id, its blocks and their versions, under a new epoch. Reads the archive
    /// twice: once to check all of it, once to load it.
    ///
    /// Vaults are asked only as the options allow: those of the archive's KEKs, one after the other, until one unwraps, also
    /// where the account's keys were rotated since, as long as that version is there; of several KEKs one is enough, though
    /// another denies. Of the account's buffer everything is
    /// drained. Until it returns, nothing of the account can be seen; if the future is dropped, it never can.
    ///
    /// # Errors
    /// [`EngineError::Archive`] for a damaged or forged one; [`EngineError::NotImportable`] when no KEK that may be asked
    /// unwraps; [`EngineError::AccountExists`], [`EngineError::AccountIdExists`], [`EngineError::ImportRunning`], [`EngineError::StrayBlocks`],
    /// [`EngineError::OperationRunning`]; what is wrong with the KEK to wrap under, as at the making of an account;
    /// [`EngineError::Damaged`] for a buffered block that does not open; [`EngineError::Store`].
    pub async fn import<R>(
        &self,
        input: R,
        options: ImportOptions,
    ) -> Result<(Account, ImportReport), EngineError>
    where
        R: AsyncRead + AsyncSeek + Unpin + Send,
    {
        let engine = &self.inner;
        engine.check_open()?;
        // A block in the smallest pages has the most tags.
        let max_sealed = sealed_len(engine.max_block_len, PageSize::MIN).unwrap_or(u64::MAX);
        let archive = UncheckedArchive::open(input, max_sealed).await?;
        let part = parse(archive.account())?;
        let name = options.name.clone().unwrap_or_else(|| part.record.name.clone());
        engine.check_name(&name).await?;
        let archive = archive.check().await?;

        let mut claim = engine.claim_import(part.account, &name).await?;
        match engine.import_claimed(archive, &options, &name, &part, &mut claim).await {
            Ok((record, report)) => {
                // One that is left behind is found to be over.
                let _ = engine.claims.release(claim).await;
                #[cfg(feature = "hot-cache")]
                if let Some(hot) = &engine.hot {
                    hot.readmit(record.id);
                }
                tracing::info!(
                    target: "cofferdam::audit", account = %name, archive = %report.archive,
                    blocks = report.counts.stored + report.counts.buffered, "an account was imported"
                );
                Ok((self.remember(&name, &record), report))
            }
            Err(e) => {
                // What fails here as well is removed by who looks next.
                let _ = engine.abandon_import(claim).await;
                Err(e)
            }
        }
    }
}

/// The account's part; not to be believed before the archive's tag was checked.
pub(super) fn parse(bytes: &[u8]) -> Result<AccountPart, EngineError> {
    let bad = |reason: String| {
        let what = "the account's part (record 0)".into();
        EngineError::Archive(ArchiveError::Damaged { at: 9, what, reason })
    };
    let part: AccountPart = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    part.record.check(&part.record.name).map_err(bad)?;
    if part.record.id != part.account {
        return Err(bad("it is of two accounts".into()));
    }
    Ok(part)
}

impl Inner {
    /// Refuses a name that is taken.
    async fn check_name(&self, name: &AccountName) -> Result<(), EngineError> {
        match self.records.load(name).await {
            Err(EngineError::NoAccount { .. }) => Ok(()),
            Ok(_) => Err(EngineError::AccountExists { account: name.clone() }),
            Err(e) => Err(e),
        }
    }

    /// Refuses an account that is there under any name: looks at every one.
    async fn check_absent(&self, record: &AccountRecord) -> Result<(), EngineError> {
        if let Some(account) = self.name_in_catalog(record.id).await? {
            return Err(EngineError::AccountIdExists { account, id: record.id });
        }
        let operations = self.operations.load(record.id).await?;
        match operations.map(|(row, _)| row.last.operation).filter(|last| !last.status.has_ended()) {
            // It is being purged.
            Some(last) => Err(EngineError::OperationRunning {
                account: last.account,
                operation: last.id,
                kind: last.kind.name(),
                since: last.started_at,
            }),
            None => Ok(()),
        }
    }

    async fn import_claimed<R: AsyncRead + AsyncSeek + Unpin + Send>(
        self: &Arc<Self>,
        archive: Checked<R>,
        options: &ImportOptions,
        name: &AccountName,
        part: &AccountPart,
        claim: &mut Claim,
    ) -> Result<(AccountRecord, ImportReport), EngineError> {
        let old = &part.record;
        self.check_absent(old).await?;
        let customer = keys::unwrap_customer(self, options, old).await?;
        let service = keys::unwrap_service(self, options, old).await?;
        let service = check_needed(&archive, old, service)?;
        let (scope, key) = authenticate(&archive, old, customer.as_ref(), service.as_deref())?;
        let counts = archive.counts();
        let mut loading = archive.load(&scope, &key).await?;
        drop(key);

        let rewrapped = keys::rewrap(self, options, name, old, customer.as_ref(), service.as_deref()).await?;
        let (record, tagged_by) = rewrapped;
        let (unwrapped_by, vouched) = (customer.map(|of| of.key_id), service.is_some());
        drop(service);

        self.begin_to_load(claim).await?;
        let load = Load::new(self, options, old, &record);
        let Loaded { drained, renumbered } = load.all(&mut loading).await?;
        self.hold_import(claim).await?;
        insert(self, &record, &tagged_by).await?;
        let archive = part.archive;
        Ok((record, ImportReport { archive, counts, unwrapped_by, vouched, drained, renumbered }))
    }
}

/// The service's keys, unless the account can do without.
fn check_needed<R>(
    archive: &Checked<R>,
    old: &AccountRecord,
    service: Result<Vec<Aek>, RefusedKek>,
) -> Result<Option<Vec<Aek>>, EngineError> {
    let has_blocks = archive.sealed_under().keys().any(|(provider, _)| *provider == ProviderKind::Service);
    match service {
        Ok(aeks) => Ok(Some(aeks)),
        // Who allows it to be asked wants its word: else a forger had but to spoil the service's wraps.
        Err(RefusedKek { why: Refusal::NotAllowed, .. }) if old.linked && !has_blocks => Ok(None),
        Err(refused) => Err(EngineError::NotImportable { account: old.name.clone(), refused: vec![refused] }),
    }
}

/// Holds the archive's tags against the account's keys; with the key that has authenticated it.
fn authenticate<R: AsyncRead + AsyncSeek + Unpin>(
    archive: &Checked<R>,
    old: &AccountRecord,
    customer: Option<&Unwrapped>,
    service: Option<&[Aek]>,
) -> Result<(KeyScope, RecordKey), EngineError> {
    let newest = |epochs: &[WrappedAek], aeks: &[Aek]| {
        let (of, aek) = epochs.last().zip(aeks.last())?;
        Some((of.scope, RecordKey::derive(aek, &of.scope)))
    };
    let of_service = service.and_then(|aeks| newest(&old.service, aeks));
    if let Some((scope, key)) = &of_service {
        archive.verify(scope, key)?;
    }
    let own = if old.linked {
        old.customer.as_ref().zip(customer).and_then(|(of, keys)| newest(&of.epochs, &keys.aeks))
    } else {
        of_service
    };
    let (scope, key) = own.ok_or_else(|| old.bad("it has no key that could authenticate it"))?;
    archive.verify(&scope, &key)?;
    Ok((scope, key))
}
