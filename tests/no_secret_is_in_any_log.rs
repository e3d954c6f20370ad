//! No key, token, PIN, secret id or passphrase is in any log at level trace, whoever writes it, nor in any error.
//!
//! Everything that the process logs is kept: of `tracing` and of `log`, of ours and of every client below it. All
//! vaults are used with secrets that are known here, well and badly; servers that answer as none should repeat to us what we
//! sent them.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod real;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    error::Error,
    fmt::{Debug, Write},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::{
    crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedKey},
    vault::{
        Clock, CredentialError, KeyKind, KeyVault, LocalVault, LocalVaultOptions, Passphrase, PassphraseCost,
        SystemClock, SystemEntropy, VaultError, WrapContext,
        aws::{AwsCredentialSource, AwsCredentials, AwsOptions, AwsVault},
        azure::{
            AzureCredential, AzureOptions, AzureVault,
            azure_core::{
                self,
                credentials::{AccessToken, TokenCredential, TokenRequestOptions},
                time::OffsetDateTime,
            },
        },
        pkcs11::{Pin, PinError, PinSource, Pkcs11Options, Pkcs11Vault},
        serve::{KeyVaultServer, Permission, ServerOptions},
        testing::servers::{Answer, Bao, Kryoptic, Ministack, Request, Rogue, SoftHsm, Speaks},
        transit::{Secret, SecretSource, TransitLogin, TransitOptions, TransitVault},
    },
};
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use real::{Customer, Owner, Real, key_id, openbao_server, run as in_bao};
use serde_json::{Value, json};
use tracing::{Event, Metadata, Subscriber, field::Field, span};

/// What was logged, in this process, by whomever.
static LOGGED: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Line {
    by: &'static str,
    target: String,
    level: String,
    text: String,
}

fn keep(by: &'static str, target: &str, level: impl ToString, text: String) {
    let line = Line { by, target: target.into(), level: level.to_string(), text };
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

struct Tracing(AtomicU64);

#[derive(Default)]
struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Tracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        keep("tracing", span.metadata().target(), "SPAN", format!("{} {}", span.metadata().name(), fields.0));
        span::Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        keep("tracing", "a span", "SPAN", fields.0);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        keep("tracing", event.metadata().target(), event.metadata().level(), fields.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        keep("log", record.target(), record.level(), record.args().to_string());
    }

    fn flush(&self) {}
}

/// The secrets of a run, and what was printed that must not tell them.
#[derive(Default)]
struct Run {
    canaries: Vec<(String, Vec<u8>)>,
    printed: Vec<(String, String)>,
    failed: usize,
}

impl Run {
    /// Makes up a secret.
    fn canary(&mut self, what: &str) -> String {
        let secret = format!("canary-{}-7Qz9{:03}xW", what.replace(' ', "-"), self.canaries.len());
        self.knows(what, secret.as_bytes());
        secret
    }

    /// This is a secret.
    fn knows(&mut self, what: &str, secret: &[u8]) {
        self.canaries.push((what.into(), secret.into()));
    }

    fn shown(&mut self, what: &str, shown: &dyn Debug) {
        self.printed.push((what.into(), format!("{shown:?} {shown:#?}")));
    }

    /// That a call failed, with all that there is to print of it.
    fn error(&mut self, what: &str, error: &(dyn Error + 'static)) {
        self.failed += 1;
        let mut text = format!("{error} {error:?} {error:#?}");
        let mut next = error.source();
        while let Some(source) = next {
            write!(text, " {source} {source:?}").unwrap();
            next = source.source();
        }
        self.printed.push((what.into(), text));
    }

    fn outcome<T>(&mut self, what: &str, answer: Result<T, VaultError>) {
        if let Err(e) = answer {
            self.error(what, &e);
        }
    }

    fn found_in(&self, text: &str) -> BTreeSet<String> {
        let found = self.canaries.iter().flat_map(|(what, secret)| {
            let forms = forms(secret).into_iter().filter(|(_, form)| text.contains(form));
            forms.map(move |(form, _)| format!("{what} ({form})"))
        });
        found.collect()
    }
}

/// Everything that it would look like.
fn forms(secret: &[u8]) -> Vec<(&'static str, String)> {
    let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let hexes = |bytes: &[u8]| format!("{bytes:x?}").trim_matches(['[', ']']).to_owned();
    let escaped = format!("{:?}", Bytes::copy_from_slice(secret));
    let mut forms = vec![
        ("hex", HEXLOWER.encode(secret)),
        ("hex in capitals", HEXUPPER.encode(secret)),
        ("base64", BASE64_NOPAD.encode(secret)),
        ("base64url", BASE64URL_NOPAD.encode(secret)),
        ("list of bytes", list(secret)),
        ("list of bytes in hex", hexes(secret)),
        ("escaped", escaped.trim_start_matches("b\"").trim_end_matches('"').to_owned()),
        ("base64 as a list of bytes", list(BASE64_NOPAD.encode(secret).as_bytes())),
        ("base64url as a list of bytes", list(BASE64URL_NOPAD.encode(secret).as_bytes())),
    ];
    forms.push(("text", String::from_utf8_lossy(secret).into_owned()));
    forms
}

/// A key that nobody logs by chance.
fn secret_key() -> [u8; 32] {
    std::array::from_fn(|n| u8::try_from(n).unwrap().wrapping_mul(37) ^ 0xa6)
}

fn aek() -> Aek {
    let fill = |key: &mut [u8; 32]| {
        *key = secret_key();
        Ok::<_, Infallible>(())
    };
    Aek::try_from_fn(fill).unwrap()
}

fn context(account: u8) -> WrapContext {
    let account = AccountId::from_bytes([account; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

/// Uses a vault well, if it lets itself be used, and badly.
async fn exercise(run: &mut Run, what: &str, vault: &dyn KeyVault, key: &KeyId) -> Option<WrappedKey> {
    run.shown(what, &vault);
    let foreign = key_id("local://nobody/keys/canary");
    let missing = key_id(&key.as_str().replace("payroll", "missing"));
    for id in [key, &missing, &foreign] {
        run.outcome(what, vault.key_properties(id).await);
        run.outcome(what, vault.public_key(id).await);
        if id != key {
            run.outcome(what, vault.wrap_key(id, &aek(), &context(1)).await);
        }
    }
    let wrapped = match vault.wrap_key(key, &aek(), &context(1)).await {
        Ok(wrapped) => wrapped,
        Err(e) => {
            run.error(what, &e);
            return None;
        }
    };
    unwrap_badly(run, what, vault, &wrapped).await;
    let unwrapped = vault.unwrap_key(&wrapped, &context(1)).await.unwrap();
    assert_eq!(unwrapped.expose(), &secret_key(), "{what}");
    run.shown(what, &unwrapped);
    run.shown(what, &wrapped);
    Some(wrapped)
}

async fn unwrap_badly(run: &mut Run, what: &str, vault: &dyn KeyVault, wrapped: &WrappedKey) {
    let of = |bytes: Vec<u8>| WrappedKey { bytes, ..wrapped.clone() };
    let mut tampered = wrapped.bytes.clone();
    *tampered.last_mut().unwrap() ^= 1;
    let cut = wrapped.bytes[..wrapped.bytes.len() - 1].to_vec();
    let other = if wrapped.algorithm == WrapAlgorithm::AwsKms {
        WrapAlgorithm::Transit
    } else {
        WrapAlgorithm::AwsKms
    };
    for wrapped in [
        of(tampered),
        of(cut),
        of(vec![]),
        WrappedKey { algorithm: other, ..wrapped.clone() },
        wrapped.clone(),
    ] {
        // Under another account as well, which some vaults can't tell.
        run.outcome(what, vault.unwrap_key(&wrapped, &context(2)).await);
    }
}

#[derive(Debug)]
struct Given(&'static str);

impl PinSource for Given {
    fn pin(&self) -> Result<Pin, PinError> {
        Pin::new(self.0.into())
    }
}

/// A token under a PIN of ours, which the one of the guard is too short for: it could be in a log by chance.
async fn token(
    run: &mut Run,
    what: &str,
    module: &std::path::Path,
    label: &str,
    so_pin: &str,
    slot: [&str; 2],
) {
    let pin: &'static str = run.canary(&format!("{what} pin")).leak();
    let mut command = Command::new("softhsm2-util");
    command.arg("--module").arg(module).arg("--init-token").args(slot);
    command.args(["--label", label, "--so-pin", so_pin, "--pin", pin]);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{made:?}");

    let wrong: &'static str = run.canary(&format!("{what} wrong pin")).leak();
    let open = async |pin| {
        let options = Pkcs11Options::new(module, label, Arc::new(Given(pin))).recoverable(true);
        Pkcs11Vault::open(options).await.unwrap()
    };
    let refused = open(wrong).await;
    let key = refused.key_id("payroll", KeyKind::Aes256).unwrap();
    for _ in 0..2 {
        assert!(exercise(run, what, &refused, &key).await.is_none(), "{what}: the wrong PIN");
    }
    let vault = open(pin).await;
    let key = vault.create_key("payroll", KeyKind::Aes256).await.unwrap();
    let wrapped = exercise(run, what, &vault, &key).await.unwrap();
    vault.disable(&key).await.unwrap();
    assert!(exercise(run, what, &vault, &key).await.is_none());
    unwrap_badly(run, what, &vault, &wrapped).await;
    vault.enable(&key).await.unwrap();
    // By RSA, where the token can use it so.
    if let Ok(key) = vault.create_key("payroll-rsa", "rsa-2048".parse().unwrap()).await {
        exercise(run, what, &vault, &key).await.unwrap();
    }
}

fn source(secret: &str) -> SecretSource {
    SecretSource::value(Secret::new(secret.to_owned()))
}

fn transit(url: String, login: TransitLogin) -> impl KeyVault {
    let options = TransitOptions::new(url).authority("acme").allow_plain_http_to_loopback();
    TransitVault::connect(options, login).unwrap()
}

async fn openbao(run: &mut Run, bao: Bao) {
    const WHAT: &str = "openbao";
    let bao = openbao_server(bao).await;
    let customer = Customer::openbao(&bao, "openbao", "*").await;
    let key = customer.owner.create("payroll").await;
    let read = async |field: &str, arguments: &[&str]| {
        let (command, rest) = arguments.split_first().unwrap();
        let field = format!("-field={field}");
        in_bao(&bao, &[&[*command, &field][..], rest].concat()).await.trim().to_owned()
    };
    let role = "auth/approle/role/openbao";
    let role_id = read("role_id", &["read", &format!("{role}/role-id")]).await;
    let secret_id = read("secret_id", &["write", "-f", &format!("{role}/secret-id")]).await;
    let token = read("token", &["write", "auth/token/create", "policies=openbao", "ttl=1h"]).await;
    run.knows("secret id", secret_id.as_bytes());
    run.knows("token of openbao", token.as_bytes());
    let wrong = [run.canary("wrong secret id"), run.canary("wrong token")];

    let logins = [
        TransitLogin::app_role(source(&role_id), source(&secret_id)),
        TransitLogin::Token(source(&token)),
        TransitLogin::app_role(source(&role_id), source(&wrong[0])),
        TransitLogin::Token(source(&wrong[1])),
    ];
    for (n, login) in logins.into_iter().enumerate() {
        let is_good = n < 2;
        let vault = transit(bao.url(), login);
        let wrapped = exercise(run, WHAT, &vault, &key).await;
        assert_eq!(wrapped.is_some(), is_good, "login {n}");
        let Some(wrapped) = wrapped else { continue };
        customer.owner.deny().await;
        unwrap_badly(run, WHAT, &vault, &wrapped).await;
        assert!(exercise(run, WHAT, &vault, &key).await.is_none(), "denied");
        customer.owner.allow("*").await;
        if n == 1 {
            in_bao(&bao, &["token", "revoke", &token]).await;
            assert!(exercise(run, WHAT, &vault, &key).await.is_none(), "revoked");
        }
    }
    let vault = customer.vault.clone();
    exercise(run, WHAT, &*vault, &key).await.unwrap();
    real::blocking(&bao, Bao::kill).await;
    assert!(exercise(run, WHAT, &*vault, &key).await.is_none(), "killed");
}

/// A token that somebody else asked for.
struct Token(String);

impl Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

#[async_trait]
impl TokenCredential for Token {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let expires = i64::try_from(SystemClock.now().wall.as_secs() + 3600).unwrap();
        let expires = OffsetDateTime::from_unix_timestamp(expires).unwrap();
        Ok(AccessToken::new(self.0.clone(), expires))
    }
}

fn azure(url: &str, pem: &str, credential: AzureCredential) -> impl KeyVault + use<> {
    let options = AzureOptions::new(url, credential).test_server().authority_host(url).roots_pem(pem);
    AzureVault::connect(options).unwrap()
}

fn by_secret(tenant: &str, secret: &str) -> AzureCredential {
    let secret = secret.to_owned();
    AzureCredential::client_secret(tenant, "engine", move || Ok(secret.clone().into()))
}

async fn key_vault(run: &mut Run, folder: &std::path::Path) {
    const WHAT: &str = "key vault";
    let options = LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
    let keys = LocalVault::create(folder.join("served.vault"), "acme", options).await.unwrap();
    let server = KeyVaultServer::start(Arc::new(keys.clone()), ServerOptions::default()).await.unwrap();
    let secret = run.canary("client secret");
    server.add_client_with("engine", &secret, &Permission::WRAPPING);
    let token = server.issue_token("engine", Duration::from_secs(3600)).unwrap().to_string();
    run.knows("token of key vault", token.as_bytes());
    let server = Arc::new(server);
    let owner = Owner::KeyVault { keys, server: server.clone() };
    let key = owner.create("payroll").await;
    let wrong = [run.canary("wrong client secret"), run.canary("wrong bearer token")];
    let credentials = [
        // First: all tokens are ended further down.
        AzureCredential::shared(Arc::new(Token(token))),
        by_secret(server.tenant(), &secret),
        by_secret(server.tenant(), &wrong[0]),
        AzureCredential::shared(Arc::new(Token(wrong[1].clone()))),
    ];
    for (n, credential) in credentials.into_iter().enumerate() {
        let is_good = n < 2;
        run.shown(WHAT, &credential);
        let vault = azure(server.url(), server.authority_pem(), credential);
        let wrapped = exercise(run, WHAT, &vault, &key).await;
        assert_eq!(wrapped.is_some(), is_good, "credential {n}");
        let Some(wrapped) = wrapped else { continue };
        owner.disable(&key).await;
        unwrap_badly(run, WHAT, &vault, &wrapped).await;
        owner.enable(&key).await;
        server.permit("engine", &[]).unwrap();
        assert!(exercise(run, WHAT, &vault, &key).await.is_none(), "denied");
        server.permit("engine", &Permission::WRAPPING).unwrap();
        server.throttle(Duration::from_secs(86_400), Some(3));
        exercise(run, WHAT, &vault, &key).await;
        server.unthrottle();
        server.expire_tokens();
        exercise(run, WHAT, &vault, &key).await;
    }
    // Who speaks to another server than it trusts.
    let other = Rogue::always(Speaks::HttpsOfAnotherAuthority, Answer::Nothing);
    let vault = azure(&other.url(), server.authority_pem(), by_secret("tenant", &secret));
    let key = key_id(&format!("{}/keys/payroll/0123456789abcdef0123456789abcdef", other.url()));
    assert!(exercise(run, WHAT, &vault, &key).await.is_none(), "untrusted");
}

#[derive(Debug)]
struct AccessKey {
    secret: &'static str,
    session: &'static str,
}

#[async_trait]
impl AwsCredentialSource for AccessKey {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        let session = Some(self.session.to_owned());
        Ok(AwsCredentials::new("AKIAIOSFODNN7EXAMPLE", self.secret, session, None))
    }
}

fn aws(run: &mut Run, url: &str, account: &str) -> impl KeyVault + use<> {
    let (secret, session) = (run.canary("secret access key").leak(), run.canary("session token").leak());
    let options = AwsOptions::new("eu-west-1", account)
        .credentials(Arc::new(AccessKey { secret, session }))
        .endpoint(url)
        .allow_plain_http_to_loopback();
    AwsVault::connect(options).unwrap()
}

async fn aws_kms(run: &mut Run, server: Ministack) {
    const WHAT: &str = "aws kms";
    let customer = Customer::aws(&Arc::new(server), "aws");
    let key = customer.owner.create("payroll").await;
    let Owner::Aws(server) = &customer.owner else { panic!("it is AWS's") };
    let vault = aws(run, server.url(), "000000000000");
    let wrapped = exercise(run, WHAT, &vault, &key).await.unwrap();
    customer.owner.disable(&key).await;
    assert!(exercise(run, WHAT, &vault, &key).await.is_none(), "disabled");
    unwrap_badly(run, WHAT, &vault, &wrapped).await;
    customer.owner.schedule_deletion(&key).await;
    assert!(exercise(run, WHAT, &vault, &key).await.is_none(), "deleted");
}

async fn local(run: &mut Run, folder: &std::path::Path) {
    const WHAT: &str = "local";
    let (good, wrong) = (run.canary("passphrase"), run.canary("wrong passphrase"));
    let options = |text: &str| {
        LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
            .cost(PassphraseCost::new(8, 1, 1).unwrap())
            .passphrase(Passphrase::new(text.to_owned()).unwrap())
    };
    let path = folder.join("protected.vault");
    let vault = LocalVault::create(&path, "acme", options(&good)).await.unwrap();
    let key = vault.create_key("payroll").await.unwrap();
    exercise(run, WHAT, &vault, &key).await.unwrap();
    vault.disable(&key).await.unwrap();
    assert!(exercise(run, WHAT, &vault, &key).await.is_none());
    run.error(WHAT, &LocalVault::open(&path, options(&wrong)).await.unwrap_err());
    let opened = LocalVault::open(&path, options(&good)).await.unwrap();
    opened.enable(&key).await.unwrap();
    exercise(run, WHAT, &opened, &key).await.unwrap();
}

/// What servers say that repeat what was sent to them, and tell a key that nobody asked for.
fn echoes(request: &Request) -> Vec<Answer> {
    let headers: Vec<_> = request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let echo = format!("{ECHOED}{} with {}", String::from_utf8_lossy(&request.body), headers.join("; "));
    let key = (BASE64.encode(&secret_key()), BASE64URL_NOPAD.encode(&secret_key()));
    let said = json!({
        "__type": "ValidationException",
        "message": echo,
        "errors": [echo],
        "error": { "code": "BadParameter", "message": echo, "innererror": { "code": echo } },
    });
    let unwrapped = json!({
        "Plaintext": key.0,
        "value": key.1,
        "data": { "plaintext": key.0, "ciphertext": echo },
    });
    let mut answers: Vec<_> =
        [200, 400, 401, 403, 404, 429, 500].map(|status| Answer::json(status, said.to_string())).into();
    let told = |body: &Value| body.to_string().into_bytes();
    answers.push(Answer::json(200, told(&unwrapped)));
    answers.push(Answer::json(200, told(&unwrapped)[..told(&unwrapped).len() - 1].to_vec()));
    answers.push(Answer::Truncated { body: told(&unwrapped), missing: 7 });
    answers.push(Answer::json(200, echo.clone()));
    let sent = ["authorization", "x-vault-token"].into_iter().find_map(|name| request.header(name));
    let elsewhere = format!("https://127.0.0.1:1/{}", sent.unwrap_or("nothing").replace(' ', "/"));
    answers.push(Answer::redirect(&elsewhere));
    answers.push(Answer::Raw(echo.into_bytes()));
    answers
}

const ECHOES: usize = 13;

/// Where AWS's SDK logs an error's message as it came, at level trace: what a server repeats there is not ours to stop.
const SDK: &str = "aws_smithy_runtime::client::orchestrator";
/// What no answer of KMS's has in it, and each echo.
const ECHOED: &str = "what was sent is repeated: ";

/// Each of these answers, on each path that the vault asks for keys at.
async fn echoed(run: &mut Run) {
    for n in 0..ECHOES {
        let echo = move |request: &Request| echoes(request).swap_remove(n);

        let token = run.canary("echoed token of transit");
        let server = Rogue::start(Speaks::Http, move |request| {
            if request.target.ends_with("lookup-self") {
                let data = json!({ "ttl": 3600, "renewable": false, "expire_time": null });
                return Answer::json(200, json!({ "data": data }).to_string());
            }
            // A wrap looks at the key first.
            if request.method == "GET" && request.target.contains("/keys/") {
                let created = json!({ "1": 1_700_000_000 });
                let data = json!({
                    "type": "aes256-gcm96", "keys": created, "latest_version": 1, "min_decryption_version": 1,
                    "min_encryption_version": 0, "min_available_version": 0, "derived": false, "exportable": false,
                    "allow_plaintext_backup": false, "deletion_allowed": false, "name": "payroll",
                });
                return Answer::json(200, json!({ "data": data }).to_string());
            }
            echo(request)
        });
        let vault = transit(server.url(), TransitLogin::Token(source(&token)));
        let key = key_id("transit://acme/transit/keys/payroll/1");
        suffer(run, "transit that echoes", &vault, &key, of_transit(&key)).await;
        let asked = server.requests();
        assert!(asked.iter().any(|request| request.target.contains("/encrypt/")), "no wrap: {asked:?}");

        let login = run.canary("echoed secret id");
        let server = Rogue::start(Speaks::Http, echo);
        let vault = transit(server.url(), TransitLogin::app_role(source("role"), source(&login)));
        suffer(run, "login that echoes", &vault, &key, of_transit(&key)).await;

        let server = Rogue::start(Speaks::Http, echo);
        let key = key_id("arn:aws:kms:eu-west-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab");
        let vault = aws(run, &server.url(), "000000000000");
        let bytes = vec![7; 184];
        let wrapped = WrappedKey { key_id: key.clone(), algorithm: WrapAlgorithm::AwsKms, bytes };
        suffer(run, "aws that echoes", &vault, &key, wrapped).await;

        let (secret, token) = (run.canary("echoed client secret"), run.canary("echoed token of key vault"));
        for at_login in [false, true] {
            let token = token.clone();
            let server = Rogue::start(Speaks::Https, move |request| {
                if request.target.starts_with("/tenant/oauth2") {
                    let given = json!({ "token_type": "Bearer", "expires_in": 3600, "access_token": token });
                    return if at_login { echo(request) } else { Answer::json(200, given.to_string()) };
                }
                if request.header("authorization").is_none() {
                    let challenge = r#"Bearer authorization="https://localhost/tenant", resource="https://vault.azure.net""#;
                    return Answer::json(401, "").with("WWW-Authenticate", challenge);
                }
                // A wrap looks at the key first.
                if request.method == "GET" {
                    let kid = format!("https://{}/keys/payroll/{VERSION}", request.header("host").unwrap());
                    let key = json!({ "kid": kid, "kty": "oct-HSM", "key_ops": ["wrapKey", "unwrapKey"] });
                    let attributes = json!({ "enabled": true, "recoveryLevel": "Recoverable" });
                    return Answer::json(200, json!({ "key": key, "attributes": attributes }).to_string());
                }
                echo(request)
            });
            let key = key_id(&format!("{}/keys/payroll/{VERSION}", server.url()));
            let vault = azure(&server.url(), server.authority().unwrap(), by_secret("tenant", &secret));
            let bytes = vec![7; 40];
            let wrapped = WrappedKey { key_id: key.clone(), algorithm: WrapAlgorithm::Aes256Kw, bytes };
            suffer(run, "key vault that echoes", &vault, &key, wrapped).await;
            let asked = server.requests();
            let wraps = asked.iter().any(|request| request.target.contains("wrapkey"));
            assert!(wraps || at_login, "no wrap: {asked:?}");
        }
    }
}

const VERSION: &str = "0123456789abcdef0123456789abcdef";

fn of_transit(key: &KeyId) -> WrappedKey {
    let bytes = format!("vault:v1:{}", BASE64.encode(&[7; 60])).into_bytes();
    WrappedKey { key_id: key.clone(), algorithm: WrapAlgorithm::Transit, bytes }
}

async fn suffer(run: &mut Run, what: &str, vault: &dyn KeyVault, key: &KeyId, wrapped: WrappedKey) {
    run.outcome(what, vault.wrap_key(key, &aek(), &context(1)).await);
    run.outcome(what, vault.unwrap_key(&wrapped, &context(1)).await);
    run.outcome(what, vault.key_properties(key).await);
}

/// An account's whole life, for what engine and keyring log.
async fn engine(run: &mut Run, folder: &std::path::Path) {
    let content = run.canary("content of a block");
    let customer = Customer::local(folder).await;
    let key = customer.owner.create("payroll").await;
    let mut real = Real::over(std::slice::from_ref(&customer), real::policy()).await;
    let account = real.create_account(&customer, key.clone()).await;
    account.put(&real::block(1), content.clone().into()).await.unwrap();
    customer.owner.disable(&key).await;
    real.restart().await;
    let account = real.engine.account(&real::name(customer.name)).await.unwrap();
    let refused = account.get(&real::block(1)).await.unwrap_err();
    assert!(real::is_revoked::<()>(&Err(refused)));
    run.error("engine", &account.get(&real::block(1)).await.unwrap_err());
    customer.owner.enable(&key).await;
    real.restart().await;
    let account = real.engine.account(&real::name(customer.name)).await.unwrap();
    while account.get(&real::block(1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    run.shown("engine", &account);
    run.shown("engine", &real.engine);
    real.engine.close().await.unwrap();
}

#[test]
fn whatever_a_secret_looks_like_it_is_found() {
    let mut run = Run::default();
    run.knows("key", &secret_key());
    for (form, text) in forms(&secret_key()) {
        let found = run.found_in(&format!("before {text} after"));
        assert!(found.contains(&format!("key ({form})")), "{form}: {found:?}");
    }
    let body = Bytes::from(format!("{{\"value\":\"{}\"}}", BASE64.encode(&secret_key())));
    for shown in [format!("{body:?}"), format!("{:?}", body.to_vec())] {
        assert!(!run.found_in(&shown).is_empty(), "{shown}");
    }
    assert!(run.found_in("nothing of it").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_secret_is_logged_at_any_level_nor_in_an_error() {
    let (Some(softhsm), Some(kryoptic), Some(bao), Some(ministack)) =
        (SoftHsm::start(), Kryoptic::start(), Bao::dev(), Ministack::start())
    else {
        return;
    };
    tracing::subscriber::set_global_default(Tracing(AtomicU64::new(1))).unwrap();
    log::set_logger(&Log).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::default();
    run.knows("account key", &secret_key());

    let (label, so_pin) = (softhsm.token(), softhsm.so_pin());
    token(&mut run, "softhsm", softhsm.module(), label, so_pin, ["--token", label]).await;
    let (label, so_pin) = (kryoptic.token(), kryoptic.so_pin());
    token(&mut run, "kryoptic", kryoptic.module(), label, so_pin, ["--slot", "0"]).await;
    openbao(&mut run, bao).await;
    key_vault(&mut run, folder.path()).await;
    aws_kms(&mut run, ministack).await;
    local(&mut run, folder.path()).await;
    echoed(&mut run).await;
    engine(&mut run, folder.path()).await;

    let logged = std::mem::take(&mut *LOGGED.lock().unwrap());
    let mut by_target: BTreeMap<(&str, &str), BTreeMap<&str, usize>> = BTreeMap::new();
    let mut leaks: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut leaked = |place: String, found: BTreeSet<String>, text: &str| {
        for secret in found {
            let example = text.chars().take(400).collect();
            leaks.entry(format!("{secret} in {place}")).or_insert((0, example)).0 += 1;
        }
    };
    let mut repeated = 0;
    for Line { by, target, level, text } in &logged {
        let of = target.split("::").next().unwrap();
        *by_target.entry((by, of)).or_default().entry(level).or_default() += 1;
        if target == SDK && level == "TRACE" && text.contains(ECHOED) && !run.found_in(text).is_empty() {
            repeated += 1;
            continue;
        }
        leaked(format!("{by} {target} {level}"), run.found_in(text), text);
    }
    for (what, text) in &run.printed {
        leaked(format!("what {what} prints"), run.found_in(text), text);
    }
    println!("{} secrets, {} lines logged, {} errors", run.canaries.len(), logged.len(), run.failed);
    println!(
        "{repeated} lines of AWS's SDK repeat what a server that echoes said: docs/vault-aws.md says so"
    );
    println!("| by | crate | lines a level |\n| --- | --- | --- |");
    for ((by, of), levels) in &by_target {
        println!("| {by} | {of} | {levels:?} |");
    }
    for (leak, (times, example)) in &leaks {
        println!("LEAK {leak}, {times} times: {example}");
    }
    let heard = [
        ("tracing", "cofferdam_vault"),
        ("tracing", "aws_smithy_runtime"),
        ("tracing", "hyper_util"),
        ("tracing", "typespec_client_core"),
        ("log", "reqwest"),
    ];
    for of in heard {
        assert!(by_target.contains_key(&of), "nothing of {of:?} was heard");
    }
    assert!(run.failed > 200, "only {} calls failed", run.failed);
    assert!(leaks.is_empty(), "{} leaks, listed above", leaks.len());
}
