//! A writer is asked to stop: it stores what it has read, and says how it ended.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    process::Command,
};

use crate::common::{Home, Ran, Random, all_there, lines_of, sha256, signal};

#[test]
fn an_interrupted_stream_is_stored_as_far_as_it_was_read() {
    for name in ["INT", "TERM"] {
        let (home, _) = Home::with_account(&[]);
        let mut writer = home.spawn(home.command().args(["ingest", "a", "-", "--block-size", "1000"]));
        let mut stdin = writer.stdin.take().unwrap();
        let mut stdout = BufReader::new(writer.stdout.take().unwrap());
        let data = Random::new(5).bytes(1500);
        stdin.write_all(&data).unwrap();
        let mut printed = String::new();
        stdout.read_line(&mut printed).unwrap();
        // One block is stored, half of one is read or will be; the stream stays open.
        signal(&writer, name);
        stdout.read_to_string(&mut printed).unwrap();
        let ran = Ran::of(writer.wait_with_output().unwrap());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stderr.starts_with("Interrupted: stored"), "{ran:?}");
        drop(stdin);
        let lines = lines_of("Stored", printed.as_bytes());
        assert_eq!(all_there(&home, &lines, name), lines.len());
        assert_eq!(lines[0].sha256, sha256(&data[..1000]));
        let stored: u64 = lines.iter().map(|line| line.len).sum();
        assert!(stored == 1500 || stored == 1000, "{stored}");
        assert!(!home.file("status.json").exists());
    }
}

#[test]
fn an_interrupt_in_the_middle_of_a_file_says_that_it_is_unfinished() {
    let (home, _) = Home::with_account(&[]);
    let pipe = home.folder.path().join("endless");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let arguments = ["ingest", "a", pipe.to_str().unwrap(), "--block-size", "64KiB"];
    let mut writer = home.spawn(home.command().args(arguments));
    let filling = std::thread::spawn(move || {
        let mut end = File::options().write(true).open(pipe).unwrap();
        while end.write_all(&[7; 8192]).is_ok() {}
    });
    let mut stdout = BufReader::new(writer.stdout.take().unwrap());
    let mut printed = String::new();
    for _ in 0..3 {
        stdout.read_line(&mut printed).unwrap();
    }
    signal(&writer, "INT");
    stdout.read_to_string(&mut printed).unwrap();
    let ran = Ran::of(writer.wait_with_output().unwrap());
    ran.fails(1, "interrupted before all was read");
    filling.join().unwrap();
    let lines = lines_of("Stored", printed.as_bytes());
    assert!(lines.len() >= 3);
    assert_eq!(all_there(&home, &lines, "after the interrupt"), lines.len());
}

#[test]
fn a_folder_is_stored_with_all_its_files() {
    let (home, _) = Home::with_account(&[]);
    let folder = home.folder.path().join("in");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("a"), "0123456789").unwrap();
    fs::write(folder.join("sub/.hidden"), "").unwrap();
    std::os::unix::fs::symlink("a", folder.join("link")).unwrap();
    let arguments = ["ingest", "a", "--block-size=4", "--name=x"].map(OsStr::new);
    let ran = home.run(arguments.into_iter().chain([folder.as_os_str()]));
    assert!(ran.succeeds().stderr.contains("left out 1 links"), "{ran:?}");
    let expected = "x/a/000000000000\nx/a/000000000001\nx/a/000000000002\nx/sub/.hidden/000000000000\n";
    assert_eq!(home.run(["ls", "a"]).text(), expected);
    assert_eq!(home.run(["get", "a", "x/a/000000000002"]).stdout, b"89");
    let missing = home.run([OsStr::new("ingest"), "a".as_ref(), folder.join("none").as_os_str()]);
    missing.fails(1, "can't read");
    fs::create_dir(folder.join("empty")).unwrap();
    home.run([OsStr::new("ingest"), "a".as_ref(), folder.join("empty").as_os_str()]).fails(1, "no files");
    home.run(["ingest", "a", "-", "--block-size", "65MiB"]).fails(2, "at most");
    home.run(["ingest", "a", "/dev/null", "--name", &"n".repeat(1020)]).fails(1, "can't name blocks");
}
