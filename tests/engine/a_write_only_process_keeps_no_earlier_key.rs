//! A process that writes to a write-only buffer holds nothing in its memory by which what it wrote to earlier segments
//! could be read.
//!
//! The process is a child. What to look for, this one learns afterwards, as only the customer can: it unwraps the
//! segments' AEKs by the private half of the KEK. All of the child's readable memory is searched, freed and stack too,
//! for each segment's AEK, for both PRKs derived from it and the HMAC states that they are kept as, and for the DEK of the
//! last block that was written to it.

#![cfg(all(target_os = "linux", feature = "aws-lc"))]

#[path = "../../crates/crypto/tests/common/memory.rs"]
mod memory;

use crate::world::{self, World, buffered, id, name, scale, stored};
use std::{
    env,
    hint::black_box,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cofferdam::{
    crypto::{Aek, KeyScope, WrappedAek, rsa::RsaSize},
    store::{Account, AccountKey, BlockStore, BufferMode, EmbeddedOptions, EmbeddedStore, Engine},
    vault::{
        Clock, KeyKind, KeyVault, LocalVault, LocalVaultOptions, Recovery, SystemClock, SystemEntropy,
        VaultRegistry, WrapContext, testing::ManualClock,
    },
};
use data_encoding::HEXLOWER;
use memory::{Needle, hits_of, needles};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, block_api::compress256};
use tokio::time::sleep;

/// Makes this program the child.
const CHILD: &str = "COFFERDAM_TEST_WRITE_ONLY";
const SEGMENT: Duration = Duration::from_secs(300);
/// Before what the child says, since the test harness prints on the same line.
const SAYS: &str = "@@ ";
const MASK: u8 = 0xa5;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// The child, with all its work on one thread.
async fn child() {
    // A seeded source keeps what it gave.
    let world = World::write_only_with(401, |builder| builder.entropy(Arc::new(SystemEntropy))).await;
    let account = world.contoso().await;
    stored(account.put(&id("before"), "content".into()).await);
    world.lose_key(&account).await;
    let vault = world.path().join("customer.vault");
    write(&world.store, &account, &vault, async || sleep(SEGMENT + Duration::from_secs(1)).await).await;
}

/// The same with threads as a service has them, and a clock that is moved.
async fn child_with_threads() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let options = || LocalVaultOptions::new(clock.clone(), Arc::new(SystemEntropy));
    let create = async |name: &str| {
        let path = dir.path().join(format!("{name}.vault"));
        LocalVault::create(path, name, options()).await.unwrap()
    };
    let (service, customer) = (create("service").await, create("customer").await);
    let service_kek = service.create_key("service").await.unwrap();
    let rsa = KeyKind::Rsa(RsaSize::Rsa2048);
    let kek = customer.create_key_of("payroll", rsa, Recovery::default()).await.unwrap();
    let principal = World::principal();
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));
    let store = EmbeddedStore::create(dir.path().join("blocks.store"), EmbeddedOptions::default()).unwrap();
    let engine = Engine::builder(Arc::new(store.clone()), vaults, service_kek).clock(clock.clone());
    let engine = engine.open().await.unwrap();
    let key = AccountKey::Customer { principal, kek, buffer: BufferMode::WriteOnly };
    let account = engine.create_account(&name("contoso"), key).await.unwrap();
    stored(account.put(&id("before"), "content".into()).await);
    customer.set_offline(true).await.unwrap();
    clock.advance(world::GRACE + world::NOTICED);
    let vault = customer.path().to_path_buf();
    write(&store, &account, &vault, async || clock.advance(SEGMENT + Duration::from_secs(1))).await;
    engine.close().await.unwrap();
}

/// Buffers a few blocks in each segment, and then stands still until it is told to end.
async fn write(store: &EmbeddedStore, account: &Account, vault: &Path, pass: impl AsyncFn()) {
    let mut written = Vec::new();
    for segment in 0..scale(24, 6) {
        if segment > 0 {
            pass().await;
        }
        for block in 0..8 {
            let name = format!("{segment}/{block}");
            // Small ones are sealed in place, large ones where work may take long.
            let len = if block % 2 == 0 { 700 } else { 300_000 };
            buffered(account.put(&id(&name), vec![segment as u8; len].into()).await);
            written.push(name);
        }
    }
    println!("{SAYS}{}", json!({ "vault": vault }));
    for name in written.iter().skip(7).step_by(8) {
        println!("{SAYS}{}", describe(store, account, name).await);
    }
    println!("{SAYS}ready");
    // Nothing is put meanwhile.
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for line in std::io::stdin().lines() {
        let masked = HEXLOWER.decode(line.unwrap().as_bytes()).unwrap();
        kept.push(masked.into_iter().map(|byte| byte ^ MASK).collect());
        black_box(&kept);
        println!("{SAYS}kept");
    }
}

/// What anybody may know of a block and its segment.
async fn describe(store: &EmbeddedStore, account: &Account, name: &str) -> Value {
    let at = store.stat(account.id(), &id(name)).await.unwrap().unwrap();
    let segment = at.meta.provider.segment().unwrap();
    let row = store.segment(account.id(), segment).await.unwrap().unwrap();
    let record: Value = serde_json::from_slice(&row.record[33..]).unwrap();
    let header = std::slice::from_ref(&(0..76));
    let header = store.read(account.id(), &id(name), &at, header).await.unwrap().unwrap();
    json!({
        "key": record["key"],
        "block": name,
        "version": at.meta.version.number(),
        "header": HEXLOWER.encode(&header[0]),
    })
}

/// The child, as its parent sees it.
struct Writer {
    process: Child,
    stdin: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    fn start(test: &str) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("a_write_only_process_keeps_no_earlier_key::{test}")])
            .env(CHILD, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, stdin, says: BufReader::new(stdout).lines() }
    }

    fn hear(&mut self) -> String {
        loop {
            let line = self.says.next().unwrap().unwrap();
            if let Some((_, said)) = line.split_once(SAYS) {
                return said.to_owned();
            }
        }
    }

    /// Gives it a key to keep, in a form in which it is no key.
    fn give(&mut self, key: &[u8]) {
        let masked: Vec<u8> = key.iter().map(|byte| byte ^ MASK).collect();
        writeln!(self.stdin, "{}", HEXLOWER.encode(&masked)).unwrap();
        assert_eq!(self.hear(), "kept");
    }

    fn end(self) {
        drop(self.stdin);
        let mut process = self.process;
        assert!(process.wait().unwrap().success());
    }
}

/// A segment, and what in memory would open its blocks.
struct Found {
    aek: Aek,
    /// The AEK, and what is derived from it.
    of_aek: Vec<Needle>,
    derived: Vec<Needle>,
}

async fn learn(vault: &Path, segments: &[Value]) -> Vec<Found> {
    let vault = LocalVault::open(vault, LocalVaultOptions::default()).await.unwrap();
    // The child stands still.
    vault.set_offline(false).await.unwrap();
    let mut found = Vec::new();
    for segment in segments {
        let key: WrappedAek = serde_json::from_value(segment["key"].clone()).unwrap();
        let context = WrapContext { scope: key.scope };
        let aek = vault.unwrap_key(&key.wraps[0], &context).await.unwrap();
        key.verify(&aek).unwrap();
        let of_aek = needles("AEK", &HEXLOWER.encode(aek.expose()));
        let derived = derived(&aek, &key.scope, segment);
        found.push(Found { aek, of_aek, derived });
    }
    found
}

/// As docs/format.md has it.
fn derived(aek: &Aek, scope: &KeyScope, block: &Value) -> Vec<Needle> {
    let salt = |label: &[u8], suite: &[u8]| {
        let provider = [scope.provider.code()];
        let segment = scope.provider.segment().unwrap();
        [
            label,
            scope.account.as_bytes(),
            &scope.epoch.number().to_be_bytes(),
            &provider,
            suite,
            segment.as_bytes(),
        ]
        .concat()
    };
    let blocks = hmac(&salt(b"cofferdam block 1", &[1]), aek.expose());
    let checks = hmac(&salt(b"cofferdam aek 1", &[]), aek.expose());
    let header = HEXLOWER.decode(block["header"].as_str().unwrap().as_bytes()).unwrap();
    let name = block["block"].as_str().unwrap().as_bytes();
    let version = block["version"].as_u64().unwrap().to_be_bytes();
    let identity = Sha256::digest([b"block1", &header[7..8], &version, name].concat());
    let expand = |purpose: &[u8]| hmac(&blocks, &[purpose, &header[12..44], &identity[..21], &[1]].concat());
    assert_eq!(expand(b"C"), header[44..76], "this derives as the child did");
    let mut all = needles("DEK of its last block", &HEXLOWER.encode(&expand(b"K")));
    for (name, prk) in [("PRK of blocks", blocks), ("PRK of its check value", checks)] {
        all.extend(needles(name, &HEXLOWER.encode(&prk)));
        for (state, pad) in [("inner state", 0x36), ("outer state", 0x5c)] {
            all.extend(needles(&format!("{name}, {state}"), &HEXLOWER.encode(&hmac_state(&prk, pad))));
        }
    }
    all
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| -> [u8; 64] { std::array::from_fn(|i| key.get(i).unwrap_or(&0) ^ with) };
    let inner = Sha256::digest([&pad(0x36)[..], message].concat());
    Sha256::digest([&pad(0x5c)[..], &inner[..]].concat()).into()
}

/// SHA-256's state once it has taken in a padded key, as it lies in memory.
fn hmac_state(key: &[u8; 32], with: u8) -> Vec<u8> {
    let mut state = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    compress256(&mut state, &[std::array::from_fn(|i| key.get(i).unwrap_or(&0) ^ with)]);
    state.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

struct Searched {
    /// What was found of all segments but the last.
    earlier: Vec<String>,
    /// Of the AEK of the last.
    current_aek: usize,
    /// Of what is derived from it.
    current_derived: Vec<String>,
}

/// Searches the child for all of it.
fn search(writer: &Writer, segments: &[Found]) -> Searched {
    let mut all: Vec<&Needle> = Vec::new();
    let mut of = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        for needle in segment.of_aek.iter().chain(&segment.derived) {
            all.push(needle);
            of.push(at);
        }
    }
    let (hits, bytes) = hits_of(writer.process.id(), "r", &all);
    let last = segments.len() - 1;
    let found = |which: &dyn Fn(usize) -> bool| -> Vec<String> {
        let named = |i: usize| format!("segment {}: {} ({} times)", of[i], all[i].name, hits[i]);
        (0..all.len()).filter(|&i| hits[i] > 0 && which(i)).map(named).collect()
    };
    let earlier = found(&|i| of[i] != last);
    let is_aek = |i: usize| all[i].name.starts_with("AEK");
    let current_aek = found(&|i| of[i] == last && is_aek(i)).len();
    let current_derived = found(&|i| of[i] == last && !is_aek(i));
    println!(
        "{} MiB of memory searched for {} needles of {} segments: {} found of the {last} earlier ones; of the current \
         one {current_aek} of its AEK, {} of what is derived from it",
        bytes >> 20,
        all.len(),
        segments.len(),
        earlier.len(),
        current_derived.len()
    );
    Searched { earlier, current_aek, current_derived }
}

/// Starts the child and learns what to search it for.
fn start(test: &str) -> (Writer, Vec<Found>) {
    let mut writer = Writer::start(test);
    let vault: Value = serde_json::from_str(&writer.hear()).unwrap();
    let vault = PathBuf::from(vault["vault"].as_str().unwrap());
    let mut segments: Vec<Value> = Vec::new();
    loop {
        match writer.hear().as_str() {
            "ready" => break,
            said => segments.push(serde_json::from_str(said).unwrap()),
        }
    }
    let ids: std::collections::BTreeSet<String> =
        segments.iter().map(|segment| segment["key"]["scope"].to_string()).collect();
    assert_eq!(ids.len(), scale(24, 6), "each is a segment of its own");
    let found = runtime().block_on(learn(&vault, &segments));
    (writer, found)
}

/// Searches the child that this test starts.
fn search_child(test: &str) {
    let (mut writer, segments) = start(test);
    let searched = search(&writer, &segments);
    assert_eq!(searched.earlier, Vec::<String>::new());
    assert_eq!(searched.current_aek, 0, "an AEK is wiped once it is wrapped");
    // The search finds what is there: the states that the current segment's blocks are sealed by,
    let states = searched.current_derived.iter().filter(|name| name.contains("PRK of blocks, ")).count();
    assert_eq!(states, 4, "{:?}", searched.current_derived);
    // and a key that somebody kept.
    writer.give(segments[0].aek.expose());
    let searched = search(&writer, &segments);
    assert_eq!(searched.earlier.len(), 2, "both halves of an AEK: {:?}", searched.earlier);
    writer.end();
}

#[test]
fn no_key_of_an_earlier_segment_is_left_in_the_process() {
    if env::var_os(CHILD).is_some() {
        return runtime().block_on(child());
    }
    search_child("no_key_of_an_earlier_segment_is_left_in_the_process");
}

#[test]
fn nor_is_one_left_by_threads() {
    if env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        return runtime.block_on(child_with_threads());
    }
    search_child("nor_is_one_left_by_threads");
}

#[cfg(cofferdam_planted)]
#[test]
fn a_process_that_keeps_a_segments_key_is_found() {
    use cofferdam::crypto::planted::{Bug, plant};
    if env::var_os(CHILD).is_some() {
        plant(Some(Bug::SegmentKeyKept));
        return runtime().block_on(child());
    }
    let (writer, segments) = start("a_process_that_keeps_a_segments_key_is_found");
    let searched = search(&writer, &segments);
    assert!(!searched.earlier.is_empty());
    writer.end();
}
