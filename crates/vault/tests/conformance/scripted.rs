//! The vault of tests answers as a real one, and what renews its credential keeps its promises.

use cofferdam_crypto::rsa::RsaSize;
use cofferdam_vault::{
    KeyKind,
    conformance::{Outcome, run},
    testing::SeededEntropy,
};

use crate::factories::{ScriptedFactory, not_applicable};

async fn conforms(kind: KeyKind) {
    let report = run(&ScriptedFactory::new(kind), &SeededEntropy::new(1)).await;
    println!("{report}");
    assert!(report.is_ok(), "{report}");
    // It knows no versions and no dates, and every id may be its key's.
    let mut never = vec![
        "old-version-unwraps",
        "latest-version-wraps",
        "latest-disabled",
        "properties-latest",
        "disabled-properties",
        "expired",
        "not-yet-active",
        "foreign-key",
        "foreign-key-not-sent",
        if kind == KeyKind::Aes256 { "public-key" } else { "not-rsa" },
    ];
    let mut found = not_applicable(&report);
    never.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, never, "{report}");
    let renewed = Outcome::Passed { note: Some("renewed".into()) };
    assert_eq!(report.outcome("credential-expired"), Some(&renewed));
}

#[tokio::test(start_paused = true)]
async fn aes_keys_conform() {
    conforms(KeyKind::Aes256).await;
}

#[tokio::test(start_paused = true)]
async fn rsa_keys_conform() {
    conforms(KeyKind::Rsa(RsaSize::Rsa2048)).await;
}
