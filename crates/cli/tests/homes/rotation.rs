//! Keys are rotated, accounts linked and unlinked: what each command prints, what it refuses, and that every block reads.

use serde_json::Value;

use crate::common::Home;

/// The one operation that a command printed.
#[track_caller]
fn operation(home: &Home, arguments: &[&str]) -> Value {
    let mut printed = home.json(arguments);
    assert_eq!(printed.len(), 1, "{printed:?}");
    printed.remove(0)
}

#[track_caller]
fn reads(home: &Home, blocks: &[&str]) {
    for block in blocks {
        assert_eq!(home.run(["get", "a", block]).succeeds().stdout, block.as_bytes());
    }
}

fn filled(arguments: &[&str]) -> (Home, String) {
    let (home, key) = Home::with_account(arguments);
    for block in ["one", "two", "three"] {
        home.put(block, block.as_bytes());
    }
    (home, key)
}

/// How many of the account's blocks are under this key and epoch.
fn under(home: &Home, provider: &str, epoch: u64) -> usize {
    let listed = home.json(["ls", "a"]);
    listed.iter().filter(|block| block["provider"] == provider && block["epoch"] == epoch).count()
}

#[test]
fn after_a_rotation_the_old_version_can_be_disabled_and_every_block_reads() {
    let (home, old) = filled(&[]);
    let new = home.new_version("k");
    let before = home.json(["ls", "a"]);
    let done = operation(&home, &["rotate-kek", "a", &new]);
    assert_eq!(done["kind"], "rotate-kek");
    assert_eq!((&done["status"], &done["account"]), (&"Succeeded".into(), &"a".into()));
    assert_eq!((&done["from"], &done["to"]), (&old.as_str().into(), &new.as_str().into()));
    assert_eq!(done["operation"].as_str().unwrap().len(), 32);
    assert_eq!(done["cancellable"], false);
    assert!(done["started"].as_str() <= done["ended"].as_str() && done["ended"].is_string(), "{done}");
    for absent in ["failure", "waits_for", "reencrypt"] {
        assert!(done.get(absent).is_none(), "{done}");
    }
    assert_eq!(home.json(["ls", "a"]), before, "a block was touched");
    home.run(["vault", "disable", &old]).succeeds();
    reads(&home, &["one", "two", "three"]);
    home.run(["vault", "delete", &old]).succeeds();
    home.run(["verify"]).succeeds();
    let status = home.json(["status", "a"]).remove(0);
    assert_eq!(status["key_id"], new.as_str());
    assert_eq!(status["keks"], serde_json::json!([{ "key_id": new }]));
    assert!(status.get("operation").is_none(), "{status}");
}

#[test]
fn in_text_a_rotation_is_one_line_and_nothing_is_drawn_in_a_pipe() {
    let (home, old) = filled(&[]);
    let new = home.new_version("k");
    let ran = home.run(["rotate-kek", "a", &new]);
    let line = ran.succeeds().text().strip_suffix('\n').unwrap();
    assert_eq!(ran.stderr, "");
    let (id, rest) = line.split_once(' ').unwrap();
    assert_eq!(id.len(), 32);
    assert!(rest.starts_with(&format!("a rotate-kek Succeeded, from {old}, to {new}, started ")), "{rest}");
    assert!(rest.contains(", ended ") && !rest.contains('\n'), "{rest}");
}

#[test]
fn what_a_rotation_refuses_is_named_and_leaves_no_operation() {
    let (home, key) = filled(&[]);
    home.run(["rotate-kek", "nobody", &key]).fails(6, "there is no account nobody");
    home.run(["rotate-kek", "a", &key]).fails(1, "is wrapped under").fails(1, "already");
    home.run(["rotate-kek", "a", "not a key"]).fails(2, "KEYID");
    home.run(["rotate-kek", "a", "local://customer/keys/nobody"]).fails(6, "nobody");
    let disabled = home.new_version("k");
    home.run(["vault", "disable", &disabled]).succeeds();
    home.run(["rotate-kek", "a", &disabled]).fails(1, "enable");
    let ran = home.run(["vault", "create-key", "fleeting", "--not-recoverable"]);
    home.run(["rotate-kek", "a", ran.text().trim()]).fails(1, "soft delete and purge protection");
    home.run(["rotate-kek", "a", &home.new_version("k"), "--replacing", &disabled])
        .fails(1, "is not wrapped under");

    // The way around a revocation is closed.
    let new = home.new_version("k");
    home.run(["vault", "disable", &key]).succeeds();
    home.run(["rotate-kek", "a", &new]).fails(3, "enable that version");
    home.run(["rotate-aek", "a"]).fails(3, "enable that version");
    home.run(["vault", "enable", &key]).succeeds();
    home.run(["vault", "offline"]).succeeds();
    home.run(["rotate-kek", "a", &new]).fails(4, "offline");
    home.run(["vault", "online"]).succeeds();
    let ran = home.run(["--json", "rotate-kek", "nobody", &new]);
    let error: Value = serde_json::from_str(ran.fails(6, "no account").stderr.trim()).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["exit_code"]), (&"not_found".into(), &6.into()));

    assert_eq!(home.run(["operations"]).succeeds().text(), "");
    reads(&home, &["one", "two", "three"]);
    home.run(["rotate-kek", "a", &new]).succeeds();
    reads(&home, &["one"]);
}

#[test]
fn a_new_key_of_the_accounts_own_is_for_new_blocks_until_the_old_ones_are_sealed_anew() {
    let (home, _) = filled(&[]);
    let done = operation(&home, &["rotate-aek", "a"]);
    assert_eq!((&done["kind"], &done["reencrypt"]), (&"rotate-aek".into(), &false.into()));
    home.put("four", b"four");
    assert_eq!((under(&home, "customer", 1), under(&home, "customer", 2)), (3, 1));
    reads(&home, &["one", "two", "three", "four"]);
    let done = operation(&home, &["rotate-aek", "a", "--reencrypt"]);
    assert_eq!((&done["status"], &done["reencrypt"]), (&"Succeeded".into(), &true.into()));
    assert_eq!((&done["done"], &done["total"]), (&4.into(), &4.into()));
    assert_eq!(under(&home, "customer", 3), 4);
    reads(&home, &["one", "two", "three", "four"]);
    assert!(home.run(["verify"]).succeeds().text().contains("4 blocks opened"));
}

#[test]
fn an_account_is_unlinked_and_linked_and_reads_throughout() {
    let (home, key) = filled(&[]);
    home.run(["link", "a", &key]).fails(1, "linked to a customer's key already");
    let done = operation(&home, &["unlink", "a"]);
    assert_eq!((&done["kind"], &done["status"]), (&"unlink".into(), &"Succeeded".into()));
    home.put("four", b"four");
    assert_eq!((under(&home, "customer", 1), under(&home, "service", 1)), (3, 1));
    reads(&home, &["one", "two", "three", "four"]);
    for refused in [&["unlink", "a"][..], &["rotate-kek", "a", &key], &["rotate-aek", "a"]] {
        home.run(refused).fails(1, "linked to no customer's key");
    }
    // The customer's blocks need the customer's key; the service's do not.
    home.run(["vault", "disable", &key]).succeeds();
    reads(&home, &["four"]);
    home.run(["get", "a", "one"]).fails(3, "revoked");
    home.run(["vault", "enable", &key]).succeeds();

    let other = home.run(["vault", "create-key", "other"]).succeeds().text().trim().to_owned();
    let done = operation(&home, &["link", "a", &other, "--reencrypt"]);
    assert_eq!((&done["kind"], &done["to"]), (&"link".into(), &other.as_str().into()));
    assert_eq!(under(&home, "service", 1), 0);
    home.run(["vault", "disable", &key]).succeeds();
    reads(&home, &["one", "two", "three", "four"]);

    let done = operation(&home, &["unlink", "a", "--reencrypt"]);
    assert_eq!(done["status"], "Succeeded", "{done}");
    home.run(["vault", "delete", &other]).succeeds();
    reads(&home, &["one", "two", "three", "four"]);
    assert_eq!(home.json(["status", "a"])[0]["provider"], "service");
}

#[test]
fn a_link_may_have_a_write_only_buffer_where_its_key_is_rsa() {
    let (home, key) = filled(&[]);
    home.run(["account", "create", "s"]).succeeds();
    home.run(["link", "s", &key, "--buffer", "write-only"]).fails(1, "write-only");
    home.run(["link", "s", &key, "--buffer", "nothing"]).fails(2, "service-managed");
    let rsa =
        home.run(["vault", "create-key", "r", "--kind", "rsa-2048"]).succeeds().text().trim().to_owned();
    home.run(["link", "s", &rsa, "--buffer", "write-only"]).succeeds();
    home.run(["vault", "offline"]).succeeds();
    let ran = home.feed(["put", "s", "b"], b"waits");
    assert!(ran.succeeds().text().starts_with("Buffered b "), "{ran:?}");
    assert_eq!(home.json(["status", "s"])[0]["buffer"]["mode"], "write-only");
    // What waits is wrapped under the old version: it is drained, or wrapped anew, before that is needed no longer.
    home.run(["vault", "online"]).succeeds();
    let new = home.new_version("r");
    home.run(["--no-wait", "status", "s"]).succeeds();
    home.run(["rotate-kek", "s", &new]).succeeds();
    home.run(["vault", "disable", &rsa]).succeeds();
    assert_eq!(home.run(["get", "s", "b"]).succeeds().stdout, b"waits");
}

#[test]
fn an_account_has_several_keks_and_a_removed_one_no_longer_revokes() {
    let (home, first) = filled(&[]);
    home.run(["remove-kek", "a", &first]).fails(1, "is the only KEK");
    let second = home.run(["vault", "create-key", "second"]).succeeds().text().trim().to_owned();
    let done = operation(&home, &["add-kek", "a", &second]);
    assert_eq!((&done["kind"], &done["to"]), (&"add-kek".into(), &second.as_str().into()));
    home.run(["add-kek", "a", &second]).fails(1, "already");
    let keks = home.json(["status", "a"])[0]["keks"].clone();
    assert_eq!(keks, serde_json::json!([{ "key_id": first }, { "key_id": second }]));
    let told = home.run(["status", "a"]).text().to_owned();
    assert!(told.contains(&format!("; 2 KEKs: {first}, {second}")), "{told}");
    let newer = home.new_version("second");
    home.run(["rotate-kek", "a", &newer]).fails(1, "has several KEKs, say which");
    home.run(["rotate-kek", "a", &newer, "--replacing", &second]).succeeds();

    // A denial by any one is a revocation, until that one is removed.
    home.run(["vault", "disable", &first]).succeeds();
    home.run(["get", "a", "one"]).fails(3, "revoked");
    let done = operation(&home, &["remove-kek", "a", &first]);
    assert_eq!((&done["kind"], &done["from"]), (&"remove-kek".into(), &first.as_str().into()));
    reads(&home, &["one", "two", "three"]);
    home.run(["remove-kek", "a", &first]).fails(1, "is not wrapped under");

    for n in 0..3 {
        let key = home.run(["vault", "create-key", &format!("k{n}")]).succeeds().text().trim().to_owned();
        home.run(["add-kek", "a", &key]).succeeds();
    }
    let fifth = home.run(["vault", "create-key", "fifth"]).succeeds().text().trim().to_owned();
    home.run(["add-kek", "a", &fifth]).fails(1, "has 4 KEKs, the most there may be");
}

#[test]
fn an_account_that_follows_the_latest_version_rotates_with_the_next_command() {
    let home = Home::new();
    let first = home.run(["vault", "create-key", "k"]).succeeds().text().trim().to_owned();
    let any = first.rsplit_once('/').unwrap().0;
    home.run(["account", "create", "a", "--kek", any]).succeeds();
    home.put("one", b"one");
    let second = home.new_version("k");
    home.run(["status"]).succeeds();
    assert_eq!(home.json(["status", "a"])[0]["key_id"], first.as_str());
    home.run(["account", "follow-latest", "a", "maybe"]).fails(2, "on, off");
    home.run(["account", "follow-latest", "nobody", "on"]).fails(6, "no account");
    let set = home.json(["account", "follow-latest", "a", "on"]).remove(0);
    assert_eq!(set, serde_json::json!({ "account": "a", "follow_latest": true }));
    home.run(["status"]).succeeds();
    assert_eq!(home.json(["status", "a"])[0]["key_id"], second.as_str());
    home.run(["account", "follow-latest", "a", "off"]).succeeds();
    home.new_version("k");
    home.run(["status"]).succeeds();
    assert_eq!(home.json(["status", "a"])[0]["key_id"], second.as_str());
    reads(&home, &["one"]);
}

#[test]
fn re_encryption_that_meets_an_outage_says_so_and_goes_on_at_the_next_command() {
    let (home, _) = filled(&[]);
    home.run(["--no-wait", "rotate-aek", "a", "--reencrypt"]).succeeds();
    home.run(["vault", "offline"]).succeeds();
    let ran = home.run(["operations"]);
    // It may have been done before it was left.
    if !ran.succeeds().text().contains(" Succeeded") {
        assert!(ran.text().contains(", waits: ") && ran.text().contains("offline"), "{ran:?}");
        assert!(ran.stderr.starts_with("warning: rotate-aek of a waits: "), "{ran:?}");
        let operation = &home.json(["status", "a"])[0]["operation"];
        assert_eq!(operation["kind"], "rotate-aek");
        assert!(operation["waits_for"].as_str().unwrap().contains("offline"), "{operation}");
        let told = home.run(["status", "a"]).text().to_owned();
        assert!(told.contains("; rotate-aek ") && told.contains(", waits: "), "{told}");
        // What is asked for meanwhile is refused, and the refusal names what goes on.
        home.run(["account", "delete", "a"]).fails(1, " (rotate-aek) of account a goes on since 20");
    }
    home.run(["vault", "online"]).succeeds();
    home.run(["status"]).succeeds();
    let last = home.json(["operations", "a"]).pop().unwrap();
    assert_eq!((&last["kind"], &last["status"]), (&"rotate-aek".into(), &"Succeeded".into()), "{last}");
    assert_eq!(under(&home, "customer", 2), 3);
    reads(&home, &["one", "two", "three"]);
}
