//! Real tokens for the tests of the vault in one: SoftHSM2 and Kryoptic, used one test at a time, as a login is the
//! process's; and what their owner does meanwhile, in another process.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{
    env,
    ops::Deref,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    Inline, KeyKind, KeyState, KeyVault, VaultErrorKind,
    pkcs11::{Pin, PinError, PinSource, Pkcs11Options, Pkcs11Vault},
    testing::{ManualClock, servers},
};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};

/// A PIN that a test gives, and how often it was asked for.
#[derive(Debug)]
pub(crate) struct GivenPin {
    pub(crate) pin: Mutex<String>,
    pub(crate) asked: Mutex<u32>,
}

impl GivenPin {
    pub(crate) fn new(pin: &str) -> Arc<Self> {
        Arc::new(Self { pin: Mutex::new(pin.into()), asked: Mutex::default() })
    }

    pub(crate) fn give(&self, pin: &str) {
        *self.pin.lock().unwrap() = pin.into();
    }
}

impl PinSource for GivenPin {
    fn pin(&self) -> Result<Pin, PinError> {
        *self.asked.lock().unwrap() += 1;
        Pin::new(self.pin.lock().unwrap().clone().into_bytes())
    }
}

/// A token for one test; others wait.
pub(crate) struct Token {
    place: Place,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Token {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// Where a token is and what opens it.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) module: PathBuf,
    pub(crate) label: &'static str,
    pub(crate) pin: &'static str,
    pub(crate) so_pin: &'static str,
    pub(crate) clock: Arc<ManualClock>,
}

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! token {
    ($of:expr) => {{
        let alone = alone();
        let of = $of?;
        let (module, label, pin, so_pin) = (of.module().into(), of.token(), of.pin(), of.so_pin());
        let place = Place { module, label, pin, so_pin, clock: Arc::default() };
        Some(Token { place, _alone: alone })
    }};
}

impl Token {
    pub(crate) fn softhsm() -> Option<Self> {
        token!(servers::SoftHsm::start())
    }

    pub(crate) fn kryoptic() -> Option<Self> {
        // The tool that makes tokens looks at SoftHSM's own, whichever it makes.
        servers::SoftHsm::start();
        token!(servers::Kryoptic::start())
    }

    /// Each token that there is, one after the other.
    pub(crate) fn each() -> impl Iterator<Item = Self> {
        [Self::softhsm as fn() -> Option<Self>, Self::kryoptic].into_iter().filter_map(|start| start())
    }
}

impl Place {
    pub(crate) fn is_softhsm(&self) -> bool {
        self.label.contains("softhsm")
    }

    /// Calls in place: what is dropped has logged out.
    pub(crate) fn options(&self, pin: &str) -> Pkcs11Options {
        Pkcs11Options::new(&self.module, self.label, GivenPin::new(pin))
            .clock(self.clock.clone())
            .executor(Arc::new(Inline))
            .recoverable(true)
    }

    pub(crate) async fn vault(&self) -> Pkcs11Vault {
        Pkcs11Vault::open(self.options(self.pin)).await.unwrap()
    }

    pub(crate) fn raw(&self) -> Pkcs11 {
        raw(&self.module)
    }

    /// A session of this process's that is logged in; closed when dropped.
    pub(crate) fn session(&self) -> Session {
        session(&self.module, self.label, self.pin)
    }

    /// Has another process do something to the key, as its owner would: its own session, its own login.
    pub(crate) fn owner(&self, does: &str, key: &KeyId) {
        let mut owner = Command::new(env::current_exe().unwrap());
        owner.args(["--exact", "tokens::what_the_owner_does_in_another_process_is_done"]);
        owner.env("ACT_MODULE", &self.module).env("ACT_TOKEN", self.label).env("ACT_PIN", self.pin);
        let output = owner.env("ACT", does).env("ACT_KEY", key.as_str()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{does}: {said}");
    }
}

fn raw(module: &std::path::Path) -> Pkcs11 {
    let client = Pkcs11::new(module).unwrap();
    // The vault may have done it.
    let _ = client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    client
}

fn session(module: &std::path::Path, label: &str, pin: &str) -> Session {
    let client = raw(module);
    let slots = client.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|s| client.get_token_info(*s).unwrap().label() == label).unwrap();
    let session = client.open_rw_session(slot).unwrap();
    // Somebody else in this process may be.
    let _ = session.login(UserType::User, Some(&AuthPin::new(pin.into())));
    session
}

/// The objects of a class, a label and an id.
pub(crate) fn objects(
    session: &Session,
    class: ObjectClass,
    label: &str,
    id: Option<&[u8]>,
) -> Vec<ObjectHandle> {
    let mut template = vec![Attribute::Class(class), Attribute::Label(label.into())];
    template.extend(id.map(|id| Attribute::Id(id.into())));
    session.find_objects(&template).unwrap()
}

/// What a key id says.
pub(crate) fn parts(key: &KeyId) -> (String, Option<Vec<u8>>, KeyKind) {
    let value =
        |name: &str| key.as_str().split([':', ';']).find_map(|p| p.strip_prefix(name)).map(String::from);
    let id = value("id=").map(|id| data_encoding::HEXUPPER.decode(id.replace('%', "").as_bytes()).unwrap());
    let kind = match value("type=").unwrap().as_str() {
        "private" => "rsa-2048",
        _ => "aes-256",
    };
    (value("object=").unwrap(), id, kind.parse().unwrap())
}

/// Does what [`Place::owner`] wants where it is run for that, and otherwise proves that it is done.
#[tokio::test]
async fn what_the_owner_does_in_another_process_is_done() {
    if env::var_os("ACT").is_some() {
        return act();
    }
    for token in Token::each() {
        let vault = token.vault().await;
        let key = vault.create_key("acted-on", KeyKind::Aes256).await.unwrap();
        let state = async || vault.key_properties(&key).await.map(|p| p.state).map_err(|e| e.kind());
        for (does, then) in [
            ("disable", Ok(KeyState::Disabled)),
            ("enable", Ok(KeyState::Enabled)),
            ("forbid wrapping", Ok(KeyState::Disabled)),
            ("delete", Err(VaultErrorKind::KeyNotFound)),
        ] {
            token.owner(does, &key);
            assert_eq!(state().await, then, "{does}");
        }
    }
}

fn act() {
    let var = |name: &str| env::var(name).unwrap();
    let session = session(var("ACT_MODULE").as_ref(), &var("ACT_TOKEN"), &var("ACT_PIN"));
    let (label, id, kind) = parts(&KeyId::new(var("ACT_KEY")).unwrap());
    let is_rsa = kind != KeyKind::Aes256;
    let class = if is_rsa { ObjectClass::PRIVATE_KEY } else { ObjectClass::SECRET_KEY };
    let found = objects(&session, class, &label, id.as_deref());
    assert!(!found.is_empty(), "no such key");
    for object in found {
        let set = |enabled| match is_rsa {
            true => session.update_attributes(object, &[Attribute::Decrypt(enabled)]),
            false => {
                session.update_attributes(object, &[Attribute::Wrap(enabled), Attribute::Unwrap(enabled)])
            }
        };
        match var("ACT").as_str() {
            "disable" => set(false).unwrap(),
            "enable" => set(true).unwrap(),
            "delete" => session.destroy_object(object).unwrap(),
            "forbid wrapping" => session.update_attributes(object, &[Attribute::Wrap(false)]).unwrap(),
            other => panic!("nobody does {other}"),
        }
    }
}

/// An RSA-2048 key as its owner makes one.
pub(crate) fn make_rsa(session: &Session, label: &str, id: &[u8]) {
    let identity = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(id.into())];
    let public = [Attribute::ModulusBits(2048.into()), Attribute::PublicExponent(vec![1, 0, 1])];
    let private = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Decrypt(true),
    ];
    let (public, private) = ([&identity[..], &public].concat(), [&identity[..], &private].concat());
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private).unwrap();
}
