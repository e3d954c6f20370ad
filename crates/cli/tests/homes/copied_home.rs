//! A closed home is a folder like any other.

use std::process::Command;

use crate::common::{Home, Ran, cofferdam};

#[test]
fn a_copied_home_works_where_it_is_and_on_its_own() {
    let (home, key) = Home::with_account(&[]);
    home.put("b", b"data");
    let copy = home.folder.path().join("elsewhere");
    assert!(Command::new("cp").arg("-r").arg(&home.path).arg(&copy).status().unwrap().success());
    let in_copy =
        |arguments: &[&str]| Ran::of(cofferdam().arg("--home").arg(&copy).args(arguments).output().unwrap());
    assert_eq!(in_copy(&["get", "a", "b"]).succeeds().stdout, b"data");
    in_copy(&["verify"]).succeeds();
    // Two homes from now on: what happens to one does not touch the other.
    in_copy(&["vault", "disable", &key]).succeeds();
    in_copy(&["get", "a", "b"]).fails(3, "revoked");
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"data");

    let moved = home.folder.path().join("moved");
    std::fs::rename(&home.path, &moved).unwrap();
    let ran = Ran::of(cofferdam().env("COFFERDAM_HOME", &moved).args(["get", "a", "b"]).output().unwrap());
    assert_eq!(ran.succeeds().stdout, b"data");
}
