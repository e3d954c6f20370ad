//! No ciphertext opens under two keys or in two places, not even one that was built to.
//!
//! AES-GCM alone does not commit to its key: whoever knows two keys can solve for one ciphertext block that
//! makes a tag right under both. We build such ciphertexts, show with raw AES-GCM that they open under both
//! DEKs, then put them into sealed blocks. The DEKs are derived here from docs/format.md by another HKDF.

use cofferdam_crypto::{OpenError, PageSize, Provider, RustCrypto, Sealer};
use rand::RngExt;

use crate::common::{
    Fixed, aek, array, bytes, id, rng, scope,
    spec::{Context, Gcm, NONCE, collide},
};

fn opens(context: &Context, sealed: &[u8]) -> bool {
    let opened = Sealer::new(&aek(&context.key), context.scope).open(context.at(), sealed);
    let rust: Sealer<RustCrypto> = Sealer::with_aead(&aek(&context.key), context.scope);
    assert_eq!(rust.open(context.at(), sealed), opened, "both AEADs judge alike");
    if let Err(e) = &opened {
        assert_eq!(*e, OpenError::Refused);
    }
    opened.is_ok()
}

#[test]
fn what_is_derived_here_is_what_sealing_derives() {
    let context = Context::new([7; 32], scope(1, 2, Provider::Service), id("b"), 3, PageSize::MIN, [9; 32]);
    let sealed = Sealer::new(&aek(&context.key), context.scope)
        .seal(context.at(), context.page, &[0x55; 100], &Fixed(context.salt))
        .unwrap();
    assert_eq!(sealed[..76], context.header());
    assert_eq!(sealed[76..], context.page(&NONCE, &context.identity, &[0x55; 100]));
    let tag = Gcm::new(&context.dek, &NONCE).tag(&context.identity, &sealed[76..176]);
    assert_eq!(tag.to_be_bytes(), sealed[176..]);
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
        let a = Context::new(key, home, id("a"), 1, page, salt);
        // Another AEK under the same header; another block, version or account under the same AEK.
        let b = match i % 4 {
            0 => Context::new(array(&mut rng), home, id("a"), 1, page, salt),
            1 => Context::new(key, home, id("b"), 1, page, salt),
            2 => Context::new(key, home, id("a"), 2, page, salt),
            _ => Context::new(key, scope(0xb2, 1, Provider::Customer), id("a"), 1, page, salt),
        };
        let len = rng.random_range(16..=4096);
        let solved = rng.random_range(0..len / 16);
        let (ciphertext, tag) = collide(bytes(&mut rng, len), solved, &a, &b);
        raw_both += usize::from(a.opens_raw(&ciphertext, tag) && b.opens_raw(&ciphertext, tag));

        let sealed_with = |commitment: &[u8; 32]| {
            [&a.header_with(commitment)[..], &ciphertext, &tag.to_be_bytes()].concat()
        };
        for committed in [&a, &b] {
            let sealed = sealed_with(&committed.commitment);
            let opened = (opens(&a, &sealed), opens(&b, &sealed));
            sealed_both += usize::from(opened == (true, true));
            sealed_once += usize::from(opened.0 != opened.1);
        }
        let sealed = sealed_with(&array(&mut rng));
        assert!(!opens(&a, &sealed) && !opens(&b, &sealed), "committed to neither");
    }
    println!(
        "{BUILT} ciphertexts built to open under two keys: {raw_both} do under raw AES-GCM; as sealed blocks \
         {sealed_both} open under both ({sealed_once} of {} under the one committed to)",
        2 * BUILT
    );
    assert_eq!((raw_both, sealed_both, sealed_once), (BUILT, 0, 2 * BUILT));
}
