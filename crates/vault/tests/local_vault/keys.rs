//! The life of a local vault's keys: any sequence of changes gives the answers that a model gives, to another
//! handle at its next call; no change is lost among writers.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cofferdam_crypto::{KeyId, WrappedKey, rsa::RsaSize};
use cofferdam_vault::{
    Deletion, KeyInfo, KeyKind, KeyState, KeyVault, LocalVault, LocalVaultError, LocalVaultOptions, Recovery,
    SpawnBlocking, VaultErrorKind as Kind,
};
use proptest::prelude::*;

use crate::support::{Fixture, START, aek, context, kind, scale};

/// Two that a vault may have many of, without waiting for primes.
const KINDS: [KeyKind; 2] = [KeyKind::Aes256, KeyKind::Rsa(RsaSize::Rsa2048)];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn a_disabled_key_is_felt_by_another_handle_at_its_next_call() {
    for (passphrase, kind_of_key) in
        [None, Some("correct horse")].into_iter().flat_map(|p| KINDS.map(|kind| (p, kind)))
    {
        let fixture = Fixture::new(passphrase);
        let (manager, writer) = (fixture.create().await, fixture.open().await);
        let key = manager.create_key_of("payroll", kind_of_key, Recovery::default()).await.unwrap();
        let wrapped = writer.wrap_key(&key, &aek(7), &context()).await.unwrap();
        assert_eq!(wrapped.key_id, key);
        manager.disable(&key).await.unwrap();
        assert_eq!(kind(writer.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyDisabled));
        assert_eq!(kind(writer.wrap_key(&key, &aek(7), &context()).await), Some(Kind::KeyDisabled));
        assert_eq!(writer.key_properties(&key).await.unwrap().state, KeyState::Disabled);
        manager.enable(&key).await.unwrap();
        assert_eq!(writer.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
    }
}

#[tokio::test]
async fn an_offline_vault_answers_no_use_and_takes_changes() {
    let fixture = Fixture::new(None);
    let (manager, writer) = (fixture.create().await, fixture.open().await);
    let key = manager.create_key("payroll").await.unwrap();
    let wrapped = writer.wrap_key(&key, &aek(7), &context()).await.unwrap();
    manager.set_offline(true).await.unwrap();
    manager.disable(&key).await.unwrap();
    assert!(writer.offline().await.unwrap());
    assert_eq!(kind(writer.unwrap_key(&wrapped, &context()).await), Some(Kind::Unavailable));
    assert_eq!(kind(writer.key_properties(&key).await), Some(Kind::Unavailable));
    manager.set_offline(false).await.unwrap();
    assert_eq!(kind(writer.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyDisabled));
}

#[tokio::test]
async fn an_id_without_version_wraps_by_the_latest_and_old_wraps_open_by_theirs() {
    for kind in KINDS {
        old_wraps_open_by_theirs(kind).await;
    }
}

async fn old_wraps_open_by_theirs(kind_of_key: KeyKind) {
    let fixture = Fixture::new(None);
    let vault = fixture.create().await;
    let first = vault.create_key_of("payroll", kind_of_key, Recovery::default()).await.unwrap();
    let key = vault.key_id("payroll").unwrap();
    let old = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
    let second = vault.new_version("payroll").await.unwrap();
    let new = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
    assert_eq!((&old.key_id, &new.key_id), (&first, &second));
    assert_ne!(old.bytes, new.bytes);
    for wrapped in [&old, &new] {
        assert_eq!(vault.unwrap_key(wrapped, &context()).await.unwrap().expose(), aek(7).expose());
    }
    let moved = WrappedKey { key_id: second.clone(), ..old };
    assert_eq!(kind(vault.unwrap_key(&moved, &context()).await), Some(Kind::Corrupt));
    let properties = vault.key_properties(&first).await.unwrap();
    assert_eq!((&properties.key_id, &properties.latest), (&first, &second));
    assert!(properties.recoverable());
}

#[tokio::test]
async fn purge_protection_holds_to_the_last_millisecond() {
    let fixture = Fixture::new(None);
    let vault = fixture.create().await;
    let key = vault.create_key("payroll").await.unwrap();
    let deletion = vault.delete(&key).await.unwrap();
    assert_eq!(deletion, Deletion::Recoverable { protected_until: Some(START + 90 * DAY) });
    let error = vault.purge(&key).await.unwrap_err();
    assert!(error.to_string().contains("for another 90 days"), "{error}");
    fixture.clock.advance(90 * DAY - Duration::from_millis(1));
    let error = vault.purge(&key).await.unwrap_err();
    assert!(matches!(error, LocalVaultError::PurgeProtected { .. }), "{error:?}");
    assert!(error.to_string().contains("another day at most"), "{error}");
    fixture.clock.advance(Duration::from_millis(1));
    vault.purge(&key).await.unwrap();
    assert!(vault.list().await.unwrap().is_empty());
    vault.create_key("payroll").await.unwrap();
}

#[tokio::test]
async fn racing_writers_lose_no_change() {
    const WRITERS: usize = 4;
    const CHANGES: usize = 15;
    let fixture = Arc::new(Fixture::new(None));
    fixture.create().await.create_key("shared").await.unwrap();
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let fixture = fixture.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let options = fixture.options(None).executor(Arc::new(SpawnBlocking));
                    let vault = LocalVault::open(fixture.path(), options).await.unwrap();
                    vault.create_key(&format!("of-{writer}")).await.unwrap();
                    let mut made = Vec::new();
                    for _ in 0..CHANGES {
                        let id = vault.new_version("shared").await.unwrap();
                        vault.disable(&id).await.unwrap();
                        made.push(id);
                    }
                    made
                })
            })
        })
        .collect();
    let made: BTreeSet<KeyId> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    assert_eq!(made.len(), WRITERS * CHANGES);
    let keys = fixture.open().await.list().await.unwrap();
    assert_eq!(keys.len(), 1 + WRITERS);
    let disabled = keys[0].versions.iter().filter(|v| v.state == KeyState::Disabled);
    assert_eq!(disabled.map(|v| v.key_id.clone()).collect::<BTreeSet<_>>(), made);
    assert_eq!(fixture.files(), ["vault.json", "vault.json.lock"]);
}

const CHILD: &str = "COFFERDAM_TEST_CHILD_VAULT";

/// What the child process does in place of the test that starts it.
fn make_versions_until_killed(path: std::ffi::OsString) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let vault = LocalVault::open(path, LocalVaultOptions::default()).await.unwrap();
        loop {
            let id = vault.new_version("shared").await.unwrap();
            println!("made {id}");
        }
    })
}

#[test]
fn a_killed_writer_loses_no_acknowledged_change() {
    if let Some(path) = std::env::var_os(CHILD) {
        make_versions_until_killed(path);
    }
    let fixture = Fixture::new(None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let vault = runtime.block_on(fixture.create());
    let mut acknowledged = vec![runtime.block_on(vault.create_key("shared")).unwrap()];
    for lives in 0..scale(8, 20) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "keys::a_killed_writer_loses_no_acknowledged_change"])
            .env(CHILD, fixture.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut made = 0;
        // This process changes the vault as well: they exclude each other.
        acknowledged.push(runtime.block_on(vault.new_version("shared")).unwrap());
        while made <= lives {
            let line = lines.next().expect("the child lives until it is killed");
            if let Some(id) = line.rsplit_once("made ").map(|(_, id)| id) {
                acknowledged.push(KeyId::new(id).unwrap());
                made += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(lines.filter_map(|l| Some(KeyId::new(l.split_once("made ")?.1).unwrap())));
    }
    let keys = runtime.block_on(async { fixture.open().await.list().await }).unwrap();
    let kept: BTreeSet<_> = keys[0].versions.iter().map(|v| v.key_id.clone()).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !kept.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    runtime.block_on(vault.new_version("shared")).unwrap();
    assert_eq!(fixture.files(), ["vault.json", "vault.json.lock"]);
}

const NAMES: [&str; 2] = ["payroll", "archive"];

#[derive(Clone, Copy, Debug)]
enum Op {
    Create { name: usize, kind: KeyKind, recovery: Recovery },
    NewVersion { name: usize },
    Change { name: usize, version: Option<usize>, change: Change },
    Offline(bool),
    Pass(Duration),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Disable,
    Enable,
    Expire(Option<u64>),
    NotBefore(Option<u64>),
    Delete,
    Recover,
    Purge,
}

fn op(kinds: &'static [KeyKind]) -> impl Strategy<Value = Op> {
    let name = 0..NAMES.len();
    let kind = proptest::sample::select(kinds);
    let recovery = prop_oneof![
        3 => Just(Recovery::default()),
        1 => Just(Recovery::Purgeable),
        1 => Just(Recovery::Off),
    ];
    let at = proptest::option::of(0..200u64);
    let change = prop_oneof![
        1 => Just(Change::Disable),
        2 => Just(Change::Enable),
        1 => at.clone().prop_map(Change::Expire),
        1 => at.prop_map(Change::NotBefore),
        2 => Just(Change::Delete),
        2 => Just(Change::Recover),
        2 => Just(Change::Purge),
    ];
    prop_oneof![
        3 => (name.clone(), kind, recovery)
            .prop_map(|(name, kind, recovery)| Op::Create { name, kind, recovery }),
        2 => name.clone().prop_map(|name| Op::NewVersion { name }),
        10 => (name, proptest::option::of(0..4usize), change)
            .prop_map(|(name, version, change)| Op::Change { name, version, change }),
        1 => any::<bool>().prop_map(Op::Offline),
        2 => (0..60u32).prop_map(|days| Op::Pass(days * DAY)),
    ]
}

/// What a management call answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Done,
    Exists,
    NotFound,
    Deleted,
    NotDeleted,
    Protected,
}

fn said<T>(answer: Result<T, LocalVaultError>) -> Said {
    match answer {
        Ok(_) => Said::Done,
        Err(LocalVaultError::KeyExists { .. }) => Said::Exists,
        Err(LocalVaultError::KeyNotFound { .. }) => Said::NotFound,
        Err(LocalVaultError::KeyDeleted { .. }) => Said::Deleted,
        Err(LocalVaultError::NotDeleted { .. }) => Said::NotDeleted,
        Err(LocalVaultError::PurgeProtected { .. }) => Said::Protected,
        Err(e) => panic!("unexpected: {e:?}"),
    }
}

/// A version as the model knows it; times in days since the start.
#[derive(Clone, Debug)]
struct Version {
    name: usize,
    kind: KeyKind,
    recovery: Recovery,
    id: KeyId,
    wrapped: Option<WrappedKey>,
    enabled: bool,
    not_before: Option<u64>,
    expires: Option<u64>,
    deleted: Option<u64>,
    purged: bool,
}

/// Every version that ever was, oldest first: the rules are written over it, not over keys.
#[derive(Debug, Default)]
struct Model {
    versions: Vec<Version>,
    offline: bool,
    now: u64,
}

impl Model {
    fn of(&self, name: usize) -> impl DoubleEndedIterator<Item = &Version> {
        self.versions.iter().filter(move |v| v.name == name && !v.purged)
    }

    fn state(&self, v: &Version) -> KeyState {
        match v {
            Version { deleted: Some(_), .. } => KeyState::Deleted,
            Version { enabled: false, .. } => KeyState::Disabled,
            Version { expires: Some(at), .. } if self.now >= *at => KeyState::Expired,
            Version { not_before: Some(at), .. } if self.now < *at => KeyState::NotYetActive,
            _ => KeyState::Enabled,
        }
    }

    fn latest(&self, name: usize) -> Option<&Version> {
        self.of(name).rev().find(|v| v.deleted.is_none()).or(self.of(name).next_back())
    }

    fn use_of(&self, version: Option<&Version>) -> Option<Kind> {
        if self.offline {
            return Some(Kind::Unavailable);
        }
        match version.filter(|v| !v.purged).map(|v| self.state(v)) {
            None | Some(KeyState::Deleted) => Some(Kind::KeyNotFound),
            Some(KeyState::Enabled) => None,
            Some(_) => Some(Kind::KeyDisabled),
        }
    }

    fn new_version(&self, name: usize) -> Said {
        if self.of(name).next().is_none() {
            Said::NotFound
        } else if self.of(name).all(|v| v.deleted.is_some()) {
            Said::Deleted
        } else {
            Said::Done
        }
    }

    fn change(&mut self, name: usize, id: Option<&KeyId>, change: Change) -> Said {
        let now = self.now;
        let mut named: Vec<_> = self
            .versions
            .iter_mut()
            .filter(|v| v.name == name && !v.purged && id.is_none_or(|id| v.id == *id))
            .collect();
        if named.is_empty() {
            return Said::NotFound;
        }
        match change {
            Change::Recover => {
                if named.iter().all(|v| v.deleted.is_none()) {
                    return Said::NotDeleted;
                }
                named.iter_mut().for_each(|v| v.deleted = None);
            }
            Change::Purge => {
                if named.iter().any(|v| v.deleted.is_none()) {
                    return Said::NotDeleted;
                }
                if named.iter().any(|v| v.recovery == Recovery::default() && v.deleted.unwrap() + 90 > now) {
                    return Said::Protected;
                }
                named.iter_mut().for_each(|v| v.purged = true);
            }
            _ => {
                named.retain(|v| v.deleted.is_none());
                if named.is_empty() {
                    return Said::Deleted;
                }
                for v in named {
                    match change {
                        Change::Disable => v.enabled = false,
                        Change::Enable => v.enabled = true,
                        Change::Expire(at) => v.expires = at,
                        Change::NotBefore(at) => v.not_before = at,
                        _ => (v.deleted, v.purged) = (Some(now), v.recovery == Recovery::Off),
                    }
                }
            }
        }
        Said::Done
    }
}

async fn change(vault: &LocalVault, id: &KeyId, change: Change) -> Said {
    let time = |days: Option<u64>| days.map(|days| START + DAY * u32::try_from(days).unwrap());
    match change {
        Change::Disable => said(vault.disable(id).await),
        Change::Enable => said(vault.enable(id).await),
        Change::Expire(at) => said(vault.set_expiry(id, time(at)).await),
        Change::NotBefore(at) => said(vault.set_not_before(id, time(at)).await),
        Change::Delete => said(vault.delete(id).await),
        Change::Recover => said(vault.recover(id).await),
        Change::Purge => said(vault.purge(id).await),
    }
}

/// Every id that ever was answers as the model says, in every way of asking.
async fn compare(vault: &LocalVault, model: &mut Model) {
    for (name, text) in NAMES.iter().enumerate() {
        let id = vault.key_id(text).unwrap();
        let latest = model.latest(name);
        let answer = vault.wrap_key(&id, &aek(9), &context()).await;
        if let Ok(wrapped) = &answer {
            assert_eq!(wrapped.key_id, latest.unwrap().id, "the latest wraps");
        }
        assert_eq!(kind(answer), model.use_of(latest), "{id}");
    }
    for at in 0..model.versions.len() {
        let v = &model.versions[at];
        let expected = model.use_of(Some(v));
        if let Some(wrapped) = &v.wrapped {
            let answer = vault.unwrap_key(wrapped, &context()).await;
            assert!(answer.as_ref().map_or(true, |key| key.expose() == aek(9).expose()));
            assert_eq!(kind(answer), expected, "unwrap by {}", v.id);
        }
        let answer = vault.key_properties(&v.id).await;
        match (model.offline, v.purged) {
            (true, _) => assert_eq!(kind(answer), Some(Kind::Unavailable)),
            (false, true) => assert_eq!(kind(answer), Some(Kind::KeyNotFound)),
            (false, false) => {
                let properties = answer.unwrap();
                assert_eq!((properties.state, properties.kind), (model.state(v), v.kind), "{}", v.id);
                assert_eq!(properties.latest, model.latest(v.name).unwrap().id);
                assert_eq!(properties.recoverable(), v.recovery == Recovery::default());
            }
        }
        let answer = vault.public_key(&v.id).await;
        match (expected, v.kind) {
            (None, KeyKind::Rsa(size)) => {
                let public = answer.unwrap();
                assert_eq!((&public.key_id, public.key.size()), (&v.id, size));
            }
            (None, _) => assert_eq!(kind(answer), Some(Kind::Other), "{} has no public half", v.id),
            _ => assert_eq!(kind(answer), expected, "public half of {}", v.id),
        }
        let answer = vault.wrap_key(&v.id, &aek(9), &context()).await;
        assert_eq!(answer.as_ref().err().map(|e| e.kind()), expected, "wrap by {}", v.id);
        if let Ok(wrapped) = answer {
            assert_eq!(wrapped.algorithm, v.kind.algorithm());
            model.versions[at].wrapped = Some(wrapped);
        }
    }
    let keys = vault.list().await.unwrap();
    let kinds = |key: &KeyInfo| key.versions.iter().map(|v| (v.key_id.clone(), key.kind)).collect::<Vec<_>>();
    let listed: BTreeSet<_> = keys.iter().flat_map(kinds).map(|(id, kind)| (id, kind.to_string())).collect();
    let expected: BTreeSet<_> =
        model.versions.iter().filter(|v| !v.purged).map(|v| (v.id.clone(), v.kind.to_string())).collect();
    assert_eq!(listed, expected);
}

async fn run(ops: Vec<Op>, passphrase: Option<&'static str>) {
    let fixture = Fixture::new(passphrase);
    let (manager, user) = (fixture.create().await, fixture.open().await);
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Create { name, kind, recovery } => {
                let exists = model.of(name).next().is_some();
                let answer = manager.create_key_of(NAMES[name], kind, recovery).await;
                if let Ok(id) = &answer {
                    model.versions.push(version(name, kind, recovery, id));
                }
                assert_eq!(said(answer), if exists { Said::Exists } else { Said::Done }, "{op:?}");
            }
            Op::NewVersion { name } => {
                let expected = model.new_version(name);
                let like = model.of(name).next().map(|v| (v.kind, v.recovery));
                let answer = manager.new_version(NAMES[name]).await;
                if let (Ok(id), Some((kind, recovery))) = (&answer, like) {
                    model.versions.push(version(name, kind, recovery, id));
                }
                assert_eq!(said(answer), expected, "{op:?}");
            }
            Op::Change { name, version, change: what } => {
                let of: Vec<_> =
                    model.versions.iter().filter(|v| v.name == name).map(|v| v.id.clone()).collect();
                let id = version.and_then(|at| of.get(at));
                let named = id.cloned().unwrap_or(manager.key_id(NAMES[name]).unwrap());
                let expected = model.change(name, id, what);
                assert_eq!(change(&manager, &named, what).await, expected, "{op:?}");
            }
            Op::Offline(offline) => {
                manager.set_offline(offline).await.unwrap();
                model.offline = offline;
            }
            Op::Pass(time) => {
                fixture.clock.advance(time);
                model.now += time.as_secs() / DAY.as_secs();
            }
        }
        compare(&user, &mut model).await;
    }
}

fn version(name: usize, kind: KeyKind, recovery: Recovery, id: &KeyId) -> Version {
    Version {
        name,
        kind,
        recovery,
        id: id.clone(),
        wrapped: None,
        enabled: true,
        not_before: None,
        expires: None,
        deleted: None,
        purged: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(scale(256, 2_000)))]

    #[test]
    fn any_life_of_keys_answers_as_the_model_says(
        ops in proptest::collection::vec(op(&[KeyKind::Aes256]), 1..50), protected in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(ops, protected.then_some("correct horse")));
    }
}

/// The kinds that a local vault makes.
const OWN: [KeyKind; 4] = [
    KeyKind::Aes256,
    KeyKind::Rsa(RsaSize::Rsa2048),
    KeyKind::Rsa(RsaSize::Rsa3072),
    KeyKind::Rsa(RsaSize::Rsa4096),
];

proptest! {
    // An RSA key costs a thousand times as much to use.
    #![proptest_config(ProptestConfig::with_cases(scale(32, 500)))]

    #[test]
    fn any_life_of_keys_of_all_kinds_answers_as_the_model_says(
        ops in proptest::collection::vec(op(&OWN), 1..30), protected in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(ops, protected.then_some("correct horse")));
    }
}
