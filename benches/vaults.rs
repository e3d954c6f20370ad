//! What a wrap and an unwrap take in each vault, and how much of that is ours.
//!
//! Beside each call, by turns, the same vault is asked for the same without us: a token by finding the key and using it in an open session,
//! a server by the same requests over a connection that is kept. What the medians differ by is ours: credentials and their
//! signatures, JSON, checks of what came, the way to the executor's thread and back. All servers run on this machine, so
//! no network is in it. Vaults that are not installed say so and are left out.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark"
)]

mod paired;
#[path = "../tests/real/mod.rs"]
mod real;

use std::{convert::Infallible, path::Path, sync::Arc};

use cofferdam::{
    crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, WrappedKey},
    vault::{
        KeyVault, WrapContext,
        serve::Permission,
        testing::servers::{Bao, Kryoptic, Ministack, Moto, SoftHsm},
    },
};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use paired::{Bench, Row};
use real::{Customer, Owner, openbao_server};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::Instant};

/// How many vaults there are, to share the time among.
const VAULTS: u32 = 8;

/// A vault with a key, and the way to it without us.
struct Case {
    name: &'static str,
    vault: Arc<dyn KeyVault>,
    key: KeyId,
    wrapped: WrappedKey,
    bare: Bare,
    /// Ends its server with it.
    _owner: Option<Owner>,
}

enum Bare {
    /// Nothing is left without us.
    Nothing,
    Token(Token),
    Server {
        wrap: Vec<RequestBuilder>,
        unwrap: Vec<RequestBuilder>,
    },
}

/// What a vault took, in nanoseconds a round.
#[derive(Default)]
struct Taken {
    wrap: Vec<f64>,
    bare_wrap: Vec<f64>,
    unwrap: Vec<f64>,
    bare_unwrap: Vec<f64>,
}

impl Case {
    async fn new(
        name: &'static str,
        vault: Arc<dyn KeyVault>,
        key: KeyId,
        bare: impl AsyncFnOnce(&KeyId, &WrappedKey) -> Bare,
    ) -> Self {
        let wrapped = vault.wrap_key(&key, &aek(), &context()).await.unwrap();
        let bare = bare(&key, &wrapped).await;
        Self { name, vault, key, wrapped, bare, _owner: None }
    }

    fn owned_by(self, owner: Owner) -> Self {
        Self { _owner: Some(owner), ..self }
    }

    async fn measure(&self, bench: &Bench) -> Taken {
        let mut taken = Taken::default();
        let enough = Instant::now() + bench.budget() / VAULTS;
        while taken.wrap.is_empty() || !bench.is_smoke() && Instant::now() < enough {
            taken.wrap.push(timed(self.vault.wrap_key(&self.key, &aek(), &context())).await.0);
            taken.bare_wrap.push(timed(self.bare.wrap()).await.0);
            let (took, unwrapped) = timed(self.vault.unwrap_key(&self.wrapped, &context())).await;
            assert_eq!(unwrapped.unwrap().expose(), aek().expose());
            taken.unwrap.push(took);
            taken.bare_unwrap.push(timed(self.bare.unwrap()).await.0);
        }
        taken
    }
}

impl Bare {
    async fn wrap(&self) {
        match self {
            Self::Nothing => {}
            Self::Token(token) => token.wrap(),
            Self::Server { wrap, .. } => ask(wrap).await,
        }
    }

    async fn unwrap(&self) {
        match self {
            Self::Nothing => {}
            Self::Token(token) => token.unwrap(),
            Self::Server { unwrap, .. } => ask(unwrap).await,
        }
    }
}

async fn ask(requests: &[RequestBuilder]) {
    for request in requests {
        let answer = request.try_clone().unwrap().send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{status}: {body}");
    }
}

async fn timed<T>(work: impl Future<Output = T>) -> (f64, T) {
    let began = Instant::now();
    let done = work.await;
    (began.elapsed().as_nanos() as f64, done)
}

fn aek() -> Aek {
    Aek::try_from_fn(|key| {
        key.fill(7);
        Ok::<_, Infallible>(())
    })
    .unwrap()
}

fn context() -> WrapContext {
    let account = AccountId::from_bytes([3; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

/// A session of ours in a token, and the key there.
struct Token {
    session: Session,
    label: String,
    wrapped: Vec<u8>,
}

impl Token {
    fn open(module: &Path, token: &str, pin: &str, label: &str, wrapped: &WrappedKey) -> Self {
        let client = Pkcs11::new(module).unwrap();
        // The vault has done it, and has logged in too.
        let _ = client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let mut slots = client.get_slots_with_token().unwrap().into_iter();
        let slot = slots.find(|slot| client.get_token_info(*slot).unwrap().label() == token).unwrap();
        let session = client.open_rw_session(slot).unwrap();
        let _ = session.login(UserType::User, Some(&AuthPin::new(pin.into())));
        Self { session, label: label.to_owned(), wrapped: wrapped.bytes.clone() }
    }

    fn kek(&self) -> ObjectHandle {
        let label = Attribute::Label(self.label.clone().into_bytes());
        self.session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), label]).unwrap()[0]
    }

    fn template() -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
        ]
    }

    fn wrap(&self) {
        let kek = self.kek();
        let mut template = Self::template();
        template.push(Attribute::Value(aek().expose().to_vec()));
        let object = self.session.create_object(&template).unwrap();
        self.session.wrap_key(&Mechanism::AesKeyWrap, kek, object).unwrap();
        self.session.destroy_object(object).unwrap();
    }

    fn unwrap(&self) {
        let kek = self.kek();
        let object =
            self.session.unwrap_key(&Mechanism::AesKeyWrap, kek, &self.wrapped, &Self::template()).unwrap();
        self.session.get_attributes(object, &[AttributeType::Value]).unwrap();
        self.session.destroy_object(object).unwrap();
    }
}

async fn token(customer: Customer, module: &Path, label: &'static str, pin: &'static str) -> Case {
    let key = customer.owner.create("measured").await;
    Case::new(customer.name, customer.vault, key, async |_, wrapped| {
        Bare::Token(Token::open(module, label, pin, "measured", wrapped))
    })
    .await
}

/// A client of the kind that the vaults have, which believes this authority alone.
fn client(authority: Option<&str>) -> Client {
    let roots = authority.map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
    Client::builder().tls_certs_only(roots).http1_only().build().unwrap()
}

async fn openbao() -> Option<Case> {
    let bao = openbao_server(Bao::dev()?).await;
    let customer = Customer::openbao(&bao, "openbao", "measured").await;
    let key = customer.owner.create("measured").await;
    let case = Case::new("OpenBao", customer.vault.clone(), key, async |_, wrapped| {
        let (client, url) = (client(None), format!("{}/v1/transit", bao.url()));
        let KeyScope { account, epoch, provider } = context().scope;
        let aad = BASE64.encode(format!("cofferdam/1 {account}/{epoch}/{provider}").as_bytes());
        let with_token = |request: RequestBuilder| request.header("x-vault-token", bao.root_token());
        let post = |operation: &str, body: Value| {
            with_token(client.post(format!("{url}/{operation}/measured")).body(body.to_string()))
        };
        let plaintext = BASE64.encode(aek().expose());
        let encrypt = json!({ "plaintext": plaintext, "associated_data": aad, "key_version": 1 });
        let ciphertext = std::str::from_utf8(&wrapped.bytes).unwrap();
        let decrypt = json!({ "ciphertext": ciphertext, "associated_data": aad });
        Bare::Server {
            // The key's properties first, as the engine makes a key that it does not have.
            wrap: vec![with_token(client.get(format!("{url}/keys/measured"))), post("encrypt", encrypt)],
            unwrap: vec![post("decrypt", decrypt)],
        }
    });
    Some(case.await.owned_by(customer.owner))
}

/// Our adapter before our server, with the version's properties read before each wrap.
async fn azure(folder: &Path, name: &'static str, is_rsa: bool) -> Case {
    let customer = Customer::key_vault(folder, name).await;
    let Owner::KeyVault { keys, server } = &customer.owner else { panic!("it is no Key Vault") };
    let key = if is_rsa {
        customer.owner.create("measured").await
    } else {
        let local = keys.create_key("measured").await.unwrap();
        let (_, path) = local.as_str().split_once("/keys/").unwrap();
        real::key_id(&format!("{}/keys/{path}", server.url()))
    };
    server.add_client_with("bare", "a-secret-of-its-own", &Permission::WRAPPING);
    let token = server.issue_token("bare", std::time::Duration::from_secs(3600)).unwrap();
    let client = client(Some(server.authority_pem()));
    let algorithm = if is_rsa { "RSA-OAEP-256" } else { "A256KW" };
    Case::new(name, customer.vault.clone(), key, async |key, wrapped| {
        let url = |operation: &str| format!("{key}{operation}?api-version=2025-07-01");
        let post = |operation: &str, value: &[u8]| {
            let body = json!({ "alg": algorithm, "value": BASE64URL_NOPAD.encode(value) }).to_string();
            let request = client.post(url(operation)).bearer_auth(token.as_str());
            request.header("content-type", "application/json").body(body)
        };
        let properties = client.get(url("")).bearer_auth(token.as_str());
        Bare::Server {
            wrap: vec![properties, post("/wrapkey", aek().expose())],
            unwrap: vec![post("/unwrapkey", &wrapped.bytes)],
        }
    })
    .await
    .owned_by(customer.owner.clone())
}

async fn aws(name: &'static str, url: &str, account: &str) -> Case {
    let vault = real::aws_vault(url, account);
    let made = real::kms(url, "CreateKey", json!({ "KeyUsage": "ENCRYPT_DECRYPT" })).await;
    let key = real::key_id(made["KeyMetadata"]["Arn"].as_str().unwrap());
    Case::new(name, vault, key, async |key, wrapped| {
        let client = client(None);
        let KeyScope { account, epoch, provider } = context().scope;
        let post = |action: &str, member: &str, bytes: &[u8]| {
            let body = json!({
                "KeyId": key.as_str(), member: BASE64.encode(bytes), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "EncryptionContext": {
                    "cofferdam:account": account.to_string(),
                    "cofferdam:epoch": epoch.to_string(),
                    "cofferdam:provider": provider.to_string(),
                },
            });
            // The stand-ins check no signature.
            let signed = "AWS4-HMAC-SHA256 Credential=BARE/20260101/eu-west-1/kms/aws4_request, \
                          SignedHeaders=host, Signature=0";
            let request = client.post(url).header("x-amz-target", format!("TrentService.{action}"));
            let request = request.header("content-type", "application/x-amz-json-1.1");
            request.header("authorization", signed).body(body.to_string())
        };
        Bare::Server {
            wrap: vec![post("Encrypt", "Plaintext", aek().expose())],
            unwrap: vec![post("Decrypt", "CiphertextBlob", &wrapped.bytes)],
        }
    })
    .await
}

/// Measures a vault, if the command line wants it; its line of the table.
async fn line(bench: &Bench, case: Option<Case>) -> Option<String> {
    let case = case.filter(|case| bench.wants("vault", case.name))?;
    let Taken { wrap, bare_wrap, unwrap, bare_unwrap } = case.measure(bench).await;
    let cells = [("wrap", wrap, bare_wrap), ("unwrap", unwrap, bare_unwrap)].map(|(group, with_us, bare)| {
        let micros = |nanos: f64| format!("{:>9.0}", nanos / 1000.0);
        let (all, without) = (median(&with_us), median(&bare));
        if !bench.is_smoke() {
            let is_nothing = matches!(case.bare, Bare::Nothing);
            let with_us = |baselines| Row { name: "with us", baselines, nanos: with_us };
            let rows = match is_nothing {
                true => vec![with_us(&[])],
                false => {
                    vec![Row { name: "without us", baselines: &[], nanos: bare }, with_us(&["without us"])]
                }
            };
            bench.report((group, case.name, 0), &rows);
        }
        format!("{} | {}", micros(all), micros((all - without).max(0.0)))
    });
    Some(format!("| {:<16} | {} |", case.name, cells.join(" | ")))
}

fn median(nanos: &[f64]) -> f64 {
    let mut sorted = nanos.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

async fn run(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let local = Customer::local(folder.path()).await;
    let key = local.owner.create("measured").await;
    let local = Case::new("local", local.vault, key, async |_, _| Bare::Nothing).await;
    let softhsm = match (SoftHsm::start(), Customer::softhsm().await) {
        (Some(at), Some(customer)) => Some(token(customer, at.module(), at.token(), at.pin()).await),
        _ => None,
    };
    let mut lines = vec![line(bench, Some(local)).await, line(bench, softhsm).await];
    let kryoptic = match (Kryoptic::start(), Customer::kryoptic().await) {
        (Some(at), Some(customer)) => Some(token(customer, at.module(), at.token(), at.pin()).await),
        _ => None,
    };
    lines.push(line(bench, kryoptic).await);
    lines.push(line(bench, openbao().await).await);
    for (name, is_rsa) in [("Key Vault, AES", false), ("Key Vault, RSA", true)] {
        lines.push(line(bench, Some(azure(folder.path(), name, is_rsa).await)).await);
    }
    if let Some(moto) = Moto::start() {
        lines.push(line(bench, Some(aws("moto", moto.url(), "123456789012").await)).await);
    }
    if let Some(ministack) = Ministack::start() {
        lines.push(line(bench, Some(aws("ministack", ministack.url(), real::AWS_ACCOUNT).await)).await);
    }
    println!("\nmedians in µs\n");
    println!("| vault            |      wrap | ours      |    unwrap | ours      |");
    println!("| ---------------- | --------: | --------: | --------: | --------: |");
    lines.into_iter().flatten().for_each(|line| println!("{line}"));
}

fn main() {
    let bench = Bench::from_args();
    // reqwest takes what the process has for its own.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Ended before the process is, with its threads: a token's library may be at work on one.
    Runtime::new().unwrap().block_on(run(&bench));
}
