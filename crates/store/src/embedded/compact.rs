//! Compaction: what was removed is taken out of the file.
//!
//! Guarantees: nothing but live rows is ever written to the new file, so nothing removed can be in it; at every moment
//! one file or the other is whole and in place; a failure before the change of files leaves the old one in use.
//!
//! How: redb reuses freed pages in its own time, and its own compaction moves pages but wipes none. So all rows are copied
//! into an empty file beside, that is synced, and takes the old one's place by a rename, which is synced as well. The
//! committer does it between two commits: writers wait, readers go on until the files are changed. It costs as much as
//! reading and writing all that is left, as much space beside the old file, and the new one's page cache.
//!
//! Not its job: the medium. What a file system or a drive keeps of a file that was removed is theirs.

use cofferdam_crypto::planted::{Bug, is_planted};

use super::{guard::Joint, tables};
use crate::error::StoreError;

/// Puts a file in place of the store's that holds what is left and nothing else.
pub(super) fn compact(joint: &Joint) -> Result<(), StoreError> {
    if is_planted(Bug::CompactKeepsFreedPages) {
        return joint.run_alone(|database| Ok(database.compact().map(drop)?));
    }
    let failed = |error| StoreError::from_io("making a file to compact the store into", error);
    let layer = joint.layer();
    let new = joint.create_beside(layer.beside().map_err(failed)?).and_then(|new| {
        let filled = fill(joint, &new);
        if filled.is_err() {
            // What it says of a file that is thrown away is nobody's concern.
            let _ = new.close();
        }
        filled.map(|()| new)
    });
    let changed = new.and_then(|new| {
        joint.take_over(&new).inspect_err(|_| {
            let _ = new.close();
        })?;
        if is_planted(Bug::CompactRenamesBeforeSync) { joint.finish() } else { Ok(()) }
    });
    if changed.is_err()
        && let Err(error) = layer.clear_beside()
    {
        tracing::warn!(%error, "what a failed compaction left is removed when the store is opened next");
    }
    changed
}

/// Copies all rows, and makes them durable.
fn fill(from: &Joint, to: &Joint) -> Result<(), StoreError> {
    from.run(tables::check_known)?;
    for table in tables::ALL {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let piece = from.run(|database| table.read(database, after.as_deref()))?;
            after = piece.last_key();
            if after.is_none() {
                break;
            }
            to.run_alone(|database| table.write(database, &piece))?;
        }
    }
    to.run_alone(|database| tables::finish(database))?;
    tables::check_same(&from.run(tables::lengths)?, &to.run(tables::lengths)?)?;
    if is_planted(Bug::CompactRenamesBeforeSync) { Ok(()) } else { to.finish() }
}
