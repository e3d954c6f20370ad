//! What authenticates an archive: a tag under a key of the account's, over the hash of all of it.
//!
//! Guarantees: no such tag is that of another record: what is tagged here begins with a label of its own. Two archives
//! with one tag would be a collision of SHA-256.
//!
//! Not its job: what an archive holds, or in what order it is checked (the store's).

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    RecordKey, RecordTag,
    derive::{hmac, label},
};

/// SHA-256 of an archive, as far as it was written or read. Needs no key, so that damage is told from forgery.
#[derive(Clone, Default)]
pub struct ArchiveHash(Sha256);

impl ArchiveHash {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

impl fmt::Debug for ArchiveHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchiveHash(..)")
    }
}

impl RecordKey {
    /// The tag of the archive that has this hash.
    pub fn archive_tag(&self, hash: &[u8; 32]) -> RecordTag {
        hmac(self.bytes(), &[label::ARCHIVE, hash])
    }

    /// Whether this is the tag of the archive that has this hash, in constant time.
    pub fn verify_archive(&self, hash: &[u8; 32], tag: &RecordTag) -> bool {
        self.archive_tag(hash).ct_eq(tag).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccountId, Aek, Epoch, KeyScope, Provider};

    fn key(byte: u8, epoch: u32) -> RecordKey {
        let aek = Aek::try_from_fn(|aek| {
            aek.fill(byte);
            Ok::<_, std::convert::Infallible>(())
        });
        let scope = KeyScope {
            account: AccountId::from_bytes([0xa1; 16]),
            epoch: Epoch::new(epoch),
            provider: Provider::Customer,
        };
        RecordKey::derive(&aek.unwrap(), &scope)
    }

    #[test]
    fn the_hash_is_that_of_all_parts_joined() {
        let mut parts = ArchiveHash::default();
        [&b"a"[..], b"", b"bc"].into_iter().for_each(|part| parts.update(part));
        assert_eq!(parts.finish(), <[u8; 32]>::from(Sha256::digest(b"abc")));
    }

    #[test]
    fn an_archives_tag_is_right_for_that_hash_and_key_alone_and_no_other_records() {
        let tag = key(7, 1).archive_tag(&[3; 32]);
        assert!(key(7, 1).verify_archive(&[3; 32], &tag));
        assert!(!key(7, 1).verify_archive(&[4; 32], &tag));
        assert!(!key(8, 1).verify_archive(&[3; 32], &tag));
        assert!(!key(7, 2).verify_archive(&[3; 32], &tag));
        assert!(!key(7, 1).verify(&[3; 32], &tag));
        assert!(!key(7, 1).verify_segment(&[3; 32], &tag));
        for bit in 0..256 {
            let mut bad = tag;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!key(7, 1).verify_archive(&[3; 32], &bad), "bit {bit}");
        }
    }
}
