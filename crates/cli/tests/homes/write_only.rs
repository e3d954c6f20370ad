//! An account with a write-only buffer: made, seen, written to in an outage, drained.

use serde_json::Value;

use crate::common::{Home, lines_of};

fn status(home: &Home) -> Value {
    serde_json::from_str(home.run(["--json", "status", "a"]).succeeds().text()).unwrap()
}

#[test]
fn writes_of_an_outage_wait_for_the_customers_vault_alone() {
    let home = Home::with(&["--segment-time", "10s"]);
    let aes = home.run(["vault", "create-key", "k"]).succeeds().text().trim().to_owned();
    home.run(["account", "create", "a", "--write-only-buffer"]).fails(2, "--kek");
    home.run(["account", "create", "a", "--kek", &aes, "--write-only-buffer"])
        .fails(1, "take an RSA key, or a service-managed buffer");
    let rsa =
        home.run(["vault", "create-key", "r", "--kind", "rsa-2048"]).succeeds().text().trim().to_owned();
    let made = home.run(["account", "create", "a", "--kek", &rsa, "--write-only-buffer"]);
    assert!(made.succeeds().text().contains("with a write-only buffer"), "{made:?}");
    home.put("before", b"stored");
    assert_eq!(status(&home)["buffer"]["mode"], "write-only");
    assert!(home.run(["status"]).text().contains("; write-only buffer"));

    home.run(["vault", "offline"]).succeeds();
    let ran = home.feed(["put", "a", "one"], b"in the outage");
    assert_eq!(lines_of("Buffered", &ran.succeeds().stdout).len(), 1);
    home.feed(["put", "a", "two"], b"in the outage, too").succeeds();
    home.run(["get", "a", "one"]).fails(4, "unavailable");
    let listed = home.run(["ls", "--long", "a"]).succeeds().text().to_owned();
    for (line, says) in
        listed.lines().zip([" customer 1 stored before", " buffer 1 buffered one", " buffer 1 buffered two"])
    {
        assert!(line.ends_with(says), "{line}");
    }
    assert_eq!(status(&home)["buffer"]["blocks"], 2);

    // Its key is asked for with the rest: the customer says no, and yes again.
    home.run(["vault", "online"]).succeeds();
    home.run(["vault", "disable", &rsa]).succeeds();
    home.run(["get", "a", "one"]).fails(3, "revoked");
    home.run(["vault", "enable", &rsa]).succeeds();
    assert_eq!(home.run(["get", "a", "one"]).succeeds().stdout, b"in the outage");
    assert_eq!(home.run(["get", "a", "two"]).succeeds().stdout, b"in the outage, too");
    assert_eq!(status(&home)["buffer"]["blocks"], 0);
    home.run(["verify"]).succeeds();
}
