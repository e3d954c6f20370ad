//! No ciphertext opens under two keys or in two places, not even one that was built to.
//!
//! AES-GCM alone does not commit to its key: whoever knows two keys can solve for one ciphertext block that
//! makes a tag right under both. We build such ciphertexts, show with raw AES-GCM that they open under both
//! DEKs, then put them into sealed blocks. The DEKs are derived here from docs/format.md by another HKDF.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test fails by panicking, and counts are printed"
)]

mod common;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead as _, Payload},
};
use cofferdam_crypto::{BlockId, KeyScope, OpenError, PageSize, Provider, RustCrypto, Sealer, Version};
use common::{Fixed, aek, array, bytes, id, rng, scope};
use hkdf::Hkdf;
use rand::{RngExt, rngs::StdRng};
use sha2::{Digest, Sha256};

/// An element of GF(2^128) in GCM's order: the first bit of the first byte is the coefficient of 1.
type Element = u128;

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
struct Gcm {
    h: Element,
    mask: Element,
}

impl Gcm {
    fn new(dek: &[u8; 32], nonce: &[u8; 12]) -> Self {
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

    fn tag(&self, aad: &[u8], ciphertext: &[u8]) -> Element {
        let lengths = (aad.len() as u128 * 8) << 64 | ciphertext.len() as u128 * 8;
        let blocks = aad.chunks(16).chain(ciphertext.chunks(16)).map(element).chain([lengths]);
        blocks.fold(0, |hash, block| times(hash ^ block, self.h)) ^ self.mask
    }

    /// What a ciphertext block adds to the tag for each unit of itself: H to the number of blocks from it on,
    /// that of the lengths among them.
    fn weight(&self, blocks_from_it_on: usize) -> Element {
        (0..blocks_from_it_on).fold(ONE, |power, _| times(power, self.h))
    }
}

/// One place that a block could open in, derived as docs/format.md says.
struct Context {
    key: [u8; 32],
    scope: KeyScope,
    id: BlockId,
    version: Version,
    dek: [u8; 32],
    commitment: [u8; 32],
    identity: [u8; 32],
}

impl Context {
    fn new(
        key: [u8; 32],
        scope: KeyScope,
        id: BlockId,
        version: u64,
        page: PageSize,
        salt: &[u8; 32],
    ) -> Self {
        let extract_salt = [
            &b"cofferdam block 1"[..],
            scope.account.as_bytes(),
            &scope.epoch.number().to_be_bytes(),
            &[scope.provider.code()],
            &[1],
        ]
        .concat();
        let prk = Hkdf::<Sha256>::new(Some(&extract_salt), &key);
        let identity: [u8; 32] =
            Sha256::digest([b"block1", &[page.log2()][..], &version.to_be_bytes(), id.as_bytes()].concat())
                .into();
        let expand = |purpose: u8| {
            let mut okm = [0; 32];
            prk.expand(&[&[purpose], &salt[..], &identity[..21]].concat(), &mut okm).unwrap();
            okm
        };
        let version = Version::new(version);
        Self { key, scope, id, version, dek: expand(b'K'), commitment: expand(b'C'), identity }
    }

    fn opens(&self, sealed: &[u8]) -> bool {
        let opened = Sealer::new(&aek(&self.key), self.scope).open(self.id.at(self.version), sealed);
        let rust: Sealer<RustCrypto> = Sealer::with_aead(&aek(&self.key), self.scope);
        assert_eq!(rust.open(self.id.at(self.version), sealed), opened, "both AEADs judge alike");
        if let Err(e) = &opened {
            assert_eq!(*e, OpenError::Refused);
        }
        opened.is_ok()
    }

    fn opens_raw(&self, ciphertext: &[u8], tag: Element) -> bool {
        let msg = [ciphertext, &tag.to_be_bytes()].concat();
        let payload = Payload { msg: &msg, aad: &self.identity };
        Aes256Gcm::new(&self.dek.into()).decrypt(&NONCE.into(), payload).is_ok()
    }
}

/// Of a block's only page.
const NONCE: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A ciphertext and a tag that are right for both: one block of it is solved for.
fn collide(rng: &mut StdRng, a: &Context, b: &Context) -> (Vec<u8>, Element) {
    let len = rng.random_range(16..=4096usize);
    let mut ciphertext = bytes(rng, len);
    let blocks = len.div_ceil(16);
    let solved = rng.random_range(0..len / 16);
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

fn header(context: &Context, page: PageSize, salt: &[u8; 32], commitment: &[u8; 32]) -> Vec<u8> {
    [
        &b"CFDM"[..],
        &[1, 1, context.scope.provider.code(), page.log2()],
        &context.scope.epoch.number().to_be_bytes(),
        salt,
        commitment,
    ]
    .concat()
}

#[test]
fn what_is_derived_here_is_what_sealing_derives() {
    let (salt, page) = ([9; 32], PageSize::MIN);
    let context = Context::new([7; 32], scope(1, 2, Provider::Service), id("b"), 3, page, &salt);
    let sealed = Sealer::new(&aek(&context.key), context.scope)
        .seal(context.id.at(context.version), page, &[0x55; 100], &Fixed(salt))
        .unwrap();
    assert_eq!(sealed[..76], header(&context, page, &salt, &context.commitment));
    let tag = Gcm::new(&context.dek, &NONCE).tag(&context.identity, &sealed[76..176]);
    assert_eq!(tag.to_be_bytes(), sealed[176..]);
    assert!(context.opens_raw(&sealed[76..176], tag));
}

#[test]
fn a_thousand_ciphertexts_built_to_open_under_two_keys_open_under_one_at_most() {
    const BUILT: usize = 1000;
    let mut rng = rng("two keys");
    let (mut raw_both, mut sealed_once, mut sealed_both) = (0, 0, 0);
    for i in 0..BUILT {
        let page = PageSize::MIN;
        let salt = array(&mut rng);
        let home = scope(0xa1, 1, Provider::Customer);
        let key = array(&mut rng);
        let a = Context::new(key, home, id("a"), 1, page, &salt);
        // Another AEK under the same header; another block, another version, another account under the same AEK.
        let b = match i % 4 {
            0 => Context::new(array(&mut rng), home, id("a"), 1, page, &salt),
            1 => Context::new(key, home, id("b"), 1, page, &salt),
            2 => Context::new(key, home, id("a"), 2, page, &salt),
            _ => Context::new(key, scope(0xb2, 1, Provider::Customer), id("a"), 1, page, &salt),
        };
        let (ciphertext, tag) = collide(&mut rng, &a, &b);
        raw_both += usize::from(a.opens_raw(&ciphertext, tag) && b.opens_raw(&ciphertext, tag));

        for committed in [&a, &b] {
            let mut sealed = header(&a, page, &salt, &committed.commitment);
            sealed.extend_from_slice(&ciphertext);
            sealed.extend_from_slice(&tag.to_be_bytes());
            let opens = (a.opens(&sealed), b.opens(&sealed));
            sealed_both += usize::from(opens == (true, true));
            sealed_once += usize::from(opens.0 != opens.1);
        }
        let mut sealed = header(&a, page, &salt, &array(&mut rng));
        sealed.extend_from_slice(&ciphertext);
        sealed.extend_from_slice(&tag.to_be_bytes());
        assert!(!a.opens(&sealed) && !b.opens(&sealed), "committed to neither");
    }
    println!(
        "{BUILT} ciphertexts built to open under two keys: {raw_both} do under raw AES-GCM; as sealed blocks \
         {sealed_both} open under both ({sealed_once} of {} under the one committed to)",
        2 * BUILT
    );
    assert_eq!((raw_both, sealed_both, sealed_once), (BUILT, 0, 2 * BUILT));
}
