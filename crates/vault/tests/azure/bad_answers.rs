//! What is not the vault, or answers as none should: over real sockets, by a server that follows a script.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrapAlgorithm, WrappedKey};
use cofferdam_vault::{
    KeyVault, Reauthenticating, VaultError, VaultErrorKind as Kind,
    azure::{
        AzureCredential, AzureError, AzureOptions, AzureVault,
        azure_core::{
            self,
            credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions},
            http::{self, ClientOptions, Url},
        },
        azure_identity::{
            ClientAssertionCredentialOptions, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
        },
    },
    testing::servers::{Answer, Gate, Request, Rogue, Speaks},
};
use data_encoding::BASE64URL_NOPAD;
use tracing::{Event, Metadata, Subscriber, field, span};
use zeroize::Zeroizing;

use crate::{
    heard,
    support::{aek, context},
};

const VERSION: &str = "78deebed173b48e48f55abf87ed4cf71";
const SECRET: &str = "canary-of-the-client-secret";
const TOKEN: &str = "canary-of-the-token";
/// An AEK of 32 bytes that are 7, in base64url.
const SEVENS: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

fn token() -> Answer {
    Answer::json(200, format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{TOKEN}"}}"#))
}

/// Gives tokens and challenges as it should, and answers what is asked of keys by this script.
fn vault(speaks: Speaks, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Rogue {
    Rogue::start(speaks, move |request| {
        if request.target.starts_with("/tenant/oauth2") {
            token()
        } else if request.header("authorization").is_none() {
            let challenge =
                r#"Bearer authorization="https://localhost/tenant", resource="https://vault.azure.net""#;
            Answer::json(401, "").with("WWW-Authenticate", challenge)
        } else {
            script(request)
        }
    })
}

fn options(rogue: &Rogue, trusted: &Rogue) -> AzureOptions {
    let credential =
        AzureCredential::client_secret("tenant", "client", || Ok(Zeroizing::new(SECRET.to_owned())));
    AzureOptions::new(rogue.url(), credential)
        .test_server()
        .authority_host(rogue.url())
        .roots_pem(trusted.authority().unwrap())
        .call_timeout(Duration::from_secs(20))
}

fn connect(rogue: &Rogue) -> Reauthenticating<AzureVault> {
    AzureVault::connect(options(rogue, rogue)).unwrap()
}

fn key(rogue: &Rogue) -> KeyId {
    KeyId::new(format!("{}/keys/payroll/{VERSION}", rogue.url())).unwrap()
}

async fn unwrap(vault: &impl KeyVault, rogue: &Rogue) -> Result<Aek, VaultError> {
    let wrapped =
        WrappedKey { key_id: key(rogue), algorithm: WrapAlgorithm::RsaOaep256, bytes: vec![0xC5; 256] };
    vault.unwrap_key(&wrapped, &context()).await
}

async fn kind(rogue: &Rogue) -> Kind {
    unwrap(&connect(rogue), rogue).await.unwrap_err().kind()
}

/// The right answer to an unwrap.
fn sevens(request: &Request, url: &str) -> Answer {
    assert!(request.target.starts_with(&format!("/keys/payroll/{VERSION}/unwrapkey?api-version=")));
    Answer::json(200, format!(r#"{{"kid":"{url}/keys/payroll/{VERSION}","value":"{SEVENS}"}}"#))
}

/// A vault that answers as it should: its own URL comes by the Host header.
fn good() -> Rogue {
    vault(Speaks::Https, |request| sevens(request, &format!("https://{}", request.header("host").unwrap())))
}

#[tokio::test]
async fn the_right_answers_over_tls_are_understood() {
    let rogue = good();
    assert_eq!(unwrap(&connect(&rogue), &rogue).await.unwrap().expose(), &[7; 32]);
    let asked = rogue.requests();
    let lines: Vec<_> = asked.iter().map(|r| r.target.split('/').nth(1).unwrap()).collect();
    assert_eq!(lines, ["keys", "tenant", "keys"], "a challenge, a token, the question");
    assert!(asked[0].body.is_empty(), "nothing is said before the challenge");
    assert_eq!(asked[2].header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
}

#[tokio::test]
async fn who_answers_with_a_wrong_certificate_is_untrusted_and_learns_nothing() {
    let trusted = good();
    for speaks in [Speaks::HttpsOfAnotherAuthority, Speaks::HttpsExpired, Speaks::HttpsOfAnotherName] {
        let rogue = vault(speaks, |_| Answer::Nothing);
        assert_eq!(kind(&rogue).await, Kind::Untrusted, "{speaks:?}");
        assert_eq!(
            (rogue.asked(), rogue.connections()),
            (0, 1),
            "{speaks:?}: tried once, in the clear never"
        );
    }
    let plain = Rogue::always(Speaks::HttpForHttps, Answer::json(200, "{}"));
    let vault = AzureVault::connect(options(&plain, &trusted)).unwrap();
    assert_eq!(unwrap(&vault, &plain).await.unwrap_err().kind(), Kind::Untrusted);
    assert_eq!((plain.asked(), plain.connections()), (0, 1));
    let plain = Rogue::always(Speaks::Http, Answer::json(200, "{}"));
    let refused = AzureVault::connect(options(&plain, &trusted));
    assert!(matches!(refused, Err(AzureError::PlainHttp { .. })));
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    let elsewhere = good();
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{}/keys/payroll/{VERSION}/unwrapkey", elsewhere.url());
        let location = vec![("Location".to_owned(), to)];
        let rogue =
            vault(Speaks::Https, move |_| Answer::Of { status, headers: location.clone(), body: vec![] });
        assert_eq!(kind(&rogue).await, Kind::Other, "{status}");
    }
    assert_eq!(elsewhere.connections(), 0);
    let to = elsewhere.url();
    let rogue = Rogue::start(Speaks::Https, move |_| Answer::redirect(&to));
    assert_eq!(kind(&rogue).await, Kind::Other, "of the first question too");
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_body_of_100_megabytes_is_not_read() {
    const LEN: u64 = 100 << 20;
    for told in [true, false] {
        let rogue = vault(Speaks::Https, move |_| Answer::Long { told, len: LEN });
        let error = unwrap(&connect(&rogue), &rogue).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Other, "{error}");
        assert!(error.to_string().contains("1048576 bytes"), "{error}");
        assert!(rogue.sent() < LEN / 4, "{} bytes were taken, told: {told}", rogue.sent());
    }
    let rogue = vault(Speaks::Https, |_| Answer::json(503, vec![b'a'; 2 << 20]));
    assert_eq!(kind(&rogue).await, Kind::Unavailable, "a failure of the vault stays one");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_outage() {
    for answer in [
        Answer::Truncated { body: br#"{"kid":"ht"#.to_vec(), missing: 100 },
        Answer::Truncated { body: vec![], missing: 1 },
        Answer::Nothing,
        Answer::Raw(b"220 smtp.example ESMTP\r\n".to_vec()),
        Answer::Raw(vec![0; 1000]),
    ] {
        let rogue = vault(Speaks::Https, {
            let answer = answer.clone();
            move |_| answer.clone()
        });
        assert_eq!(kind(&rogue).await, Kind::Unavailable, "{answer:?}");
        assert_eq!(rogue.asked(), 3, "sent once: {answer:?}");
    }
    for body in ["", "<html>", "{", "[]", "null", r#"{"kid":null,"value":null}"#, "\u{feff}{}"] {
        let rogue = vault(Speaks::Https, move |_| Answer::json(200, body));
        assert_eq!(kind(&rogue).await, Kind::Other, "{body:?}");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_an_outage() {
    let gone = good();
    let vault = connect(&gone);
    let (url, trusted) = (gone.url(), good());
    drop(gone);
    let gone_key = KeyId::new(format!("{url}/keys/payroll")).unwrap();
    assert_eq!(vault.key_properties(&gone_key).await.unwrap_err().kind(), Kind::Unavailable);
    let options = AzureOptions::new(
        "https://no-such-host.invalid",
        AzureCredential::client_secret("tenant", "client", || Ok(Zeroizing::new(SECRET.to_owned()))),
    );
    let options = options.test_server().roots_pem(trusted.authority().unwrap());
    let vault = AzureVault::connect(options).unwrap();
    let nowhere = KeyId::new("https://no-such-host.invalid/keys/payroll").unwrap();
    assert_eq!(vault.key_properties(&nowhere).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_an_outage_and_the_next_call_is_not_held_up() {
    let gate = Gate::default();
    let late = Arc::new(Mutex::new(Some(gate.clone())));
    let rogue = vault(Speaks::Https, {
        let late = late.clone();
        move |request| {
            let answer = sevens(request, &format!("https://{}", request.header("host").unwrap()));
            match late.lock().unwrap().take() {
                Some(gate) => Answer::Late(gate, Box::new(answer)),
                None => answer,
            }
        }
    });
    let options = options(&rogue, &rogue).call_timeout(Duration::from_millis(500));
    let vault = AzureVault::connect(options).unwrap();
    assert_eq!(unwrap(&vault, &rogue).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(unwrap(&vault, &rogue).await.unwrap().expose(), &[7; 32]);
    gate.open();
}

#[tokio::test]
async fn a_wait_of_a_day_is_passed_on_and_not_waited_for() {
    let rogue = vault(Speaks::Https, |_| Answer::throttled(86_400));
    assert_eq!(kind(&rogue).await, Kind::Throttled { retry_after: Some(Duration::from_secs(86_400)) });
    assert_eq!(rogue.asked(), 3, "asked once");
}

#[tokio::test]
async fn a_token_service_that_answers_badly_is_an_outage() {
    let elsewhere = good();
    let to = elsewhere.url();
    for answer in [
        Answer::json(
            400,
            r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.","error_codes":[7000215]}"#,
        ),
        Answer::json(401, "{}"),
        Answer::json(
            403,
            r#"{"error":{"code":"Forbidden","message":"no","innererror":{"code":"KeyDisabled"}}}"#,
        ),
        Answer::json(500, "no"),
        Answer::json(200, "<html>"),
        Answer::redirect(&to),
        Answer::Long { told: false, len: 100 << 20 },
        Answer::Nothing,
    ] {
        let rogue = {
            let answer = answer.clone();
            let vault_says =
                r#"Bearer authorization="https://localhost/tenant", resource="https://vault.azure.net""#;
            Rogue::start(Speaks::Https, move |request| match request.target.starts_with("/tenant") {
                true => answer.clone(),
                false => Answer::json(401, "").with("WWW-Authenticate", vault_says),
            })
        };
        let error = unwrap(&connect(&rogue), &rogue).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{answer:?}: {error}");
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    }
    assert_eq!(elsewhere.connections(), 0, "a token is not fetched elsewhere");
    let silent = Gate::default();
    let rogue = {
        let (silent, challenge) = (silent.clone(), r#"Bearer scope="https://vault.azure.net/.default""#);
        Rogue::start(Speaks::Https, move |request| match request.target.starts_with("/tenant") {
            true => Answer::Late(silent.clone(), Box::new(token())),
            false => Answer::json(401, "").with("WWW-Authenticate", challenge),
        })
    };
    let options = options(&rogue, &rogue).call_timeout(Duration::from_millis(300));
    let error = unwrap(&AzureVault::connect(options).unwrap(), &rogue).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated, "{error}");
    silent.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_many_callers_meet_an_expired_token_all_go_on_with_one_new_one() {
    let tokens = Arc::new(Mutex::new(0));
    let refused = Arc::new(Mutex::new(0));
    let rogue = Rogue::start(Speaks::Https, {
        let (tokens, refused) = (tokens.clone(), refused.clone());
        move |request| {
            let challenge =
                r#"Bearer authorization="https://localhost/tenant", resource="https://vault.azure.net""#;
            if request.target.starts_with("/tenant") {
                let mut given = tokens.lock().unwrap();
                *given += 1;
                return Answer::json(
                    200,
                    format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"token-{given}"}}"#),
                );
            }
            match request.header("authorization") {
                Some("Bearer token-2") => {
                    sevens(request, &format!("https://{}", request.header("host").unwrap()))
                }
                token => {
                    *refused.lock().unwrap() += usize::from(token.is_some());
                    Answer::json(401, "{}").with("WWW-Authenticate", challenge)
                }
            }
        }
    });
    let vault = Arc::new(connect(&rogue));
    let url = rogue.url();
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let (vault, url) = (vault.clone(), url.clone());
            tokio::spawn(async move {
                let key_id = KeyId::new(format!("{url}/keys/payroll/{VERSION}")).unwrap();
                let algorithm = WrapAlgorithm::RsaOaep256;
                let wrapped = WrappedKey { key_id, algorithm, bytes: vec![0xC5; 256] };
                vault.unwrap_key(&wrapped, &context()).await.map(|aek| *aek.expose())
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), [7; 32]);
    }
    assert_eq!(*tokens.lock().unwrap(), 2, "one renewal for all");
    assert!(*refused.lock().unwrap() > 1);
}

#[tokio::test]
async fn a_workload_identity_proves_itself_by_its_file() {
    let rogue = good();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "canary-of-the-assertion").unwrap();
    let credential = AzureCredential::new("workload identity", move |client_options| {
        Ok(WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
            credential_options: ClientAssertionCredentialOptions { client_options },
            client_id: Some("client".into()),
            tenant_id: Some("tenant".into()),
            token_file_path: Some(file.clone()),
        }))?)
    });
    let options = AzureOptions::new(rogue.url(), credential).test_server().authority_host(rogue.url());
    let vault = AzureVault::connect(options.roots_pem(rogue.authority().unwrap())).unwrap();
    assert_eq!(unwrap(&vault, &rogue).await.unwrap().expose(), &[7; 32]);
    let asked = rogue.requests();
    let proof = String::from_utf8(asked[1].body.clone()).unwrap();
    assert!(proof.contains("client_assertion=canary-of-the-assertion"), "{proof}");
}

/// A credential that asks at this URL, as managed identities ask the machine's host.
#[derive(Debug)]
struct AsksAt(Url, ClientOptions);

#[async_trait]
impl TokenCredential for AsksAt {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let transport = self.1.transport.clone().expect("the options carry one");
        let mut request = http::Request::new(self.0.clone(), http::Method::Get);
        request.insert_header("metadata", "true");
        let answer = transport.send(&http::Context::default(), &mut request).await?;
        let token = answer.into_body().collect_string().await?;
        Ok(AccessToken::new(
            Secret::new(token),
            azure_core::time::OffsetDateTime::now_utc() + azure_core::time::Duration::HOUR,
        ))
    }
}

#[tokio::test]
async fn a_token_comes_in_the_clear_from_the_machine_itself_and_from_nowhere_else() {
    let rogue = good();
    let machine = Rogue::always(Speaks::Http, Answer::json(200, TOKEN));
    for (url, known) in [(machine.url(), true), ("http://tokens.example".to_owned(), false)] {
        let url = Url::parse(&url).unwrap();
        let credential =
            AzureCredential::new("machine", move |options| Ok(Arc::new(AsksAt(url.clone(), options))));
        let options = AzureOptions::new(rogue.url(), credential).test_server();
        let vault = AzureVault::connect(options.roots_pem(rogue.authority().unwrap())).unwrap();
        match unwrap(&vault, &rogue).await {
            Ok(aek) => assert!(known && aek.expose() == &[7; 32]),
            Err(e) => {
                assert!(!known, "{e}");
                assert_eq!(e.kind(), Kind::Unauthenticated);
                assert!(e.to_string().contains("in the clear"), "{e}");
            }
        }
    }
    assert_eq!(machine.asked(), 1);
}

/// Writes down everything that anybody tells at any level.
#[derive(Default)]
struct Everything(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut told = self.0.lock().unwrap();
        let _ = write!(told, "\n{}", span.metadata().target());
        span.record(&mut Fields(&mut told));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn event(&self, event: &Event<'_>) {
        let mut told = self.0.lock().unwrap();
        let _ = write!(told, "\n{} {}", event.metadata().level(), event.metadata().target());
        event.record(&mut Fields(&mut told));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn no_secret_is_told_at_trace_level() {
    let told = Arc::new(Mutex::new(String::new()));
    let _heard = heard::by(Everything(told.clone()));
    let bytes = BASE64URL_NOPAD.encode(&[0xC5; 256]);
    let rogue = vault(Speaks::Https, move |request| {
        let url = format!("https://{}", request.header("host").unwrap());
        let kid = format!("{url}/keys/payroll/{VERSION}");
        if request.method == "GET" {
            let key = format!(r#"{{"kid":"{kid}","kty":"RSA","n":"{bytes}","e":"AQAB"}}"#);
            Answer::json(200, format!(r#"{{"key":{key},"attributes":{{"enabled":true}}}}"#))
        } else if request.target.contains("/wrapkey") {
            assert!(
                request.body.windows(SEVENS.len()).any(|part| part == SEVENS.as_bytes()),
                "the key itself"
            );
            Answer::json(200, format!(r#"{{"kid":"{kid}","value":"{bytes}"}}"#))
        } else {
            sevens(request, &url)
        }
    });
    let vault = connect(&rogue);
    unwrap(&vault, &rogue).await.unwrap();
    vault.wrap_key(&key(&rogue), &aek(7), &context()).await.unwrap();
    let told = told.lock().unwrap();
    assert!(told.contains("azure") || told.contains("typespec"), "the SDK tells something: {told}");
    assert!(told.contains(&format!("/keys/payroll/{VERSION}")), "{told}");
    for secret in [SECRET, TOKEN, SEVENS, "7, 7, 7, 7, 7, 7, 7, 7", "07070707"] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
}
