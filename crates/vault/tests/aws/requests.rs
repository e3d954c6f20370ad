//! What KMS is asked: which key, in which encryption context, signed how; and what it is not asked.

use cofferdam_crypto::{WrapAlgorithm, WrappedKey};
use cofferdam_vault::{
    KeyVault, VaultErrorKind as Kind,
    aws::{AwsOptions, AwsVault},
};
use data_encoding::BASE64;
use serde_json::json;

use crate::aws_support::{
    ACCOUNT, KEY, REGION, aek, asked, context, decrypted, encrypted, id, ok, options, recorded, wrapped,
};

const SHARED: &str = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";

#[tokio::test]
async fn a_wrap_is_bound_to_account_epoch_and_provider_and_names_its_key() {
    let server = recorded([ok(&encrypted(KEY))]);
    let vault = AwsVault::new(options(&server.url(), ACCOUNT)).unwrap();
    let alias = id("arn:aws:kms:eu-west-1:111122223333:alias/payroll");
    for key_id in [id(KEY), alias.clone()] {
        let wrapped = vault.wrap_key(&key_id, &aek(7), &context(1)).await.unwrap();
        let expected = WrappedKey { key_id: id(KEY), algorithm: WrapAlgorithm::AwsKms, bytes: vec![9; 184] };
        assert_eq!(wrapped, expected);
    }
    let expected = |key: &str| {
        json!({
            "KeyId": key,
            "Plaintext": BASE64.encode(&[7; 32]),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "EncryptionContext": {
                "cofferdam:account": "01010101-0101-0101-0101-010101010101",
                "cofferdam:epoch": "1",
                "cofferdam:provider": "customer",
            },
        })
    };
    assert_eq!(asked(&server), [expected(KEY), expected(alias.as_str())]);
    let request = &server.requests()[0];
    assert_eq!(request.header("x-amz-target"), Some("TrentService.Encrypt"));
    let signature = request.header("authorization").unwrap();
    assert!(signature.contains("/eu-west-1/kms/aws4_request"), "{signature}");
}

#[tokio::test]
async fn an_unwrap_names_the_key_of_its_wrap_and_the_same_context() {
    let server = recorded([ok(&decrypted(&[7; 32]))]);
    let vault = AwsVault::new(options(&server.url(), ACCOUNT)).unwrap();
    vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    let expected = json!({
        "KeyId": KEY,
        "CiphertextBlob": BASE64.encode(&[7; 184]),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "EncryptionContext": {
            "cofferdam:account": "01010101-0101-0101-0101-010101010101",
            "cofferdam:epoch": "1",
            "cofferdam:provider": "customer",
        },
    });
    assert_eq!(asked(&server), [expected]);
}

#[tokio::test]
async fn another_vaults_keys_and_malformed_wraps_are_refused_before_anything_is_sent() {
    let server = recorded([ok(&encrypted(KEY))]);
    let vault = AwsVault::new(options(&server.url(), ACCOUNT)).unwrap();
    for foreign in [
        KEY.replace(ACCOUNT, "444455556666"),
        KEY.replace(REGION, "us-east-1"),
        KEY.replace("arn:aws:", "arn:aws-cn:"),
        SHARED.into(),
        "local://acme/keys/k".into(),
        "https://acme.vault.azure.net/keys/k".into(),
        "alias/payroll".into(),
    ] {
        let foreign = id(&foreign);
        assert!(!vault.owns(&foreign), "{foreign}");
        let wrap = WrappedKey { key_id: foreign.clone(), ..wrapped(KEY) };
        for failed in [
            vault.wrap_key(&foreign, &aek(7), &context(1)).await.unwrap_err(),
            vault.unwrap_key(&wrap, &context(1)).await.unwrap_err(),
            vault.key_properties(&foreign).await.unwrap_err(),
            vault.public_key(&foreign).await.unwrap_err(),
        ] {
            assert_eq!((failed.kind(), failed.key_id()), (Kind::Other, Some(&foreign)), "{failed}");
        }
    }
    let alias = id("arn:aws:kms:eu-west-1:111122223333:alias/payroll");
    for bad in [
        WrappedKey { algorithm: WrapAlgorithm::Aes256Kw, ..wrapped(KEY) },
        WrappedKey { algorithm: WrapAlgorithm::Transit, ..wrapped(KEY) },
        WrappedKey { bytes: Vec::new(), ..wrapped(KEY) },
        WrappedKey { bytes: vec![7; 47], ..wrapped(KEY) },
        WrappedKey { bytes: vec![7; 6145], ..wrapped(KEY) },
        WrappedKey { key_id: alias, ..wrapped(KEY) },
    ] {
        let failed = vault.unwrap_key(&bad, &context(1)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Corrupt, "{failed}");
    }
    assert!(vault.owns(&id(KEY)));
    assert_eq!(vault.public_key(&id(KEY)).await.unwrap_err().kind(), Kind::Other);
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_multi_region_key_is_one_key_wherever_it_is_asked_for() {
    let here = SHARED.replace("us-east-1", REGION);
    let server = recorded([ok(&encrypted(&here))]);
    let options = |replicas: [&str; 2]| -> AwsOptions {
        options(&server.url(), ACCOUNT).multi_region("us-east-1", replicas)
    };
    let vault = AwsVault::new(options([REGION, "ap-south-1"])).unwrap();
    for region in ["us-east-1", REGION, "ap-south-1"] {
        let wrapped =
            vault.wrap_key(&id(&SHARED.replace("us-east-1", region)), &aek(7), &context(1)).await.unwrap();
        assert_eq!(wrapped.key_id, id(SHARED), "spelled as at home");
    }
    assert!(asked(&server).iter().all(|body| body["KeyId"] == here), "asked for where requests go");
    let elsewhere = id(&SHARED.replace("us-east-1", "eu-north-1"));
    assert!(!vault.owns(&elsewhere));
    assert!(!vault.owns(&id(&KEY.replace(REGION, "us-east-1"))), "a key of one region is no other's");
}

#[tokio::test]
async fn an_alias_that_stands_for_a_key_elsewhere_is_not_believed() {
    let alias = id("arn:aws:kms:eu-west-1:111122223333:alias/payroll");
    for elsewhere in
        [KEY.replace(ACCOUNT, "444455556666"), KEY.replace(REGION, "us-east-1"), alias.to_string()]
    {
        let server = recorded([ok(&encrypted(&elsewhere))]);
        let vault = AwsVault::new(options(&server.url(), ACCOUNT).account("444455556666")).unwrap();
        let failed = vault.wrap_key(&alias, &aek(7), &context(1)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Other, "{failed}");
    }
}

#[tokio::test]
async fn a_wrap_that_is_none_is_not_kept() {
    for bytes in [0, 47, 6145] {
        let body = json!({ "CiphertextBlob": BASE64.encode(&vec![9; bytes]), "KeyId": KEY });
        let server = recorded([ok(&body)]);
        let vault = AwsVault::new(options(&server.url(), ACCOUNT)).unwrap();
        let failed = vault.wrap_key(&id(KEY), &aek(7), &context(1)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Other, "{failed}");
    }
}
