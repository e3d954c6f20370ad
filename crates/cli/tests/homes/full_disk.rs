//! No space is left: nothing that was acknowledged is lost, and it says so.

use std::{fs::File, io::Write};

use crate::common::{Home, Mount, Random, all_there, lines_of};

#[test]
fn a_full_disk_is_named_and_what_was_acknowledged_stays() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let Some(mount) = Mount::tmpfs(&disk, "12m") else {
        eprintln!("SKIPPED: nothing may be mounted here, so no disk can be filled");
        return;
    };
    let mut home = Home { path: disk.join("home"), folder };
    home.run(["init"]).succeeds();
    home.run(["account", "create", "a"]).succeeds();
    let ran = home.feed(["ingest", "a", "-", "--block-size", "256KiB"], &Random::new(6).bytes(24 << 20));
    ran.fails(1, "full");
    let lines = lines_of("Stored", &ran.stdout);
    assert!(!lines.is_empty());
    home.feed(["put", "a", "more"], &Random::new(7).bytes(8 << 20)).fails(1, "full");

    // With room again, all is there and writes work.
    let roomy = home.folder.path().join("roomy");
    let copied = std::process::Command::new("cp").arg("-r").arg(&home.path).arg(&roomy).status().unwrap();
    assert!(copied.success());
    let full = std::mem::replace(&mut home.path, roomy);
    assert_eq!(all_there(&home, &lines, "on a disk with room"), lines.len());
    home.put("more", b"stored");

    // Not even a home can be made, and no half of one is left.
    let mut rest = File::create(disk.join("rest")).unwrap();
    while rest.write_all(&[1; 4096]).is_ok() {}
    home.path = disk.join("second");
    home.run(["init"]).fails(1, "full");
    let left: Vec<_> = std::fs::read_dir(&home.path)
        .map(|d| d.flatten().map(|e| e.file_name()).collect())
        .unwrap_or_default();
    assert!(!left.iter().any(|name| name == "cofferdam.json"), "{left:?}");
    home.path = full;
    drop((rest, mount));
}
