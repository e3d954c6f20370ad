//! What is derived for one block: its identity, DEK, commitment and nonces (docs/format.md, 3 and 4).
//!
//! Guarantees: DEK and commitment are bound to all that the PRK is bound to, and to salt, block id, version
//! and page size; a page's nonce says where it lies and whether it is the last. Secrets are written where
//! they stay and are wiped by their owner.

use sha2::{Digest, Sha256};

use crate::{
    BlockRef, PageSize, Salt,
    derive::{MAX_INFO, Prk},
    header::COMMITMENT_LEN,
};

/// Six bytes, so that with page size, version and a block id of up to 40 bytes one compression is enough.
const IDENTITY_LABEL: &[u8; 6] = b"block1";

const PURPOSE_DEK: u8 = b'K';
const PURPOSE_COMMITMENT: u8 = b'C';

/// How much of the identity fits into info, beside the purpose and the salt.
const IDENTITY_IN_INFO: usize = MAX_INFO - 1 - 32;

/// Everything that a block's keys and pages are bound to, apart from what the PRK is.
pub(crate) struct Place {
    identity: [u8; 32],
    info: [u8; MAX_INFO],
}

impl Place {
    pub(crate) fn new(block: BlockRef<'_>, page: PageSize, salt: &Salt) -> Self {
        // The id comes last: everything before it has a fixed length, so no two places hash the same bytes.
        let identity: [u8; 32] = Sha256::new()
            .chain_update(IDENTITY_LABEL)
            .chain_update([page.log2()])
            .chain_update(block.version.number().to_be_bytes())
            .chain_update(block.id.as_bytes())
            .finalize()
            .into();
        let mut info = [0; MAX_INFO];
        info[1..33].copy_from_slice(salt);
        info[33..].copy_from_slice(&identity[..IDENTITY_IN_INFO]);
        Self { identity, info }
    }

    /// What every page is authenticated with.
    pub(crate) fn aad(&self) -> &[u8; 32] {
        &self.identity
    }

    /// Writes the block's DEK.
    pub(crate) fn dek(&mut self, prk: &Prk, dek: &mut [u8; 32]) {
        self.info[0] = PURPOSE_DEK;
        prk.expand(&self.info, dek);
    }

    /// The commitment to the block's key and place: equal ones mean equal PRK and info, or a collision of SHA-256.
    pub(crate) fn commitment(&mut self, prk: &Prk) -> [u8; COMMITMENT_LEN] {
        self.info[0] = PURPOSE_COMMITMENT;
        let mut commitment = [0; COMMITMENT_LEN];
        prk.expand(&self.info, &mut commitment);
        commitment
    }
}

/// The nonce of a page: 7 zero bytes, its number, whether it is the last (the STREAM construction).
pub(crate) fn nonce(page: u32, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[7..11].copy_from_slice(&page.to_be_bytes());
    nonce[11] = u8::from(last);
    nonce
}
