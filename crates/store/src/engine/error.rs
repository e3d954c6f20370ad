//! What the engine refuses, and what to do about it.

use std::{ops::Range, sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, BlockId, EntropyError, KeyId, SealError, rsa::RsaError};
use cofferdam_keyring::{KeyError, RecordError};
use cofferdam_vault::{Principal, VaultError, WorkLost};
use thiserror::Error;

use super::{AccountName, OperationId, RefusedKek};
use crate::{ArchiveError, ReceiptError, StoreError, StoreErrorKind};

/// Why an operation of the engine failed. Nothing was stored, unless it says so.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The customer's vault denies the key: nothing is read, nothing is kept, until access is restored.
    #[error("account {account}: {source}")]
    KeyRevoked {
        /// The account.
        account: AccountName,
        /// What the keyring knows of it.
        source: Box<KeyError>,
    },
    /// The key's vault can't be reached, and the key is past its grace time.
    #[error("account {account}: {source}")]
    KeyUnavailable {
        /// The account.
        account: AccountName,
        /// What the keyring knows of it.
        source: Box<KeyError>,
    },
    /// The key's vault can't be reached, and the account's buffer takes no more. Nothing was kept.
    #[error(
        "account {account}: its key is unavailable and its buffer takes no more: it holds {blocks} blocks of \
         {bytes} bytes{}; it may hold {max_bytes} bytes, for {max_time:?}; mend the way to the account's vault, or \
         raise the bounds", held_since(.since)
    )]
    BufferFull {
        /// The account.
        account: AccountName,
        /// How many blocks its buffer holds.
        blocks: u64,
        /// Their sealed bytes.
        bytes: u64,
        /// Since when it holds something, as time since the Unix epoch.
        since: Option<Duration>,
        /// The most sealed bytes that it may hold.
        max_bytes: u64,
        /// How long it takes writes.
        max_time: Duration,
    },
    /// A setting of the engine is out of its range.
    #[error("{setting} is {given}: set it to {allowed}")]
    BadSetting {
        /// The setting.
        setting: &'static str,
        /// The value given.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// No account of this name.
    #[error("there is no account {account}: create it first")]
    NoAccount {
        /// The name.
        account: AccountName,
    },
    /// An account of this name is there already.
    #[error("there is an account {account} already: choose another name")]
    AccountExists {
        /// The name.
        account: AccountName,
    },
    /// A name that no account can have.
    #[error(
        "{name:?} can't name an account: use 1 to {max} characters out of a-z, A-Z, 0-9, '.', '_' and '-', \
         the first a letter or digit",
        max = AccountName::MAX_LEN
    )]
    BadAccountName {
        /// What was given, cut to the longest allowed.
        name: String,
    },
    /// No block of this id.
    #[error("account {account} has no block {block}")]
    NoBlock {
        /// The account.
        account: AccountName,
        /// The block.
        block: BlockId,
    },
    /// The block is larger than this engine takes.
    #[error("a block of {len} bytes is too large: the most here is {max}; split it")]
    BlockTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The most.
        max: u64,
    },
    /// A batch is larger than the engine lets be under way at once.
    #[error("a batch of {len} sealed bytes is too large: the most here is {max}; split it")]
    BatchTooLarge {
        /// Its length once sealed, in bytes.
        len: usize,
        /// The most.
        max: usize,
    },
    /// A block could not be sealed.
    #[error("the block could not be sealed: {0}")]
    Seal(#[source] SealError),
    /// A range that the block doesn't have.
    #[error(
        "bytes {}..{} are not in block {block}, which has {len}: the end is exclusive, at most the length, \
         and not before the start", range.start, range.end
    )]
    Range {
        /// The block.
        block: BlockId,
        /// What was asked for.
        range: Range<u64>,
        /// The block's length in bytes.
        len: u64,
    },
    /// What is stored is not what was sealed: damaged, moved, rolled back or forged.
    #[error(
        "account {account}: block {block} does not open: it is damaged, or not what was written there; \
         restore it from a copy"
    )]
    Damaged {
        /// The account.
        account: AccountName,
        /// The block.
        block: BlockId,
    },
    /// The account's record is not what was written.
    #[error("the record of account {account} is damaged or forged: {reason}; restore it from a copy")]
    BadRecord {
        /// The account.
        account: AccountName,
        /// What is wrong with it.
        reason: String,
    },
    /// The account's record is of a format this version doesn't know.
    #[error(
        "the record of account {account} has format {found}, this version reads up to {supported}: use a newer one"
    )]
    NewerRecord {
        /// The account.
        account: AccountName,
        /// Its format.
        found: u8,
        /// The newest that is known.
        supported: u8,
    },
    /// The account's record could not be read or written.
    #[error("the record of account {account}: {source}")]
    Record {
        /// The account.
        account: AccountName,
        /// What failed.
        source: Arc<RecordError>,
    },
    /// No vault is registered for the principal that an account belongs to.
    #[error(
        "account {account}: no vault is registered for {}: register it when the engine is opened",
        .principal.as_ref().map_or("its principal", Principal::as_str)
    )]
    NoVault {
        /// The account.
        account: AccountName,
        /// Whose vault it is.
        principal: Option<Principal>,
    },
    /// A KEK that can't be used for an account.
    #[error("the KEK can't be used: {reason}")]
    UnfitKek {
        /// Why, and what to do.
        reason: String,
    },
    /// A write-only buffer was asked for that can't be had.
    #[error("there can be no write-only buffer: {reason}")]
    NoWriteOnly {
        /// Why, and what to do.
        reason: String,
    },
    /// A write-only buffer takes nothing: no key could be wrapped for it. Nothing was kept.
    #[error("account {account}: its key is unavailable and its write-only buffer takes nothing: {source}")]
    Segment {
        /// The account.
        account: AccountName,
        /// What failed.
        source: RsaError,
    },
    /// The account is deleted: it can be recovered until its time is over.
    #[error(
        "account {account} is deleted: recover it before {} s after the Unix epoch, or it is destroyed", .until.as_secs()
    )]
    AccountDeleted {
        /// The account.
        account: AccountName,
        /// Until when it can be recovered, as time since the Unix epoch.
        until: Duration,
    },
    /// The account is not deleted, so it can't be recovered or purged.
    #[error("account {account} is not deleted: delete it first")]
    NotDeleted {
        /// The account.
        account: AccountName,
    },
    /// The account was protected from being purged early.
    #[error(
        "account {account} is protected from being purged: it is destroyed by itself at {} s after the Unix epoch",
        .until.as_secs()
    )]
    PurgeProtected {
        /// The account.
        account: AccountName,
        /// When its time is over, as time since the Unix epoch.
        until: Duration,
    },
    /// The account is under the service's key.
    #[error("account {account} is linked to no customer's key: link it first")]
    NotLinked {
        /// The account.
        account: AccountName,
    },
    /// The account is under a customer's key already.
    #[error("account {account} is linked to a customer's key already: rotate that, or unlink it first")]
    AlreadyLinked {
        /// The account.
        account: AccountName,
    },
    /// Something is buffered that belongs to the key that the account was linked to before.
    #[error(
        "{blocks} blocks of account {account} are buffered for the key that it was linked to before: they are drained first"
    )]
    Undrained {
        /// The account.
        account: AccountName,
        /// How many blocks.
        blocks: u64,
    },
    /// The account has no such KEK.
    #[error(
        "account {account} {}: it has {}",
        .named.as_ref().map_or("has several KEKs, say which".to_owned(), |id| format!("is not wrapped under {id}")),
        .has.iter().map(KeyId::as_str).collect::<Vec<_>>().join(", ")
    )]
    NoSuchKek {
        /// The account.
        account: AccountName,
        /// The one that was named.
        named: Option<KeyId>,
        /// Those that it has.
        has: Vec<KeyId>,
    },
    /// The account's keys are wrapped under this version already.
    #[error(
        "account {account} is wrapped under {key_id} already: make a new version of it, or name another key"
    )]
    KekInUse {
        /// The account.
        account: AccountName,
        /// The version.
        key_id: KeyId,
    },
    /// The account has as many KEKs as it may.
    #[error("account {account} has {most} KEKs, the most there may be: remove one first")]
    TooManyKeks {
        /// The account.
        account: AccountName,
        /// The most.
        most: usize,
    },
    /// The account's only KEK can't be removed.
    #[error("{key_id} is the only KEK of account {account}: add another first, or unlink the account")]
    LastKek {
        /// The account.
        account: AccountName,
        /// The KEK.
        key_id: KeyId,
    },
    /// The version that the account's keys are wrapped under does not unwrap them, and only it could.
    #[error(
        "account {account}: {key_id} does not unwrap its keys ({what}: {source}); enable that version, or mend the way to \
         it, then begin again"
    )]
    OldKek {
        /// The account.
        account: AccountName,
        /// The version.
        key_id: KeyId,
        /// What is wrong with it.
        what: &'static str,
        /// What its vault answered.
        source: VaultError,
    },
    /// Another operation of the account goes on.
    #[error(
        "operation {operation} ({kind}) of account {account} goes on since {} s after the Unix epoch: wait for it, or cancel it",
        .since.as_secs()
    )]
    OperationRunning {
        /// The account.
        account: AccountName,
        /// The operation.
        operation: OperationId,
        /// What it does.
        kind: &'static str,
        /// When it began, as time since the Unix epoch.
        since: Duration,
    },
    /// No operation of this id is known.
    #[error("there is no operation {operation}: list them")]
    NoOperation {
        /// What was given.
        operation: String,
    },
    /// An archive can't be written or read: damaged, forged, of a newer format, and the like.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// No such archive is recorded.
    #[error("there is no archive {archive} of the account: list them")]
    NoArchive {
        /// What was given.
        archive: String,
    },
    /// None of the KEKs that an archive names, and that may be asked, unwraps its keys.
    #[error(
        "the archive of account {account} can't be unwrapped: {}; enable one of these versions, or allow its vault, and          import again", .refused.iter().map(RefusedKek::to_string).collect::<Vec<_>>().join(", ")
    )]
    NotImportable {
        /// The account, as the archive names it.
        account: AccountName,
        /// The KEKs, with what is in the way of each.
        refused: Vec<RefusedKek>,
    },
    /// The account of an archive is there already.
    #[error("the archive is of account {id}, which is here as {account}: delete and purge that first")]
    AccountIdExists {
        /// Its name here.
        account: AccountName,
        /// Its id.
        id: AccountId,
    },
    /// Blocks of the account of an archive are there, and no account.
    #[error(
        "blocks of account {id} are here, and no record that can be read is of that id: restore its record, or import the \
         archive into another store"
    )]
    StrayBlocks {
        /// The account's id.
        id: AccountId,
    },
    /// The account is being imported already.
    #[error("account {account} is being imported already: wait for that")]
    ImportRunning {
        /// Its id.
        account: AccountId,
    },
    /// A vault refused while an account was made, or changed.
    #[error("the vault did not {action}: {source}")]
    Vault {
        /// What it was asked to do.
        action: &'static str,
        /// Its answer.
        source: VaultError,
    },
    /// A receipt could not be signed.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// Fresh random bytes could not be had.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// Sealing or opening a large block was not finished.
    #[error(transparent)]
    WorkLost(#[from] WorkLost),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
}

impl From<StoreError> for EngineError {
    fn from(e: StoreError) -> Self {
        if e.kind() == StoreErrorKind::Closed { Self::Closed } else { Self::Store(e) }
    }
}

impl From<SealError> for EngineError {
    fn from(e: SealError) -> Self {
        match e {
            SealError::Entropy(e) => Self::Entropy(e),
            e => Self::Seal(e),
        }
    }
}

fn held_since(since: &Option<Duration>) -> String {
    since.map(|since| format!(" since {} s after the Unix epoch", since.as_secs())).unwrap_or_default()
}
