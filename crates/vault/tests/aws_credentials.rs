//! A denial counts only with a credential known good; no key and no credential is logged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod aws_support;

use std::{
    fmt,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_support::{
    ACCOUNT, KEY, aek, context, decrypted, encrypted, exception, id, ok, options, recorded, wrapped,
};
use cofferdam_vault::{
    CredentialError, KeyVault, Meaning, VaultErrorKind as Kind,
    aws::{AwsCredentialSource, AwsCredentials, AwsVault},
    testing::servers::{Answer, Rogue},
};
use data_encoding::{BASE64, HEXLOWER};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Numbers the access keys that it gives, until it is told to fail.
#[derive(Debug, Default)]
struct Numbered {
    given: AtomicUsize,
    fails: Mutex<bool>,
}

#[async_trait]
impl AwsCredentialSource for Numbered {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        if *self.fails.lock().unwrap() {
            return Err(CredentialError("the token service is down".into()));
        }
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let id = format!("AKIANUMBER{number}");
        Ok(AwsCredentials::new(id, "canary-secret", Some("canary-session".into()), None))
    }
}

/// The access keys that requests were signed with.
fn signed_by(server: &Rogue) -> Vec<String> {
    let key = |authorization: &str| {
        let (_, rest) = authorization.split_once("Credential=").unwrap();
        rest.split_once('/').unwrap().0.to_owned()
    };
    server.requests().iter().map(|request| key(request.header("authorization").unwrap())).collect()
}

fn expired() -> Answer {
    exception(400, "ExpiredTokenException", "The security token included in the request is expired")
}

#[tokio::test]
async fn an_expired_token_is_renewed_once_and_kms_asked_again() {
    let server = recorded([expired(), ok(&decrypted(&[7; 32]))]);
    let source = Arc::new(Numbered::default());
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source.clone())).unwrap();
    vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    assert_eq!(signed_by(&server), ["AKIANUMBER0", "AKIANUMBER1"]);
    assert_eq!(source.given.load(Ordering::Relaxed), 2);
    vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    assert_eq!(source.given.load(Ordering::Relaxed), 2, "it is kept");
}

#[tokio::test]
async fn a_token_that_is_expired_again_is_an_outage() {
    let server = recorded([expired()]);
    let source = Arc::new(Numbered::default());
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source.clone())).unwrap();
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unauthenticated);
    assert_eq!((server.asked(), source.given.load(Ordering::Relaxed)), (2, 2));
}

#[tokio::test]
async fn no_credentials_to_be_had_is_an_outage_and_says_why() {
    let server = recorded([ok(&decrypted(&[7; 32]))]);
    let source = Arc::new(Numbered::default());
    *source.fails.lock().unwrap() = true;
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source)).unwrap();
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    assert_eq!((failed.kind(), failed.kind().meaning()), (Kind::Unauthenticated, Meaning::Outage));
    assert!(failed.to_string().contains("the token service is down"), "{failed}");
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_denial_of_a_fresh_credential_counts_at_once() {
    let denied = exception(400, "AccessDeniedException", "no resource-based policy allows it");
    let server = recorded([denied]);
    let source = Arc::new(Numbered::default());
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source.clone())).unwrap();
    vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    let before = server.asked();
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    assert_eq!((failed.kind(), server.asked()), (Kind::AccessDenied, before + 1));
    assert!(vault.inner().owns(&id(KEY)));
}

/// Keeps every event and span of every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn visit(&self, what: &Metadata<'_>, record: impl FnOnce(&mut dyn Visit)) {
        struct Writer(Vec<u8>);
        impl Visit for Writer {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
        let mut line = Writer(format!("{} {}", what.level(), what.target()).into_bytes());
        record(&mut line);
        line.0.push(b'\n');
        self.0.lock().unwrap().extend(line.0);
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.visit(span.metadata(), |visitor| span.record(visitor));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        struct Lines<'a>(&'a Log);
        impl Visit for Lines<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                writeln!(self.0.0.lock().unwrap(), "{field}={value:?}").unwrap();
            }
        }
        values.record(&mut Lines(self));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.visit(event.metadata(), |visitor| event.record(visitor));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn no_key_and_no_credential_is_logged_at_any_level() {
    let log = Log::default();
    let text = log.0.clone();
    let canary: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap() ^ 0xc5);
    tracing::subscriber::with_default(log, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let key = cofferdam_crypto::Aek::try_from_fn(|bytes| {
                bytes.copy_from_slice(&canary);
                Ok::<_, std::convert::Infallible>(())
            })
            .unwrap();
            let encrypted = ok(&encrypted(KEY));
            let denied = exception(400, "AccessDeniedException", "no");
            let broken = Answer::json(200, format!("{{\"Plaintext\": \"{}\", ", BASE64.encode(&canary)));
            let answers = [encrypted, ok(&decrypted(&canary)), denied, broken];
            let server = recorded(answers);
            let source = Arc::new(Numbered::default());
            let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source)).unwrap();
            vault.wrap_key(&id(KEY), &key, &context(1)).await.unwrap();
            vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
            vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
            let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
            tracing::trace!(?vault, ?failed, %failed);
        });
    });
    let text = String::from_utf8_lossy(&text.lock().unwrap()).into_owned();
    assert!(text.contains("transmitting request"), "the SDK's own log is seen:\n{text}");
    let bytes = format!("{canary:?}");
    let forms =
        [BASE64.encode(&canary), HEXLOWER.encode(&canary), bytes[1..bytes.len() - 1].into(), "canary".into()];
    for secret in forms {
        assert!(!text.contains(&secret), "{secret} is in the log:\n{text}");
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_vault_usable() {
    let server = recorded([ok(&decrypted(&[7; 32]))]);
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT)).unwrap();
    let (wrap, context) = (wrapped(KEY), context(1));
    let call = vault.unwrap_key(&wrap, &context);
    // Dropped at its first wait.
    let given_up = tokio::time::timeout(Duration::ZERO, call).await;
    assert!(given_up.is_err());
    let unwrapped = vault.unwrap_key(&wrapped(KEY), &self::context(1)).await.unwrap();
    assert_eq!(unwrapped.expose(), aek(7).expose());
}
