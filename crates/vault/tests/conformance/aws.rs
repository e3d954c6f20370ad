//! AWS KMS keeps every promise that its stand-ins can be asked for: moto for integrity, ministack for the states of keys.
//!
//! Between the vault and the stand-in is a gate. It counts requests, lets none through in an outage, and gives AWS's
//! recorded answers for what neither stand-in has: throttling, denials, expired credentials. And it puts AWS's name in
//! place of moto's for one thing: a wrap of another key, IncorrectKeyException, which moto calls AccessDeniedException.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpStream,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    CredentialError, KeyKind, KeyVault, Reauthenticating, SystemEntropy,
    aws::{AwsCredentialSource, AwsCredentials, AwsVault},
    conformance::{Factory, Hook, NotDone, Outcome, Report, Subject, run},
    testing::servers::{Answer, Ministack, Moto, Request, Rogue, Speaks},
};
use serde_json::Value;

use crate::{
    aws_support::{Admin, exception, id, options},
    factories::not_applicable,
    table::Made,
};

/// How many bits of a wrap are flipped: moto has some 100 bytes.
const FLIPS: NonZeroUsize = NonZeroUsize::new(96).unwrap();

/// What AWS does to a service, in front of a stand-in that doesn't.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    sent: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    away: bool,
    throttles: bool,
    /// By their ids.
    denied: BTreeSet<String>,
    /// Access keys up to this number are no longer taken.
    expired: usize,
    given: usize,
    none_to_be_had: bool,
}

impl Gate {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// What AWS would say, if the stand-in is not to be asked.
    fn answer(&self, request: &Request) -> Option<Answer> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock().unwrap();
        if state.away {
            return Some(Answer::Nothing);
        }
        if state.throttles {
            let words = "You have exceeded the rate at which you may call KMS.";
            return Some(exception(400, "ThrottlingException", words));
        }
        let authorization = request.header("authorization").unwrap();
        let (_, number) = authorization.split_once("Credential=AKIANUMBER").unwrap();
        if number.split_once('/').unwrap().0.parse::<usize>().unwrap() <= state.expired {
            let words = "The security token included in the request is expired";
            return Some(exception(400, "ExpiredTokenException", words));
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let key = body["KeyId"].as_str().unwrap();
        if state.denied.contains(key) {
            let words = format!("not authorized to perform this on resource: {key}");
            return Some(exception(400, "AccessDeniedException", &words));
        }
        None
    }
}

#[async_trait]
impl AwsCredentialSource for Gate {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        self.with(|state| {
            if state.none_to_be_had {
                return Err(CredentialError("the token service is down".into()));
            }
            state.given += 1;
            let key = format!("AKIANUMBER{}", state.given);
            Ok(AwsCredentials::new(key, "secret", Some("session".into()), None))
        })
    }
}

/// Asks the stand-in, and answers as it does.
fn forward(address: &str, request: &Request) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut head = format!("POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for name in ["authorization", "content-type", "x-amz-target"] {
        head.push_str(&format!("{name}: {}\r\n", request.header(name).unwrap()));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", request.body.len()));
    stream.write_all(&[head.as_bytes(), &request.body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer::json(status, body)
}

/// As AWS names it where a wrap is of another key. Of access moto knows nothing when it decrypts.
fn as_aws_names_it(request: &Request, answer: Answer) -> Answer {
    let Answer::Of { body, .. } = &answer else { return answer };
    let is_decrypt = request.header("x-amz-target") == Some("TrentService.Decrypt");
    if is_decrypt && body.windows(21).any(|part| part == b"AccessDeniedException") {
        return exception(400, "IncorrectKeyException", "The key ID in the request does not identify a CMK.");
    }
    answer
}

/// Which stand-in.
enum Server {
    Moto(Moto),
    Ministack(Ministack),
}

impl Server {
    fn url(&self) -> &str {
        match self {
            Self::Moto(server) => server.url(),
            Self::Ministack(server) => server.url(),
        }
    }

    fn account(&self) -> &'static str {
        match self {
            Self::Moto(_) => "123456789012",
            Self::Ministack(_) => "000000000000",
        }
    }
}

struct AwsFactory {
    server: Server,
    gate: Arc<Gate>,
    admin: Admin,
    vault: Arc<Reauthenticating<AwsVault>>,
    aliases: Mutex<BTreeMap<KeyId, KeyId>>,
    _front: Rogue,
}

impl AwsFactory {
    fn new(server: Server) -> Self {
        let gate = Arc::<Gate>::default();
        let address = server.url().strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        let front = Rogue::start(Speaks::Http, {
            let gate = gate.clone();
            move |request| {
                gate.answer(request).unwrap_or_else(|| as_aws_names_it(request, forward(&address, request)))
            }
        });
        let options = options(&front.url(), server.account()).credentials(gate.clone());
        let vault = Arc::new(AwsVault::connect(options).unwrap());
        let admin = Admin::new(server.url());
        Self { server, gate, admin, vault, aliases: Mutex::default(), _front: front }
    }

    fn has_states(&self) -> Hook {
        match &self.server {
            Server::Ministack(_) => Ok(()),
            Server::Moto(_) => Err(NotDone::unsupported("moto decrypts by such a key: see ministack")),
        }
    }

    async fn on_key(&self, action: &str, key: &KeyId) -> Hook {
        self.has_states()?;
        self.admin.call(action, "KeyId", key.as_str(), &[]).await;
        Ok(())
    }
}

#[async_trait]
impl Factory for AwsFactory {
    fn subject(&self) -> Subject {
        let name = match &self.server {
            Server::Moto(_) => "AWS KMS (moto: integrity)",
            Server::Ministack(_) => "AWS KMS (ministack: states of keys)",
        };
        Subject::new(name, KeyKind::AwsKms).recoverable().binds_context().flips(FLIPS)
    }

    async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
        Ok(self.vault.clone())
    }

    async fn new_key(&self) -> Hook<KeyId> {
        Ok(self.admin.create_key().await)
    }

    fn excuse(&self, check: &str) -> Option<Cow<'static, str>> {
        if let Server::Moto(_) = &self.server {
            return None;
        }
        Some(match check {
            "tampered-bits" | "truncated" | "extended" | "other-keys-wrap" => {
                "ministack opens such a wrap: see moto".into()
            }
            "unknown-key" => "ministack takes the key that the wrap was made by instead: see moto".into(),
            _ => return None,
        })
    }

    /// An alias. An ARN is the version: rotation makes new material under the same one.
    async fn unversioned(&self, key: &KeyId) -> Hook<KeyId> {
        let (alias, name, is_new) = {
            let mut aliases = self.aliases.lock().unwrap();
            let name = format!("alias/key-{}", aliases.len());
            let new = id(&format!("arn:aws:kms:eu-west-1:{}:{name}", self.server.account()));
            let is_new = !aliases.contains_key(key);
            (aliases.entry(key.clone()).or_insert(new).clone(), name, is_new)
        };
        if is_new {
            self.admin.call("CreateAlias", "AliasName", &name, &[("TargetKeyId", key.as_str())]).await;
        }
        Ok(alias)
    }

    async fn new_version(&self, key: &KeyId) -> Hook<KeyId> {
        if let Server::Ministack(_) = &self.server {
            return Err(NotDone::unsupported("ministack rotates no key: see moto"));
        }
        self.admin.call("RotateKeyOnDemand", "KeyId", key.as_str(), &[]).await;
        Ok(key.clone())
    }

    async fn disable(&self, key: &KeyId) -> Hook {
        self.on_key("DisableKey", key).await
    }

    async fn enable(&self, key: &KeyId) -> Hook {
        self.on_key("EnableKey", key).await
    }

    async fn delete(&self, key: &KeyId) -> Hook {
        self.on_key("ScheduleKeyDeletion", key).await
    }

    async fn recover(&self, key: &KeyId) -> Hook {
        self.on_key("CancelKeyDeletion", key).await?;
        self.on_key("EnableKey", key).await
    }

    async fn expire(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("a key of KMS has no dates"))
    }

    async fn defer(&self, _: &KeyId) -> Hook {
        Err(NotDone::unsupported("a key of KMS has no dates"))
    }

    async fn unknown_key(&self) -> Hook<KeyId> {
        let account = self.server.account();
        Ok(id(&format!("arn:aws:kms:eu-west-1:{account}:key/1234abcd-12ab-34cd-56ef-1234567890ab")))
    }

    async fn unknown_version(&self, _: &KeyId) -> Hook<KeyId> {
        Err(NotDone::unsupported("an ARN is the version of a key of KMS"))
    }

    async fn foreign_keys(&self) -> Hook<Vec<KeyId>> {
        let account = self.server.account();
        Ok([
            "arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab".to_owned(),
            format!("arn:aws:kms:us-east-1:{account}:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
            format!("arn:aws-cn:kms:eu-west-1:{account}:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
            format!("arn:aws:kms:us-east-1:{account}:key/mrk-1234abcd12ab34cd56ef1234567890ab"),
            "https://acme.vault.azure.net/keys/k".to_owned(),
            "local://acme/keys/k".to_owned(),
        ]
        .map(|uri| id(&uri))
        .into())
    }

    async fn deny(&self, key: &KeyId) -> Hook {
        self.gate.with(|state| state.denied.insert(key.to_string()));
        Ok(())
    }

    async fn allow(&self, key: &KeyId) -> Hook {
        self.gate.with(|state| state.denied.remove(key.as_str()));
        Ok(())
    }

    async fn outage(&self) -> Hook {
        self.gate.with(|state| state.away = true);
        Ok(())
    }

    async fn restore(&self) -> Hook {
        self.gate.with(|state| state.away = false);
        Ok(())
    }

    async fn throttle(&self) -> Hook<Option<Duration>> {
        self.gate.with(|state| state.throttles = true);
        Ok(None)
    }

    async fn unthrottle(&self) -> Hook {
        self.gate.with(|state| state.throttles = false);
        Ok(())
    }

    async fn expire_credential(&self) -> Hook {
        self.gate.with(|state| state.expired = state.given);
        Ok(())
    }

    async fn lose_credential(&self) -> Hook {
        self.gate.with(|state| (state.expired, state.none_to_be_had) = (state.given, true));
        Ok(())
    }

    async fn regain_credential(&self) -> Hook {
        self.gate.with(|state| state.none_to_be_had = false);
        Ok(())
    }

    async fn untrust(&self) -> Hook {
        Err(NotDone::unsupported("the stand-ins speak plain http: see the test bad_input of aws"))
    }

    async fn sent(&self) -> Hook<u64> {
        Ok(u64::try_from(self.gate.sent.load(Ordering::Relaxed))?)
    }
}

async fn report(server: Server) -> Option<Report> {
    Some(run(&AwsFactory::new(server), &SystemEntropy).await)
}

pub(crate) async fn moto() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(async || report(Server::Moto(Moto::start()?)).await).await
}

pub(crate) async fn ministack() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(async || report(Server::Ministack(Ministack::start()?)).await).await
}

fn conforms(report: &Report, never: &[&str]) {
    println!("{report}");
    assert!(report.is_ok(), "{report}");
    let mut never = never.to_vec();
    never.extend([
        "public-key",
        "expired",
        "not-yet-active",
        "unknown-version",
        "untrusted",
        "trusted-again",
    ]);
    never.sort_unstable();
    let mut found = not_applicable(report);
    found.sort_unstable();
    assert_eq!(found, never, "{report}");
    let bound = Outcome::Passed { note: Some("bound by the vault".into()) };
    assert_eq!(report.outcome("context-account"), Some(&bound), "{report}");
}

#[tokio::test]
async fn integrity_conforms_on_moto() {
    let Some(report) = moto().await else { return };
    let of_states = [
        "disabled",
        "disabled-properties",
        "enabled-again",
        "latest-disabled",
        "deleted",
        "deleted-properties",
        "recovered",
    ];
    conforms(report, &of_states);
}

#[tokio::test]
async fn states_of_keys_conform_on_ministack() {
    let Some(report) = ministack().await else { return };
    let of_integrity = [
        "unknown-key",
        "tampered-bits",
        "truncated",
        "extended",
        "other-keys-wrap",
        "old-version-unwraps",
        "latest-version-wraps",
        "properties-latest",
        "latest-disabled",
    ];
    conforms(report, &of_integrity);
}
