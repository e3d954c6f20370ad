//! The demonstration, on a few files of every kind.

use std::{fs, os::unix::fs::symlink};

use serde_json::Value;

use crate::common::{Ran, Random, cofferdam};

#[test]
fn the_demonstration_shows_what_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    let scratch = folder.path().join("tmp");
    for made in [&input, &scratch, &input.join("target"), &input.join("sub")] {
        fs::create_dir(made).unwrap();
    }
    let lines: String =
        (0..4000).map(|n| format!("2026-11-24 event {n:08} of a log that is kept\n")).collect();
    fs::write(input.join("log"), &lines).unwrap();
    fs::write(input.join("sub/noise"), Random::new(8).bytes(3 << 20)).unwrap();
    fs::write(input.join("empty"), "").unwrap();
    fs::write(input.join("target/built"), "left out").unwrap();
    symlink("log", input.join("link")).unwrap();

    let ran =
        Ran::of(cofferdam().env("TMPDIR", &scratch).args(["--json", "demo"]).arg(&input).output().unwrap());
    let report: Value = serde_json::from_str(ran.succeeds().text()).unwrap();
    let number = |name: &str| report[name].as_u64().unwrap();
    assert_eq!(ran.stderr, "", "no progress bar in a pipe");
    assert_eq!((number("files"), number("empty_files"), number("skipped")), (3, 1, 1));
    assert_eq!(number("bytes"), lines.len() as u64 + (3 << 20));
    assert_eq!((number("blocks"), number("digests_equal")), (5, 3));
    assert!(number("lines_searched") > 4000);
    assert_eq!(number("lines_found"), 0);
    assert_eq!(number("control_searched"), 4000);
    assert_eq!(number("control_found"), 4000);
    assert_eq!((number("reads_refused"), number("writes_refused")), (100, 100));
    // In the outage: first nothing fails, then writes wait and reads are refused, and then all is as if nothing was.
    assert!(number("grace_reads") > 0 && number("grace_writes") > 0);
    assert!(
        number("outage_reads") > number("grace_reads") || number("outage_writes") > number("grace_writes")
    );
    assert_eq!(number("unavailable_reads_refused"), 100);
    let served = number("outage_writes");
    assert_eq!(number("drained_equal"), 3);
    assert!(
        (3..=4).contains(&number("buffered_blocks")),
        "one more if the grace ended between a read and a write"
    );
    assert_eq!(number("drained_blocks"), number("buffered_blocks"));
    let blocks = 5 + served + number("buffered_blocks");
    assert_eq!(number("blocks_under_customer_key"), blocks);
    assert_eq!(number("listed_while_revoked"), blocks);
    // One more was written once the key was back.
    assert!(number("needed_before") > 0);
    assert_eq!(number("reencrypted_blocks"), blocks + 1);
    assert_eq!((&report["relinked"], number("recovered_equal")), (&true.into(), 3));
    assert!(report["seconds"].as_f64().unwrap() < 40.0, "{report}");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "its home is removed");
}

#[test]
fn the_demonstration_needs_files() {
    let folder = tempfile::tempdir().unwrap();
    let demo = |path: &std::path::Path| Ran::of(cofferdam().arg("demo").arg(path).output().unwrap());
    demo(folder.path()).fails(1, "no files to work on");
    demo(&folder.path().join("missing")).fails(1, "can't read");
    symlink("nowhere", folder.path().join("link")).unwrap();
    demo(folder.path()).fails(1, "1 links, pipes or devices are left out");
}
