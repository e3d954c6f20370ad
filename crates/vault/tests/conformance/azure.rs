//! The Azure vault keeps every promise, against our Key Vault-compatible server.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{KeyId, rsa::RsaSize};
use cofferdam_vault::{
    KeyKind, KeyVault,
    conformance::{Factory, Hook, NotDone, Report, Subject, run},
    serve::Permission,
    testing::SeededEntropy,
};
use tracing::{Event, Metadata, Subscriber, field, span};

use crate::{
    azure_support::{CLIENT, SECRET, Served, now},
    factories::not_applicable,
    heard,
    table::Made,
};

const VERSION: &str = "00000000000000000000000000000000";
const WAIT: Duration = Duration::from_secs(7);

struct AzureFactory {
    served: Served,
    kind: KeyKind,
    made: AtomicUsize,
    sent: Arc<AtomicU64>,
}

impl AzureFactory {
    fn local(&self, key: &KeyId) -> KeyId {
        self.served.local(key)
    }

    fn name(key: &KeyId) -> String {
        key.as_str().split('/').nth(4).unwrap().to_owned()
    }

    fn id(&self, path: &str) -> KeyId {
        KeyId::new(format!("{}/keys/{path}", self.served.url())).unwrap()
    }
}

#[async_trait]
impl Factory for AzureFactory {
    fn subject(&self) -> Subject {
        // Each is a request, and there are 2,048 bits.
        const FLIPS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
        let name = format!("AzureVault on our server, {}", self.kind);
        Subject::new(name, self.kind).recoverable().flips(FLIPS)
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        Ok(Arc::new(self.served.vault()))
    }

    async fn new_key(&self) -> Hook<KeyId> {
        let name = format!("key-{}", self.made.fetch_add(1, Ordering::Relaxed));
        Ok(self.served.key(&name, self.kind).await)
    }

    async fn unversioned(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(Served::whole(key))
    }

    async fn new_version(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(self.served.served(&self.served.customer.new_version(&Self::name(key)).await?))
    }

    async fn disable(&self, key: &KeyId) -> Hook {
        Ok(self.served.customer.disable(&self.local(key)).await?)
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        Ok(self.served.customer.enable(&self.local(key)).await?)
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        // Azure deletes whole keys alone.
        self.served.customer.delete(&Served::whole(&self.local(key))).await?;
        Ok(())
    }

    async fn recover(&self, key: &KeyId) -> Hook {
        Ok(self.served.customer.recover(&Served::whole(&self.local(key))).await?)
    }

    async fn expire(&self, key: &KeyId) -> Hook {
        let past = now() - Duration::from_secs(1);
        Ok(self.served.customer.set_expiry(&self.local(key), Some(past)).await?)
    }

    async fn defer(&self, key: &KeyId) -> Hook {
        let ahead = now() + Duration::from_secs(3600);
        Ok(self.served.customer.set_not_before(&self.local(key), Some(ahead)).await?)
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        Ok(self.id(&format!("nobody/{VERSION}")))
    }

    async fn unknown_version(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(self.id(&format!("{}/{VERSION}", Self::name(key))))
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        let foreign = [
            format!("https://acme.vault.azure.net/keys/payroll/{VERSION}"),
            format!("{}:1/keys/payroll/{VERSION}", self.served.url()),
            format!("{}/secrets/payroll/{VERSION}", self.served.url()),
            format!("{}/keys/payroll/{VERSION}/", self.served.url()),
            format!("local://acme/keys/payroll/{VERSION}"),
            "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab".into(),
        ];
        Ok(foreign.into_iter().map(KeyId::new).collect::<Result<_, _>>()?)
    }

    async fn deny(&self, _: &KeyId) -> Hook {
        Ok(self.served.on(|server| server.permit(CLIENT, &[]))?)
    }

    async fn allow(&self, _: &KeyId) -> Hook {
        Ok(self.served.on(|server| server.permit(CLIENT, &Permission::WRAPPING))?)
    }

    async fn outage(&self) -> Hook {
        self.served.down().await;
        Ok(())
    }

    async fn restore(&self) -> Hook {
        self.served.up().await;
        Ok(())
    }

    async fn throttle(&self) -> Hook<Option<Duration>> {
        self.served.on(|server| server.throttle(WAIT, None));
        Ok(Some(WAIT))
    }

    async fn unthrottle(&self) -> Hook {
        self.served.on(|server| server.unthrottle());
        Ok(())
    }

    async fn expire_credential(&self) -> Hook {
        self.served.on(|server| server.expire_tokens());
        Ok(())
    }

    async fn lose_credential(&self) -> Hook {
        self.served.on(|server| {
            server.add_client_with(CLIENT, "another secret", &Permission::WRAPPING);
            server.expire_tokens();
        });
        Ok(())
    }

    async fn regain_credential(&self) -> Hook {
        self.served.on(|server| server.add_client_with(CLIENT, SECRET, &Permission::WRAPPING));
        Ok(())
    }

    async fn untrust(&self) -> Hook {
        self.served.impostor().await;
        Ok(())
    }

    async fn trust(&self) -> Hook {
        self.served.up().await;
        Ok(())
    }

    async fn sent(&self) -> Hook<u64> {
        match self.sent.load(Ordering::Relaxed) {
            0 => Err(NotDone::Failed("the server told of no request".into())),
            sent => Ok(sent),
        }
    }

    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

/// Counts the requests about keys that the server tells of, which it tells of all.
struct Requests(Arc<AtomicU64>);

struct Path(bool);

impl field::Visit for Path {
    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.0 |= field.name() == "path" && value.contains("keys/");
    }

    fn record_debug(&mut self, _: &field::Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for Requests {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("cofferdam_vault::serve")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut path = Path(false);
        event.record(&mut path);
        self.0.fetch_add(u64::from(path.0), Ordering::Relaxed);
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

async fn report(kind: KeyKind) -> Option<Report> {
    let sent = Arc::new(AtomicU64::new(0));
    let _heard = heard::by(Requests(sent.clone()));
    let served = Served::start().await;
    let factory = AzureFactory { served, kind, made: AtomicUsize::new(0), sent };
    Some(run(&factory, &SeededEntropy::new(1)).await)
}

pub(crate) async fn aes() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(|| report(KeyKind::Aes256)).await
}

pub(crate) async fn rsa() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(|| report(KeyKind::Rsa(RsaSize::Rsa2048))).await
}

fn conforms(kind: KeyKind, report: &Report) {
    println!("{report}");
    assert!(report.is_ok(), "{report}");
    let of_others = if kind == KeyKind::Aes256 { "public-key" } else { "not-rsa" };
    assert_eq!(not_applicable(report), [of_others], "{report}");
}

#[tokio::test]
async fn rsa_keys_conform() {
    conforms(KeyKind::Rsa(RsaSize::Rsa2048), rsa().await.unwrap());
}

#[tokio::test]
async fn aes_keys_conform() {
    conforms(KeyKind::Aes256, aes().await.unwrap());
}
