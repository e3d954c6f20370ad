//! Blocks in and out: put, get, ls, rm, ranges, ids of any bytes, lengths at their bounds.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    process::Stdio,
};

use serde_json::Value;

use crate::common::{self, Home, Random, lines_of, sha256};

#[test]
fn blocks_read_back_as_they_were_put() {
    let (home, _) = Home::with_account(&[]);
    let mut random = Random::new(1);
    for len in [0, 1, 2, 65_535, 65_536, 65_537, 300_000] {
        let data = random.bytes(len);
        let id = format!("block {len}");
        let ran = home.feed(["put", "a", &id], &data);
        let line = lines_of("Stored", &ran.succeeds().stdout).remove(0);
        assert_eq!((line.block.as_str(), line.len, line.sha256), (id.as_str(), len as u64, sha256(&data)));
        assert_eq!(home.run(["get", "a", &id]).succeeds().stdout, data);
    }
    assert_eq!(home.run(["verify"]).succeeds().code, 0);
}

#[test]
fn a_later_put_replaces_and_gets_a_higher_version() {
    let (home, _) = Home::with_account(&[]);
    let version = |data: &[u8]| lines_of("Stored", &home.feed(["put", "a", "b"], data).stdout)[0].version;
    let (first, second) = (version(b"one"), version(b"two"));
    assert!(first < second);
    assert_eq!(home.run(["get", "a", "b"]).stdout, b"two");
    assert_eq!(home.run(["ls", "a"]).text(), "b\n");
}

#[test]
fn the_largest_block_is_taken_and_one_byte_more_is_not() {
    let (home, _) = Home::with_account(&[]);
    let path = home.folder.path().join("large");
    let file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    home.run([OsStr::new("put"), "a".as_ref(), "large".as_ref(), path.as_os_str()]).succeeds();
    file.set_len((64 << 20) + 1).unwrap();
    home.run([OsStr::new("put"), "a".as_ref(), "larger".as_ref(), path.as_os_str()])
        .fails(1, "more than 67108864 bytes");
    assert_eq!(home.run(["ls", "a"]).text(), "large\n");
    assert_eq!(home.run(["get", "a", "large", "--range", "67108863..67108864"]).succeeds().stdout, [0]);
}

#[test]
fn ids_hold_any_byte_and_print_without_moving_the_cursor() {
    let (home, _) = Home::with_account(&[]);
    let ids: [&[u8]; 6] = [b"\x01\x1b[2J", b"\xff\xfe", b"a\nb", b" ", b"--", "\u{202e}é/..".as_bytes()];
    for id in ids {
        let arguments = [b"put", &b"--"[..], b"a", id, b"/dev/null"].map(OsStr::from_bytes);
        home.run(arguments).succeeds();
        let arguments = [b"get", &b"--"[..], b"a", id].map(OsStr::from_bytes);
        assert_eq!(home.run(arguments).succeeds().stdout, b"");
    }
    let listed = home.run(["ls", "a"]);
    let lines: Vec<&str> = listed.succeeds().text().lines().collect();
    assert_eq!(lines.len(), ids.len());
    assert!(!lines.iter().any(|line| line.chars().any(char::is_control)), "{lines:?}");
    let hex: Vec<String> = home
        .run(["--json", "ls", "a"])
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| line["block_hex"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(hex, ["011b5b324a", "610a62", "fffe"]);
    let longest = "x".repeat(1024);
    home.run(["put", "a", &longest, "/dev/null"]).succeeds();
    home.run(["put", "a", &"x".repeat(1025), "/dev/null"]).fails(2, "has 1025 bytes: the most is 1024");
    home.run(["put", "a", "", "/dev/null"]).fails(2, "empty");
}

#[test]
fn ranges_end_before_their_end() {
    let (home, _) = Home::with_account(&[]);
    let data = Random::new(2).bytes(200_000);
    home.put("b", &data);
    for (start, end) in
        [(0, 0), (0, 1), (65_530, 65_545), (0, 200_000), (199_999, 200_000), (200_000, 200_000)]
    {
        let ran = home.run(["get", "a", "b", "--range", &format!("{start}..{end}")]);
        assert_eq!(ran.succeeds().stdout, data[start..end]);
    }
    home.run(["get", "a", "b", "--range", "5..2"]).fails(1, "5..2");
    home.run(["get", "a", "b", "--range", "0..200001"]).fails(1, "200000");
    home.run(["get", "a", "b", "--range", "0..18446744073709551615"]).fails(1, "200000");
    for malformed in ["", "1", "a..b", "1..", "0..18446744073709551616", "-1..2"] {
        home.run(["get", "a", "b", &format!("--range={malformed}")]).fails(2, "range");
    }
}

#[test]
fn what_is_not_there_is_exit_code_6() {
    let (home, _) = Home::with_account(&[]);
    home.run(["get", "a", "none"]).fails(6, "no block none");
    home.run(["rm", "a", "none"]).fails(6, "no block none");
    home.run(["get", "nobody", "b"]).fails(6, "no account nobody");
    home.run(["ls", "nobody"]).fails(6, "no account nobody");
    home.run(["status", "nobody"]).fails(6, "no account nobody");
    home.run(["put", "nobody", "b", "/dev/null"]).fails(6, "no account nobody");
    home.run(["vault", "disable", "local://customer/keys/none"]).fails(6, "no key");
}

#[test]
fn what_is_malformed_is_exit_code_2() {
    let (home, _) = Home::with_account(&[]);
    home.run(["get", "a b", "x"]).fails(2, "can't name an account");
    home.run(["account", "create", "-x"]).fails(2, "unexpected argument");
    home.run(["vault", "disable", "no uri"]).fails(2, "not allowed");
    home.run(["vault", "disable", "https://elsewhere/keys/k"]).fails(2, "local://");
    home.run(["vault", "create-key", "k_1"]).fails(2, "can't name a key");
    home.run(["frobnicate"]).fails(2, "unrecognized subcommand");
    let ran = home.run(["--json", "get", "a", "b", "--range", "x"]);
    let error: Value = serde_json::from_str(ran.fails(2, "").stderr.trim()).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
}

#[test]
fn accounts_are_made_once_and_listed() {
    let (home, key) = Home::with_account(&[]);
    home.run(["account", "create", "a", "--kek", &key]).fails(1, "already");
    home.run(["account", "create", "b"]).succeeds();
    home.feed(["put", "b", "x"], b"under the service's key").succeeds();
    assert_eq!(home.run(["get", "b", "x"]).succeeds().stdout, b"under the service's key");
    assert_eq!(home.run(["account", "list"]).text(), "a\nb\n");
    let loose = home.run(["vault", "create-key", "loose", "--not-recoverable"]).text().trim().to_owned();
    home.run(["account", "create", "c", "--kek", &loose]).fails(1, "not recoverable");
    home.run(["account", "create", "c", "--kek", "local://customer/keys/none"]).fails(6, "none");
    assert_eq!(home.run(["account", "list"]).text(), "a\nb\n");
}

#[test]
fn removed_blocks_are_gone() {
    let (home, _) = Home::with_account(&[]);
    home.put("x", b"1");
    home.put("y", b"2");
    assert_eq!(home.run(["rm", "a", "x"]).succeeds().text(), "Removed x\n");
    home.run(["get", "a", "x"]).fails(6, "no block x");
    assert_eq!(home.run(["ls", "a"]).text(), "y\n");
}

#[test]
fn an_output_file_is_whole_or_not_there() {
    let (home, _) = Home::with_account(&[]);
    home.put("b", b"content");
    let folder = home.folder.path().join("out");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("file");
    let get = |block: &str| {
        home.run([OsStr::new("get"), "a".as_ref(), block.as_ref(), "-o".as_ref(), file.as_os_str()])
    };
    get("none").fails(6, "no block");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(get("b").succeeds().stdout, b"");
    assert_eq!(fs::read(&file).unwrap(), b"content");
    fs::write(&file, "older and longer content").unwrap();
    get("none").fails(6, "no block");
    assert_eq!(fs::read(&file).unwrap(), b"older and longer content");
    get("b").succeeds();
    assert_eq!(fs::read(&file).unwrap(), b"content");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    // A device stays a device.
    home.run(["get", "a", "b", "-o", "/dev/null"]).succeeds();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    home.run([OsStr::new("get"), "a".as_ref(), "b".as_ref(), "-o".as_ref(), folder.as_os_str()])
        .fails(1, "can't write");
}

#[test]
fn json_goes_to_standard_output_and_errors_in_json_to_standard_error() {
    let (home, key) = Home::with_account(&[]);
    let one = |ran: &common::Ran| serde_json::from_str::<Value>(ran.succeeds().text()).unwrap();
    assert_eq!(one(&home.feed(["--json", "put", "a", "b"], b"hi"))["outcome"], "stored");
    assert_eq!(one(&home.run(["get", "a", "b", "--json"]))["data_base64"], "aGk=");
    assert_eq!(one(&home.run(["status", "--json"]))["key_state"], "active");
    assert_eq!(one(&home.run(["vault", "list", "--json"]))["key_id"], key.as_str());
    assert_eq!(one(&home.run(["vault", "new-version", "k", "--json"])).as_object().unwrap().len(), 1);
    let ran = home.run(["--json", "get", "a", "none"]);
    let error: Value = serde_json::from_str(ran.fails(6, "").stderr.trim()).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["exit_code"]), (&"not_found".into(), &6.into()));
}

#[test]
fn a_closed_or_full_standard_output_is_no_panic() {
    let (home, _) = Home::with_account(&[]);
    let folder = home.folder.path().join("many");
    fs::create_dir(&folder).unwrap();
    for n in 0..3000 {
        fs::write(folder.join(format!("{n:0100}")), "").unwrap();
    }
    home.run([OsStr::new("ingest"), "a".as_ref(), folder.as_os_str()]).succeeds();
    // More than a pipe holds, read by somebody who stops after one byte.
    let mut child =
        home.command().args(["ls", "a"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let ran = common::Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = home.command().args(["ls", "a"]).stdout(full).output().unwrap();
    common::Ran::of(output).fails(1, "can't write to standard output");
}

#[test]
fn a_passphrase_protects_the_vaults_and_is_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h");
    let secret = folder.path().join("secret");
    fs::write(&secret, "correct horse battery staple\n").unwrap();
    let run = |passphrase: &str, arguments: &[&str]| {
        let mut command = common::cofferdam();
        command.arg("--home").arg(&path).args(arguments).env("COFFERDAM_PASSPHRASE", passphrase);
        common::Ran::of(command.output().unwrap())
    };
    let right = "correct horse battery staple";
    assert_eq!(run(right, &["init"]).succeeds().stderr, "");
    let key = run(right, &["vault", "create-key", "k"]).succeeds().text().trim().to_owned();
    run(right, &["account", "create", "a", "--kek", &key]).succeeds();
    run(right, &["put", "a", "b", "/dev/null"]).succeeds();
    run("wrong", &["get", "a", "b"]).fails(1, "not the passphrase");
    run("", &["get", "a", "b"]).fails(1, "empty");
    let without = common::cofferdam().arg("--home").arg(&path).args(["get", "a", "b"]).output().unwrap();
    common::Ran::of(without).fails(1, "give its passphrase");
    // Lists and removals need no key.
    assert_eq!(run("wrong", &["ls", "a"]).succeeds().text(), "b\n");
    let mut by_file = common::cofferdam();
    by_file.arg("--home").arg(&path).args(["get", "a", "b", "--passphrase-file"]).arg(&secret);
    common::Ran::of(by_file.output().unwrap()).succeeds();
    for file in ["service.vault", "customer.vault", "cofferdam.json", "blocks.store"] {
        let bytes = fs::read(path.join(file)).unwrap();
        assert!(!bytes.windows(13).any(|w| w == b"correct horse"), "{file}");
    }
}
