//! Servers in the vault's place that answer as no vault should: none of it is a denial, and nothing is sent on.

use std::time::Duration;

use cofferdam_crypto::{WrapAlgorithm, WrappedKey};
use cofferdam_vault::{
    Credential, KeyVault, VaultError, VaultErrorKind as Kind,
    testing::servers::{Answer, Gate, Request, Rogue, Speaks},
    transit::{TransitLogin, TransitOptions, TransitVault, Trust},
};

use crate::transit_support::{Vault, aek, context, id, kind, payroll, value};

const TOKEN: &str = "s.canary";

fn wrapped() -> WrappedKey {
    let bytes = format!("vault:v1:{}", "A".repeat(80)).into_bytes();
    WrappedKey { key_id: id("transit/keys/payroll/1"), algorithm: WrapAlgorithm::Transit, bytes }
}

fn vault(rogue: &Rogue) -> Vault {
    let mut options = TransitOptions::new(rogue.url()).authority("acme").allow_plain_http_to_loopback();
    if let Some(authority) = rogue.authority() {
        options = options.trust(Trust::Only(authority.into()));
    }
    TransitVault::connect(options, TransitLogin::Token(value(TOKEN))).unwrap()
}

/// Looks tokens up as Vault does, and answers everything else so.
fn rogue(speaks: Speaks, answer: Answer) -> Rogue {
    Rogue::start(speaks, move |request| {
        if request.target == "/v1/auth/token/lookup-self" { looked_up() } else { answer.clone() }
    })
}

fn looked_up() -> Answer {
    Answer::json(200, r#"{"data":{"ttl":3600,"expire_time":"2026-11-27T22:06:21Z","renewable":true}}"#)
}

async fn unwrap_by(rogue: &Rogue) -> Result<cofferdam_crypto::Aek, VaultError> {
    vault(rogue).unwrap_key(&wrapped(), &context()).await
}

async fn heard(answer: Answer) -> Option<Kind> {
    kind(unwrap_by(&rogue(Speaks::Https, answer)).await)
}

fn is_of_the_vault(request: &Request) -> bool {
    request.target != "/v1/auth/token/lookup-self"
}

#[tokio::test]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    let elsewhere = Rogue::always(Speaks::Https, Answer::json(200, "{}"));
    for to in [elsewhere.url(), "/v1/elsewhere".into()] {
        for status in [301, 302, 303, 307, 308] {
            let redirect =
                Answer::Of { status, headers: vec![("Location".into(), to.clone())], body: Vec::new() };
            let rogue = rogue(Speaks::Https, redirect);
            assert_eq!(kind(unwrap_by(&rogue).await), Some(Kind::Other), "{status} to {to}");
            assert_eq!(rogue.requests().iter().filter(|r| is_of_the_vault(r)).count(), 1);
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_body_without_end_is_not_read_on() {
    for told in [true, false] {
        let rogue = rogue(Speaks::Https, Answer::Long { told, len: 100 << 20 });
        let failed = unwrap_by(&rogue).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Other, "{failed}");
        assert!(failed.to_string().contains("more than 1048576 bytes"), "{failed}");
        assert!(rogue.sent() < 16 << 20, "{} bytes were taken", rogue.sent());
    }
}

#[tokio::test]
async fn what_is_no_answer_of_vaults_is_an_outage() {
    let whole = r#"{"data":{"plaintext":"AAAA"}}"#;
    for (answer, means) in [
        (Answer::json(200, "<html>canary</html>"), Kind::Other),
        (Answer::json(200, ""), Kind::Other),
        (Answer::json(200, "null"), Kind::Other),
        (Answer::json(200, r#"{"data":null}"#), Kind::Other),
        (Answer::json(200, r#"{"data":{"plaintext":7}}"#), Kind::Other),
        (Answer::json(200, whole), Kind::Corrupt),
        (Answer::json(200, r#"{"data":{"plaintext":"!"}}"#), Kind::Corrupt),
        (Answer::json(204, ""), Kind::Other),
        (Answer::json(403, "<html>permission denied</html>"), Kind::Other),
        (Answer::json(404, "<html>not found</html>"), Kind::Other),
        (Answer::json(502, "<html>bad gateway</html>"), Kind::Unavailable),
        (Answer::json(503, r#"{"errors":["Vault is sealed"]}"#), Kind::Unavailable),
        (Answer::json(473, ""), Kind::Unavailable),
        (Answer::Truncated { body: whole.into(), missing: 100 }, Kind::Unavailable),
        (Answer::Raw(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()), Kind::Unavailable),
        (Answer::Nothing, Kind::Unavailable),
    ] {
        assert_eq!(heard(answer.clone()).await, Some(means), "{answer:?}");
    }
}

#[tokio::test]
async fn a_whole_day_to_wait_is_passed_on() {
    let day = Duration::from_secs(24 * 60 * 60);
    let means = Some(Kind::Throttled { retry_after: Some(day) });
    assert_eq!(heard(Answer::throttled(day.as_secs())).await, means);
    let unsaid = Answer::json(429, "{}").with("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT");
    assert_eq!(heard(unsaid).await, Some(Kind::Throttled { retry_after: None }), "a date is not understood");
}

#[tokio::test]
async fn an_answer_that_comes_late_is_an_outage() {
    let gate = Gate::default();
    let rogue = rogue(Speaks::Https, Answer::Late(gate.clone(), Box::new(Answer::json(200, "{}"))));
    let options = TransitOptions::new(rogue.url())
        .authority("acme")
        .trust(Trust::Only(rogue.authority().unwrap().into()))
        .call_timeout(Duration::from_millis(500));
    let vault = TransitVault::connect(options, TransitLogin::Token(value(TOKEN))).unwrap();
    let failed = vault.unwrap_key(&wrapped(), &context()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable);
    assert!(failed.to_string().contains("in time"), "{failed}");
    gate.open();
}

#[tokio::test]
async fn who_is_not_the_vault_gets_no_token() {
    for speaks in [
        Speaks::HttpsOfAnotherAuthority,
        Speaks::HttpsExpired,
        Speaks::HttpsOfAnotherName,
        Speaks::HttpForHttps,
    ] {
        let rogue = rogue(speaks, Answer::json(200, "{}"));
        let mut options = TransitOptions::new(rogue.url()).authority("acme");
        let trusted = Rogue::always(Speaks::Https, Answer::Nothing);
        let pem = rogue.authority().or(trusted.authority()).unwrap();
        options = options.trust(Trust::Only(pem.into()));
        let vault = TransitVault::connect(options, TransitLogin::Token(value(TOKEN))).unwrap();
        // The login is refused already; then as with a token in hand.
        assert_eq!(
            kind(vault.unwrap_key(&wrapped(), &context()).await),
            Some(Kind::Unauthenticated),
            "{speaks:?}"
        );
        assert!(rogue.connections() > 0);
        assert!(rogue.requests().iter().all(|request| request.header("x-vault-token").is_none()));
    }
    // A server whose certificate is exchanged under a token in use.
    let system = Rogue::always(Speaks::Https, Answer::json(200, "{}"));
    let vault =
        TransitVault::connect(TransitOptions::new(system.url()), TransitLogin::Token(value(TOKEN))).unwrap();
    let key_id = vault.inner().key_id("transit", "payroll").unwrap();
    let failed = vault.key_properties(&key_id).await.unwrap_err();
    assert!(
        failed.to_string().contains("TLS with the vault failed"),
        "the system does not trust it: {failed}"
    );
    assert_eq!(system.asked(), 0);
}

#[tokio::test]
async fn tls_that_fails_under_a_token_in_use_is_untrusted() {
    // Speaks TLS as it should, until the vault is asked: then something that is none.
    let good = rogue(Speaks::Https, Answer::Nothing);
    let vault = vault(&good);
    assert_eq!(kind(vault.unwrap_key(&wrapped(), &context()).await), Some(Kind::Unavailable));
    let address = good.address();
    drop(good);
    let taken = std::net::TcpListener::bind(address).unwrap();
    let impostor = std::thread::spawn(move || {
        let (mut stream, _) = taken.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    assert_eq!(kind(vault.unwrap_key(&wrapped(), &context()).await), Some(Kind::Untrusted));
    impostor.join().unwrap();
}

#[tokio::test]
async fn a_denial_counts_only_where_the_token_was_found_good() {
    let denied = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
    assert_eq!(heard(Answer::json(403, denied)).await, Some(Kind::AccessDenied));
    for (lookup, means) in [
        (Answer::json(403, r#"{"errors":["permission denied"]}"#), Kind::Unauthenticated),
        (Answer::json(503, r#"{"errors":["Vault is sealed"]}"#), Kind::Unavailable),
        (Answer::throttled(7), Kind::Throttled { retry_after: Some(Duration::from_secs(7)) }),
        (Answer::json(403, "<html>"), Kind::Other),
        (Answer::Nothing, Kind::Unavailable),
    ] {
        let lookups = std::sync::atomic::AtomicUsize::new(0);
        let after_login = lookup.clone();
        let rogue = Rogue::start(Speaks::Https, move |request| match request {
            request if is_of_the_vault(request) => Answer::json(403, denied),
            _ if lookups.fetch_add(1, std::sync::atomic::Ordering::AcqRel) == 0 => looked_up(),
            _ => after_login.clone(),
        });
        let answer = unwrap_by(&rogue).await;
        assert_eq!(kind(answer), Some(means), "{lookup:?}");
    }
}

#[tokio::test]
async fn a_wrap_that_is_none_is_not_taken() {
    let key = r#"{"data":{"type":"aes256-gcm96","latest_version":2,"min_decryption_version":1,"deletion_allowed":false}}"#;
    for ciphertext in [
        "",
        "vault:v2:",
        &format!("vault:v1:{}", "A".repeat(80)),
        &format!("vault:v2:{}", "A".repeat(84)),
        &format!("vault:v2:{}", "A".repeat(6144)),
    ] {
        let encrypted = format!(r#"{{"data":{{"ciphertext":"{ciphertext}"}}}}"#);
        let rogue = Rogue::start(Speaks::Https, move |request| match request.target.as_str() {
            "/v1/auth/token/lookup-self" => looked_up(),
            "/v1/transit/keys/payroll" => Answer::json(200, key),
            _ => Answer::json(200, encrypted.clone()),
        });
        let answer = vault(&rogue).wrap_key(&payroll(), &aek(), &context()).await;
        assert_eq!(kind(answer), Some(Kind::Other), "{ciphertext}");
        let sent = rogue.requests();
        let asked = String::from_utf8(sent.last().unwrap().body.clone()).unwrap();
        assert!(
            asked.contains(r#""key_version":2"#) && asked.contains("associated_data"),
            "an exact version"
        );
        assert_eq!(sent.last().unwrap().header("x-vault-token"), Some(TOKEN));
    }
}

#[tokio::test]
async fn words_that_repeat_a_secret_are_not_passed_on() {
    let echo = Rogue::start(Speaks::Https, |request| {
        if !is_of_the_vault(request) {
            return looked_up();
        }
        if request.method == "GET" {
            return Answer::json(
                200,
                r#"{"data":{"type":"aes256-gcm96","latest_version":1,"deletion_allowed":false}}"#,
            );
        }
        let said = String::from_utf8_lossy(&request.body).replace('"', "'");
        let token = request.header("x-vault-token").unwrap_or_default();
        Answer::json(400, format!(r#"{{"errors":["what is {said} by {token}"]}}"#))
    });
    let failed = vault(&echo).wrap_key(&payroll(), &aek(), &context()).await.unwrap_err();
    let text = format!("{failed} {failed:?}");
    assert!(text.contains("repeat a secret"), "{text}");
    let plaintext = data_encoding::BASE64.encode(aek().expose());
    assert!(!text.contains(TOKEN) && !text.contains(&plaintext), "{text}");
}

#[tokio::test]
async fn a_token_is_kept_alive_as_long_as_its_vault_whatever_time_it_is_said_to_have() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for ttl in [0, 1, u64::MAX] {
        let lookup =
            format!(r#"{{"data":{{"ttl":{ttl},"expire_time":"2026-11-27T22:06:21Z","renewable":false}}}}"#);
        let rogue = Rogue::start(Speaks::Https, move |_| Answer::json(200, lookup.clone()));
        let vault = vault(&rogue);
        let keeper = alive();
        assert!(vault.inner().credential().renew().await.is_ok());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!((keeper, alive()), (1, 1), "{ttl}");
        drop(vault);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(alive(), 0, "{ttl}");
    }
}
