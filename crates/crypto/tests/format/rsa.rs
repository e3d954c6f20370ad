//! RSA KEKs: the frozen vectors in tests/vectors/rsa.json unwrap or are refused; what is no public half is not taken for
//! one.
#![cfg(feature = "aws-lc")]

use std::{convert::Infallible, path::Path};

use cofferdam_crypto::{
    Aek, WrapAlgorithm,
    rsa::{RsaError, RsaKek, RsaPublicKey, RsaSize},
};
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    keys: Vec<Key>,
    wraps: Vec<Wrap>,
}

#[derive(Deserialize)]
struct Key {
    bits: usize,
    pkcs8: String,
    spki: String,
    fingerprint: String,
}

#[derive(Deserialize)]
struct Wrap {
    comment: String,
    bits: usize,
    wrapped: String,
    aek: Option<String>,
}

fn unhex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn vectors() -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/rsa.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn kek(bits: usize) -> RsaKek {
    let key = vectors().keys.into_iter().find(|key| key.bits == bits).unwrap();
    RsaKek::from_pkcs8(&unhex(&key.pkcs8)).unwrap()
}

fn aek(byte: u8) -> Aek {
    Aek::try_from_fn(|k| {
        k.fill(byte);
        Ok::<_, Infallible>(())
    })
    .unwrap()
}

#[test]
fn frozen_keys_are_read_and_written_as_they_are() {
    for key in vectors().keys {
        let kek = RsaKek::from_pkcs8(&unhex(&key.pkcs8)).unwrap();
        assert_eq!(HEXLOWER.encode(&kek.to_pkcs8().unwrap()), key.pkcs8, "{} bits", key.bits);
        let public = kek.public_key();
        assert_eq!(HEXLOWER.encode(public.spki()), key.spki);
        assert_eq!(HEXLOWER.encode(&public.fingerprint()), key.fingerprint);
        assert_eq!((public.bits(), public.modulus_len()), (key.bits, key.bits / 8));
        assert_eq!(RsaPublicKey::from_spki(&unhex(&key.spki)).unwrap(), *public);
        let json = serde_json::to_string(public).unwrap();
        assert_eq!(json, format!("\"{}\"", key.spki));
        assert_eq!(serde_json::from_str::<RsaPublicKey>(&json).unwrap(), *public);
        let shown = format!("{public:?}");
        assert_eq!(shown, format!("RsaPublicKey({} bits, sha256:{})", key.bits, key.fingerprint));
        assert_eq!(format!("{kek:?}"), format!("RsaKek({shown})"));
    }
}

#[test]
fn frozen_wraps_unwrap_or_are_refused() {
    let (mut unwrapped, mut refused) = (0, 0);
    for wrap in vectors().wraps {
        let answer = kek(wrap.bits).unwrap(&unhex(&wrap.wrapped));
        match &wrap.aek {
            Some(aek) => {
                assert_eq!(HEXLOWER.encode(answer.unwrap().expose()), *aek, "{}", wrap.comment);
                unwrapped += 1;
            }
            None => {
                let error = answer.expect_err(&wrap.comment);
                let fits = match wrap.wrapped.len() / 2 == wrap.bits / 8 {
                    true => matches!(error, RsaError::Refused | RsaError::NotAnAek { .. }),
                    false => matches!(error, RsaError::Length { .. }),
                };
                assert!(fits, "{}: {error}", wrap.comment);
                refused += 1;
            }
        }
    }
    println!("{unwrapped} frozen RSA wraps unwrapped, {refused} refused");
    assert!(unwrapped >= 6 && refused >= 10);
}

#[test]
fn each_wrap_is_another_and_only_its_own_key_unwraps_it() {
    for size in RsaSize::ALL {
        let kek = kek(size.bits());
        let wraps = [1, 1, 2].map(|byte| kek.public_key().wrap(&aek(byte)).unwrap());
        assert_ne!(wraps[0], wraps[1]);
        for (wrap, byte) in wraps.iter().zip([1, 1, 2]) {
            assert_eq!(wrap.len(), size.modulus_len());
            assert!(WrapAlgorithm::RsaOaep256.accepts_len(wrap.len()));
            assert_eq!(kek.unwrap(wrap).unwrap().expose(), aek(byte).expose());
        }
        let another = RsaKek::generate(RsaSize::Rsa2048).unwrap();
        let expected = match size {
            RsaSize::Rsa2048 => RsaError::Refused,
            _ => RsaError::Length { len: size.modulus_len(), expected: 256 },
        };
        assert_eq!(another.unwrap(&wraps[0]).unwrap_err(), expected);
    }
}

#[test]
fn every_other_length_is_refused_before_the_private_half_is_used() {
    let kek = kek(2048);
    for len in (0..1024).filter(|&len| len != 256) {
        assert_eq!(kek.unwrap(&vec![0xa6; len]).unwrap_err(), RsaError::Length { len, expected: 256 });
    }
}

#[test]
fn only_a_moduluss_length_is_accepted_of_a_wrap() {
    let accepted: Vec<_> = (0..10_000).filter(|&len| WrapAlgorithm::RsaOaep256.accepts_len(len)).collect();
    assert_eq!(accepted, RsaSize::ALL.map(RsaSize::modulus_len));
}

#[test]
fn a_new_key_has_its_size_and_is_like_no_other() {
    let keys = [RsaKek::generate(RsaSize::Rsa2048).unwrap(), RsaKek::generate(RsaSize::Rsa2048).unwrap()];
    assert_ne!(keys[0].public_key(), keys[1].public_key());
    for key in keys {
        assert_eq!(key.public_key().size(), RsaSize::Rsa2048);
        let again = RsaKek::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
        assert_eq!(again.unwrap(&key.public_key().wrap(&aek(3)).unwrap()).unwrap().expose(), aek(3).expose());
    }
}

/// Modulus and exponent of a frozen key.
fn components(bits: usize) -> (Vec<u8>, Vec<u8>) {
    let spki = kek(bits).public_key().spki().to_vec();
    // The modulus is all between its own header and the exponent's five bytes.
    let end = spki.len() - 5;
    assert_eq!(spki[end..], [2, 3, 1, 0, 1]);
    (spki[end - bits / 8..end].to_vec(), vec![1, 0, 1])
}

#[test]
fn a_modulus_and_an_exponent_give_the_same_public_half() {
    for size in RsaSize::ALL {
        let (modulus, exponent) = components(size.bits());
        let (padded, long) = ([&[0; 3][..], &modulus].concat(), [&[0; 9][..], &exponent].concat());
        for (n, e) in [(&modulus, &exponent), (&padded, &long)] {
            assert_eq!(RsaPublicKey::from_components(n, e).unwrap(), *kek(size.bits()).public_key());
        }
    }
}

#[test]
fn moduli_and_exponents_out_of_bounds_are_named() {
    let (modulus, _) = components(2048);
    for bits in [0, 1, 512, 1024, 2040, 2047, 2049, 2056, 3071, 3073, 4095, 4097, 8192, 16_384] {
        let mut other = vec![0xff_u8; usize::div_ceil(bits, 8)];
        if bits % 8 != 0 {
            other[0] >>= 8 - bits % 8;
        }
        let refused = RsaPublicKey::from_components(&other, &[1, 0, 1]).unwrap_err();
        // A zero is one byte of it.
        assert_eq!(refused, RsaError::ModulusBits { bits }, "{bits} bits");
    }
    let even = [&modulus[..255], &[modulus[255] & 0xfe]].concat();
    assert_eq!(RsaPublicKey::from_components(&even, &[1, 0, 1]).unwrap_err(), RsaError::EvenModulus);
    let exponents: [&[u8]; 9] = [
        &[],
        &[0],
        &[1],
        &[3],
        &[17],
        &[0xff, 0xff],
        &[1, 0, 2],
        &[2, 0, 0, 0, 1],
        &[1, 0, 0, 0, 0, 0, 0, 0, 1],
    ];
    for e in exponents {
        assert_eq!(RsaPublicKey::from_components(&modulus, e).unwrap_err(), RsaError::Exponent, "{e:?}");
    }
    for e in [&[1, 0, 1][..], &[1, 0, 3], &[1, 0xff, 0xff, 0xff, 0xff]] {
        let public = RsaPublicKey::from_components(&modulus, e).unwrap();
        assert_eq!(RsaPublicKey::from_spki(public.spki()).unwrap(), public);
        assert_eq!(public.wrap(&aek(1)).unwrap().len(), 256, "aws-lc takes {e:?}");
    }
}

#[test]
fn what_is_no_public_half_in_der_is_refused() {
    let spki = kek(2048).public_key().spki().to_vec();
    for len in 0..spki.len() {
        assert_eq!(RsaPublicKey::from_spki(&spki[..len]).unwrap_err(), RsaError::PublicKey, "{len} bytes");
    }
    let longer = [&spki[..], &[0]].concat();
    assert_eq!(RsaPublicKey::from_spki(&longer).unwrap_err(), RsaError::PublicKey, "a byte behind it");
    // Its PKCS#1 form, its private half, an elliptic curve's key, an RSA-PSS key's algorithm, one without NULL.
    let pkcs1 = &spki[24..];
    let pss = [&spki[..16], &[10], &spki[17..]].concat();
    let without_null = [&[0x30, 0x82, 0x01, 0x20, 0x30, 0x0b], &spki[6..17], &spki[19..]].concat();
    let curve = HEXLOWER
        .decode(
            b"3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33\
              a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
        )
        .unwrap();
    for (what, bytes) in [
        ("PKCS#1", pkcs1),
        ("PKCS#8", &kek(2048).to_pkcs8().unwrap()),
        ("P-256", &curve),
        ("RSASSA-PSS", &pss),
        ("without NULL", &without_null),
        ("PEM", b"-----BEGIN PUBLIC KEY-----"),
    ] {
        assert_eq!(RsaPublicKey::from_spki(bytes).unwrap_err(), RsaError::PublicKey, "{what}");
    }
    assert!(RsaKek::from_pkcs8(&spki).is_err() && RsaKek::from_pkcs8(&[]).is_err());
}

#[test]
fn a_private_half_that_contradicts_itself_is_refused() {
    let der = kek(2048).to_pkcs8().unwrap();
    let mut refused = 0;
    for at in (0..der.len()).step_by(7) {
        let mut bad = der.to_vec();
        bad[at] ^= 1;
        refused += usize::from(RsaKek::from_pkcs8(&bad).is_err());
        assert_eq!(RsaKek::from_pkcs8(&der[..at]).unwrap_err(), RsaError::PrivateKey, "{at} bytes");
    }
    assert_eq!(refused, der.len().div_ceil(7));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_public_half_with_changed_bytes_is_refused_or_says_what_it_was_given(
        changes in proptest::collection::vec((0..294_usize, any::<u8>()), 1..4),
    ) {
        let mut spki = unhex(&vectors().keys[0].spki);
        for (at, byte) in changes {
            spki[at] = byte;
        }
        if let Ok(public) = RsaPublicKey::from_spki(&spki) {
            prop_assert_eq!(public.spki(), &spki[..]);
            // aws-lc takes it or says so; it takes all that has a modulus of an RSA key's size.
            prop_assert_eq!(public.wrap(&aek(1)).map(|wrap| wrap.len()), Ok(256));
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_key(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(RsaPublicKey::from_spki(&bytes).is_err());
        prop_assert!(RsaKek::from_pkcs8(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_of_the_right_length_do_not_unwrap(bytes in proptest::collection::vec(any::<u8>(), 256)) {
        thread_local!(static KEK: RsaKek = kek(2048));
        prop_assert_eq!(KEK.with(|kek| kek.unwrap(&bytes).unwrap_err()), RsaError::Refused);
    }
}
