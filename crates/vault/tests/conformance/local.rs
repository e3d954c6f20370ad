//! The local vault keeps every promise that it can be asked for.

use cofferdam_crypto::rsa::RsaSize;
use cofferdam_vault::{
    KeyKind,
    conformance::{Outcome, Report, run},
    testing::SeededEntropy,
};

use crate::{
    factories::{LocalFactory, not_applicable},
    table::Made,
};

/// A file has no permissions of its own, no limits, no credential and no network.
const NEVER: [&str; 11] = [
    "denied",
    "allowed-again",
    "throttled",
    "throttle-ends",
    "asks-once",
    "credential-expired",
    "credential-lost",
    "credential-regained",
    "untrusted",
    "trusted-again",
    "",
];

async fn report(kind: KeyKind, passphrase: Option<&'static str>) -> Option<Report> {
    Some(run(&LocalFactory::new(kind, passphrase).await, &SeededEntropy::new(1)).await)
}

pub(crate) async fn aes() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(|| report(KeyKind::Aes256, None)).await
}

pub(crate) async fn rsa() -> Option<&'static Report> {
    static MADE: Made = Made::not_yet();
    MADE.by(|| report(KeyKind::Rsa(RsaSize::Rsa2048), None)).await
}

fn conforms(kind: KeyKind, report: &Report) {
    println!("{report}");
    assert!(report.is_ok(), "{report}");
    let of_others = if kind == KeyKind::Aes256 { "public-key" } else { "not-rsa" };
    let mut never = NEVER.map(|name| if name.is_empty() { of_others } else { name });
    let mut found = not_applicable(report);
    never.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, never, "{report}");
    let moved = Outcome::Passed { note: Some("not bound, checked by us".into()) };
    assert_eq!(report.outcome("context-account"), Some(&moved));
}

#[tokio::test]
async fn aes_keys_in_the_clear_conform() {
    conforms(KeyKind::Aes256, aes().await.unwrap());
}

#[tokio::test]
async fn aes_keys_under_a_passphrase_conform() {
    conforms(KeyKind::Aes256, &report(KeyKind::Aes256, Some("correct horse")).await.unwrap());
}

#[tokio::test]
async fn rsa_keys_conform() {
    conforms(KeyKind::Rsa(RsaSize::Rsa2048), rsa().await.unwrap());
}
