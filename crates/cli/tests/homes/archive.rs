//! Accounts are exported and imported, and a key version is said to be safe to disable, with a receipt.

use std::fs;

use crate::common::{Home, Ran, Random, cofferdam, signal};

fn filled() -> (Home, String) {
    let (home, key) = Home::with_account(&[]);
    for block in ["one", "two", "three"] {
        home.put(block, block.as_bytes());
    }
    (home, key)
}

fn path(home: &Home, name: &str) -> String {
    home.folder.path().join(name).into_os_string().into_string().unwrap()
}

#[track_caller]
fn reads(home: &Home, account: &str) {
    for block in ["one", "two", "three"] {
        assert_eq!(home.run(["get", account, block]).succeeds().stdout, block.as_bytes());
    }
}

#[test]
fn an_account_that_was_purged_is_restored_from_its_archive_even_after_a_rotation() {
    let (home, key) = filled();
    let file = path(&home, "a.archive");
    let done = home.json(["export", "a", &file]).remove(0);
    assert_eq!((&done["account"], &done["blocks"]), (&"a".into(), &3.into()), "{done}");
    let keys: Vec<_> = done["keys"].as_array().unwrap().iter().filter_map(|key| key.as_str()).collect();
    assert!(keys.contains(&key.as_str()), "{done}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    home.run(["import", &file]).fails(1, "already");
    home.run(["rotate-kek", "a", &home.new_version("k")]).succeeds();
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["import", &file]).fails(1, "already");
    home.run(["account", "purge", "a", "--yes"]).succeeds();
    let done = home.json(["import", &file, "--name", "restored"]).remove(0);
    assert_eq!(
        (&done["account"], &done["unwrapped_by"]),
        (&"restored".into(), &key.as_str().into()),
        "{done}"
    );
    assert_eq!(done["vouched"], true);
    reads(&home, "restored");
    home.run(["verify"]).succeeds();
    // What is written from now on is under a new epoch.
    home.feed(["put", "restored", "four"], b"four").succeeds();
    let listed = home.json(["ls", "restored"]);
    let epoch =
        |block: &str| listed.iter().find(|of| of["block"] == block).unwrap()["epoch"].as_u64().unwrap();
    assert!(epoch("four") > epoch("one"), "{listed:?}");
}

#[test]
fn an_import_may_go_under_another_key_and_needs_one_that_the_archive_names() {
    let (home, key) = filled();
    let file = path(&home, "a.archive");
    home.run(["export", "a", &file]).succeeds();
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["account", "purge", "a", "--yes"]).succeeds();
    home.run(["vault", "disable", &key]).succeeds();
    let refused = home.run(["import", &file]);
    assert!(refused.code != 0 && refused.stdout.is_empty(), "{refused:?}");
    assert!(refused.stderr.contains(&key), "{refused:?}");
    assert_eq!(home.run(["account", "list", "--deleted"]).succeeds().text(), "");
    home.run(["vault", "enable", &key]).succeeds();
    let other = home.run(["vault", "create-key", "other"]).succeeds().text().trim().to_owned();
    home.run(["import", &file, "--kek", &other]).succeeds();
    home.run(["vault", "disable", &key]).succeeds();
    reads(&home, "a");
    assert_eq!(home.json(["status", "a"])[0]["key_id"], other.as_str());
}

#[test]
fn an_archive_tells_its_header_without_a_key_and_a_damaged_one_is_refused() {
    let (home, key) = filled();
    let file = path(&home, "a.archive");
    home.run(["export", "a", &file]).succeeds();
    let told = Ran::of(cofferdam().args(["inspect", &file]).output().unwrap());
    let text = told.succeeds().text();
    for says in ["account     a, ", "linked      to a customer's key", &format!("wrapped by  {key}")] {
        assert!(text.contains(says), "{text}");
    }
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["account", "purge", "a", "--yes"]).succeeds();
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bytes in [&damaged, &whole[..whole.len() - 1], &[&whole[..], b"x"].concat()] {
        fs::write(&file, bytes).unwrap();
        home.run(["import", &file]).fails(5, "take another copy");
    }
    fs::write(&file, "something else").unwrap();
    home.run(["import", &file]).fails(1, "choose another file");
    home.run(["import", &path(&home, "missing")]).fails(1, "can't read");
    assert_eq!(home.run(["account", "list"]).succeeds().text(), "");
    fs::write(&file, &whole).unwrap();
    home.run(["import", &file]).succeeds();
    reads(&home, "a");
}

#[test]
fn a_version_is_safe_to_disable_once_nothing_needs_it_and_a_receipt_says_so() {
    let (home, old) = filled();
    let ran = home.run(["safe-to-disable", &old]);
    ran.fails(7, "is not safe to disable yet");
    assert!(ran.text().starts_with(&format!("not yet: {old} is needed\n  account a: ")), "{ran:?}");
    let new = home.new_version("k");
    home.run(["rotate-kek", "a", &new]).succeeds();
    let receipt = path(&home, "receipt");
    let yes = home.json(["safe-to-disable", &old, "--receipt", &receipt]).remove(0);
    assert_eq!((&yes["safe"], &yes["needed"]), (&true.into(), &serde_json::json!([])), "{yes}");
    let key = yes["public_key"].as_str().unwrap();
    home.run(["vault", "disable", &old]).succeeds();
    reads(&home, "a");

    // The auditor has no home.
    let verify = |file: &str, key: &str| {
        Ran::of(cofferdam().args(["--json", "verify-receipt", file, "--public-key", key]).output().unwrap())
    };
    let ran = verify(&receipt, key);
    let verified: serde_json::Value = serde_json::from_str(ran.succeeds().text()).unwrap();
    assert_eq!(verified["key_id"], old.as_str());
    assert_eq!(verified["examined"]["accounts"], 1);
    let another = home.copy();
    fs::remove_file(another.file("receipt.key")).unwrap();
    let yes = another.json(["safe-to-disable", &old]).remove(0);
    let others = yes["public_key"].as_str().unwrap().to_owned();
    assert_ne!(others, key);
    verify(&receipt, &others).fails(1, "the receipt is by");
    verify(&receipt, "12").fails(2, "64 lower-case hex digits");
    fs::write(&receipt, fs::read_to_string(&receipt).unwrap().replace("\"accounts\":1", "\"accounts\":2"))
        .unwrap();
    verify(&receipt, key).fails(5, "changed or forged");
    fs::write(&receipt, "nothing").unwrap();
    verify(&receipt, key).fails(5, "not a receipt");
    verify(&path(&home, "missing"), key).fails(1, "can't read");

    // The version is fenced: nothing goes back under it.
    home.run(["vault", "enable", &old]).succeeds();
    home.run(["rotate-kek", "a", &old]).fails(1, "was said to be safe to disable");
}

#[test]
fn a_deleted_account_and_an_archive_keep_a_version_needed() {
    let (home, old) = filled();
    let file = path(&home, "a.archive");
    let archive = home.json(["export", "a", &file]).remove(0)["archive"].as_str().unwrap().to_owned();
    home.run(["rotate-kek", "a", &home.new_version("k")]).succeeds();
    let ran = home.run(["safe-to-disable", &old]);
    assert!(ran.fails(7, "not safe").text().contains(&format!("archive {archive}")), "{ran:?}");
    let listed = home.json(["archives", "a"]);
    assert_eq!((listed.len(), &listed[0]["archive"]), (1, &archive.as_str().into()), "{listed:?}");
    assert_eq!(listed[0]["finished"], true);
    home.run(["archives", "a", "--forget", &"0".repeat(32)]).fails(6, "archive");
    home.run(["archives", "a", "--forget", &archive]).succeeds();
    home.run(["safe-to-disable", &old]).succeeds();

    let now = home.json(["status", "a"])[0]["key_id"].as_str().unwrap().to_owned();
    home.run(["account", "create", "b", "--kek", &now]).succeeds();
    home.run(["rotate-kek", "a", &home.new_version("k")]).succeeds();
    home.run(["account", "delete", "b"]).succeeds();
    let ran = home.run(["safe-to-disable", &now]);
    assert!(ran.fails(7, "not safe").text().contains("account b: "), "{ran:?}");
    home.run(["account", "purge", "b", "--yes"]).succeeds();
    home.run(["safe-to-disable", &now]).succeeds();
}

#[test]
fn an_interrupted_export_or_import_leaves_nothing() {
    let (home, key) = Home::with_account(&[]);
    let input = home.folder.path().join("in");
    fs::write(&input, Random::new(31).bytes(32 << 20)).unwrap();
    home.run(["ingest", "a", input.to_str().unwrap()]).succeeds();
    let files = home.folder.path().join("files");
    fs::create_dir(&files).unwrap();
    let file = files.join("archive").into_os_string().into_string().unwrap();
    let mut interrupted = (0, 0);
    for tries in 1..=20 {
        let ran = interrupt(&home, &["export", "a", &file], tries);
        match ran.code {
            0 => break,
            // It had not begun to listen.
            -2 => {}
            _ => {
                ran.fails(1, "interrupted: no archive was written");
                assert_eq!(home.run(["archives", "a"]).succeeds().text(), "");
                interrupted.0 += 1;
            }
        }
        assert_eq!(fs::read_dir(&files).unwrap().count(), 0);
    }
    home.run(["export", "a", &file]).succeeds();
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["account", "purge", "a", "--yes"]).succeeds();
    for tries in 1..=20 {
        let ran = interrupt(&home, &["import", &file], tries);
        match ran.code {
            0 => break,
            -2 => {}
            _ => {
                ran.fails(1, "interrupted: no account was made");
                interrupted.1 += 1;
            }
        }
        assert_eq!(home.run(["account", "list", "--deleted"]).succeeds().text(), "");
    }
    if home.run(["account", "list"]).succeeds().text().is_empty() {
        home.run(["import", &file]).succeeds();
    }
    assert!(home.run(["verify"]).succeeds().text().contains("a: 32 blocks opened"));
    println!("interrupted {} exports and {} imports", interrupted.0, interrupted.1);
    assert!(interrupted.0 + interrupted.1 > 0);
    home.run(["vault", "disable", &key]).succeeds();
    home.run(["export", "a", &file]).fails(3, "revoked");
    assert_eq!(fs::read_dir(&files).unwrap().count(), 1);
}

/// Interrupts it after a while, which is longer with each number.
fn interrupt(home: &Home, arguments: &[&str], number: u64) -> Ran {
    let child = home.spawn(home.command().args(arguments));
    // These take a moment, and need no lock of the home's.
    (0..number).for_each(|_| drop(home.run(["vault", "list"])));
    signal(&child, "INT");
    Ran::of(child.wait_with_output().unwrap())
}

#[test]
fn the_key_for_receipts_is_its_owners_alone_and_is_printed_by_init() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h");
    let ran = Ran::of(cofferdam().arg("--home").arg(&path).args(["--json", "init"]).output().unwrap());
    let made: serde_json::Value = serde_json::from_str(ran.succeeds().text()).unwrap();
    assert_eq!(made["receipt_public_key"].as_str().unwrap().len(), 64);
    let key = fs::metadata(path.join("receipt.key")).unwrap();
    assert_eq!((key.permissions().mode() & 0o777, key.len()), (0o600, 32));
    let home = Home { folder, path };
    fs::write(home.file("receipt.key"), "short").unwrap();
    home.run(["status"]).fails(5, "receipt.key is damaged");
    home.run(["account", "list"]).succeeds();
}
