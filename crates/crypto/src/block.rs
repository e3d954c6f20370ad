//! What is derived for one block: its identity, DEK, commitment and nonces (docs/format.md, 3 and 4).
//!
//! Guarantees: DEK and commitment are bound to all that the PRK is bound to, and to salt, block id, version
//! and page size; a page's nonce says where it lies and whether it is the last. Secrets are written where
//! they stay and are wiped by their owner.

use sha2::{Digest, Sha256};

use crate::{
    BlockRef, PageSize, Salt,
    derive::{Info, MAX_INFO, MAX_ONE_BLOCK, Prk, sha256_of_one_block},
    header::COMMITMENT_LEN,
    planted::{Bug, is_planted},
};

/// Six bytes, so that with page size, version and a block id of up to 40 bytes one compression is enough.
const IDENTITY_LABEL: &[u8; 6] = b"block1";

/// Label, page size, version.
const IDENTITY_HEAD: usize = 6 + 1 + 8;

const PURPOSE_DEK: u8 = b'K';
const PURPOSE_COMMITMENT: u8 = b'C';

/// How much of the identity fits into info, beside the purpose and the salt.
const IDENTITY_IN_INFO: usize = MAX_INFO - 1 - 32;

/// Everything that a block's keys and pages are bound to, apart from what the PRK is.
#[derive(Clone)]
pub(crate) struct Place {
    identity: [u8; 32],
    info: Info,
}

impl Place {
    pub(crate) fn new(block: BlockRef<'_>, page: PageSize, salt: &Salt) -> Self {
        let identity = identity(block, page);
        let mut info = [0; MAX_INFO];
        info[1..33].copy_from_slice(salt);
        info[33..].copy_from_slice(&identity[..IDENTITY_IN_INFO]);
        Self { identity, info: Info::new(&info) }
    }

    /// What every page is authenticated with.
    pub(crate) fn aad(&self) -> &[u8; 32] {
        if is_planted(Bug::MissingAad) { &[0; 32] } else { &self.identity }
    }

    /// Writes the block's DEK.
    pub(crate) fn dek(&mut self, prk: &Prk, dek: &mut [u8; 32]) {
        prk.expand(self.info.starting_with(PURPOSE_DEK), dek);
    }

    /// The commitment to the block's key and place: equal ones mean equal PRK and info, or a collision of SHA-256.
    pub(crate) fn commitment(&mut self, prk: &Prk) -> [u8; COMMITMENT_LEN] {
        let mut commitment = [0; COMMITMENT_LEN];
        prk.expand(self.info.starting_with(PURPOSE_COMMITMENT), &mut commitment);
        commitment
    }
}

/// SHA-256 of label, page size, version and block id.
///
/// The id comes last: everything before it has a fixed length, so no two places hash the same bytes.
fn identity(block: BlockRef<'_>, page: PageSize) -> [u8; 32] {
    if is_planted(Bug::MissingBinding) {
        return [0; 32];
    }
    let mut head = [0; IDENTITY_HEAD];
    head[..6].copy_from_slice(IDENTITY_LABEL);
    head[6] = page.log2();
    head[7..].copy_from_slice(&block.version.number().to_be_bytes());
    let id = block.id.as_bytes();
    if id.len() > MAX_ONE_BLOCK - IDENTITY_HEAD {
        return Sha256::new().chain_update(head).chain_update(id).finalize().into();
    }
    // A third of the time of the general way, for the ids that most services have.
    let mut message = [0; 64];
    message[..IDENTITY_HEAD].copy_from_slice(&head);
    message[IDENTITY_HEAD..IDENTITY_HEAD + id.len()].copy_from_slice(id);
    sha256_of_one_block(message, IDENTITY_HEAD + id.len())
}

/// The nonce of a page: 7 zero bytes, its number, whether it is the last (the STREAM construction).
pub(crate) fn nonce(page: u32, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[7..11].copy_from_slice(&page.to_be_bytes());
    nonce[11] = u8::from(last);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockId, Version};

    #[test]
    fn identity_is_the_same_hash_on_either_side_of_one_block() {
        for len in 1..=130 {
            let id = BlockId::new((0..len).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
            let message =
                [b"block1", &[24][..], &0x0102_0304_0506_0708u64.to_be_bytes(), id.as_bytes()].concat();
            let hashed: [u8; 32] = Sha256::digest(message).into();
            assert_eq!(
                identity(id.at(Version::new(0x0102_0304_0506_0708)), PageSize::MAX),
                hashed,
                "{len} bytes"
            );
        }
    }

    #[test]
    fn nonces_count_pages_and_mark_the_last() {
        assert_eq!(nonce(0, true), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(nonce(0x0102_0304, false), [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0]);
    }
}
