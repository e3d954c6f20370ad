//! Accounts are deleted, recovered and purged.

use std::fs;

use crate::common::Home;

fn filled() -> (Home, String) {
    let (home, key) = Home::with_account(&[]);
    for block in ["one", "two"] {
        home.put(block, block.as_bytes());
    }
    (home, key)
}

#[test]
fn a_deleted_account_is_gone_for_all_but_who_recovers_it() {
    let (home, key) = filled();
    home.run(["account", "create", "b"]).succeeds();
    let done = home.json(["account", "delete", "a"]).remove(0);
    assert_eq!((&done["kind"], &done["status"]), (&"delete".into(), &"Succeeded".into()), "{done}");
    for command in [
        &["get", "a", "one"][..],
        &["put", "a", "one", "/dev/null"],
        &["ls", "a"],
        &["rm", "a", "one"],
        &["status", "a"],
        &["verify", "a"],
        &["rotate-aek", "a"],
        &["account", "delete", "a"],
    ] {
        home.run(command).fails(6, "account a is deleted: recover it before");
    }
    let told = home.run(["ls", "a"]);
    let until = told.stderr.split_once("before ").unwrap().1.split_once(", or").unwrap().0;
    assert!(until.starts_with("20") && until.ends_with('Z'), "{told:?}");
    home.run(["account", "create", "a", "--kek", &key]).fails(1, "already");
    // The others are as they were.
    home.feed(["put", "b", "x"], b"data").succeeds();
    assert_eq!(home.run(["account", "list"]).succeeds().text(), "b\n");
    let listed = home.json(["account", "list", "--deleted"]);
    assert_eq!((&listed[0]["account"], &listed[1]["account"]), (&"a".into(), &"b".into()));
    assert!(listed[0]["deleted"].as_str() < listed[0]["recoverable_until"].as_str(), "{listed:?}");
    assert_eq!(listed[1], serde_json::json!({ "account": "b" }));
    let told = home.run(["account", "list", "--deleted"]).text().to_owned();
    assert!(told.starts_with("a deleted 2") && told.contains(", recoverable until 2"), "{told}");
    home.run(["status"]).succeeds();
    home.run(["verify"]).succeeds();

    home.run(["account", "recover", "b"]).fails(1, "is not deleted");
    home.run(["account", "recover", "nobody"]).fails(6, "there is no account nobody");
    let done = home.json(["account", "recover", "a"]).remove(0);
    assert_eq!((&done["kind"], &done["status"]), (&"recover".into(), &"Succeeded".into()), "{done}");
    for block in ["one", "two"] {
        assert_eq!(home.run(["get", "a", block]).succeeds().stdout, block.as_bytes());
    }
    let kinds: Vec<_> = home.json(["operations", "a"]).iter().map(|of| of["kind"].to_string()).collect();
    assert_eq!(kinds, ["\"delete\"", "\"recover\""]);
}

#[test]
fn what_is_buffered_stays_the_accounts_through_a_deletion() {
    let (home, _) = filled();
    home.run(["vault", "offline"]).succeeds();
    home.put("waits", b"waits");
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["vault", "online"]).succeeds();
    home.run(["status"]).succeeds();
    home.run(["account", "recover", "a"]).succeeds();
    assert_eq!(home.run(["get", "a", "waits"]).succeeds().stdout, b"waits");
}

#[test]
fn a_purge_leaves_neither_wraps_nor_key_ids_in_the_stores_file() {
    let (home, key) = filled();
    home.run(["account", "create", "kept"]).succeeds();
    home.feed(["put", "kept", "x"], b"data").succeeds();
    home.run(["rotate-kek", "a", &home.new_version("k")]).succeeds();
    home.run(["account", "purge", "a", "--yes"]).fails(1, "is not deleted");
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["account", "purge", "a"]).fails(2, "--yes");
    let holds = |what: &str| {
        let store = fs::read(home.file("blocks.store")).unwrap();
        store.windows(what.len()).any(|window| window == what.as_bytes())
    };
    let any = key.rsplit_once('/').unwrap().0;
    assert!(holds(any), "the control: the key's id should be there before");
    let done = home.json(["account", "purge", "a", "--yes"]).remove(0);
    assert_eq!((&done["kind"], &done["status"]), (&"purge".into(), &"Succeeded".into()), "{done}");
    assert!(!holds(any), "the key's id is still in the store's file");
    home.run(["account", "recover", "a"]).fails(6, "there is no account a");
    home.run(["get", "a", "one"]).fails(6, "there is no account a");
    assert_eq!(home.run(["account", "list", "--deleted"]).succeeds().text(), "kept\n");
    assert_eq!(home.run(["get", "kept", "x"]).succeeds().stdout, b"data");
    let verified = home.run(["verify"]);
    assert!(verified.succeeds().text().contains("1 blocks"), "{verified:?}");
    // The name is free, and whoever takes it begins with nothing.
    home.run(["account", "create", "a", "--kek", &key]).succeeds();
    assert_eq!(home.run(["ls", "a"]).succeeds().text(), "");
}

#[test]
fn an_account_whose_time_is_over_is_destroyed_by_the_next_command() {
    let (home, _) = Home::with_account(&["--deleted-retention", "0s"]);
    home.put("one", b"one");
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["status"]).succeeds();
    assert_eq!(home.run(["account", "list", "--deleted"]).succeeds().text(), "");
    let last = home.json(["operations"]).pop().unwrap();
    assert_eq!((&last["kind"], &last["status"]), (&"purge".into(), &"Succeeded".into()), "{last}");
    assert!(home.run(["verify"]).succeeds().text().starts_with("store: 0 blocks, "));
}

#[test]
fn a_protected_account_is_not_purged_before_its_time() {
    let (home, _) = filled();
    let set = home.json(["account", "protect", "a"]).remove(0);
    assert_eq!(set, serde_json::json!({ "account": "a", "purge_protection": true }));
    home.run(["account", "delete", "a"]).succeeds();
    home.run(["account", "purge", "a", "--yes"]).fails(1, "protected from being purged");
    home.run(["account", "recover", "a"]).succeeds();
    assert_eq!(home.run(["get", "a", "one"]).succeeds().stdout, b"one");
}
