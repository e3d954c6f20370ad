//! Whoever answers in KMS's place, however badly: no key, no denial, no wait without end.

use std::time::Duration;

use cofferdam_vault::{
    KeyVault, Meaning, VaultError, VaultErrorKind as Kind,
    aws::{AwsOptions, AwsVault},
    testing::servers::{Answer, Gate, Rogue, Speaks},
};
use serde_json::json;

use crate::aws_support::{ACCOUNT, KEY, aek, context, decrypted, id, ok, options, recorded, wrapped};

const MIB: u64 = 1 << 20;

/// What each of the three calls makes of what comes, which must be an outage.
async fn failures(options: AwsOptions) -> [VaultError; 3] {
    let vault = AwsVault::new(options).unwrap();
    let failures = [
        vault.wrap_key(&id(KEY), &aek(7), &context(1)).await.unwrap_err(),
        vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err(),
        vault.key_properties(&id(KEY)).await.unwrap_err(),
    ];
    for failed in &failures {
        assert_eq!(failed.kind().meaning(), Meaning::Outage, "{failed}");
    }
    failures
}

async fn kinds(answer: Answer) -> [Kind; 3] {
    let server = recorded([answer]);
    failures(options(&server.url(), ACCOUNT)).await.map(|failed| failed.kind())
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = recorded([ok(&decrypted(&[7; 32]))]);
    for status in [301, 302, 303, 307, 308] {
        let server = recorded([Answer::json(status, "").with("location", &elsewhere.url())]);
        for failed in failures(options(&server.url(), ACCOUNT)).await {
            assert_eq!(failed.kind(), Kind::Other);
            assert!(failed.to_string().contains("redirect"), "{failed}");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn an_answer_of_100_mib_is_not_read() {
    for told in [true, false] {
        let server = recorded([Answer::Long { told, len: 100 * MIB }]);
        for failed in failures(options(&server.url(), ACCOUNT)).await {
            assert_eq!(failed.kind(), Kind::Other, "{failed}");
            assert!(failed.to_string().contains("longer"), "{failed}");
        }
        // What the sockets' buffers took beyond the first MiB of each.
        assert!(server.sent() < 3 * 20 * MIB, "{} bytes", server.sent());
    }
    let long = json!({ "__type": "AccessDeniedException", "message": "x".repeat(2 << 20) }).to_string();
    assert_eq!(kinds(Answer::json(400, long.clone())).await, [Kind::Other; 3]);
    assert_eq!(kinds(Answer::json(503, long)).await, [Kind::Unavailable; 3]);
}

#[tokio::test]
async fn an_answer_that_is_not_json_or_not_of_kms_is_no_key() {
    for body in ["", "not JSON", "[]", "{}", "{\"KeyId\": \"arn:aws:kms"] {
        assert_eq!(kinds(Answer::json(200, body)).await, [Kind::Other; 3], "{body:?}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_is_an_outage() {
    let body = ok(&decrypted(&[7; 32]));
    let Answer::Of { body, .. } = body else { panic!("a body") };
    assert_eq!(kinds(Answer::Truncated { body, missing: 7 }).await, [Kind::Unavailable; 3]);
    assert_eq!(kinds(Answer::Nothing).await, [Kind::Unavailable; 3]);
}

#[tokio::test]
async fn bytes_that_are_no_http_are_no_answer() {
    assert_eq!(kinds(Answer::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())).await, [Kind::Other; 3]);
}

#[tokio::test]
async fn an_answer_after_the_time_out_is_an_outage_and_leaves_nothing_behind() {
    let gate = Gate::default();
    let late = Answer::Late(gate.clone(), Box::new(ok(&decrypted(&[7; 32]))));
    let server = recorded([late.clone(), ok(&decrypted(&[8; 32]))]);
    let short = Duration::from_millis(300);
    let vault = AwsVault::new(options(&server.url(), ACCOUNT).timeouts(short, short)).unwrap();
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable, "{failed}");
    gate.open();
    let unwrapped = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    assert_eq!(unwrapped.expose(), aek(8).expose(), "the answer to this question");
}

#[tokio::test]
async fn a_wait_of_a_day_is_passed_on() {
    let day = Duration::from_secs(24 * 60 * 60);
    let throttled = Kind::Throttled { retry_after: Some(day) };
    assert_eq!(kinds(Answer::throttled(86_400)).await, [throttled; 3]);
}

#[tokio::test]
async fn who_proves_to_be_somebody_else_is_not_trusted_and_is_sent_nothing() {
    for speaks in [
        Speaks::HttpsOfAnotherAuthority,
        Speaks::HttpsExpired,
        Speaks::HttpsOfAnotherName,
        Speaks::HttpForHttps,
    ] {
        let server = Rogue::always(speaks, ok(&decrypted(&[7; 32])));
        let options = options(&server.url(), ACCOUNT);
        let options = match server.authority() {
            Some(authority) => options.trust_only(authority),
            None => options,
        };
        for failed in failures(options).await {
            assert_eq!(failed.kind(), Kind::Untrusted, "{speaks:?}: {failed}");
        }
        assert_eq!((server.asked(), server.connections()), (0, 3), "{speaks:?}");
    }
}

#[tokio::test]
async fn only_the_given_authority_is_trusted() {
    let server = Rogue::always(Speaks::Https, ok(&decrypted(&[7; 32])));
    let trusting = options(&server.url(), ACCOUNT).trust_only(server.authority().unwrap());
    let vault = AwsVault::new(trusting).unwrap();
    let unwrapped = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    assert_eq!(unwrapped.expose(), aek(7).expose());
    for failed in failures(options(&server.url(), ACCOUNT)).await {
        assert_eq!(failed.kind(), Kind::Untrusted, "the system's authorities: {failed}");
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn who_is_not_there_is_an_outage() {
    // Bound and closed again: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    for url in [url.as_str(), "https://kms.no-such-host.invalid"] {
        for failed in failures(options(url, ACCOUNT)).await {
            assert_eq!(failed.kind(), Kind::Unavailable, "{failed}");
        }
    }
}
