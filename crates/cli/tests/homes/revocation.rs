//! The customer takes the key away and gives it back.

use std::io::{BufRead, BufReader, Write};

use crate::common::{self, Home, all_there, lines_of};

#[test]
fn a_disabled_key_revokes_and_an_enabled_one_restores() {
    let (home, key) = Home::with_account(&[]);
    home.put("b", b"data");
    home.run(["vault", "disable", &key]).succeeds();
    home.run(["get", "a", "b"]).fails(3, "revoked");
    home.feed(["put", "a", "c"], b"refused").fails(3, "revoked");
    home.feed(["ingest", "a", "-"], b"refused").fails(3, "revoked");
    // It is kept, and the list needs no key.
    home.run(["get", "a", "b"]).fails(3, "revoked");
    assert_eq!(home.run(["ls", "a"]).succeeds().text(), "b\n");
    assert!(home.run(["status"]).succeeds().text().starts_with("a: customer key revoked"));
    home.run(["verify"]).fails(3, "revoked");

    home.run(["vault", "enable", &key]).succeeds();
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"data");
    home.put("c", b"stored");
    assert!(home.run(["status"]).succeeds().text().starts_with("a: customer key active, 2 blocks"));
}

#[test]
fn a_deleted_key_revokes_and_a_recovered_one_restores() {
    let (home, key) = Home::with_account(&[]);
    home.put("b", b"data");
    home.run(["vault", "delete", &key]).succeeds();
    // A missing key is believed after three answers, one second apart.
    home.run(["get", "a", "b"]).fails(3, "revoked");
    home.run(["vault", "recover", &key]).succeeds();
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"data");
}

#[test]
fn a_new_version_leaves_old_accounts_as_they_are() {
    let (home, key) = Home::with_account(&[]);
    home.put("b", b"data");
    let newer = home.run(["vault", "new-version", "k"]).succeeds().text().trim().to_owned();
    assert_ne!(newer, key);
    home.run(["vault", "disable", &newer]).succeeds();
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"data");
    let listed = home.run(["vault", "list"]);
    let lines: Vec<&str> = listed.text().lines().collect();
    assert!(lines[0].starts_with(&format!("{key} enabled ")), "{lines:?}");
    assert!(
        lines[1].starts_with(&format!("{newer} disabled ")) && lines[1].ends_with(" latest"),
        "{lines:?}"
    );
}

#[test]
fn an_rsa_key_serves_as_an_aes_key_does() {
    let home = Home::new();
    home.run(["vault", "create-key", "r", "--kind", "rsa-1024"]).fails(2, "rsa-2048, rsa-3072, rsa-4096");
    let key =
        home.run(["vault", "create-key", "r", "--kind", "rsa-2048"]).succeeds().text().trim().to_owned();
    home.run(["account", "create", "a", "--kek", &key]).succeeds();
    home.put("b", b"data");
    let newer = home.run(["vault", "new-version", "r"]).succeeds().text().trim().to_owned();
    home.run(["vault", "create-key", "k"]).succeeds();
    let listed = home.run(["--json", "vault", "list"]);
    let kinds: Vec<serde_json::Value> = listed
        .text()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].take())
        .collect();
    assert_eq!(kinds, ["rsa-2048", "rsa-2048", "aes-256"]);
    let line = home.run(["vault", "list"]).text().lines().nth(1).unwrap().to_owned();
    assert!(line.starts_with(&newer) && line.ends_with(" rsa-2048 latest"), "{line}");
    home.run(["vault", "disable", &key]).succeeds();
    home.run(["get", "a", "b"]).fails(3, "revoked");
    home.run(["vault", "enable", &key]).succeeds();
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"data");
    home.run(["verify"]).succeeds();
}

#[test]
fn a_running_writer_feels_what_the_vault_is_told() {
    let (home, key) = Home::with_account(&["--refresh", "6s", "--ceiling", "6s"]);
    let mut writer = home.spawn(home.command().args(["ingest", "a", "-", "--block-size", "8"]));
    let mut stdin = writer.stdin.take().unwrap();
    let mut stdout = BufReader::new(writer.stdout.take().unwrap());
    let mut printed = String::new();
    stdin.write_all(b"01234567").unwrap();
    stdout.read_line(&mut printed).unwrap();

    // The writer has the home open; the vault is the customer's.
    home.run(["put", "a", "b", "/dev/null"]).fails(1, "locked by another process");
    home.run(["vault", "disable", &key]).succeeds();
    // It goes on until it asks for the key again, and ends then: within seconds, or the test never does.
    let feeder = std::thread::spawn(move || {
        while stdin.write_all(b"01234567").is_ok() {
            if stdin.flush().is_err() {
                break;
            }
        }
    });
    while stdout.read_line(&mut printed).unwrap() > 0 {}
    let ran = common::Ran::of(writer.wait_with_output().unwrap());
    feeder.join().unwrap();
    ran.fails(3, "revoked");

    home.run(["get", "a", "stdin/000000000000"]).fails(3, "revoked");
    home.run(["vault", "enable", &key]).succeeds();
    let lines = lines_of("Stored", printed.as_bytes());
    assert!(!lines.is_empty());
    assert!(all_there(&home, &lines, "after the revocation") >= lines.len());
}
