//! `status --watch` tells of each change, and ends when it is asked to.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout},
};

use serde_json::Value;

use crate::common::{self, Home, Ran, signal};

struct Watch {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Watch {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut child = home.spawn(home.command().args(["status", "--watch"]).args(arguments));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it ended");
        line
    }

    /// The lines up to the first that says this.
    fn until(&mut self, saying: &str) -> Vec<String> {
        let mut lines = vec![self.line()];
        while !lines[lines.len() - 1].contains(saying) {
            lines.push(self.line());
        }
        lines
    }

    fn end(self) {
        signal(&self.child, "INT");
        let ran = Ran::of(self.child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    }
}

#[test]
fn a_watch_tells_of_each_change_and_of_nothing_twice() {
    let (home, key) = Home::with_account(&[]);
    home.put("b", b"data");
    let mut watch = Watch::start(&home, &[]);
    let first = watch.line();
    assert!(first.contains(" a: customer key active, 1 blocks, 4 B"), "{first}");
    home.run(["vault", "offline"]).succeeds();
    let mut told = watch.until("customer key unavailable since ");
    // Other commands work beside it.
    home.put("c", b"waits");
    told.extend(watch.until("2 blocks, 9 B"));
    assert!(told[told.len() - 1].contains("1 blocks buffered"), "{told:?}");
    home.run(["vault", "online"]).succeeds();
    told.extend(watch.until("customer key active since "));
    while told[told.len() - 1].contains("blocks buffered") {
        told.push(watch.line());
    }
    home.run(["vault", "disable", &key]).succeeds();
    told.extend(watch.until("customer key revoked since "));
    // Without the time that each begins with, and that of the last success and failure.
    let texts: Vec<_> = told.iter().map(|line| line.split_once(' ').unwrap().1).collect();
    assert!(texts.windows(2).all(|two| two[0] != two[1]), "{texts:?}");
    watch.end();
}

#[test]
fn a_watch_beside_a_writer_says_what_that_one_says() {
    let (home, _) = Home::with_account(&[]);
    let mut writer = home.spawn(home.command().args(["ingest", "a", "-", "--block-size", "4"]));
    let mut stdin = writer.stdin.take().unwrap();
    stdin.write_all(b"datadata").unwrap();
    let mut watch = Watch::start(&home, &["--json", "a"]);
    loop {
        let change: Value = serde_json::from_str(&watch.line()).unwrap();
        assert_eq!(change["account"], "a");
        if change["pid"] == writer.id() && change["blocks"] == 2 {
            assert_eq!(change["key_state"], "active");
            break;
        }
    }
    drop(stdin);
    assert!(writer.wait().unwrap().success());
    // It ended: now the watch looks for itself.
    home.put("more", b"data");
    loop {
        let change: Value = serde_json::from_str(&watch.line()).unwrap();
        if change["pid"].is_null() {
            assert_eq!((&change["blocks"], &change["bytes"]), (&3.into(), &12.into()));
            break;
        }
    }
    watch.end();
}

#[test]
fn a_watch_of_what_is_not_there_says_so() {
    let home = Home::new();
    home.run(["status", "--watch", "nobody"]).fails(6, "no account nobody");
    let missing = home.folder.path().join("missing");
    let ran = common::cofferdam().arg("--home").arg(missing).args(["status", "--watch"]).output().unwrap();
    Ran::of(ran).fails(1, "no such folder");
}
