//! Every vault beside the others: what it was asked, and what it kept.

use cofferdam_vault::conformance::{Outcome, Report, checks};
use tokio::sync::OnceCell;

use crate::{aws, azure, local, pkcs11, transit};

/// A report that is made once, for the test of its vault and for the table; none where the vault is not installed.
pub(crate) struct Made(OnceCell<Option<Report>>);

impl Made {
    pub(crate) const fn not_yet() -> Self {
        Self(OnceCell::const_new())
    }

    pub(crate) async fn by<F: Future<Output = Option<Report>>>(
        &self,
        make: impl FnOnce() -> F,
    ) -> Option<&Report> {
        self.0.get_or_init(make).await.as_ref()
    }
}

/// `moto` and `ministack` are one vault between them: what one is lax in, the other is not.
#[tokio::test]
async fn five_vaults_keep_every_promise_that_they_can_be_asked_for() {
    let columns = [
        ("local AES", local::aes().await),
        ("local RSA", local::rsa().await),
        ("SoftHSM", pkcs11::softhsm().await),
        ("Kryoptic AES", pkcs11::kryoptic().await),
        ("Kryoptic RSA", pkcs11::kryoptic_rsa().await),
        ("Azure AES", azure::aes().await),
        ("Azure RSA", azure::rsa().await),
        ("AWS moto", aws::moto().await),
        ("AWS ministack", aws::ministack().await),
        ("OpenBao", transit::openbao().await),
    ];
    // What is not installed has said so.
    let columns: Vec<(&str, &Report)> =
        columns.into_iter().filter_map(|(name, report)| Some((name, report?))).collect();
    let row = |first: &str, cell: &dyn Fn(&Report) -> String| {
        let cells: Vec<String> = columns.iter().map(|(_, report)| cell(report)).collect();
        println!("| {first} | {} |", cells.join(" | "));
    };
    println!("+ passed, - not applicable, FAILED\n");
    println!("| check | {} |", columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | "));
    println!("| --- |{}", " :-: |".repeat(columns.len()));
    for (check, _) in checks() {
        row(check, &|report| match report.outcome(check) {
            Some(Outcome::Passed { .. }) => "+".into(),
            Some(Outcome::NotApplicable { .. }) => "-".into(),
            _ => "FAILED".into(),
        });
        let is_passed =
            |(_, report): &(&str, &Report)| matches!(report.outcome(check), Some(Outcome::Passed { .. }));
        assert!(columns.iter().any(is_passed), "no vault was asked for {check}");
    }
    row("passed", &|report| report.counts().passed.to_string());
    row("not applicable", &|report| report.counts().not_applicable.to_string());
    row("failed", &|report| report.counts().failed.to_string());
    for (name, report) in columns {
        assert!(report.is_ok(), "{name}: {report}");
        assert_eq!(report.checks().len(), checks().count(), "{name}");
    }
}
