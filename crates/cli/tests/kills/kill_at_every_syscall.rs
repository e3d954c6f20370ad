//! kill -9 at each system call of a put, of a put that is buffered and of a drain, and syncs that fail: what was
//! acknowledged is there, once, and nothing is acknowledged after a failed sync.

use std::{collections::BTreeMap, fs};

use crate::common::{
    Acknowledged, Home, Random, lines_of, scale, sha256,
    strace::{Point, Strace, argument, sample},
};

/// A command that is killed, again and again, each time on a copy of the same home.
struct Scene {
    name: &'static str,
    home: Home,
    arguments: Vec<String>,
    /// What was acknowledged before.
    before: Vec<Acknowledged>,
    /// The SHA-256 of what the command writes, by block.
    writes: BTreeMap<String, String>,
    /// The customer's vault is away, so that writes are buffered.
    offline: bool,
}

#[derive(Default)]
struct Tally {
    killed: u64,
    /// Runs that ended before the call was made: which thread does what is not the same each time.
    ended: u64,
    acknowledged: usize,
}

impl Scene {
    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    /// Kills it at these points and checks what is left.
    fn play(&self, strace: &Strace, points: &[Point]) -> Tally {
        let mut tally = Tally::default();
        for point in points {
            let home = self.home.copy();
            let ran = strace.kill(&home, point, &self.arguments());
            let context = format!("{}, killed at {} {}", self.name, point.call, point.number);
            match ran.code {
                -9 => tally.killed += 1,
                0 => tally.ended += 1,
                _ => panic!("{context}: {ran:?}"),
            }
            let acknowledged = acknowledged(&ran.stdout);
            if ran.code == 0 {
                assert_eq!(acknowledged.len(), self.writes.len(), "{context}: {ran:?}");
            }
            self.check(&home, &acknowledged, &context);
            tally.acknowledged += acknowledged.len();
        }
        tally
    }

    /// Opens the home again: every acknowledged block is there once, exactly as it was acknowledged, and what was not
    /// acknowledged is there whole or not at all.
    fn check(&self, home: &Home, acknowledged: &[Acknowledged], context: &str) {
        if self.offline {
            let verified = home.run(["verify"]);
            assert_eq!(verified.code, 4, "{context}: {verified:?}");
            assert!(verified.text().contains(" 0 damaged; "), "{context}: {verified:?}");
            home.run(["vault", "online"]).succeeds();
        }
        // It drains first what is buffered.
        let verified = home.run(["verify", "--digests"]);
        assert_eq!(verified.code, 0, "{context}: {verified:?}");
        let mut expected: BTreeMap<&str, &Acknowledged> = BTreeMap::new();
        for line in self.before.iter().chain(acknowledged) {
            expected.insert(&line.block, line);
        }
        let mut seen = BTreeMap::new();
        for line in lines_of("Opened", &verified.stdout) {
            let known = expected.get(line.block.as_str()).copied();
            let as_acknowledged = known == Some(&line);
            let is_newer = known.is_none_or(|known| known.version < line.version);
            let unacknowledged = is_newer && self.writes.get(&line.block) == Some(&line.sha256);
            assert!(as_acknowledged || unacknowledged, "{context}: {line:?} for {known:?}");
            assert_eq!(seen.insert(line.block.clone(), ()), None, "{context}: {} twice", line.block);
        }
        let lost: Vec<_> = expected.keys().filter(|block| !seen.contains_key(**block)).collect();
        assert!(lost.is_empty(), "{context}: lost {lost:?}");
        let mut listed = Vec::new();
        for account in home.run(["account", "list"]).succeeds().text().lines() {
            for line in home.run(["ls", "--long", account]).succeeds().text().lines() {
                let (_, of) = line.split_once(" customer 1 stored ").unwrap_or_else(|| {
                    panic!("{context}: not under the customer's key: {line}");
                });
                listed.push(of.to_owned());
            }
        }
        listed.sort();
        assert!(listed.iter().eq(seen.keys()), "{context}: listed {listed:?}");
    }
}

fn acknowledged(output: &[u8]) -> Vec<Acknowledged> {
    [lines_of("Stored", output), lines_of("Buffered", output)].concat()
}

/// A home with blocks, some of which a scene writes again.
fn furnished() -> (Home, Vec<Acknowledged>) {
    let (home, _) = Home::with_account(&[]);
    let mut random = Random::new(17);
    let mut before = Vec::new();
    for block in ["b", "in/000000000000", "in/000000000001", "other"] {
        let ran = home.feed(["put", "a", block], &random.bytes(30_000));
        before.extend(acknowledged(&ran.succeeds().stdout));
    }
    (home, before)
}

/// The same while the customer's vault is away.
fn furnished_offline() -> (Home, Vec<Acknowledged>) {
    let (home, before) = furnished();
    home.run(["vault", "offline"]).succeeds();
    (home, before)
}

/// One block, put over an older one.
fn put(name: &'static str, (home, before): (Home, Vec<Acknowledged>), offline: bool) -> Scene {
    let input = home.folder.path().join("block");
    let data = Random::new(18).bytes(20_000);
    fs::write(&input, &data).unwrap();
    Scene {
        name,
        arguments: ["put", "a", "b", &argument(&input)].map(str::to_owned).into(),
        before,
        writes: BTreeMap::from([("b".to_owned(), sha256(&data))]),
        offline,
        home,
    }
}

/// Many blocks one after another, each durable before its line is printed and the next one is begun.
fn ingest(
    name: &'static str,
    (home, before): (Home, Vec<Acknowledged>),
    offline: bool,
    blocks: u64,
) -> Scene {
    const SIZE: usize = 9_000;
    let input = home.folder.path().join("in");
    let data = Random::new(19).bytes(SIZE * blocks as usize);
    fs::write(&input, &data).unwrap();
    let size = SIZE.to_string();
    let arguments = ["ingest", "a", &argument(&input), "--block-size", &size, "--writers", "1"];
    let named = |(number, data): (usize, &[u8])| (format!("in/{number:012}"), sha256(data));
    Scene {
        name,
        arguments: arguments.map(str::to_owned).into(),
        before,
        writes: data.chunks(SIZE).enumerate().map(named).collect(),
        offline,
        home,
    }
}

/// A command that drains what several accounts have buffered, a commit for each: blocks that are new, that replace
/// stored or buffered ones, and deletions in between.
fn drain(name: &'static str, accounts: u64) -> Scene {
    let home = Home::new();
    let key = home.run(["vault", "create-key", "k"]).succeeds().text().trim().to_owned();
    let mut random = Random::new(20);
    let mut last = BTreeMap::new();
    let mut put = |account: &str, block: &str, word: &str| {
        let data = random.bytes(5_000);
        let ran = home.feed(["put", account, block], &data);
        let line = lines_of(word, &ran.succeeds().stdout).remove(0);
        last.insert(line.block.clone(), line);
    };
    let names: Vec<_> = (0..accounts).map(|n| format!("a{n:02}")).collect();
    for account in &names {
        home.run(["account", "create", account, "--kek", &key]).succeeds();
        for block in ["stored", "replaced", "deleted"] {
            put(account, &format!("{account}/{block}"), "Stored");
        }
    }
    home.run(["vault", "offline"]).succeeds();
    for account in &names {
        for block in ["replaced", "new", "rewritten", "rewritten", "deleted", "forgotten"] {
            put(account, &format!("{account}/{block}"), "Buffered");
        }
        for block in ["deleted", "forgotten"] {
            home.run(["rm", account, &format!("{account}/{block}")]).succeeds();
        }
    }
    last.retain(|block, _| !block.ends_with("/deleted") && !block.ends_with("/forgotten"));
    home.run(["vault", "online"]).succeeds();
    Scene {
        name,
        arguments: vec!["status".to_owned()],
        before: last.into_values().collect(),
        writes: BTreeMap::new(),
        offline: false,
        home,
    }
}

#[test]
fn no_acknowledged_block_is_lost_when_the_program_is_killed_at_any_system_call() {
    let Some(strace) = Strace::find() else { return };
    let (seed, each) = (20_261_124, scale(12, u64::MAX));
    let many = scale(6, 24);
    let scenes = [
        put("put", furnished(), false),
        ingest("ingest", furnished(), false, many),
        put("put in an outage", furnished_offline(), true),
        ingest("ingest in an outage", furnished_offline(), true, many),
        drain("drain", scale(3, 8)),
    ];
    let mut total = 0;
    for scene in &scenes {
        let all = strace.points(&scene.home.copy(), &scene.arguments());
        let points = if each == u64::MAX { all.clone() } else { sample(&all, each as usize, seed) };
        let tally = scene.play(&strace, &points);
        println!(
            "{}: killed at {} of {} system calls ({} runs ended before theirs), {} blocks acknowledged: 0 lost, \
             wrong or twice",
            scene.name,
            tally.killed,
            all.len(),
            tally.ended,
            tally.acknowledged
        );
        assert!(tally.killed > tally.ended, "{}: seed {seed}", scene.name);
        total += tally.killed;
    }
    println!("{total} kills in all (seed {seed})");
    assert!(total >= scale(50, 2000), "{total}");
}

#[test]
fn nothing_is_acknowledged_after_a_sync_that_failed() {
    let Some(strace) = Strace::find() else { return };
    let blocks = scale(4, 40);
    let scenes = [
        ingest("ingest", furnished(), false, blocks),
        ingest("ingest in an outage", furnished_offline(), true, blocks),
        drain("drain", scale(3, 12)),
    ];
    for scene in &scenes {
        let arguments = scene.arguments();
        let syncs: Vec<_> = strace
            .points(&scene.home.copy(), &arguments)
            .into_iter()
            .filter(|point| point.call == "fdatasync")
            .collect();
        assert!(!syncs.is_empty());
        let (mut failed, mut acknowledged_before) = (0, 0);
        for point in &syncs {
            let home = scene.home.copy();
            let context = format!("{}, syncs fail from number {}", scene.name, point.number);
            let (ran, trace) = strace.fail_from(&home, point, &arguments);
            let Some((_, after)) = trace.split_once("(INJECTED)") else {
                // Another thread made some of the syncs, so that none had this number.
                assert_eq!(ran.code, 0, "{context}: {ran:?}");
                continue;
            };
            failed += 1;
            ran.fails(1, "blocks.store").fails(1, "syncing the ");
            let late: Vec<_> = after.lines().filter(|line| prints_an_acknowledgement(line)).collect();
            assert!(late.is_empty(), "{context}: {late:?}");
            let lines = acknowledged(&ran.stdout);
            acknowledged_before += lines.len();
            scene.check(&home, &lines, &context);
        }
        println!(
            "{}: {failed} of {} syncs failed, and all after each: {acknowledged_before} blocks acknowledged before, 0 \
             after; 0 lost",
            scene.name,
            syncs.len()
        );
        // How many depends on which thread makes which sync: strace counts for each.
        assert!(failed > 0, "none of {} syncs failed", syncs.len());
    }
}

fn prints_an_acknowledgement(line: &str) -> bool {
    line.contains(" write(1<") && (line.contains("\"Stored ") || line.contains("\"Buffered "))
}
