//! Both AEADs give the same bytes, and accept and refuse the same.
#![cfg(feature = "aws-lc")]

use cofferdam_crypto::{
    AccountId, AwsLc, BlockId, Epoch, KeyScope, OpenError, PageSize, Provider, RustCrypto, Sealer, Version,
};
use rand::RngExt;

use crate::common::{Fixed, aek, array, bytes, rng, scale};

#[test]
fn random_blocks_seal_to_the_same_bytes_by_both_aeads() {
    let cases = scale(2_000, 100_000);
    let mut rng = rng("agreement");
    for case in 0..cases {
        let key = aek(&array(&mut rng));
        let scope = KeyScope {
            account: AccountId::from_bytes(array(&mut rng)),
            epoch: Epoch::new(rng.random()),
            provider: if rng.random() { Provider::Customer } else { Provider::Service },
        };
        let aws: Sealer<AwsLc> = Sealer::with_aead(&key, scope);
        let rust: Sealer<RustCrypto> = Sealer::with_aead(&key, scope);
        // Most ids are short, some are as long as they may be; most blocks have up to three pages.
        let id_len = if case % 50 == 0 { rng.random_range(1..=1024) } else { rng.random_range(1..64) };
        let id = BlockId::new(bytes(&mut rng, id_len)).unwrap();
        let at = id.at(Version::new(rng.random()));
        let page = PageSize::new(1 << rng.random_range(12..=24)).unwrap();
        let len = if case % 100 == 0 { rng.random_range(0..200_000) } else { rng.random_range(0..12_289) };
        let plaintext = bytes(&mut rng, len);
        let salt = Fixed(array(&mut rng));

        let sealed = aws.seal(at, page, &plaintext, &salt).unwrap();
        assert_eq!(rust.seal(at, page, &plaintext, &salt).unwrap(), sealed, "case {case}");
        assert_eq!(aws.open(at, &sealed).unwrap(), plaintext, "case {case}");
        assert_eq!(rust.open(at, &sealed).unwrap(), plaintext, "case {case}");
        let mut bad = sealed;
        let bit = rng.random_range(0..bad.len() * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(aws.open(at, &bad).unwrap_err(), OpenError::Refused, "case {case}");
        assert_eq!(rust.open(at, &bad).unwrap_err(), OpenError::Refused, "case {case}");
    }
    println!("{cases} random blocks on both AEADs: 0 differences");
}
