//! Versions that are given out to one handle alone.
//!
//! Guarantees: no version is ever given to two, whoever they are and whatever their clocks say: the versions of a slot are
//! those with the slot's number in their lowest [`BITS`] bits, and a slot's row says up to where they are given out, and is raised
//! by compare-and-swap before any of them is used. So no handle has to say that it is alive, and one that is gone leaves nothing
//! but a gap. The highest of all slots is no lower than any version that was ever committed.
//!
//! Not its job: to give out versions in the order of time: a handle may use long after what it reserved before; the store says
//! then that a newer version is there, and the engine reserves beyond it.
//!
//! Row: format byte, the first tick that is not given out (u64, big-endian). A tick is 64 microseconds of the wall clock,
//! or later where they were given out faster than time passes.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use cofferdam_crypto::Version;
use tokio::sync::Mutex;

use super::{
    Inner, PAGE,
    names::{VERSIONS, slot_key},
    pause::Pauses,
};
use crate::{Revision, StoreError, StoreErrorKind, VersionRange, plan::corrupt};

/// 64 slots: few rows to read for the highest version, and enough that engines seldom meet at one. A tick of 64 µs.
const BITS: u32 = 6;
const FORMAT: u8 = 1;

/// The slot of a handle.
pub(super) struct Slot {
    number: u64,
    /// What this handle wrote or read last; `None`: it has to be read.
    row: Mutex<Option<(u64, Option<Revision>)>>,
    /// No version up to here is above the highest of all slots, as far as this handle has seen.
    covered: AtomicU64,
}

impl Slot {
    /// The slot that these random bits choose.
    pub(super) fn of(random: u64) -> Self {
        Self { number: random % (1 << BITS), row: Mutex::new(None), covered: AtomicU64::new(0) }
    }

    fn version(&self, tick: u64) -> Version {
        version_of(tick, self.number)
    }

    /// The first tick whose version is no lower.
    fn tick(&self, at_least: Version) -> u64 {
        let tick = at_least.number() >> BITS;
        if self.version(tick) < at_least { tick + 1 } else { tick }
    }
}

fn version_of(tick: u64, slot: u64) -> Version {
    Version::new((tick << BITS) | slot)
}

impl Inner {
    pub(super) async fn reserve(&self, at_least: Version, count: u32) -> Result<VersionRange, StoreError> {
        let key = slot_key(self.slot.number);
        let wall = u64::try_from(self.clock.now().wall.as_micros()).unwrap_or(u64::MAX) >> BITS;
        let mut row = self.slot.row.lock().await;
        let mut pauses = Pauses::new(&*self.entropy);
        loop {
            let (upto, revision) = match row.take() {
                Some(known) => known,
                None => match self.catalog.load(&key).await? {
                    Some(stored) => (decode(&stored.bytes)?, Some(stored.revision)),
                    None => (0, None),
                },
            };
            let first = upto.max(self.slot.tick(at_least)).max(wall);
            let next = first.checked_add(count.into()).filter(|next| *next < 1 << (u64::BITS - BITS));
            let next = next.ok_or_else(|| {
                let detail = format!("there are no versions left from {at_least} on");
                StoreError::new(StoreErrorKind::Invalid).with_detail(detail)
            })?;
            match self.catalog.swap(&key, revision.as_ref(), Some(encode(next))).await {
                Ok(revision) => {
                    *row = Some((next, revision));
                    if let Some(last) = next.checked_sub(1) {
                        self.slot.covered.fetch_max(self.slot.version(last).number(), Ordering::Relaxed);
                    }
                    let step = NonZeroU64::MIN.saturating_add((1 << BITS) - 1);
                    return Ok(VersionRange { first: self.slot.version(first), step, count });
                }
                // Another engine at the same slot.
                Err(e) if e.kind() == StoreErrorKind::Conflict => pauses.next().await?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Sees to it that the highest version is no lower than this one, which somebody chose: an import keeps those that there
    /// were elsewhere.
    pub(super) async fn cover(&self, version: Version) -> Result<(), StoreError> {
        if version.number() <= self.slot.covered.load(Ordering::Relaxed) {
            return Ok(());
        }
        if version.number() <= self.highest().await?.number() {
            return Ok(());
        }
        self.reserve(version, 1).await.map(drop)
    }

    pub(super) async fn highest(&self) -> Result<Version, StoreError> {
        let mut highest = Version::new(0);
        let mut after: Option<String> = None;
        loop {
            let rows = self.catalog.list(VERSIONS, after.as_deref(), PAGE).await?;
            for (key, stored) in &rows {
                let slot = key.strip_prefix(VERSIONS).and_then(|slot| u64::from_str_radix(slot, 16).ok());
                let slot = slot.filter(|slot| *slot < 1 << BITS);
                let slot = slot.ok_or_else(|| corrupt(format!("there is a row {key:?} of versions")))?;
                if let Some(last) = decode(&stored.bytes)?.checked_sub(1) {
                    highest = highest.max(version_of(last, slot));
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == PAGE => after = Some(last.clone()),
                _ => break,
            }
        }
        self.slot.covered.fetch_max(highest.number(), Ordering::Relaxed);
        Ok(highest)
    }
}

fn encode(upto: u64) -> Bytes {
    [&[FORMAT][..], &upto.to_be_bytes()].concat().into()
}

fn decode(bytes: &[u8]) -> Result<u64, StoreError> {
    match bytes {
        [FORMAT, upto @ ..] => {
            let upto = <[u8; 8]>::try_from(upto).ok().map(u64::from_be_bytes);
            upto.filter(|upto| *upto < 1 << (u64::BITS - BITS))
        }
        [found, ..] if *found > FORMAT => {
            let (found, supported) = ((*found).into(), FORMAT.into());
            return Err(StoreError::new(StoreErrorKind::NewerFormat { found, supported }));
        }
        _ => None,
    }
    .ok_or_else(|| corrupt("a row of versions does not decode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_versions_decodes_to_what_was_encoded_and_nothing_else_decodes() {
        for upto in [0, 1, 1 << 40, (1 << 58) - 1] {
            assert_eq!(decode(&encode(upto)).unwrap(), upto);
        }
        for bytes in [&[][..], &[1], &[1; 8], &[1; 10], &encode(1 << 58), &[0; 9]] {
            assert_eq!(decode(bytes).unwrap_err().kind(), StoreErrorKind::Corrupt, "{bytes:?}");
        }
        let newer = decode(&[2; 9]).unwrap_err();
        assert_eq!(newer.kind(), StoreErrorKind::NewerFormat { found: 2, supported: 1 });
    }

    #[test]
    fn the_first_tick_of_a_slot_is_the_first_that_is_no_lower() {
        let slot = Slot::of(64 + 5);
        assert_eq!(slot.number, 5);
        for at_least in 0..1000 {
            let tick = slot.tick(Version::new(at_least));
            assert!(slot.version(tick).number() >= at_least);
            assert!(tick == 0 || slot.version(tick - 1).number() < at_least);
        }
    }
}
