//! Operations are listed and cancelled, left by one command and finished by the next; and kill -9 at each system call of a
//! rotation, a re-encryption and a purge leaves the old state or the new one, and every block reads.

use std::fs;

use serde_json::Value;

use crate::common::{
    Acknowledged, Home, Ran, Random, all_there, lines_of, scale, signal,
    strace::{Point, Strace, sample},
};

/// A home with blocks of account `a`, and its key.
fn furnished() -> (Home, String, Vec<Acknowledged>) {
    let (home, key) = Home::with_account(&[]);
    let mut random = Random::new(23);
    let mut written = Vec::new();
    for block in ["one", "two", "three", "four"] {
        let ran = home.feed(["put", "a", block], &random.bytes(20_000));
        written.extend(lines_of("Stored", &ran.succeeds().stdout));
    }
    (home, key, written)
}

/// The last operation of this kind.
fn last(home: &Home, kind: &str) -> Option<Value> {
    home.json(["operations"]).into_iter().rfind(|operation| operation["kind"] == kind)
}

#[test]
fn an_operation_that_is_left_goes_on_with_the_next_command_that_uses_keys() {
    let (home, _, written) = furnished();
    let new = home.new_version("k");
    let begun = home.json(["--no-wait", "rotate-kek", "a", &new]).remove(0);
    assert_eq!(begun["kind"], "rotate-kek", "{begun}");
    // Lists need no key, and don't wait for who has it.
    home.run(["ls", "a"]).succeeds();
    home.run(["status"]).succeeds();
    let done = last(&home, "rotate-kek").unwrap();
    assert_eq!((&done["operation"], &done["status"]), (&begun["operation"], &"Succeeded".into()), "{done}");
    assert_eq!(home.json(["status", "a"])[0]["key_id"], new.as_str());
    all_there(&home, &written, "after a rotation that was left");
}

#[test]
fn another_operation_goes_on_after_the_one_that_was_left_is_done() {
    let (home, _, written) = furnished();
    home.run(["--no-wait", "rotate-aek", "a", "--reencrypt"]).succeeds();
    home.run(["rotate-kek", "a", &home.new_version("k")]).succeeds();
    let statuses: Vec<_> =
        home.json(["operations", "a"]).iter().map(|of| format!("{} {}", of["kind"], of["status"])).collect();
    assert_eq!(statuses, [r#""rotate-aek" "Succeeded""#, r#""rotate-kek" "Succeeded""#]);
    all_there(&home, &written, "after two");
}

#[test]
fn operations_are_listed_with_how_they_stand() {
    let (home, _, _) = furnished();
    assert_eq!(home.run(["operations"]).succeeds().text(), "");
    home.run(["operations", "nobody"]).fails(6, "there is no account nobody");
    home.run(["account", "create", "b"]).succeeds();
    home.run(["rotate-aek", "a"]).succeeds();
    home.run(["account", "delete", "b"]).succeeds();
    let listed = home.run(["operations"]);
    let lines: Vec<&str> = listed.succeeds().text().lines().collect();
    assert!(lines.len() == 2 && lines[0].contains(" a rotate-aek Succeeded, started "), "{lines:?}");
    assert!(lines[1].contains(" b delete Succeeded, started "), "{lines:?}");
    assert_eq!(home.run(["operations", "b"]).succeeds().text().lines().count(), 1);
}

#[test]
fn an_operation_is_cancelled_before_it_has_changed_anything_and_not_after() {
    home_with_one_to_cancel();
    let (home, _, written) = furnished();
    let done = home.json(["rotate-aek", "a"]).remove(0);
    let id = done["operation"].as_str().unwrap();
    home.run(["operations", "cancel", id]).fails(1, "can't be cancelled: it is Succeeded");
    home.run(["operations", "cancel", "12"]).fails(2, "32 hex digits");
    home.run(["operations", "cancel", &"0".repeat(32)]).fails(6, "there is no operation 0000");
    all_there(&home, &written, "after it was too late");
}

/// Cancels one that waits for an outage to end. Which step a killed or left command had come to is not the same each time.
fn home_with_one_to_cancel() {
    let (home, key, written) = furnished();
    for _ in 0..20 {
        let home = home.copy();
        let new = home.new_version("k");
        let begun = home.json(["--no-wait", "rotate-kek", "a", &new]).remove(0);
        home.run(["vault", "offline"]).succeeds();
        let id = begun["operation"].as_str().unwrap();
        let ran = home.run(["--json", "operations", "cancel", id]);
        home.run(["vault", "online"]).succeeds();
        if ran.code != 0 {
            ran.fails(1, "can't be cancelled: it is ");
            continue;
        }
        let cancelled: Value = serde_json::from_str(ran.text()).unwrap();
        assert_eq!(cancelled["status"], "Failed", "{cancelled}");
        assert_eq!(cancelled["failure"]["code"], "cancelled", "{cancelled}");
        assert_eq!(home.json(["status", "a"])[0]["key_id"], key.as_str());
        all_there(&home, &written, "after a cancel");
        home.run(["rotate-kek", "a", &new]).succeeds();
        return;
    }
    panic!("none of 20 could be cancelled");
}

#[test]
fn an_interrupt_ends_the_waiting_and_the_operation_goes_on_with_the_next_command() {
    let (home, _) = Home::with_account(&[]);
    let input = home.folder.path().join("in");
    fs::write(&input, Random::new(29).bytes(48 << 20)).unwrap();
    let stored = home.run(["ingest", "a", input.to_str().unwrap()]);
    let written = lines_of("Stored", &stored.succeeds().stdout);
    let mut interrupted = 0;
    for tries in 1..=20 {
        let child = home.spawn(home.command().args(["rotate-aek", "a", "--reencrypt"]));
        // Another moment each time: these take one, and need no lock of the home's.
        (0..tries).for_each(|_| drop(home.run(["vault", "list"])));
        signal(&child, "INT");
        let ran = Ran::of(child.wait_with_output().unwrap());
        match ran.code {
            // It was done before, or had not begun to wait.
            0 | -2 => {}
            _ => {
                ran.fails(1, "is not done yet (interrupted)").fails(1, "goes on with the next command");
                assert!(ran.stdout.is_empty(), "{ran:?}");
                interrupted += 1;
            }
        }
        home.run(["status"]).succeeds();
        if let Some(last) = last(&home, "rotate-aek") {
            assert_eq!(last["status"], "Succeeded", "{last}");
        }
        if interrupted == 2 {
            break;
        }
    }
    assert!(interrupted > 0, "none of 20 was interrupted while it waited");
    all_there(&home, &written, "after interrupts");
}

/// A command that is killed, again and again, each time on a copy of the same home.
struct Scene {
    kind: &'static str,
    home: Home,
    arguments: Vec<String>,
    written: Vec<Acknowledged>,
    check: fn(&Scene, &Home, ended: bool, context: &str),
    /// The account's KEK before.
    old: String,
}

fn rotate_kek() -> Scene {
    let (home, old, written) = furnished();
    let new = home.new_version("k");
    let arguments = vec!["rotate-kek".into(), "a".into(), new];
    Scene { kind: "rotate-kek", home, arguments, written, check: is_rotated_or_as_it_was, old }
}

fn rotate_aek() -> Scene {
    let (home, old, written) = furnished();
    let arguments = ["--json", "rotate-aek", "a", "--reencrypt"].map(str::to_owned).into();
    Scene { kind: "rotate-aek", home, arguments, written, check: is_sealed_anew_or_as_it_was, old }
}

fn purge() -> Scene {
    let (home, old, written) = furnished();
    home.run(["account", "delete", "a"]).succeeds();
    let arguments = ["account", "purge", "a", "--yes"].map(str::to_owned).into();
    Scene { kind: "purge", home, arguments, written, check: is_purged_or_can_be_recovered, old }
}

fn is_rotated_or_as_it_was(scene: &Scene, home: &Home, ended: bool, context: &str) {
    let new = scene.arguments.last().unwrap();
    let key = home.json(["status", "a"])[0]["key_id"].clone();
    assert_eq!(key, if ended { new.as_str() } else { scene.old.as_str() }, "{context}");
    all_there(home, &scene.written, context);
    if !ended {
        home.run(["rotate-kek", "a", new]).succeeds();
    }
    home.run(["vault", "disable", &scene.old]).succeeds();
    all_there(home, &scene.written, context);
}

fn is_sealed_anew_or_as_it_was(scene: &Scene, home: &Home, ended: bool, context: &str) {
    let epoch = if ended { 2 } else { 1 };
    let listed = home.json(["ls", "a"]);
    assert!(listed.iter().all(|block| block["epoch"] == epoch), "{context}: {listed:?}");
    all_there(home, &scene.written, context);
}

fn is_purged_or_can_be_recovered(scene: &Scene, home: &Home, ended: bool, context: &str) {
    if !ended {
        home.run(["account", "recover", "a"]).succeeds();
        all_there(home, &scene.written, context);
        return;
    }
    home.run(["account", "recover", "a"]).fails(6, "there is no account a");
    let store = fs::read(home.file("blocks.store")).unwrap();
    let id = scene.old.rsplit_once('/').unwrap().0.as_bytes();
    assert!(!store.windows(id.len()).any(|window| window == id), "{context}: the key's id is left");
    let verified = home.run(["verify"]);
    assert!(verified.succeeds().text().starts_with("store: 0 blocks, "), "{context}: {verified:?}");
}

impl Scene {
    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }

    /// Kills it at these points. How often it was killed, and how many of those had ended when the next command was done.
    fn play(&self, strace: &Strace, points: &[Point]) -> (u64, u64) {
        let (mut killed, mut ended) = (0, 0);
        for point in points {
            let home = self.home.copy();
            let ran = strace.kill(&home, point, &self.arguments());
            let context = format!("{}, killed at {} {}", self.kind, point.call, point.number);
            assert!(matches!(ran.code, -9 | 0), "{context}: {ran:?}");
            killed += u64::from(ran.code == -9);
            // It goes on with what was begun.
            home.run(["status"]).succeeds();
            let status = last(&home, self.kind).map(|operation| operation["status"].clone());
            let has_ended = match &status {
                Some(status) if status == "Succeeded" => true,
                None => false,
                status => panic!("{context}: {status:?}"),
            };
            assert!(has_ended || ran.stdout.is_empty(), "{context}: it had said that it was done: {ran:?}");
            ended += u64::from(has_ended);
            (self.check)(self, &home, has_ended, &context);
        }
        (killed, ended)
    }
}

#[test]
fn an_operation_that_is_killed_at_any_system_call_is_done_or_was_never_begun() {
    let Some(strace) = Strace::find() else { return };
    let (seed, each) = (20_261_127, scale(12, u64::MAX));
    let mut total = 0;
    for scene in [rotate_kek(), rotate_aek(), purge()] {
        let all = strace.points(&scene.home.copy(), &scene.arguments());
        let points = if each == u64::MAX { all.clone() } else { sample(&all, each as usize, seed) };
        let (killed, ended) = scene.play(&strace, &points);
        println!(
            "{}: killed at {killed} of {} system calls: {ended} went on to their end, {} were as if not begun; 0 blocks lost",
            scene.kind,
            all.len(),
            points.len() as u64 - ended
        );
        assert!(killed * 2 > points.len() as u64, "{}: seed {seed}", scene.kind);
        total += killed;
    }
    println!("{total} kills in all (seed {seed})");
    assert!(total >= scale(18, 1000), "{total}");
}
