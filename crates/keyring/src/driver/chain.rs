//! Whether an epoch was made by who held the one before it.
//!
//! Guarantees: what was unwrapped is used only if it follows its direct predecessor in the record, which is held or was
//! unwrapped with it. Who has a KEK's public half can wrap an AEK of their own; so they can't have it sealed under.
//!
//! Not its job: the first epoch of a record, which nothing in it is before: the record's own tag answers for that.

use std::sync::Arc;

use cofferdam_crypto::{
    Epoch, WrappedAek,
    planted::{Bug, is_planted},
};

use super::live::Material;
use crate::KeyRecord;

/// How an epoch stands to the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Follows,
    /// It was not made under that one's key.
    Broken {
        previous: Epoch,
    },
    /// That one's key is not there.
    Unknown {
        previous: Epoch,
    },
}

/// The epoch directly before this one in the record.
pub(super) fn previous<'a>(record: &'a KeyRecord, of: &WrappedAek) -> Option<&'a WrappedAek> {
    let at = record.epochs.iter().position(|other| other.scope.epoch == of.scope.epoch)?;
    record.epochs.get(at.checked_sub(1)?)
}

/// How this epoch stands to the one before it, with the keys that are there.
pub(super) fn link(record: &KeyRecord, of: &WrappedAek, keys: &[Arc<Material>]) -> Link {
    let Some(previous) = previous(record, of) else { return Link::Follows };
    let key = keys.iter().find(|key| key.is_of(previous));
    let previous = previous.scope.epoch;
    match key {
        _ if is_planted(Bug::ChainUnchecked) => Link::Follows,
        Some(key) if of.follows(key.record_key()) => Link::Follows,
        Some(_) => Link::Broken { previous },
        None => Link::Unknown { previous },
    }
}
