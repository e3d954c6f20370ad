//! A vault in a token keeps every promise that it can be asked for: on SoftHSM2, and on Kryoptic with both kinds of keys.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{KeyId, rsa::RsaSize};
use cofferdam_vault::{
    KeyKind, KeyVault, SystemEntropy, Threads,
    conformance::{Factory, Hook, NotDone, Outcome, Report, Subject, run},
    pkcs11::Pkcs11Vault,
    testing::servers::{Kryoptic, SoftHsm},
};
use cryptoki::{
    object::{Attribute, ObjectClass},
    types::{AuthPin, Date},
};

use crate::{
    factories::not_applicable,
    table::Made,
    tokens::{self, GivenPin, Place, Token},
};

/// What a token has not.
const NEVER: [&str; 8] = [
    "recovered",
    "denied",
    "allowed-again",
    "throttled",
    "throttle-ends",
    "asks-once",
    "untrusted",
    "trusted-again",
];

struct TokenFactory {
    place: Place,
    kind: KeyKind,
    vault: Pkcs11Vault,
    given: Arc<GivenPin>,
    /// Makes keys, beside the vault that is checked.
    owner: Pkcs11Vault,
    /// The token's PIN, which is changed to take the service's away.
    pins: Mutex<(&'static str, &'static str)>,
    made: AtomicUsize,
}

impl TokenFactory {
    async fn new(place: &Place, kind: KeyKind) -> Self {
        let given = GivenPin::new(place.pin);
        let open = async |given: Arc<GivenPin>| {
            let mut options = place.options(place.pin).executor(Arc::new(Threads::new(4)));
            options.pin = given;
            // The kit takes tokens away and puts them back in no time.
            Pkcs11Vault::open(options.reload_pause(Duration::ZERO)).await.unwrap()
        };
        let (vault, owner) = (open(given.clone()).await, open(given.clone()).await);
        let pins = Mutex::new((place.pin, "19283746"));
        Self { place: place.clone(), kind, vault, given, owner, pins, made: AtomicUsize::new(0) }
    }

    fn name(&self) -> String {
        let of = if self.place.is_softhsm() { "SoftHSM2" } else { "Kryoptic" };
        format!("Pkcs11Vault, {of}, {}", self.kind)
    }

    fn date(&self, key: &KeyId, attribute: Attribute) -> Hook {
        if self.place.is_softhsm() {
            return Err(NotDone::unsupported("SoftHSM2 can't tell the dates of a private object"));
        }
        let session = self.place.session();
        let (label, id, _) = tokens::parts(key);
        let class = match self.kind {
            KeyKind::Aes256 => ObjectClass::SECRET_KEY,
            _ => ObjectClass::PRIVATE_KEY,
        };
        for object in tokens::objects(&session, class, &label, id.as_deref()) {
            session.update_attributes(object, std::slice::from_ref(&attribute))?;
        }
        Ok(())
    }

    /// Kryoptic's database, as its settings name it.
    fn database(&self) -> PathBuf {
        let settings = fs::read_to_string(Kryoptic::start().unwrap().environment().1).unwrap();
        settings.split("dbargs = \"").nth(1).unwrap().split('"').next().unwrap().into()
    }

    fn away(&self) -> PathBuf {
        self.database().with_extension("away")
    }
}

#[async_trait]
impl Factory for TokenFactory {
    fn subject(&self) -> Subject {
        Subject::new(self.name(), self.kind).recoverable()
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        Ok(Arc::new(self.vault.clone()))
    }

    async fn new_key(&self) -> Hook<KeyId> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(self.owner.create_key(&format!("{}-{n}", self.kind), self.kind).await?)
    }

    async fn unversioned(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(self.owner.key_id(&tokens::parts(key).0, self.kind)?)
    }

    async fn new_version(&self, key: &KeyId) -> Hook<KeyId> {
        Ok(self.owner.new_version(&tokens::parts(key).0).await?)
    }

    async fn disable(&self, key: &KeyId) -> Hook {
        self.place.owner("disable", key);
        Ok(())
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        self.place.owner("enable", key);
        Ok(())
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        self.place.owner("delete", key);
        Ok(())
    }

    async fn recover(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("a token knows no soft delete: a backup is restored by the HSM's own tools"))
    }

    async fn expire(&self, key: &KeyId) -> Hook {
        self.date(key, Attribute::EndDate(Date::new(*b"2020", *b"01", *b"01")))
    }

    async fn defer(&self, key: &KeyId) -> Hook {
        self.date(key, Attribute::StartDate(Date::new(*b"2999", *b"01", *b"01")))
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        let never = self.owner.key_id("never", self.kind)?;
        self.unknown_version(&never).await
    }

    async fn unknown_version(&self, key: &KeyId) -> Hook<KeyId> {
        let unversioned = self.unversioned(key).await?;
        let (head, of) = unversioned.as_str().split_once(";type=").unwrap();
        Ok(KeyId::new(format!("{head};id={};type={of}", "%5A".repeat(16)))?)
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        let ids = [
            "pkcs11:token=another;object=k;id=%01;type=secret-key".to_owned(),
            format!("pkcs11:object=k;token={};type=secret-key", self.place.label),
            format!("pkcs11:token={};object=k;type=secret-key?pin-value=1", self.place.label),
            "https://acme.vault.azure.net/keys/k".to_owned(),
            "arn:aws:kms:eu-central-1:111122223333:key/k".to_owned(),
        ];
        Ok(ids.into_iter().map(KeyId::new).collect::<Result<_, _>>()?)
    }

    async fn deny(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("PKCS #11 has no permissions but the key's own attributes"))
    }

    async fn allow(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("PKCS #11 has no permissions but the key's own attributes"))
    }

    async fn outage(&self) -> Hook {
        if self.place.is_softhsm() {
            SoftHsm::start().unwrap().remove();
        } else {
            // It holds its database open until it is finalised.
            fs::rename(self.database(), self.away())?;
            self.place.raw().finalize()?;
        }
        Ok(())
    }

    async fn restore(&self) -> Hook {
        if self.place.is_softhsm() {
            SoftHsm::start().unwrap().put_back();
        } else {
            fs::rename(self.away(), self.database())?;
        }
        Ok(())
    }

    async fn throttle(&self) -> Hook<Option<Duration>> {
        Err(NotDone::unsupported("this token has as many sessions as anybody wants"))
    }

    /// Somebody in this process logs out: the login is everybody's.
    async fn expire_credential(&self) -> Hook {
        Ok(self.place.session().logout()?)
    }

    /// The token's PIN is changed, and the service does not know the new one.
    async fn lose_credential(&self) -> Hook {
        let (pin, next) = *self.pins.lock().unwrap();
        let session = self.place.session();
        session.set_pin(&AuthPin::new(pin.into()), &AuthPin::new(next.into()))?;
        session.logout()?;
        *self.pins.lock().unwrap() = (next, pin);
        Ok(())
    }

    async fn regain_credential(&self) -> Hook {
        self.given.give(self.pins.lock().unwrap().0);
        Ok(())
    }

    async fn untrust(&self) -> Hook {
        Err(NotDone::unsupported("a token's library makes its own connection"))
    }

    async fn sent(&self) -> Hook<u64> {
        Err(NotDone::unsupported("a library counts nothing"))
    }
}

async fn report(token: Option<Token>, kind: KeyKind) -> Option<Report> {
    let token = token?;
    Some(run(&TokenFactory::new(&token, kind).await, &SystemEntropy).await)
}

pub(crate) async fn softhsm() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(|| report(Token::softhsm(), KeyKind::Aes256)).await
}

pub(crate) async fn kryoptic() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(|| report(Token::kryoptic(), KeyKind::Aes256)).await
}

pub(crate) async fn kryoptic_rsa() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(|| report(Token::kryoptic(), KeyKind::Rsa(RsaSize::Rsa2048))).await
}

fn conforms(report: Option<&Report>, kind: KeyKind, is_softhsm: bool) {
    let Some(report) = report else { return };
    println!("{report}");
    assert!(report.is_ok(), "{report}");
    let mut never: Vec<_> = NEVER.into();
    never.push(if kind == KeyKind::Aes256 { "public-key" } else { "not-rsa" });
    if is_softhsm {
        never.extend(["expired", "not-yet-active"]);
    }
    let mut found = not_applicable(report);
    never.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, never, "{report}");
    let moved = Outcome::Passed { note: Some("not bound, checked by us".into()) };
    assert_eq!(report.outcome("context-account"), Some(&moved));
}

#[tokio::test]
async fn softhsm_conforms() {
    conforms(softhsm().await, KeyKind::Aes256, true);
}

#[tokio::test]
async fn kryoptic_conforms() {
    conforms(kryoptic().await, KeyKind::Aes256, false);
}

#[tokio::test]
async fn kryoptic_conforms_with_rsa_keys() {
    conforms(kryoptic_rsa().await, KeyKind::Rsa(RsaSize::Rsa2048), false);
}
