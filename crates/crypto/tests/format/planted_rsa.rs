//! Each defect of RSA wraps that can be planted is found by the frozen vectors, and none where none is planted. Needs
//! `--cfg cofferdam_planted`.
#![cfg(all(cofferdam_planted, feature = "aws-lc"))]

use std::path::Path;

use cofferdam_crypto::{
    planted::{Bug, plant},
    rsa::RsaKek,
};
use data_encoding::HEXLOWER;
use serde_json::Value;

/// Frozen wraps that do not answer as they must.
fn mismatches(vectors: &Value) -> usize {
    let unhex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let wrong = |wrap: &&Value| {
        let key = vectors["keys"].as_array().unwrap().iter().find(|key| key["bits"] == wrap["bits"]).unwrap();
        let unwrapped = RsaKek::from_pkcs8(&unhex(&key["pkcs8"])).unwrap().unwrap(&unhex(&wrap["wrapped"]));
        unwrapped.ok().map(|aek| HEXLOWER.encode(aek.expose())).as_deref() != wrap["aek"].as_str()
    };
    vectors["wraps"].as_array().unwrap().iter().filter(wrong).count()
}

#[test]
fn planted_defects_of_rsa_wraps_are_found_by_the_frozen_vectors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/rsa.json");
    let vectors = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(mismatches(&vectors), 0, "with nothing planted");
    for bug in [Bug::OaepSha1, Bug::RsaLengthIgnored] {
        plant(Some(bug));
        let found = mismatches(&vectors);
        plant(None);
        println!("{:<20} {found} of the frozen wraps answer otherwise", bug.name());
        assert!(found > 0, "{}", bug.name());
    }
}
