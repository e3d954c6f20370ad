//! A segment of a write-only buffer as the store keeps it.
//!
//! Guarantees: a segment is obeyed only after its tag, made under the account's service AEK, was checked and its account
//! and id found to be those it is stored under: whoever has the public half of the customer's KEK can wrap a key and
//! work out its check value, but not the tag. Bytes: format (1), tag (32), JSON.
//!
//! Not its job: rollback (a segment and blocks of it that were put back after they were drained; see the threat model),
//! secrets (there are none in it).

use std::time::Duration;

use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, Provider, RecordKey, SegmentId, WrappedAek};
use serde::{Deserialize, Serialize};

const FORMAT: u8 = 1;
const TAG_END: usize = 33;

/// A segment's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    /// Its AEK; the scope names account and segment, and the epoch of the service AEK that tagged it.
    pub(crate) key: WrappedAek,
    /// Time since the Unix epoch.
    pub(crate) created_at: Duration,
}

impl SegmentRecord {
    /// The bytes to store.
    ///
    /// # Errors
    /// Never, as far as JSON goes: every part of it has a spelling.
    pub(crate) fn seal(&self, key: &RecordKey) -> Result<Bytes, serde_json::Error> {
        let body = serde_json::to_vec(self)?;
        Ok([&[FORMAT][..], &key.segment_tag(&body), &body].concat().into())
    }
}

/// A record as it was read: not yet known to be genuine.
#[derive(Debug)]
pub(crate) struct UnverifiedSegment<'a> {
    tag: [u8; 32],
    body: &'a [u8],
    record: SegmentRecord,
}

impl<'a> UnverifiedSegment<'a> {
    /// Parses what is stored for this segment of this account; or says what is wrong with it.
    pub(crate) fn parse(account: AccountId, segment: SegmentId, bytes: &'a [u8]) -> Result<Self, String> {
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&found) if found > FORMAT => {
                return Err(format!("it has format {found}, this version reads up to {FORMAT}"));
            }
            _ => return Err("it is not the record of a segment".into()),
        }
        let tag = bytes.get(1..TAG_END).and_then(|tag| tag.try_into().ok());
        let (Some(tag), Some(body)) = (tag, bytes.get(TAG_END..)) else {
            return Err(format!("it has {} bytes and ends within its tag", bytes.len()));
        };
        let record: SegmentRecord = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let scope = record.key.scope;
        if scope.account != account || scope.provider != Provider::Buffer(segment) {
            return Err(format!("it is that of another segment, {scope}"));
        }
        Ok(Self { tag, body, record })
    }

    /// The record unchecked: good for knowing which service AEK to check it under.
    pub(crate) fn unverified(&self) -> &SegmentRecord {
        &self.record
    }

    /// The record, if its tag is right.
    pub(crate) fn verify(self, key: &RecordKey) -> Result<SegmentRecord, String> {
        if key.verify_segment(self.body, &self.tag) || is_planted(Bug::SegmentTagUnchecked) {
            Ok(self.record)
        } else {
            Err("its tag does not fit".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_crypto::{Aek, Epoch, KeyId, KeyScope, WrapAlgorithm, WrappedKey};

    use super::*;

    fn aek(byte: u8) -> Aek {
        Aek::try_from_fn(|aek| {
            aek.fill(byte);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    fn account(byte: u8) -> AccountId {
        AccountId::from_bytes([byte; 16])
    }

    fn segment(byte: u8) -> SegmentId {
        SegmentId::from_bytes([byte; 16])
    }

    fn service(byte: u8) -> RecordKey {
        let scope = KeyScope { account: account(byte), epoch: Epoch::FIRST, provider: Provider::Service };
        RecordKey::derive(&aek(byte), &scope)
    }

    fn record() -> SegmentRecord {
        let scope =
            KeyScope { account: account(1), epoch: Epoch::FIRST, provider: Provider::Buffer(segment(1)) };
        let wrap = WrappedKey {
            key_id: KeyId::new("local://customer/keys/payroll/1").unwrap(),
            algorithm: WrapAlgorithm::RsaOaep256,
            bytes: vec![7; 256],
        };
        let created_at = Duration::from_millis(1_795_000_000_123);
        SegmentRecord { key: WrappedAek::new(&aek(9), scope, vec![wrap]), created_at }
    }

    #[test]
    fn a_record_reads_as_it_was_written_where_it_was_written_under_its_accounts_key() {
        let bytes = record().seal(&service(1)).unwrap();
        let read = |account, segment| UnverifiedSegment::parse(account, segment, &bytes);
        let unverified = read(account(1), segment(1)).unwrap();
        assert_eq!(unverified.unverified(), &record());
        assert_eq!(unverified.verify(&service(1)).unwrap(), record());
        read(account(1), segment(1)).unwrap().verify(&service(2)).unwrap_err();
        read(account(2), segment(1)).unwrap_err();
        read(account(1), segment(2)).unwrap_err();
    }

    #[test]
    fn the_tag_of_an_accounts_record_is_not_that_of_a_segment() {
        let body = serde_json::to_vec(&record()).unwrap();
        let forged = [&[FORMAT][..], &service(1).tag(&body), &body].concat();
        UnverifiedSegment::parse(account(1), segment(1), &forged).unwrap().verify(&service(1)).unwrap_err();
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_obeyed() {
        let bytes = record().seal(&service(1)).unwrap();
        let obeyed = |bytes: &[u8]| {
            UnverifiedSegment::parse(account(1), segment(1), bytes).and_then(|read| read.verify(&service(1)))
        };
        obeyed(&bytes).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            for bit in 0..8 {
                flipped[at] = bytes[at] ^ (1 << bit);
                obeyed(&flipped).unwrap_err();
            }
            obeyed(&bytes[..at]).unwrap_err();
        }
        obeyed(&[&bytes[..], b" "].concat()).unwrap_err();
    }
}
