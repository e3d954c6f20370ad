//! Every answer of KMS has the meaning that the table of docs/vault-aws.md gives it. The answers are recorded from the
//! published API: the shapes of its exceptions, the words of the developer guide's "Key states".

use std::time::Duration;

use cofferdam_vault::{
    KeyKind, KeyState, KeyVault, VaultError, VaultErrorKind as Kind,
    aws::AwsVault,
    testing::servers::{Answer, Rogue},
};
use serde_json::{Value, json};

use crate::aws_support::{
    ACCOUNT, KEY, aek, context, decrypted, exception, id, ok, options, recorded, wrapped,
};

fn vault(answer: Answer) -> (Rogue, AwsVault) {
    let server = recorded([answer]);
    let vault = AwsVault::new(options(&server.url(), ACCOUNT)).unwrap();
    (server, vault)
}

/// What each of the three calls makes of an answer.
async fn failures(answer: Answer) -> [VaultError; 3] {
    let (server, vault) = vault(answer);
    let failures = [
        vault.wrap_key(&id(KEY), &aek(7), &context(1)).await.unwrap_err(),
        vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err(),
        vault.key_properties(&id(KEY)).await.unwrap_err(),
    ];
    assert_eq!(server.asked(), 3, "nothing is asked twice");
    for failed in &failures {
        assert_eq!(failed.key_id(), Some(&id(KEY)));
    }
    failures
}

/// A row of the table: status, exception, KMS's words, the kind.
type Row = (u16, &'static str, &'static str, Kind);

const THROTTLED: Kind = Kind::Throttled { retry_after: None };

const ROWS: &[Row] = &[
    (
        400,
        "AccessDeniedException",
        "User: arn:aws:sts::444455556666:assumed-role/cofferdam/i-1 is not authorized to perform: kms:Decrypt on \
         resource: KEY because no resource-based policy allows the kms:Decrypt action",
        Kind::AccessDenied,
    ),
    (
        400,
        "AccessDeniedException",
        "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you \
         are not allowed to access.",
        Kind::AccessDenied,
    ),
    (400, "NotAuthorized", "You do not have permission to perform this action.", Kind::AccessDenied),
    (400, "DisabledException", "KEY is disabled.", Kind::KeyDisabled),
    (400, "DisabledException", "", Kind::KeyDisabled),
    (400, "DisabledException", "KEY is pending deletion.", Kind::KeyNotFound),
    (400, "KMSInvalidStateException", "KEY is pending deletion.", Kind::KeyNotFound),
    (400, "KMSInvalidStateException", "KEY is pending replica deletion.", Kind::KeyNotFound),
    (400, "KMSInvalidStateException", "KEY is pending import.", Kind::KeyNotFound),
    (400, "KMSInvalidStateException", "KEY is disabled.", Kind::KeyDisabled),
    (400, "KMSInvalidStateException", "KEY is unavailable.", Kind::Unavailable),
    (400, "KMSInvalidStateException", "KEY is creating.", Kind::Unavailable),
    (400, "KMSInvalidStateException", "Words that nobody knows yet.", Kind::Unavailable),
    (400, "KMSInvalidStateException", "", Kind::Unavailable),
    (400, "NotFoundException", "Key 'KEY' does not exist", Kind::KeyNotFound),
    (
        400,
        "NotFoundException",
        "Alias arn:aws:kms:eu-west-1:111122223333:alias/a is not found.",
        Kind::KeyNotFound,
    ),
    (400, "InvalidCiphertextException", "", Kind::Corrupt),
    (400, "IncorrectKeyException", "The key ID in the request does not identify a CMK.", Kind::Corrupt),
    (500, "KeyUnavailableException", "", Kind::Unavailable),
    (500, "DependencyTimeoutException", "", Kind::Unavailable),
    (500, "KMSInternalException", "", Kind::Unavailable),
    (500, "InternalFailure", "", Kind::Unavailable),
    (503, "ServiceUnavailable", "", Kind::Unavailable),
    (503, "NeverHeardOfException", "", Kind::Unavailable),
    (400, "ThrottlingException", "You have exceeded the rate at which you may call KMS.", THROTTLED),
    (400, "LimitExceededException", "", THROTTLED),
    (
        400,
        "ExpiredTokenException",
        "The security token included in the request is expired",
        Kind::Unauthenticated,
    ),
    (
        400,
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        Kind::Unauthenticated,
    ),
    (
        403,
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
        Kind::Unauthenticated,
    ),
    (
        400,
        "InvalidSignatureException",
        "Signature expired: 20261127T200000Z is now earlier than 20261127T210000Z",
        Kind::Unauthenticated,
    ),
    (
        403,
        "SignatureDoesNotMatch",
        "Signature not yet current: 20261127T230000Z is still later than 20261127T220000Z",
        Kind::Unauthenticated,
    ),
    (400, "IncompleteSignature", "", Kind::Unauthenticated),
    (
        403,
        "MissingAuthenticationTokenException",
        "Request is missing Authentication Token",
        Kind::Unauthenticated,
    ),
    (400, "RequestExpired", "", Kind::Unauthenticated),
    (
        400,
        "InvalidKeyUsageException",
        "KEY key usage is SIGN_VERIFY which is not valid for Decrypt.",
        Kind::Other,
    ),
    (400, "InvalidArnException", "KEY", Kind::Other),
    (400, "ValidationException", "", Kind::Other),
    (400, "OptInRequired", "The AWS Access Key Id needs a subscription for the service", Kind::Other),
    (403, "NeverHeardOfException", "", Kind::Other),
];

#[tokio::test]
async fn every_exception_of_kms_means_what_the_table_says() {
    for &(status, code, words, kind) in ROWS {
        for failed in failures(exception(status, code, &words.replace("KEY", KEY))).await {
            assert_eq!(failed.kind(), kind, "{status} {code} {words:?}: {failed}");
            assert!(failed.to_string().contains(code), "{failed}");
        }
    }
}

#[test]
fn the_documented_table_is_the_one_that_is_obeyed() {
    let text = include_str!("../../../../docs/vault-aws.md");
    let (_, table) = text.split_once("## What it says, and what it means").unwrap();
    for &(_, code, _, kind) in ROWS {
        if matches!(code, "NeverHeardOfException") {
            continue;
        }
        let is_documented = table
            .lines()
            .filter(|line| line.starts_with('|'))
            .any(|line| line.contains(&format!("`{code}`")) && line.contains(&format!("`{kind}`")));
        assert!(is_documented, "{code} as {kind}");
    }
}

#[tokio::test]
async fn an_answer_that_names_no_exception_is_never_a_denial() {
    for (status, kind) in [
        (302, Kind::Other),
        (400, Kind::Other),
        (401, Kind::Unauthenticated),
        (403, Kind::Other),
        (404, Kind::Other),
        (429, THROTTLED),
        (500, Kind::Unavailable),
        (503, Kind::Unavailable),
    ] {
        for body in ["", "{}", "Forbidden: the key is disabled", "<html>AccessDeniedException</html>"] {
            for failed in failures(Answer::json(status, body)).await {
                assert_eq!(failed.kind(), kind, "{status} {body:?}: {failed}");
            }
        }
    }
}

#[tokio::test]
async fn how_long_to_wait_is_passed_on() {
    let day = Duration::from_secs(24 * 60 * 60);
    for (answer, retry_after) in [
        (exception(400, "ThrottlingException", "").with("retry-after", "86400"), Some(day)),
        (Answer::json(429, "slow down").with("retry-after", "86400"), Some(day)),
        (Answer::json(429, "slow down").with("retry-after", "soon"), None),
    ] {
        for failed in failures(answer).await {
            assert_eq!(failed.kind(), Kind::Throttled { retry_after });
        }
    }
}

#[tokio::test]
async fn what_is_unwrapped_is_an_aek_of_the_key_that_was_asked() {
    let (_server, vault) = vault(ok(&decrypted(&[7; 32])));
    let unwrapped = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    assert_eq!(unwrapped.expose(), aek(7).expose());
    for plaintext in [&[][..], &[7; 31], &[7; 33]] {
        let (_server, vault) = self::vault(ok(&decrypted(plaintext)));
        let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Corrupt, "{failed}");
    }
    let another = KEY.replace("1234abcd", "1234abce");
    let mut body = decrypted(&[7; 32]);
    for key in [json!(another), json!("alias/a"), Value::Null] {
        body["KeyId"] = key;
        let (_server, vault) = self::vault(ok(&body));
        let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Other, "{failed}");
    }
}

#[tokio::test]
async fn no_secret_of_a_signature_shows_in_an_error() {
    let words = "The request signature we calculated does not match the signature you provided.\n\n\
                 The Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:canary";
    for failed in failures(exception(400, "InvalidSignatureException", words)).await {
        let shown = format!("{failed} {failed:?}");
        assert_eq!(failed.kind(), Kind::Unauthenticated);
        assert!(!shown.contains("canary") && !shown.contains("Canonical"), "{shown}");
    }
    // An answer that can't be read may hold the key.
    let (_server, vault) = vault(Answer::json(200, r#"{"Plaintext": "Y2FuYXJ5", "KeyId": "#));
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    let shown = format!("{failed} {failed:?}");
    assert!(!shown.contains("Y2FuYXJ5"), "{shown}");
}

#[tokio::test]
async fn a_wrong_clock_is_named() {
    for words in [
        "Signature expired: 20260101T000000Z is now earlier than 20261127T210000Z (20261127T211500Z - 15 min.)",
    ] {
        for failed in failures(exception(400, "InvalidSignatureException", words)).await {
            assert!(failed.to_string().contains("clock"), "{failed}");
        }
    }
}

/// What DescribeKey says of a key, with these changes.
fn described(changes: Value) -> Answer {
    let mut metadata = json!({
        "AWSAccountId": ACCOUNT,
        "Arn": KEY,
        "CreationDate": 1.5e9,
        "CurrentKeyMaterialId": "96083e4fb6dbc41d77578a213a6b6669c044dd4c143e96755396d2bf11fd6068",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "Description": "",
        "Enabled": true,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab",
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "KeyState": "Enabled",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "MultiRegion": false,
        "Origin": "AWS_KMS",
    });
    for (name, value) in changes.as_object().unwrap() {
        metadata[name] = value.clone();
    }
    ok(&json!({ "KeyMetadata": metadata }))
}

#[tokio::test]
async fn a_keys_state_is_told_also_of_a_key_that_can_not_be_used() {
    for (state, expected) in [
        ("Enabled", Ok(KeyState::Enabled)),
        ("Updating", Ok(KeyState::Enabled)),
        ("Disabled", Ok(KeyState::Disabled)),
        ("PendingDeletion", Ok(KeyState::Deleted)),
        ("PendingReplicaDeletion", Ok(KeyState::Deleted)),
        ("PendingImport", Ok(KeyState::Deleted)),
        ("Creating", Err(Kind::Unavailable)),
        ("Unavailable", Err(Kind::Unavailable)),
        ("SomethingNew", Err(Kind::Other)),
    ] {
        let (_server, vault) = vault(described(json!({ "KeyState": state })));
        let answer = vault.key_properties(&id(KEY)).await;
        let said = answer.as_ref().map(|said| said.state).map_err(|failed| failed.kind());
        assert_eq!(said, expected, "{state}");
        if let Ok(said) = answer {
            assert_eq!((&said.key_id, &said.latest, said.kind), (&id(KEY), &id(KEY), KeyKind::AwsKms));
        }
    }
}

#[tokio::test]
async fn only_a_key_that_nobody_can_destroy_at_once_is_recoverable() {
    for (origin, soft_delete, purge_protection) in [
        ("AWS_KMS", true, true),
        ("AWS_CLOUDHSM", true, true),
        ("EXTERNAL", true, false),
        ("EXTERNAL_KEY_STORE", false, false),
        ("SOMETHING_NEW", false, false),
    ] {
        let (_server, vault) = vault(described(json!({ "Origin": origin })));
        let said = vault.key_properties(&id(KEY)).await.unwrap();
        assert_eq!((said.soft_delete, said.purge_protection), (soft_delete, purge_protection), "{origin}");
        assert_eq!(said.expires_at, None);
    }
}

#[tokio::test]
async fn imported_material_tells_when_it_expires() {
    let changes =
        json!({ "Origin": "EXTERNAL", "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": 1.9e9 });
    let (_server, vault) = vault(described(changes));
    let said = vault.key_properties(&id(KEY)).await.unwrap();
    assert_eq!(said.expires_at, Some(Duration::from_secs(1_900_000_000)));
    let changes = json!({ "Origin": "EXTERNAL", "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE" });
    let (_server, vault) = self::vault(described(changes));
    assert_eq!(vault.key_properties(&id(KEY)).await.unwrap().expires_at, None);
}

#[tokio::test]
async fn keys_that_wrap_nothing_and_keys_of_awss_own_are_refused() {
    for changes in [
        json!({ "KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT" }),
        json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" }),
        json!({ "KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC" }),
        json!({ "KeySpec": null }),
        json!({ "KeyManager": "AWS" }),
    ] {
        let (_server, vault) = vault(described(changes.clone()));
        let failed = vault.key_properties(&id(KEY)).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Other, "{changes}: {failed}");
    }
}
