//! What is a home, what isn't one, and what stands in the way of using one.

use std::{fs, io::Write, os::unix::fs::PermissionsExt};

use crate::common::{Home, Mount, Ran, cofferdam, is_root};

#[test]
fn what_is_no_home_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for (home, saying) in [
        (folder.path().join("missing"), "there is no such folder"),
        (folder.path().to_path_buf(), "it has no cofferdam.json"),
        (file, "it is not a folder"),
    ] {
        for command in [&["ls", "a"][..], &["vault", "list"], &["status"], &["put", "a", "b"], &["verify"]] {
            let ran = Ran::of(cofferdam().arg("--home").arg(&home).args(command).output().unwrap());
            ran.fails(1, "is not a home of cofferdam").fails(1, saying);
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    Ran::of(cofferdam().args(["ls", "a"]).output().unwrap()).fails(2, "no home was given");
}

#[test]
fn a_home_is_made_once() {
    let (home, _) = Home::with_account(&[]);
    home.put("b", b"kept");
    home.run(["init"]).fails(1, "is a home already");
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"kept");
}

#[test]
fn an_init_without_a_passphrase_warns_once_and_plainly() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("h");
    let ran = Ran::of(cofferdam().arg("--home").arg(&home).arg("init").output().unwrap());
    ran.succeeds();
    assert!(ran.stderr.starts_with("warning:") && ran.stderr.contains("in the clear"), "{ran:?}");
    let ran = Ran::of(cofferdam().arg("--home").arg(&home).args(["vault", "list"]).output().unwrap());
    assert_eq!(ran.succeeds().stderr, "");
}

#[test]
fn a_folder_with_half_a_home_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("customer.vault"), "precious").unwrap();
    let ran = Ran::of(cofferdam().arg("--home").arg(folder.path()).arg("init").output().unwrap());
    ran.fails(1, "holds customer.vault but no cofferdam.json");
    assert_eq!(fs::read(folder.path().join("customer.vault")).unwrap(), b"precious");
}

#[test]
fn a_home_of_a_newer_format_is_refused_and_kept() {
    let home = Home::new();
    let path = home.file("cofferdam.json");
    let newer = fs::read_to_string(&path).unwrap().replace("\"version\": 1", "\"version\": 7");
    fs::write(&path, &newer).unwrap();
    home.run(["account", "list"]).fails(1, "format 7, this program knows 1");
    home.run(["init"]).fails(1, "is a home already");
    assert_eq!(fs::read_to_string(&path).unwrap(), newer);
}

#[test]
fn damaged_settings_are_told_from_a_folder_that_is_no_home() {
    let home = Home::new();
    let path = home.file("cofferdam.json");
    let whole = fs::read(&path).unwrap();
    for cut in [0, 1, whole.len() / 2, whole.len() - 3] {
        fs::write(&path, &whole[..cut]).unwrap();
        home.run(["account", "list"]).fails(5, "cofferdam.json is damaged");
    }
}

#[test]
fn a_home_in_use_by_another_process_says_by_whom() {
    let (home, _) = Home::with_account(&[]);
    let mut writer = home.spawn(home.command().args(["ingest", "a", "-", "--block-size", "4"]));
    let mut stdin = writer.stdin.take().unwrap();
    stdin.write_all(b"data").unwrap();
    let mut line = [0; 7];
    std::io::Read::read_exact(writer.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert_eq!(&line, b"Stored ");

    let pid = format!("locked by another process (pid {})", writer.id());
    for command in [&["put", "a", "b", "/dev/null"][..], &["get", "a", "b"], &["ls", "a"], &["verify"]] {
        home.run(command).fails(1, &pid);
    }
    // What the writer last said is there for whoever asks.
    let status = home.run(["status"]);
    assert!(status.succeeds().text().contains("a: customer key"), "{status:?}");
    assert!(status.text().contains(&format!("pid {}", writer.id())), "{status:?}");

    drop(stdin);
    assert!(writer.wait().unwrap().success());
    assert!(!home.file("status.json").exists());
    home.run(["ls", "a"]).succeeds();
}

#[test]
fn key_times_out_of_bounds_make_no_home() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("h");
    for (arguments, saying) in [
        (["--refresh", "5s"], "refresh is 5s: set it to 6s to 60s"),
        (["--ceiling", "61s"], "ceiling is 61s"),
        (["--grace", "61m"], "grace is"),
        (["--revoked-poll", "10ms"], "revoked_poll is 10ms"),
        (["--max-bridge", "25h"], "max_bridge is"),
        (["--cryptoperiod", "59m"], "cryptoperiod is"),
        (["--deleted-retention", "3651d"], "deleted_retention is"),
        (["--refresh", "soon"], "give a time as"),
    ] {
        let ran = Ran::of(cofferdam().arg("--home").arg(&home).arg("init").args(arguments).output().unwrap());
        ran.fails(2, saying);
        assert!(!home.exists());
    }
}

#[test]
fn a_read_only_home_is_named_as_that() {
    let (home, _) = Home::with_account(&[]);
    home.put("b", b"kept");
    let read_only = home.folder.path().join("read-only");
    let _mount = if is_root() {
        let Some(mount) = Mount::read_only(&home.path, &read_only) else {
            eprintln!("SKIPPED: root may write whatever the mode, and nothing may be mounted here");
            return;
        };
        Some(mount)
    } else {
        std::os::unix::fs::symlink(&home.path, &read_only).unwrap();
        fs::set_permissions(home.file("lock"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(&home.path, fs::Permissions::from_mode(0o500)).unwrap();
        None
    };
    for command in
        [&["ls", "a"][..], &["put", "a", "c", "/dev/null"], &["get", "a", "b"], &["account", "list"]]
    {
        let ran = Ran::of(cofferdam().arg("--home").arg(&read_only).args(command).output().unwrap());
        ran.fails(1, "read-only");
    }
    let inside = read_only.join("new");
    let ran = Ran::of(cofferdam().arg("--home").arg(&inside).arg("init").output().unwrap());
    ran.fails(1, "read-only");
    fs::set_permissions(&home.path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(home.file("lock"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"kept");
}
