//! The customer's vault can't be reached: writes wait in the buffer, reads wait for the key, and nothing is lost.

use std::{
    io::{BufRead, BufReader, Read, Write},
    sync::mpsc,
};

use serde_json::Value;

use crate::common::{self, Acknowledged, Home, Ran, all_there, lines_of, sha256, signal};

/// A home whose running writers lose a key within seconds of an outage.
const HASTY: [&str; 8] = ["--refresh", "6s", "--ceiling", "6s", "--grace", "0s", "--call-timeout", "500ms"];

fn json(ran: &Ran) -> Value {
    serde_json::from_str(ran.succeeds().text()).unwrap()
}

fn status(home: &Home) -> Value {
    json(&home.run(["--json", "status", "a"]))
}

#[test]
fn writes_in_an_outage_are_buffered_and_drained_once_the_vault_is_back() {
    let (home, _) = Home::with_account(&[]);
    for block in ["kept", "replaced", "deleted"] {
        home.put(block, b"before the outage");
    }
    home.run(["vault", "offline"]).succeeds();
    let ran = home.feed(["put", "a", "new"], b"in the outage");
    let line = lines_of("Buffered", &ran.succeeds().stdout).remove(0);
    assert_eq!((line.len, line.sha256), (13, sha256(b"in the outage")));
    assert_eq!(json(&home.feed(["--json", "put", "a", "replaced"], b"once"))["outcome"], "buffered");
    home.put("replaced", b"twice");
    home.put("deleted", b"buffered, and then deleted");
    home.put("short-lived", b"buffered, and then deleted");
    for block in ["deleted", "short-lived"] {
        home.run(["rm", "a", block]).succeeds();
    }

    // Nothing can be read, also what waits; lists and removals need no key.
    for block in ["kept", "replaced", "new"] {
        home.run(["get", "a", block]).fails(4, "unavailable");
    }
    assert_eq!(home.run(["ls", "a"]).succeeds().text(), "kept\nnew\nreplaced\n");
    let listed = home.run(["ls", "--long", "a"]).text().to_owned();
    let places: Vec<_> = listed.lines().map(|line| line.rsplit(' ').nth(1).unwrap()).collect();
    assert_eq!(places, ["stored", "buffered", "buffered"]);
    let verified = home.run(["verify"]);
    let says = "3 not opened for want of the key, 2 of them buffered: their checksums hold";
    assert!(verified.fails(4, "unavailable").text().contains(says), "{verified:?}");
    let seen = status(&home);
    assert_eq!((&seen["key_state"], &seen["blocks"]), (&"unavailable".into(), &3.into()));
    assert_eq!((&seen["buffer"]["blocks"], &seen["buffer"]["draining"]), (&2.into(), &false.into()));
    assert!(seen["last_failure"].as_str().unwrap().contains("offline"), "{seen}");
    let told = home.run(["status"]).text().to_owned();
    assert!(told.contains("a: customer key unavailable, 3 blocks"), "{told}");
    assert!(told.contains("; 2 blocks buffered, ") && told.contains(", takes more until "), "{told}");

    // The next command that uses keys drains before it ends.
    home.run(["vault", "online"]).succeeds();
    assert_eq!(home.run(["get", "a", "kept"]).succeeds().stdout, b"before the outage");
    let listed = home.run(["ls", "--long", "a"]).text().to_owned();
    assert!(listed.lines().all(|line| line.contains(" customer 1 stored ")), "{listed}");
    assert_eq!(home.run(["get", "a", "replaced"]).succeeds().stdout, b"twice");
    assert_eq!(home.run(["get", "a", "new"]).succeeds().stdout, b"in the outage");
    assert_eq!(home.run(["ls", "a"]).text(), "kept\nnew\nreplaced\n");
    for block in ["deleted", "short-lived"] {
        home.run(["get", "a", block]).fails(6, "no block");
    }
    let seen = status(&home);
    assert_eq!((&seen["key_state"], &seen["buffer"]["blocks"]), (&"active".into(), &0.into()));
    assert!(home.run(["verify"]).succeeds().text().contains("3 blocks opened"));
}

#[test]
fn verify_drains_first_and_no_wait_leaves_what_it_can() {
    let (home, _) = Home::with_account(&[]);
    home.run(["vault", "offline"]).succeeds();
    home.put("b", b"waits");
    home.run(["--no-wait", "status"]).succeeds();
    home.run(["vault", "online"]).succeeds();
    // It may be drained or not by then; it is there once in any case.
    home.run(["--no-wait", "status"]).succeeds();
    assert_eq!(home.run(["ls", "a"]).text(), "b\n");
    let verified = home.run(["verify", "--digests"]);
    let opened = lines_of("Opened", &verified.succeeds().stdout);
    assert_eq!((opened.len(), opened[0].sha256.clone()), (1, sha256(b"waits")));
    assert!(!verified.text().contains("buffered"), "{verified:?}");
}

#[test]
fn an_account_under_the_services_key_feels_nothing() {
    let (home, _) = Home::with_account(&[]);
    home.run(["account", "create", "s"]).succeeds();
    home.run(["vault", "offline"]).succeeds();
    let ran = home.feed(["put", "s", "b"], b"data");
    assert_eq!(lines_of("Stored", &ran.succeeds().stdout).len(), 1);
    assert_eq!(home.run(["get", "s", "b"]).succeeds().stdout, b"data");
}

#[test]
fn a_full_buffer_refuses_and_acknowledges_nothing() {
    let (home, _) = Home::with_account(&["--buffer-bytes", "4KiB"]);
    home.run(["vault", "offline"]).succeeds();
    home.put("a", &[1; 3000]);
    home.feed(["put", "a", "b"], &[2; 3000]).fails(4, "its buffer takes no more: it holds 1 blocks");
    // What is replaced makes room for itself.
    home.put("a", &[3; 3500]);
    assert_eq!(home.run(["ls", "a"]).text(), "a\n");
    home.run(["rm", "a", "a"]).succeeds();
    let ran = home.feed(["ingest", "a", "-", "--block-size", "500", "--writers", "1"], &[4; 20_000]);
    ran.fails(4, "its buffer takes no more");
    let lines = lines_of("Buffered", &ran.stdout);
    assert!((4..8).contains(&lines.len()), "{ran:?}");
    home.run(["vault", "online"]).succeeds();
    assert_eq!(all_there(&home, &lines, "after a full buffer"), lines.len());
    home.put("b", &[2; 3000]);
}

#[test]
fn a_buffer_takes_writes_for_its_time_and_none_when_it_is_off() {
    let (home, _) = Home::with_account(&["--buffer-time", "1ms"]);
    home.run(["vault", "offline"]).succeeds();
    home.put("first", b"kept");
    home.feed(["put", "a", "late"], b"refused").fails(4, "its buffer takes no more");
    home.run(["vault", "online"]).succeeds();
    assert_eq!(home.run(["get", "a", "first"]).succeeds().stdout, b"kept");
    assert_eq!(home.run(["ls", "a"]).text(), "first\n");

    let (home, _) = Home::with_account(&["--buffer-time", "0s"]);
    home.run(["vault", "offline"]).succeeds();
    home.feed(["put", "a", "b"], b"refused").fails(4, "unavailable");
    home.feed(["ingest", "a", "-"], b"refused").fails(4, "unavailable");
    assert_eq!(home.run(["ls", "a"]).text(), "");
}

#[test]
fn settings_of_the_buffer_out_of_bounds_make_no_home() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("h");
    for (arguments, saying) in [
        (["--buffer-time", "49h"], "buffer_time is"),
        (["--segment-time", "9s"], "segment_time is"),
        (["--segment-time", "61m"], "segment_time is"),
        (["--buffer-time", "6"], "give a time as"),
        (["--buffer-bytes", "4095"], "buffer_bytes is 4095"),
        (["--buffer-bytes", "much"], "give a number of bytes"),
        (["--revoked-retention", "59s"], "revoked_retention is 59s"),
        (["--revoked-retention", "3651d"], "revoked_retention is"),
    ] {
        let made = common::cofferdam().arg("--home").arg(&home).arg("init").args(arguments).output();
        Ran::of(made.unwrap()).fails(2, saying);
        assert!(!home.exists(), "{arguments:?}");
    }
    // Edited by hand, they are damage of the settings' file.
    let home = Home::new();
    let path = home.file("cofferdam.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("21600000", "216000000")).unwrap();
    home.run(["account", "list"]).fails(5, "cofferdam.json is damaged (buffer_time is");
}

#[test]
fn a_revoked_key_buffers_nothing_and_keeps_what_was_buffered_before() {
    let (home, key) = Home::with_account(&[]);
    home.run(["vault", "offline"]).succeeds();
    home.put("b", b"buffered before");
    home.run(["vault", "online"]).succeeds();
    home.run(["vault", "disable", &key]).succeeds();
    home.feed(["put", "a", "c"], b"refused").fails(3, "revoked");
    home.run(["get", "a", "b"]).fails(3, "revoked");
    // A later outage does not turn a revocation into something milder.
    home.run(["vault", "offline"]).succeeds();
    home.feed(["put", "a", "c"], b"refused").fails(3, "revoked");
    let seen = status(&home);
    assert_eq!((&seen["key_state"], &seen["buffer"]["blocks"]), (&"revoked".into(), &1.into()));
    assert_eq!(seen["buffer"]["draining"], false);
    home.run(["vault", "online"]).succeeds();
    home.run(["vault", "enable", &key]).succeeds();
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"buffered before");
    assert_eq!(home.run(["ls", "--long", "a"]).text().matches(" customer 1 stored b").count(), 1);
}

/// A writer that is fed blocks of 8 bytes, one at a time.
struct Writer {
    child: std::process::Child,
    stdin: std::process::ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
    notes: mpsc::Receiver<String>,
    lines: Vec<Acknowledged>,
}

impl Writer {
    fn start(home: &Home) -> Self {
        let mut child = home.spawn(home.command().args(["ingest", "a", "-", "--block-size", "8"]));
        let (sender, notes) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
        Self {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            notes,
            lines: Vec::new(),
            child,
        }
    }

    /// Writes one block; whether it was stored.
    fn write(&mut self) -> bool {
        self.stdin.write_all(b"01234567").unwrap();
        let mut printed = String::new();
        self.stdout.read_line(&mut printed).unwrap();
        let stored = lines_of("Stored", printed.as_bytes());
        let buffered = lines_of("Buffered", printed.as_bytes());
        let is_stored = buffered.is_empty();
        assert_eq!(stored.len() + buffered.len(), 1, "{printed}");
        self.lines.extend(stored.into_iter().chain(buffered));
        is_stored
    }

    /// Waits for a note that says this.
    fn until_told(&self, saying: &str) {
        while !self.notes.recv().expect("it ended before it said so").contains(saying) {}
    }
}

#[test]
fn a_running_writer_goes_on_through_an_outage() {
    let (home, _) = Home::with_account(&HASTY);
    let mut writer = Writer::start(&home);
    assert!(writer.write());
    home.run(["vault", "offline"]).succeeds();
    // No write fails; within seconds they are buffered.
    while writer.write() {}
    writer.until_told("writes of a are buffered");
    // The writer's own word on it.
    let told = loop {
        let ran = home.run(["status", "a"]);
        // Since when comes with the change of state, which may be told right after the first block.
        if ran.succeeds().text().contains("blocks buffered") && ran.text().contains("unavailable since ") {
            break ran;
        }
    };
    assert!(told.text().contains("a: customer key unavailable since "), "{told:?}");
    assert!(!writer.write());
    home.run(["vault", "online"]).succeeds();
    writer.until_told("the buffer of a is drained: ");
    while !writer.write() {}

    drop(writer.stdin);
    let mut rest = String::new();
    writer.stdout.read_to_string(&mut rest).unwrap();
    assert!(writer.child.wait().unwrap().success());
    assert_eq!(all_there(&home, &writer.lines, "after the outage"), writer.lines.len());
    let listed = home.run(["ls", "--long", "a"]).text().to_owned();
    assert!(listed.lines().all(|line| line.contains(" customer 1 stored ")), "{listed}");
}

#[test]
fn a_writer_that_ends_in_an_outage_leaves_its_blocks_to_the_next_command() {
    let (home, _) = Home::with_account(&[]);
    home.run(["vault", "offline"]).succeeds();
    let ran = home.feed(["ingest", "a", "-", "--block-size", "1000"], &[9; 5000]);
    assert!(ran.succeeds().stderr.contains("stored 5 blocks (5 buffered)"), "{ran:?}");
    let mut writer = Writer::start(&home);
    assert!(!writer.write());
    signal(&writer.child, "TERM");
    writer.until_told("Interrupted: stored 1 blocks (1 buffered)");
    assert!(writer.child.wait().unwrap().success());
    home.run(["vault", "online"]).succeeds();
    // The second writer used the first one's names again. Lines come in the order of acknowledgement.
    let first = lines_of("Buffered", &ran.stdout).into_iter();
    let lines = first.filter(|line| line.block != writer.lines[0].block).chain(writer.lines.clone());
    assert_eq!(all_there(&home, &lines.collect::<Vec<_>>(), "after two writers"), 5);
}
