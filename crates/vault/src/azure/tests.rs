//! Answers as Microsoft publishes them (azure-rest-api-specs, Key Vault's error codes), and what the adapter makes of them.
//! What crosses a real socket is in `tests/azure/against_our_server.rs`.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use azure_core::{
    credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    http::{AsyncRawResponse, Body, Request, StatusCode, headers::Headers},
    time::OffsetDateTime,
};
use cofferdam_crypto::{AccountId, Epoch, KeyScope, Provider, rsa::RsaSize};

use super::*;
use crate::{KeyKind, Timestamp, testing::ManualClock};

const VAULT: &str = "https://myvault.vault.azure.net";
/// The vault's challenge, as it is published.
const CHALLENGE: &str = r#"Bearer authorization="https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47", resource="https://vault.azure.net""#;
/// "Get key", an example of azure-rest-api-specs.
const KEY: &str = r#"{"key":{"kid":"https://myvault.vault.azure.net/keys/CreateSoftKeyTest/78deebed173b48e48f55abf87ed4cf71","kty":"RSA","key_ops":["encrypt","decrypt","sign","verify","wrapKey","unwrapKey"],"n":"2HJAE5fU3Cw2Rt9hEuq-F6XjINKGa-zskfISVqopqUy60GOs2eyhxbWbJBeUXNor_gf-tXtNeuqeBgitLeVa640UDvnEjYTKWjCniTxZRaU7ewY8BfTSk-7KxoDdLsPSpX_MX4rwlAx-_1UGk5t4sQgTbm9T6Fm2oqFd37dsz5-Gj27UP2GTAShfJPFD7MqU_zIgOI0pfqsbNL5xTQVM29K6rX4jSPtylZV3uWJtkoQIQnrIHhk1d0SC0KwlBV3V7R_LVYjiXLyIXsFzSNYgQ68ZjAwt8iL7I8Osa-ehQLM13DVvLASaf7Jnu3sC3CWl3Gyirgded6cfMmswJzY87w","e":"AQAB"},"attributes":{"enabled":true,"created":1493942451,"updated":1493942451,"recoveryLevel":"Recoverable+Purgeable"},"tags":{"purpose":"unit test","test name ":"CreateGetDeleteKeyTest"}}"#;
/// The value of "wrap key", an example of azure-rest-api-specs.
const WRAPPED: &str = "khwIe26NuAZazS7upywDBpGRmRNMW5-4h_JQKxOdB78nYVxZWnBXwCxOv7a3Sr_mCjiVzKsoQQZwL-CJzhYa0512tfYem56zls5a44y5QsdcfvuSzOvpthVhA9XkEfCJSqSY_sip5d8BelT_w_ikvd_8KqiQ_0H54RqYUN8svCpu28paHgBocHFNXTQ9NtU9ec2qgESXk7Jp4OTy9HJtQJavKDUqTJ3YmtLxUgsgBCe0FNMHUSEYC0Ys6PavYzdTwIzYCq84idmAxJOj-O_6eALJFH2sDTOQYHjzOae2t8eFmw6C-t55qjrCI91a9mUJEGPhYixiG4gR4PaEJ7wGvw";
/// What that example wraps: 32 bytes.
const UNWRAPPED: &str = "ovQIlbB0DgWhZA7sgkPxbg9H-Ly-VlNGPSgGrrZvlIo";
const LATEST: &str = "https://myvault.vault.azure.net/keys/CreateSoftKeyTest";
const EXACT: &str = "https://myvault.vault.azure.net/keys/CreateSoftKeyTest/78deebed173b48e48f55abf87ed4cf71";
const OLDER: &str = "https://myvault.vault.azure.net/keys/CreateSoftKeyTest/11deebed173b48e48f55abf87ed4cf71";

/// Status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, String);

/// A vault that answers what it was told to, and challenges who has no token.
#[derive(Debug, Default)]
struct Recorded {
    answers: Mutex<VecDeque<Answer>>,
    sent: Mutex<Vec<Sent>>,
    challenge: Mutex<Option<String>>,
}

impl Recorded {
    /// From now on, the vault asks for a token of this resource.
    fn challenge(&self, resource: &str) {
        *self.challenge.lock().unwrap() = Some(CHALLENGE.replace("https://vault.azure.net", resource));
    }
}

#[derive(Debug)]
struct Sent {
    line: String,
    token: Option<String>,
    body: String,
}

#[async_trait]
impl HttpClient for Recorded {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let token = request.headers().iter().find(|(name, _)| name.as_str() == "authorization");
        let token = token.map(|(_, value)| value.as_str().to_owned());
        let Body::Bytes(body) = request.body() else { panic!("a stream") };
        let challenged = token.is_none();
        self.sent.lock().unwrap().push(Sent {
            line: format!("{} {}", request.method(), request.url().path()),
            token,
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        let (status, headers, body) = match challenged {
            true => {
                let challenge = self.challenge.lock().unwrap().clone();
                (401, vec![("www-authenticate", challenge.unwrap_or(CHALLENGE.into()))], String::new())
            }
            false => self.answers.lock().unwrap().pop_front().expect("an answer for each request"),
        };
        let mut sent = Headers::new();
        headers.into_iter().for_each(|(name, value)| sent.insert(name, value));
        Ok(AsyncRawResponse::from_bytes(StatusCode::from(status), sent, body))
    }
}

/// Gives `token-1`, `token-2` and so on, each good for an hour by the test's clock.
#[derive(Debug)]
struct TokenService {
    clock: Arc<ManualClock>,
    asked: AtomicUsize,
    down: Mutex<bool>,
    scopes: Mutex<Vec<String>>,
}

#[async_trait]
impl TokenCredential for TokenService {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.scopes.lock().unwrap().extend(scopes.iter().map(|s| s.to_string()));
        let n = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if *self.down.lock().unwrap() {
            return Err(Error::with_message(ErrorKind::Io, "login.microsoftonline.com does not answer"));
        }
        let end = self.clock.now().wall + Duration::from_secs(3600);
        let end = OffsetDateTime::from_unix_timestamp(end.as_secs().try_into().unwrap()).unwrap();
        Ok(AccessToken::new(Secret::new(format!("token-{n}")), end))
    }
}

struct World {
    vault: Reauthenticating<AzureVault>,
    recorded: Arc<Recorded>,
    tokens: Arc<TokenService>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self::at(VAULT, |tokens| AzureCredential::new("test", move |_| Ok(tokens.clone())))
    }

    fn at(url: &str, credential: impl FnOnce(Arc<TokenService>) -> AzureCredential) -> Self {
        let clock = Arc::new(ManualClock::default());
        let recorded = Arc::new(Recorded::default());
        let tokens = Arc::new(TokenService {
            clock: clock.clone(),
            asked: AtomicUsize::new(0),
            down: Mutex::new(false),
            scopes: Mutex::default(),
        });
        let options = AzureOptions::new(url, credential(tokens.clone())).clock(clock.clone());
        let vault = AzureVault::over(options, recorded.clone()).unwrap();
        let credential = vault.credential();
        let vault = Reauthenticating::new(vault, credential, clock.clone());
        Self { vault, recorded, tokens, clock }
    }

    fn answer(&self, status: u16, body: impl Into<String>) -> &Self {
        self.answer_with(status, vec![], body)
    }

    fn answer_with(
        &self,
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: impl Into<String>,
    ) -> &Self {
        self.recorded.answers.lock().unwrap().push_back((status, headers, body.into()));
        self
    }

    /// The lines of what was sent with a token.
    fn lines(&self) -> Vec<String> {
        let sent = self.recorded.sent.lock().unwrap();
        sent.iter().filter(|sent| sent.token.is_some()).map(|sent| sent.line.clone()).collect()
    }

    fn sent_tokens(&self) -> Vec<String> {
        let sent = self.recorded.sent.lock().unwrap();
        sent.iter().filter_map(|sent| sent.token.clone()).map(|t| t.replace("Bearer ", "")).collect()
    }

    async fn wrap(&self, key: &str) -> Result<WrappedKey, VaultError> {
        self.vault.wrap_key(&id(key), &aek(), &context()).await
    }

    async fn unwrap(&self, wrapped: &WrappedKey) -> Result<Aek, VaultError> {
        self.vault.unwrap_key(wrapped, &context()).await
    }

    async fn properties(&self, key: &str) -> Result<KeyProperties, VaultError> {
        self.vault.key_properties(&id(key)).await
    }
}

fn id(key: &str) -> KeyId {
    KeyId::new(key).unwrap()
}

fn aek() -> Aek {
    Aek::try_from_fn(|out| BASE64URL_NOPAD.decode_mut(UNWRAPPED.as_bytes(), out).map(drop)).unwrap()
}

fn context() -> WrapContext {
    let account = AccountId::from_bytes([3; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

fn wrapped() -> WrappedKey {
    let bytes = BASE64URL_NOPAD.decode(WRAPPED.as_bytes()).unwrap();
    WrappedKey { key_id: id(EXACT), algorithm: WrapAlgorithm::RsaOaep256, bytes }
}

fn operated(kid: &str, value: &str) -> String {
    format!(r#"{{"kid":"{kid}","value":"{value}"}}"#)
}

/// An error as Key Vault writes it.
fn words(code: &str, message: &str, inner: &str) -> String {
    match inner {
        "" => format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#),
        _ => format!(
            r#"{{"error":{{"code":"{code}","message":"{message}","innererror":{{"code":"{inner}"}}}}}}"#
        ),
    }
}

fn oct() -> String {
    let kid = EXACT.replace("vault.azure", "managedhsm.azure");
    format!(
        r#"{{"attributes":{{"created":1747934545,"enabled":true,"exportable":false,"recoverableDays":90,"recoveryLevel":"Recoverable","updated":1747934545}},"key":{{"key_ops":["wrapKey","unwrapKey"],"kid":"{kid}","kty":"oct-HSM"}}}}"#
    )
}

#[tokio::test]
async fn a_wrap_asks_what_the_key_is_and_names_the_version_that_wrapped() {
    for key in [LATEST, EXACT] {
        let world = World::new();
        world.answer(200, KEY).answer(200, operated(EXACT, WRAPPED));
        assert_eq!(world.wrap(key).await.unwrap(), wrapped(), "{key}");
        let get = if key == LATEST {
            "GET /keys/CreateSoftKeyTest/"
        } else {
            "GET /keys/CreateSoftKeyTest/78deebed173b48e48f55abf87ed4cf71"
        };
        let lines = world.lines();
        assert_eq!(lines[0], get);
        assert_eq!(lines[1], "POST /keys/CreateSoftKeyTest/78deebed173b48e48f55abf87ed4cf71/wrapkey");
        let sent = world.recorded.sent.lock().unwrap();
        assert_eq!(sent.last().unwrap().body, format!(r#"{{"alg":"RSA-OAEP-256","value":"{UNWRAPPED}"}}"#));
        assert!(sent[0].token.is_none() && sent[0].body.is_empty(), "the first question carries nothing");
        assert_eq!(*world.tokens.scopes.lock().unwrap(), ["https://vault.azure.net/.default"]);
    }
}

#[tokio::test]
async fn an_unwrap_asks_for_the_version_that_wrapped() {
    let world = World::new();
    world.answer(200, operated(EXACT, UNWRAPPED));
    assert_eq!(world.unwrap(&wrapped()).await.unwrap().expose(), aek().expose());
    assert_eq!(world.lines(), ["POST /keys/CreateSoftKeyTest/78deebed173b48e48f55abf87ed4cf71/unwrapkey"]);
    let sent = world.recorded.sent.lock().unwrap();
    assert_eq!(sent.last().unwrap().body, format!(r#"{{"alg":"RSA-OAEP-256","value":"{WRAPPED}"}}"#));
}

#[tokio::test]
async fn a_managed_hsms_symmetric_key_wraps_by_aes_key_wrap() {
    let url = VAULT.replace("vault.azure", "managedhsm.azure");
    let kid = EXACT.replace("vault.azure", "managedhsm.azure");
    let world = World::at(&url, |tokens| AzureCredential::new("test", move |_| Ok(tokens.clone())));
    world.recorded.challenge("https://managedhsm.azure.net");
    let value = BASE64URL_NOPAD.encode(&[9; 40]);
    world.answer(200, oct()).answer(200, operated(&kid, &value));
    let wrapped = world.wrap(&kid).await.unwrap();
    assert_eq!((wrapped.algorithm, wrapped.bytes.as_slice()), (WrapAlgorithm::Aes256Kw, [9; 40].as_slice()));
    assert_eq!(wrapped.key_id.as_str(), kid);
    world.answer(200, operated(&kid, UNWRAPPED));
    assert_eq!(world.unwrap(&wrapped).await.unwrap().expose(), aek().expose());
    let body = world.recorded.sent.lock().unwrap().pop().unwrap().body;
    assert_eq!(body, format!(r#"{{"alg":"A256KW","value":"{value}"}}"#));
    assert_eq!(*world.tokens.scopes.lock().unwrap(), ["https://managedhsm.azure.net/.default"]);
    world.answer(200, oct()).answer(200, oct());
    let properties = world.properties(&kid).await.unwrap();
    assert_eq!((properties.kind, properties.recoverable()), (KeyKind::Aes256, true));
    world.answer(200, oct());
    let no_public = world.vault.public_key(&id(&kid)).await.unwrap_err();
    assert_eq!(no_public.kind(), Kind::Other);
}

#[tokio::test]
async fn a_vault_that_asks_for_a_token_of_another_service_gets_none() {
    for resource in
        ["https://managedhsm.azure.net", "https://graph.microsoft.com", "https://evil.example", "x"]
    {
        let world = World::new();
        world.recorded.challenge(resource);
        let refused = world.unwrap(&wrapped()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Other, "{resource}");
        assert!(world.lines().is_empty() && world.tokens.asked.load(Ordering::Relaxed) == 0, "{resource}");
        assert!(world.recorded.sent.lock().unwrap()[0].body.is_empty(), "nor the wrapped key");
    }
}

#[tokio::test]
async fn what_is_not_the_vaults_is_refused_before_anything_is_sent() {
    let world = World::new();
    for other in [
        "https://globex.vault.azure.net/keys/CreateSoftKeyTest",
        "https://myvault.vault.azure.net/secrets/CreateSoftKeyTest",
        "https://myvault.vault.azure.net/keys/CreateSoftKeyTest/",
        "local://myvault/keys/CreateSoftKeyTest",
    ] {
        assert!(!world.vault.inner().owns(&id(other)), "{other}");
        assert_eq!(world.wrap(other).await.unwrap_err().kind(), Kind::Other, "{other}");
        assert_eq!(world.properties(other).await.unwrap_err().kind(), Kind::Other, "{other}");
        assert_eq!(world.vault.public_key(&id(other)).await.unwrap_err().kind(), Kind::Other, "{other}");
        let wrapped = WrappedKey { key_id: id(other), ..wrapped() };
        assert_eq!(world.unwrap(&wrapped).await.unwrap_err().kind(), Kind::Other, "{other}");
    }
    for key in [LATEST, EXACT] {
        assert!(world.vault.inner().owns(&id(key)), "{key}");
    }
    for bad in [
        WrappedKey { bytes: vec![1; 255], ..wrapped() },
        WrappedKey { bytes: vec![], ..wrapped() },
        WrappedKey { algorithm: WrapAlgorithm::Aes256Kw, ..wrapped() },
        WrappedKey { algorithm: WrapAlgorithm::AwsKms, ..wrapped() },
        WrappedKey { key_id: id(LATEST), ..wrapped() },
    ] {
        let error = world.unwrap(&bad).await.unwrap_err();
        assert_eq!((error.kind(), error.key_id()), (Kind::Corrupt, Some(&bad.key_id)), "{bad:?}");
    }
    assert!(world.recorded.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn properties_are_what_the_vault_says_of_the_key() {
    let world = World::new();
    world.answer(200, KEY);
    let latest = world.properties(LATEST).await.unwrap();
    assert_eq!((latest.key_id.as_str(), latest.latest.as_str()), (EXACT, EXACT));
    assert_eq!((latest.kind, latest.state), (KeyKind::Rsa(RsaSize::Rsa2048), KeyState::Enabled));
    assert_eq!((latest.soft_delete, latest.purge_protection, latest.recoverable()), (true, false, false));
    assert_eq!((latest.not_before, latest.expires_at), (None, None));
    let old = KEY.replace("/78dee", "/11dee");
    world.answer(200, old).answer(200, KEY);
    let older = world.properties(OLDER).await.unwrap();
    assert_eq!((older.key_id.as_str(), older.latest.as_str()), (OLDER, EXACT));
    assert_eq!(world.lines().len(), 3);
}

#[tokio::test]
async fn recoverability_is_read_from_the_recovery_level() {
    for (level, soft_delete, purge_protection) in [
        ("Purgeable", false, false),
        ("Recoverable+Purgeable", true, false),
        ("CustomizedRecoverable+Purgeable", true, false),
        ("Recoverable", true, true),
        ("Recoverable+ProtectedSubscription", true, true),
        ("CustomizedRecoverable", true, true),
        ("CustomizedRecoverable+ProtectedSubscription", true, true),
        ("Indestructible", false, false),
    ] {
        let world = World::new();
        world.answer(200, KEY.replace("Recoverable+Purgeable", level));
        let properties = world.properties(LATEST).await.unwrap();
        assert_eq!(
            (properties.soft_delete, properties.purge_protection),
            (soft_delete, purge_protection),
            "{level}"
        );
    }
    let world = World::new();
    world.answer(200, KEY.replace(r#","recoveryLevel":"Recoverable+Purgeable""#, ""));
    assert!(!world.properties(LATEST).await.unwrap().soft_delete, "not said is not promised");
}

#[tokio::test]
async fn a_keys_state_is_what_the_vault_says_of_it_and_of_its_dates() {
    let world = World::new();
    let now = world.clock.now().wall.as_secs();
    for (attributes, state, public) in [
        (r#""enabled":true"#.to_owned(), KeyState::Enabled, true),
        (r#""enabled":false"#.into(), KeyState::Disabled, false),
        (format!(r#""enabled":true,"exp":{now}"#), KeyState::Expired, false),
        (format!(r#""enabled":true,"exp":{}"#, now + 1), KeyState::Enabled, true),
        (format!(r#""enabled":true,"nbf":{}"#, now + 1), KeyState::NotYetActive, false),
        (format!(r#""enabled":true,"nbf":{now}"#), KeyState::Enabled, true),
        (format!(r#""enabled":false,"exp":{now}"#), KeyState::Disabled, false),
    ] {
        let key = KEY.replace(r#""enabled":true"#, &attributes);
        world.answer(200, key.clone());
        let properties = world.properties(LATEST).await.unwrap();
        assert_eq!(properties.state, state, "{attributes}");
        world.answer(200, key);
        let answer = world.vault.public_key(&id(LATEST)).await;
        match public {
            true => assert_eq!(
                (answer.as_ref().unwrap().key.bits(), answer.unwrap().key_id.as_str()),
                (2048, EXACT)
            ),
            false => assert_eq!(answer.unwrap_err().kind(), Kind::KeyDisabled, "{attributes}"),
        }
    }
}

#[tokio::test]
async fn a_disabled_key_wraps_nothing_even_if_the_vault_would() {
    let world = World::new();
    world.answer(200, KEY.replace(r#""enabled":true"#, r#""enabled":false"#));
    assert_eq!(world.wrap(LATEST).await.unwrap_err().kind(), Kind::KeyDisabled);
    assert_eq!(world.lines().len(), 1, "no wrap was asked for");
}

#[tokio::test]
async fn a_deleted_key_is_described_as_far_as_the_vault_does() {
    let gone =
        words("KeyNotFound", "A key with (name/id) CreateSoftKeyTest was not found in this key vault.", "");
    let deleted = KEY.replacen('{', r#"{"recoveryId":"https://myvault.vault.azure.net/deletedkeys/CreateSoftKeyTest","deletedDate":1493942461,"scheduledPurgeDate":1501718461,"#, 1);
    for key in [LATEST, EXACT] {
        let world = World::new();
        world.answer(404, gone.clone()).answer(200, deleted.clone());
        let properties = world.properties(key).await.unwrap();
        assert_eq!((properties.state, properties.soft_delete), (KeyState::Deleted, true), "{key}");
        assert_eq!(world.lines()[1], "GET /deletedkeys/CreateSoftKeyTest");
    }
    let world = World::new();
    world.answer(404, gone.clone()).answer(200, deleted);
    assert_eq!(
        world.properties(OLDER).await.unwrap_err().kind(),
        Kind::KeyNotFound,
        "it tells of the latest alone"
    );
    world.answer(404, gone.clone()).answer(404, gone.clone());
    assert_eq!(world.properties(LATEST).await.unwrap_err().kind(), Kind::KeyNotFound);
    world.answer(404, gone.clone()).answer(403, words("Forbidden", "no", "ForbiddenByRbac"));
    assert_eq!(
        world.properties(LATEST).await.unwrap_err().kind(),
        Kind::KeyNotFound,
        "the first answer stands"
    );
    world.answer(404, gone.clone());
    assert_eq!(world.wrap(LATEST).await.unwrap_err().kind(), Kind::KeyNotFound);
    world.answer(404, gone);
    assert_eq!(world.unwrap(&wrapped()).await.unwrap_err().kind(), Kind::KeyNotFound);
}

/// The table at the end of docs/vault-azure.md, row by row: what is said, and what it means.
#[tokio::test]
async fn every_row_of_the_documented_table_is_obeyed() {
    let table = include_str!("../../../../docs/vault-azure.md");
    let table = table.split("## What it says, and what it means").nth(1).expect("the table");
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> =
            row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [status, code, inner, asked, kind, ..] = cells[..] else { panic!("{row}") };
        let asked = match asked {
            "any" => vec![Asked::Get, Asked::Wrap, Asked::Unwrap],
            "unwrap" => vec![Asked::Unwrap],
            "get, wrap" => vec![Asked::Get, Asked::Wrap],
            other => panic!("{other}"),
        };
        let body = match code {
            "not Key Vault's" => "<html>no</html>".to_owned(),
            "" => String::new(),
            code => words(code, "as published", inner),
        };
        for status in status.split(", ").map(|status| status.parse().unwrap()) {
            for asked in &asked {
                let (meant, _) = answers::classify(*asked, status, body.as_bytes(), None);
                assert_eq!(meant.name(), kind, "{row}, {asked:?}");
                rows += 1;
            }
        }
    }
    assert!(rows >= 60, "{rows} cases are documented");
}

#[tokio::test]
async fn the_words_of_the_vault_reach_the_operator_in_one_line() {
    let world = World::new();
    let message = r"The user, group or application 'appid=6a;oid=7b;iss=https://sts.windows.net/72f988bf/' does not have keys unwrap key permission on key vault 'myvault;location=eastus2'.\r\nFor help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287";
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    world.answer(403, words("Forbidden", message, "AccessDenied"));
    let denied = world.unwrap(&wrapped()).await.unwrap_err();
    assert_eq!((denied.kind(), denied.key_id()), (Kind::AccessDenied, Some(&id(EXACT))));
    let said = denied.to_string();
    assert!(said.contains("Forbidden, AccessDenied, The user, group") && said.contains("oid=7b"), "{said}");
    assert!(!said.contains('\n') && said.len() < 1000, "{said}");
    assert_eq!(world.lines().len(), 2, "the token was asked for just now, so the word counts at once");
}

#[tokio::test]
async fn throttling_says_how_long_to_wait() {
    let world = World::new();
    let at = world.clock.now().wall;
    assert_eq!(at.as_secs(), 1_795_000_000, "Wed, 18 Nov 2026 11:06:40 GMT");
    let throttled =
        words("Throttled", "Request was not processed because too many requests were received.", "");
    for (name, value, wait) in [
        ("retry-after", "10", Some(Duration::from_secs(10))),
        ("retry-after", "86400", Some(Duration::from_secs(86_400))),
        ("retry-after", "Thu, 19 Nov 2026 11:06:40 GMT", Some(Duration::from_secs(86_400))),
        ("retry-after", "Wed, 18 Nov 2026 11:06:39 GMT", Some(Duration::ZERO)),
        ("retry-after", "soon", None),
        ("retry-after", "-1", None),
        ("retry-after-ms", "1500", Some(Duration::from_millis(1500))),
        ("x-ms-retry-after-ms", "250", Some(Duration::from_millis(250))),
        ("date", "x", None),
    ] {
        world.answer_with(429, vec![(name, value.into())], throttled.clone());
        let error = world.unwrap(&wrapped()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Throttled { retry_after: wait }, "{name}: {value}");
    }
    assert_eq!(world.lines().len(), 9, "asked once each: the SDK does not retry");
}

#[tokio::test]
async fn an_answer_that_is_not_the_apis_is_an_outage() {
    for (status, answered) in [
        (200, String::new()),
        (200, "<html>".into()),
        (200, "{}".into()),
        (200, r#"{"kid":1,"value":2}"#.into()),
        (200, operated(EXACT, "=not base64url at all, of 43 characters....")),
        (200, operated(OLDER, UNWRAPPED)),
        (200, operated(LATEST, UNWRAPPED)),
        (200, operated(&EXACT.replace("myvault", "globex"), UNWRAPPED)),
        (204, String::new()),
        (302, String::new()),
        (403, "<html>blocked by the proxy</html>".into()),
        (403, r#"{"error":"access denied"}"#.into()),
        (404, "<html>".into()),
        (404, words("NotFound", "no route", "")),
        (418, words("Teapot", "short and stout", "")),
    ] {
        let world = World::new();
        world.answer(status, answered.clone());
        let error = world.unwrap(&wrapped()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Other, "{status} {answered}");
        assert!(!error.to_string().contains(UNWRAPPED) && !format!("{error:?}").contains(UNWRAPPED));
    }
    for len in [0, 16, 31, 33, 64] {
        let world = World::new();
        world.answer(200, operated(EXACT, &BASE64URL_NOPAD.encode(&vec![7; len])));
        assert_eq!(world.unwrap(&wrapped()).await.unwrap_err().kind(), Kind::Corrupt, "{len} bytes");
    }
    for get in [
        String::new(),
        "{}".into(),
        r#"{"key":{}}"#.into(),
        KEY.replace("\"RSA\"", "\"EC\""),
        KEY.replace("AQAB", "AA"),
        KEY.replace("2HJAE5fU3Cw2Rt9h", ""),
        KEY.replace("CreateSoftKeyTest/", "Other/"),
        KEY.replace("\"enabled\":true", "\"enabled\":\"yes\""),
    ] {
        let world = World::new();
        world.answer(200, get.clone());
        assert_eq!(world.properties(LATEST).await.unwrap_err().kind(), Kind::Other, "{get}");
    }
    for value in ["", "AAAA", UNWRAPPED] {
        let world = World::new();
        world.answer(200, KEY).answer(200, operated(EXACT, value));
        assert_eq!(world.wrap(LATEST).await.unwrap_err().kind(), Kind::Other, "a wrap of {value:?}");
    }
}

#[tokio::test]
async fn a_token_is_kept_until_shortly_before_its_end() {
    let world = World::new();
    let ask = async || {
        world.answer(200, operated(EXACT, UNWRAPPED));
        world.unwrap(&wrapped()).await.unwrap();
    };
    ask().await;
    world.clock.advance(Duration::from_secs(3299));
    ask().await;
    assert_eq!(world.tokens.asked.load(Ordering::Relaxed), 1);
    world.clock.advance(Duration::from_secs(1));
    ask().await;
    assert_eq!(world.sent_tokens(), ["token-1", "token-1", "token-2"]);
}

#[tokio::test]
async fn a_token_that_the_vault_no_longer_takes_is_renewed_past_every_cache() {
    let world = World::new();
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    let challenge = || vec![("www-authenticate", CHALLENGE.into())];
    let expired = words("Unauthorized", "AKV10000: Error validating token: IDX10223.", "");
    // Microsoft's client asks once more by itself, with what it has.
    world.answer_with(401, challenge(), expired.clone()).answer_with(401, challenge(), expired.clone());
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    assert_eq!(world.sent_tokens(), ["token-1", "token-1", "token-1", "token-2"]);
    for _ in 0..4 {
        world.answer_with(401, challenge(), expired.clone());
    }
    assert_eq!(world.unwrap(&wrapped()).await.unwrap_err().kind(), Kind::Unauthenticated);
    assert_eq!(world.tokens.asked.load(Ordering::Relaxed), 3, "renewed once, then an outage");
}

#[tokio::test]
async fn a_denial_of_an_old_token_is_asked_again_with_a_new_one() {
    let world = World::new();
    let denied =
        words("Forbidden", "Caller is not authorized to perform action on resource.", "ForbiddenByRbac");
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    world.clock.advance(Duration::from_secs(600));
    world.answer(403, denied.clone()).answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    assert_eq!(
        world.sent_tokens(),
        ["token-1", "token-1", "token-2"],
        "the new one reached the wire at once"
    );
    world.answer(403, denied.clone());
    assert_eq!(world.unwrap(&wrapped()).await.unwrap_err().kind(), Kind::AccessDenied);
    assert_eq!(world.sent_tokens().len(), 4, "it is known good: believed at once");
    world.clock.advance(Duration::from_secs(600));
    *world.tokens.down.lock().unwrap() = true;
    world.answer(403, denied);
    assert_eq!(
        world.unwrap(&wrapped()).await.unwrap_err().kind(),
        Kind::Unauthenticated,
        "no denial without a token"
    );
}

#[tokio::test]
async fn a_token_service_that_is_down_is_an_outage_once_the_token_is_over() {
    let world = World::new();
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    *world.tokens.down.lock().unwrap() = true;
    world.clock.advance(Duration::from_secs(3400));
    for _ in 0..3 {
        world.answer(200, operated(EXACT, UNWRAPPED));
        world.unwrap(&wrapped()).await.unwrap();
    }
    assert_eq!(world.tokens.asked.load(Ordering::Relaxed), 2, "tried once, and not again at each call");
    world.clock.advance(Duration::from_secs(200));
    let error = world.unwrap(&wrapped()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.to_string().contains("login.microsoftonline.com does not answer"), "{error}");
    *world.tokens.down.lock().unwrap() = false;
    world.clock.advance(Duration::from_secs(2));
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
}

#[tokio::test]
async fn who_queues_behind_a_token_service_that_fails_need_not_wait_for_it_in_turn() {
    let world = World::new();
    *world.tokens.down.lock().unwrap() = true;
    let asked = || world.tokens.asked.load(Ordering::Relaxed);
    let ask = async || {
        let error = world.vault.inner().unwrap_key(&wrapped(), &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{error}");
    };
    for _ in 0..5 {
        ask().await;
    }
    assert_eq!(asked(), 1);
    world.clock.advance(Duration::from_secs(1));
    ask().await;
    assert_eq!(asked(), 2, "and is asked again a moment later");
    *world.tokens.down.lock().unwrap() = false;
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    assert_eq!(asked(), 3, "a renewal asks whatever failed just now");
}

#[tokio::test]
async fn the_age_of_a_shared_credentials_token_is_not_known() {
    let world = World::at(VAULT, |tokens| AzureCredential::shared(tokens));
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    assert_eq!(world.vault.inner().credential().asked_at(), None);
    let denied = words("Forbidden", "no", "AccessDenied");
    world.answer(403, denied.clone()).answer(403, denied);
    assert_eq!(world.unwrap(&wrapped()).await.unwrap_err().kind(), Kind::AccessDenied);
    assert_eq!(world.sent_tokens(), ["token-1", "token-1", "token-2"]);
    let fresh = World::new();
    fresh.answer(200, operated(EXACT, UNWRAPPED));
    fresh.unwrap(&wrapped()).await.unwrap();
    let asked_at: Option<Timestamp> = fresh.vault.inner().credential().asked_at();
    assert_eq!(asked_at, Some(fresh.clock.now()));
}

#[tokio::test]
async fn nothing_secret_is_in_what_is_printed() {
    let world = World::new();
    world.answer(200, operated(EXACT, UNWRAPPED));
    world.unwrap(&wrapped()).await.unwrap();
    let secret = AzureCredential::client_secret("tenant", "client", || Ok(Zeroizing::new("hush".to_owned())));
    let options = AzureOptions::new(VAULT, secret);
    let printed = format!("{:?} {options:?}", world.vault);
    assert!(printed.contains("myvault") && printed.contains("client secret"), "{printed}");
    assert!(!printed.contains("token-1") && !printed.contains("hush"), "{printed}");
}

#[tokio::test]
async fn every_credential_that_needs_nothing_from_outside_is_made() {
    for credential in [
        AzureCredential::managed_identity(ManagedIdentity::System),
        AzureCredential::managed_identity(ManagedIdentity::ClientId("6a".into())),
        AzureCredential::client_secret("tenant", "client", || Ok(Zeroizing::new("hush".to_owned()))),
        AzureCredential::developer_tools(),
    ] {
        assert!(AzureVault::connect(AzureOptions::new(VAULT, credential)).is_ok());
    }
    for (url, is_plain) in [("http://myvault.vault.azure.net", true), ("https://localhost:8443", false)] {
        let error =
            AzureVault::connect(AzureOptions::new(url, AzureCredential::developer_tools())).unwrap_err();
        assert_eq!(matches!(error, AzureError::PlainHttp { .. }), is_plain, "{error}");
    }
    let error =
        AzureVault::connect(AzureOptions::new(VAULT, AzureCredential::developer_tools()).roots_pem("x"));
    assert!(matches!(error, Err(AzureError::Roots(_))));
}
