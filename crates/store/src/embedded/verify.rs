//! Reads everything that a store holds, and says what does not read.
//!
//! Guarantees: every page that a block, a record or redb's own trees use is read from the file and verified;
//! the tables agree on which rows are whose; nothing that can be read is changed. redb mends its own account of free pages where that is wrong, and the
//! report says so. Not its job: to mend anything else, or whether blocks open: that takes keys.

use std::sync::atomic::Ordering;

use cofferdam_crypto::{AccountId, BlockId};
use redb::Database;

use super::{
    EmbeddedStore,
    guard::{Fault, Joint},
    tables,
};
use crate::error::{StoreError, StoreErrorKind};

/// How many names are read at a time.
const NAMES_AT_ONCE: usize = 256;

/// What [`EmbeddedStore::verify`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Blocks in the store proper that read whole, also those of which a newer version is buffered.
    pub blocks: u64,
    /// Their sealed bytes.
    pub bytes: u64,
    /// Blocks in the fallback buffer that read whole.
    pub buffered_blocks: u64,
    /// Their sealed bytes.
    pub buffered_bytes: u64,
    /// Catalog records that read.
    pub records: u64,
    /// Pages of 4 KiB that were read and verified; a page that several reads met counts for each.
    pub pages_verified: u64,
    /// Pages met that did not verify.
    pub pages_damaged: u64,
    /// Blocks that do not read, in one place or the other.
    pub damaged_blocks: Vec<(AccountId, BlockId)>,
    /// What is wrong with the trees that lead to the blocks, if anything, or was until redb mended it (some blocks
    /// may then be missing from this report); or with how the tables agree: a row that is no block's or two blocks',
    /// a usage of a buffer that is not what it holds.
    pub structure: Option<StoreError>,
}

impl VerifyReport {
    /// Whether everything read.
    pub fn is_sound(&self) -> bool {
        self.damaged_blocks.is_empty() && self.structure.is_none()
    }
}

impl EmbeddedStore {
    /// Reads and verifies everything. Readers and writers alike wait while redb's trees are checked, which reads
    /// every page in use; not while the blocks and records are read after that.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Io`. Damage is not an error but in the report.
    pub async fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.blocking(verify).await
    }
}

fn verify(joint: &Joint) -> Result<VerifyReport, StoreError> {
    let counters = joint.counters();
    let (sound, damaged) = (counters.sound.load(Ordering::Relaxed), counters.damaged.load(Ordering::Relaxed));
    let mut report = VerifyReport {
        blocks: 0,
        bytes: 0,
        buffered_blocks: 0,
        buffered_bytes: 0,
        records: 0,
        pages_verified: 0,
        pages_damaged: 0,
        damaged_blocks: Vec::new(),
        structure: None,
    };
    // It drops redb's cache, so that what follows comes from the file.
    damage(joint.run_alone(check_trees), &mut report)?;
    let names = walk_blocks(joint, &mut report);
    damage(names, &mut report)?;
    let records = walk_records(joint, &mut report);
    damage(records, &mut report)?;
    damage(joint.run(tables::check), &mut report)?;
    report.pages_verified = counters.sound.load(Ordering::Relaxed) - sound;
    report.pages_damaged = counters.damaged.load(Ordering::Relaxed) - damaged;
    Ok(report)
}

fn check_trees(database: &mut Database) -> Result<(), Fault> {
    if database.check_integrity()? {
        return Ok(());
    }
    Err(StoreError::new(StoreErrorKind::Corrupt)
        .with_detail("redb's trees or its account of free pages were wrong, and were mended")
        .into())
}

fn walk_blocks(joint: &Joint, report: &mut VerifyReport) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let names = joint.run(|database| tables::walk(database, after.as_ref(), NAMES_AT_ONCE))?;
        let Some(last) = names.last().cloned() else { return Ok(()) };
        for (account, id) in names {
            match joint.run(|database| tables::read_through(database, account, &id)) {
                // Where it was deleted or drained meanwhile, it counts no more.
                Ok([stored, buffered]) => {
                    report.blocks += u64::from(stored.is_some());
                    report.bytes += stored.unwrap_or(0);
                    report.buffered_blocks += u64::from(buffered.is_some());
                    report.buffered_bytes += buffered.unwrap_or(0);
                }
                // Too large for the memory, and so unread as well.
                Err(error) if matches!(error.kind(), StoreErrorKind::Corrupt | StoreErrorKind::TooLarge) => {
                    report.damaged_blocks.push((account, id));
                }
                Err(error) => return Err(error),
            }
        }
        after = Some(last);
    }
}

fn walk_records(joint: &Joint, report: &mut VerifyReport) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    loop {
        let found =
            joint.run(|database| tables::list_records(database, "", after.as_deref(), NAMES_AT_ONCE))?;
        report.records += found.len() as u64;
        match found.into_iter().next_back() {
            Some((key, _)) => after = Some(key),
            None => return Ok(()),
        }
    }
}

/// Notes damage in the report; passes on any other failure.
fn damage(result: Result<(), StoreError>, report: &mut VerifyReport) -> Result<(), StoreError> {
    match result {
        Err(error) if error.kind() == StoreErrorKind::Corrupt => {
            report.structure.get_or_insert(error);
            Ok(())
        }
        result => result,
    }
}
