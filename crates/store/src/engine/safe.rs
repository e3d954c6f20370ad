//! What still needs a version of a KEK.
//!
//! Guarantees: where the answer is yes, nothing that this catalog knows of needs the version, and nothing is wrapped under it from
//! then on: it was fenced before anything was looked at, and whoever was about to take it is either seen or refused. Where the
//! answer is no, the version is as it was.
//!
//! Not its job: to disable the version (the customer's), copies that are not recorded.

use std::fmt;

use cofferdam_crypto::{AccountId, KeyId, SegmentId};

use super::{
    AccountName, ArchiveId, Engine, EngineError, Inner, NodeId, Operation, OperationId, OperationKind,
    account_record::{AccountRecord, Stage},
    rows::PAGE,
};
use crate::{Examined, Receipt, Statement};

/// Whether a version may be disabled, and why not.
#[derive(Debug)]
#[non_exhaustive]
pub struct SafeToDisable {
    /// The version.
    pub key_id: KeyId,
    /// What still needs it; nothing: it may be disabled, and is fenced against new wraps.
    pub needed: Vec<Needed>,
    /// What was looked at.
    pub examined: Examined,
    /// That it may be disabled, signed, where the engine has a key to sign with.
    pub receipt: Option<Receipt>,
}

impl SafeToDisable {
    /// Whether it may be disabled.
    pub fn is_safe(&self) -> bool {
        self.needed.is_empty()
    }
}

/// What still needs a version of a KEK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Needed {
    /// An account's keys are wrapped under it.
    Wraps {
        /// The account.
        account: AccountName,
        /// How many epochs.
        epochs: usize,
        /// Whether the account is deleted, and may be recovered.
        deleted: bool,
    },
    /// Keys of an account's write-only buffer are.
    Segments {
        /// The account.
        account: AccountId,
        /// How many.
        segments: usize,
    },
    /// An operation goes on that comes from it, or may go to it.
    Operation {
        /// The account.
        account: AccountName,
        /// The operation.
        operation: OperationId,
        /// What it does.
        kind: &'static str,
        /// What it waits for, if it does.
        waits_for: Option<String>,
    },
    /// An archive needs it to be imported.
    Archive {
        /// Of which account.
        account: AccountId,
        /// The archive.
        archive: ArchiveId,
    },
    /// An engine has not taken note of the last changes.
    Node {
        /// The engine.
        node: NodeId,
    },
    /// Accounts are just being made, perhaps under it.
    Creations {
        /// How many.
        accounts: usize,
    },
    /// An account's record can't be read, so it may be wrapped under it.
    Unreadable {
        /// The account.
        account: AccountName,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wraps { account, epochs, deleted: false } => {
                write!(f, "account {account}: {epochs} epochs are wrapped under it; rotate its KEK")
            }
            Self::Wraps { account, epochs, deleted: true } => write!(
                f,
                "account {account}: {epochs} epochs are wrapped under it; it is deleted: recover and rotate it, or wait \
                 until it is purged"
            ),
            Self::Segments { account, segments } => write!(
                f,
                "account {account}: {segments} segments of its buffer are wrapped under it; they are drained, or rewrapped by \
                 a rotation"
            ),
            Self::Operation { account, operation, kind, waits_for } => {
                write!(f, "account {account}: operation {operation} ({kind}) goes on")?;
                match waits_for {
                    Some(what) => write!(f, " and waits: {what}"),
                    None => Ok(()),
                }
            }
            Self::Archive { account, archive } => write!(
                f,
                "archive {archive} of account {account} can be imported with it alone; export anew, and forget that one"
            ),
            Self::Node { node } => write!(f, "node {node} has not taken note of the last changes yet"),
            Self::Creations { accounts } => write!(f, "{accounts} accounts are just being made"),
            Self::Unreadable { account, reason } => write!(f, "account {account}: {reason}"),
        }
    }
}

impl Engine {
    /// What still needs this version of a KEK. Where nothing does, it is fenced: nothing is wrapped under it from here on, and
    /// it may be disabled or deleted without any account noticing. Asks no vault.
    ///
    /// The receipt is signed where the engine was given a key for that.
    ///
    /// # Errors
    /// [`EngineError::Store`], [`EngineError::Entropy`], [`EngineError::Receipt`].
    pub async fn safe_to_disable(&self, key_id: &KeyId) -> Result<SafeToDisable, EngineError> {
        self.inner.check_open()?;
        let (needed, examined) = loop {
            let raised = self.inner.fences.raise(key_id).await?;
            let looked = self.inner.look_for_need(key_id).await;
            let stands = looked.as_ref().is_ok_and(|(needed, _)| needed.is_empty());
            // Where somebody else asks at the same time, one of them looks anew.
            if self.inner.fences.settle(&raised, stands).await? || !stands {
                break looked?;
            }
        };
        let is_safe = needed.is_empty();
        let mut receipt = None;
        if is_safe && let Some(key) = &self.inner.receipt_key {
            let mut id = [0; 16];
            self.inner.entropy.fill(&mut id)?;
            let issued_at = self.inner.clock.now().wall;
            receipt = Some(key.sign(Statement { key_id: key_id.clone(), issued_at, examined, id })?);
        }
        tracing::info!(
            target: "cofferdam::audit", %key_id, safe = is_safe, needed = needed.len(), "asked whether a KEK may be disabled"
        );
        Ok(SafeToDisable { key_id: key_id.clone(), needed, examined, receipt })
    }
}

impl Inner {
    async fn look_for_need(&self, key_id: &KeyId) -> Result<(Vec<Needed>, Examined), EngineError> {
        let (mut needed, mut examined) = (Vec::new(), Examined::default());
        let creations = self.fences.intents().await?;
        if creations > 0 {
            needed.push(Needed::Creations { accounts: creations });
        }
        // Before the records: what ends meanwhile is in those.
        for (row, _) in self.operations.all().await? {
            let operation = row.last.operation;
            if operation.status.has_ended() {
                continue;
            }
            examined.operations += 1;
            if may_need(&operation, key_id) {
                needed.push(Needed::Operation {
                    account: operation.account,
                    operation: operation.id,
                    kind: operation.kind.name(),
                    waits_for: operation.waits_for,
                });
            }
        }
        self.look_at_records(key_id, &mut needed, &mut examined).await?;
        self.look_at_segments(key_id, &mut needed, &mut examined).await?;
        for entry in self.ledger.all().await? {
            examined.archives += 1;
            if entry.keys.contains(key_id) {
                needed.push(Needed::Archive { account: entry.account, archive: entry.id });
            }
        }
        let (living, behind) = self.nodes.standing().await?;
        examined.nodes = living;
        needed.extend(behind.into_iter().map(|node| Needed::Node { node }));
        Ok((needed, examined))
    }

    async fn look_at_records(
        &self,
        key_id: &KeyId,
        needed: &mut Vec<Needed>,
        examined: &mut Examined,
    ) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let page = self.records.page(after.as_ref()).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (account, record) in page {
                match record {
                    Ok(record) => look_at(record.unverified(), key_id, needed, examined),
                    Err(e) => needed.push(Needed::Unreadable { account, reason: e.to_string() }),
                }
            }
        }
    }

    async fn look_at_segments(
        &self,
        key_id: &KeyId,
        needed: &mut Vec<Needed>,
        examined: &mut Examined,
    ) -> Result<(), EngineError> {
        let mut account = None;
        loop {
            let page = self.blocks.buffering(account, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            account = Some(*last);
            for (account, _) in page {
                let (mut under, mut after) = (0, None::<SegmentId>);
                loop {
                    let rows = self.blocks.segments(account, after, PAGE).await?;
                    let Some((last, _)) = rows.last() else { break };
                    after = Some(*last);
                    examined.segments += rows.len() as u64;
                    let names = |record: &[u8]| {
                        let needle = key_id.as_str().as_bytes();
                        record.windows(needle.len()).any(|at| at == needle)
                    };
                    under += rows.iter().filter(|(_, row)| names(&row.record)).count();
                }
                if under > 0 {
                    needed.push(Needed::Segments { account, segments: under });
                }
            }
        }
    }
}

fn look_at(record: &AccountRecord, key_id: &KeyId, needed: &mut Vec<Needed>, examined: &mut Examined) {
    let deleted = record.stage != Stage::Live;
    if deleted {
        examined.deleted_accounts += 1;
    } else {
        examined.accounts += 1;
    }
    let customer = record.customer.iter().flat_map(|customer| &customer.epochs);
    let epochs = record.service.iter().chain(customer);
    let mut under = 0;
    for wraps in epochs.map(|epoch| &epoch.wraps) {
        examined.wraps += wraps.len() as u64;
        under += usize::from(wraps.iter().any(|wrap| wrap.key_id == *key_id));
    }
    if under > 0 {
        needed.push(Needed::Wraps { account: record.name.clone(), epochs: under, deleted });
    }
}

/// Whether an operation that goes on comes from this version, or may go to it: where none was named, to the latest.
fn may_need(operation: &Operation, key_id: &KeyId) -> bool {
    let may_be = |named: &KeyId| key_id.as_str().starts_with(named.as_str());
    match &operation.kind {
        OperationKind::RotateKek { from, to, .. } => from == key_id || may_be(to),
        OperationKind::AddKek { kek, .. } | OperationKind::Link { kek, .. } => may_be(kek),
        OperationKind::RemoveKek { kek, .. } => kek == key_id,
        _ => false,
    }
}
