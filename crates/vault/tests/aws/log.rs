//! No key and no credential is logged, at any level.

use std::{
    fmt,
    io::Write,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use cofferdam_vault::{
    CredentialError, KeyVault,
    aws::{AwsCredentialSource, AwsCredentials, AwsVault},
    testing::servers::Answer,
};
use data_encoding::{BASE64, HEXLOWER};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    aws_support::{
        ACCOUNT, KEY, context, decrypted, encrypted, exception, id, ok, options, recorded, wrapped,
    },
    heard,
};

/// A session's access key.
#[derive(Debug)]
struct Session;

#[async_trait]
impl AwsCredentialSource for Session {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        let session = Some("canary-session".into());
        Ok(AwsCredentials::new("AKIAIOSFODNN7EXAMPLE", "canary-secret", session, None))
    }
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
    let heard = heard::by(log);
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
        let vault =
            AwsVault::connect(options(&server.url(), ACCOUNT).credentials(Arc::new(Session))).unwrap();
        vault.wrap_key(&id(KEY), &key, &context(1)).await.unwrap();
        vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
        vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
        let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
        tracing::trace!(?vault, ?failed, %failed);
    });
    drop(heard);
    let text = String::from_utf8_lossy(&text.lock().unwrap()).into_owned();
    let sent: Vec<_> = text.lines().filter(|line| line.contains("transmitting request")).collect();
    assert_eq!(sent.len(), 4, "the SDK's own log is seen:\n{text}");
    for line in sent {
        assert!(
            line.contains("inner: BoxBody, retryable: false"),
            "the body is neither shown nor kept: {line}"
        );
    }
    let bytes = format!("{canary:?}");
    let forms =
        [BASE64.encode(&canary), HEXLOWER.encode(&canary), bytes[1..bytes.len() - 1].into(), "canary".into()];
    for secret in forms {
        assert!(!text.contains(&secret), "{secret} is in the log:\n{text}");
    }
}
