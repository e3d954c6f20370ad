//! What the catalog keeps of an account beside its record: that it is revoked, and which KEKs are bridged.
//!
//! Not its job: to load and store it (`records`).

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::KeyId;

/// A revocation as the catalog keeps it: three numbers of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RevokedRow {
    /// When it was found, since the Unix epoch.
    pub(super) since: Duration,
    /// How long it was seen to last.
    pub(super) observed: Duration,
    /// When that was written, since the Unix epoch.
    pub(super) counted_until: Duration,
}

impl RevokedRow {
    pub(super) fn encode(self) -> Bytes {
        let [since, observed, until] =
            [self.since, self.observed, self.counted_until].map(|time| time.as_millis());
        format!("{since} {observed} {until}").into()
    }

    /// What is not written so counts as nothing observed yet.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let mut numbers = text.split(' ').map(|n| n.parse().map_or(Duration::ZERO, Duration::from_millis));
        let mut next = || numbers.next().unwrap_or_default();
        Self { since: next(), observed: next(), counted_until: next() }
    }
}

/// Since when which of an account's KEKs have not answered, as the catalog keeps it: JSON of key ids and milliseconds since
/// the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BridgeRow {
    Since(BTreeMap<String, u64>),
    /// What is not written so counts as too long ago for every KEK.
    Unreadable,
}

impl Default for BridgeRow {
    fn default() -> Self {
        Self::Since(BTreeMap::new())
    }
}

impl BridgeRow {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).map_or(Self::Unreadable, Self::Since)
    }

    /// `None` when there is nothing to keep.
    pub(super) fn encode(&self) -> Option<Bytes> {
        match self {
            Self::Since(since) if !since.is_empty() => serde_json::to_vec(since).ok().map(Bytes::from),
            Self::Since(_) | Self::Unreadable => None,
        }
    }

    pub(super) fn since(&self, kek: &KeyId) -> Option<Duration> {
        match self {
            Self::Since(since) => since.get(kek.as_str()).copied().map(Duration::from_millis),
            Self::Unreadable => Some(Duration::ZERO),
        }
    }

    /// The row with this noted; `None` if it says so already.
    pub(super) fn noting(&self, kek: &KeyId, new: Option<Duration>) -> Option<Self> {
        let mut row = match (self, new) {
            (Self::Unreadable, Some(_)) => return None,
            (Self::Unreadable, None) => return Some(Self::default()),
            (Self::Since(since), _) => since.clone(),
        };
        match new {
            // Rounded down: never later than it was.
            Some(new) => {
                let new = u64::try_from(new.as_millis()).unwrap_or(u64::MAX);
                let since = row.entry(kek.as_str().to_owned()).or_insert(u64::MAX);
                *since = new.min(*since);
            }
            None => drop(row.remove(kek.as_str())),
        }
        let row = Self::Since(row);
        (row != *self).then_some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_reads_as_it_was_noted_and_an_earlier_time_stays() {
        let ms = Duration::from_millis;
        let [one, other] = ["one", "other"].map(|name| KeyId::new(format!("test://{name}/1")).unwrap());
        let row = BridgeRow::default().noting(&one, Some(ms(7_000))).unwrap();
        assert_eq!(row.noting(&one, Some(ms(8_000))), None, "a later time");
        let row = row.noting(&one, Some(Duration::from_micros(6_000_900))).unwrap();
        let row = row.noting(&other, Some(ms(9_000))).unwrap();
        assert_eq!(BridgeRow::parse(&row.encode().unwrap()), row);
        assert_eq!((row.since(&one), row.since(&other)), (Some(ms(6_000)), Some(ms(9_000))));
        let row = row.noting(&one, None).unwrap();
        assert_eq!((row.since(&one), row.since(&other)), (None, Some(ms(9_000))));
        assert_eq!(row.noting(&one, None), None);
        assert_eq!(row.noting(&other, None).unwrap().encode(), None, "nothing to keep");
    }

    #[test]
    fn a_bridge_that_can_not_be_read_is_too_old_to_serve_on() {
        let kek = KeyId::new("test://one/1").unwrap();
        let row = BridgeRow::parse(b"{\"test://one/1\":\"x\"}");
        assert_eq!(row.since(&kek), Some(Duration::ZERO));
        assert_eq!(row.noting(&kek, Some(Duration::from_secs(1))), None);
        assert_eq!(row.noting(&kek, None), Some(BridgeRow::default()), "it answers again");
    }

    #[test]
    fn a_revocation_reads_as_it_was_written_and_an_older_one_as_not_yet_observed() {
        let ms = Duration::from_millis;
        let row = RevokedRow { since: ms(1_795_000_000_123), observed: ms(3_600_000), counted_until: ms(9) };
        assert_eq!(RevokedRow::parse(&row.encode()), row);
        let old = RevokedRow { since: ms(1_795_000_000_123), observed: ms(0), counted_until: ms(0) };
        assert_eq!(RevokedRow::parse(b"1795000000123"), old);
        assert_eq!(RevokedRow::parse(b"\xff"), RevokedRow { since: ms(0), ..old });
    }
}
