//! The format a second time, written from docs/format.md with other tools: an HKDF of its own, raw AES-GCM,
//! GHASH by hand. What the tests build with it, sealing could not have made.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use cofferdam_crypto::{BlockId, BlockRef, KeyScope, PageSize, Version};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

/// An element of GF(2^128) in GCM's order: the first bit of the first byte is the coefficient of 1.
pub type Element = u128;

const ONE: Element = 1 << 127;

fn times(a: Element, b: Element) -> Element {
    let (mut product, mut shifted) = (0, b);
    for i in (0..128).rev() {
        if a >> i & 1 == 1 {
            product ^= shifted;
        }
        let carry = shifted & 1;
        shifted >>= 1;
        if carry == 1 {
            shifted ^= 0xe1 << 120;
        }
    }
    product
}

/// a^(2^128 - 2), by Fermat.
fn inverse(a: Element) -> Element {
    let (mut result, mut power) = (ONE, a);
    for _ in 1..128 {
        power = times(power, power);
        result = times(result, power);
    }
    result
}

fn element(block: &[u8]) -> Element {
    let mut padded = [0; 16];
    padded[..block.len()].copy_from_slice(block);
    u128::from_be_bytes(padded)
}

/// GCM's tag without the cipher's help: GHASH of `aad` and `ciphertext`, masked.
pub struct Gcm {
    h: Element,
    mask: Element,
}

impl Gcm {
    pub fn new(dek: &[u8; 32], nonce: &[u8; 12]) -> Self {
        use aes::cipher::BlockCipherEncrypt;
        let cipher = aes::Aes256::new(dek.into());
        let encrypt = |block: [u8; 16]| {
            let mut block = block.into();
            cipher.encrypt_block(&mut block);
            u128::from_be_bytes(block.into())
        };
        let mut counter = [0; 16];
        counter[..12].copy_from_slice(nonce);
        counter[15] = 1;
        Self { h: encrypt([0; 16]), mask: encrypt(counter) }
    }

    pub fn tag(&self, aad: &[u8], ciphertext: &[u8]) -> Element {
        let lengths = ((aad.len() as u128 * 8) << 64) | (ciphertext.len() as u128 * 8);
        let blocks = aad.chunks(16).chain(ciphertext.chunks(16)).map(element).chain([lengths]);
        blocks.fold(0, |hash, block| times(hash ^ block, self.h)) ^ self.mask
    }

    /// What a ciphertext block adds to the tag for each unit of itself: H to the number of blocks from it on,
    /// that of the lengths among them.
    pub fn weight(&self, blocks_from_it_on: usize) -> Element {
        (0..blocks_from_it_on).fold(ONE, |power, _| times(power, self.h))
    }
}

/// One place that a block could open in, derived as docs/format.md says.
pub struct Context {
    pub key: [u8; 32],
    pub scope: KeyScope,
    pub id: BlockId,
    pub version: Version,
    pub page: PageSize,
    pub salt: [u8; 32],
    pub prk: [u8; 32],
    pub dek: [u8; 32],
    pub commitment: [u8; 32],
    pub identity: [u8; 32],
}

impl Context {
    pub fn new(
        key: [u8; 32],
        scope: KeyScope,
        id: BlockId,
        version: u64,
        page: PageSize,
        salt: [u8; 32],
    ) -> Self {
        let extract_salt = [
            &b"cofferdam block 1"[..],
            scope.account.as_bytes(),
            &scope.epoch.number().to_be_bytes(),
            &[scope.provider.code()],
            &[1],
            scope.provider.segment().as_ref().map_or(&[], |segment| &segment.as_bytes()[..]),
        ]
        .concat();
        let (prk, hkdf) = Hkdf::<Sha256>::extract(Some(&extract_salt), &key);
        let identity: [u8; 32] =
            Sha256::digest([b"block1", &[page.log2()][..], &version.to_be_bytes(), id.as_bytes()].concat())
                .into();
        let expand = |purpose: u8| {
            let mut okm = [0; 32];
            hkdf.expand(&[&[purpose], &salt[..], &identity[..21]].concat(), &mut okm).unwrap();
            okm
        };
        Self {
            key,
            scope,
            id,
            version: Version::new(version),
            page,
            salt,
            prk: prk.into(),
            dek: expand(b'K'),
            commitment: expand(b'C'),
            identity,
        }
    }

    pub fn opens_raw(&self, ciphertext: &[u8], tag: Element) -> bool {
        let msg = [ciphertext, &tag.to_be_bytes()].concat();
        let payload = Payload { msg: &msg, aad: &self.identity };
        Aes256Gcm::new(&self.dek.into()).decrypt(&NONCE.into(), payload).is_ok()
    }

    pub fn at(&self) -> BlockRef<'_> {
        self.id.at(self.version)
    }

    /// The header of a block for this place.
    pub fn header(&self) -> Vec<u8> {
        self.header_with(&self.commitment)
    }

    pub fn header_with(&self, commitment: &[u8; 32]) -> Vec<u8> {
        [
            &b"CFDM"[..],
            &[1, 1, self.scope.provider.code(), self.page.log2()],
            &self.scope.epoch.number().to_be_bytes(),
            &self.salt,
            commitment,
        ]
        .concat()
    }

    /// A page: ciphertext and tag under this place's DEK.
    pub fn page(&self, nonce: &[u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: plaintext, aad };
        Aes256Gcm::new(&self.dek.into()).encrypt(nonce.into(), payload).unwrap()
    }
}

/// Of a block's only page.
pub const NONCE: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A ciphertext and a tag that are right for both: one whole block of `ciphertext` is solved for.
pub fn collide(mut ciphertext: Vec<u8>, solved: usize, a: &Context, b: &Context) -> (Vec<u8>, Element) {
    let blocks = ciphertext.len().div_ceil(16);
    let place = solved * 16..solved * 16 + 16;
    ciphertext[place.clone()].fill(0);
    let (gcm_a, gcm_b) = (Gcm::new(&a.dek, &NONCE), Gcm::new(&b.dek, &NONCE));
    let differ = gcm_a.tag(&a.identity, &ciphertext) ^ gcm_b.tag(&b.identity, &ciphertext);
    let weight = |gcm: &Gcm| gcm.weight(blocks - solved + 1);
    let block = times(differ, inverse(weight(&gcm_a) ^ weight(&gcm_b)));
    ciphertext[place].copy_from_slice(&block.to_be_bytes());
    let tag = gcm_a.tag(&a.identity, &ciphertext);
    (ciphertext, tag)
}
