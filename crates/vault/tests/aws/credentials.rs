//! A denial counts only with a credential known good.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_vault::{
    CredentialError, KeyVault, Meaning, VaultErrorKind as Kind,
    aws::{AwsCredentialSource, AwsCredentials, AwsVault},
    testing::servers::{Answer, Rogue},
};

use crate::aws_support::{
    ACCOUNT, KEY, aek, context, decrypted, exception, id, ok, options, recorded, wrapped,
};

/// Numbers the access keys that it gives, until it is told to fail.
#[derive(Debug, Default)]
struct Numbered {
    given: AtomicUsize,
    fails: Mutex<bool>,
}

#[async_trait]
impl AwsCredentialSource for Numbered {
    async fn credentials(&self) -> Result<AwsCredentials, CredentialError> {
        if *self.fails.lock().unwrap() {
            return Err(CredentialError("the token service is down".into()));
        }
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let id = format!("AKIANUMBER{number}");
        Ok(AwsCredentials::new(id, "canary-secret", Some("canary-session".into()), None))
    }
}

/// The access keys that requests were signed with.
fn signed_by(server: &Rogue) -> Vec<String> {
    let key = |authorization: &str| {
        let (_, rest) = authorization.split_once("Credential=").unwrap();
        rest.split_once('/').unwrap().0.to_owned()
    };
    server.requests().iter().map(|request| key(request.header("authorization").unwrap())).collect()
}

fn expired() -> Answer {
    exception(400, "ExpiredTokenException", "The security token included in the request is expired")
}

#[tokio::test]
async fn an_expired_token_is_renewed_once_and_kms_asked_again() {
    let server = recorded([expired(), ok(&decrypted(&[7; 32]))]);
    let source = Arc::new(Numbered::default());
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source.clone())).unwrap();
    vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    assert_eq!(signed_by(&server), ["AKIANUMBER0", "AKIANUMBER1"]);
    assert_eq!(source.given.load(Ordering::Relaxed), 2);
    vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap();
    assert_eq!(source.given.load(Ordering::Relaxed), 2, "it is kept");
}

#[tokio::test]
async fn a_token_that_is_expired_again_is_an_outage() {
    let server = recorded([expired()]);
    let source = Arc::new(Numbered::default());
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source.clone())).unwrap();
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unauthenticated);
    assert_eq!((server.asked(), source.given.load(Ordering::Relaxed)), (2, 2));
}

#[tokio::test]
async fn no_credentials_to_be_had_is_an_outage_and_says_why() {
    let server = recorded([ok(&decrypted(&[7; 32]))]);
    let source = Arc::new(Numbered::default());
    *source.fails.lock().unwrap() = true;
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source)).unwrap();
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    assert_eq!((failed.kind(), failed.kind().meaning()), (Kind::Unauthenticated, Meaning::Outage));
    assert!(failed.to_string().contains("the token service is down"), "{failed}");
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_denial_of_a_fresh_credential_counts_at_once() {
    let denied = exception(400, "AccessDeniedException", "no resource-based policy allows it");
    let server = recorded([denied]);
    let source = Arc::new(Numbered::default());
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT).credentials(source.clone())).unwrap();
    vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    let before = server.asked();
    let failed = vault.unwrap_key(&wrapped(KEY), &context(1)).await.unwrap_err();
    assert_eq!((failed.kind(), server.asked()), (Kind::AccessDenied, before + 1));
    assert!(vault.inner().owns(&id(KEY)));
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_vault_usable() {
    let server = recorded([ok(&decrypted(&[7; 32]))]);
    let vault = AwsVault::connect(options(&server.url(), ACCOUNT)).unwrap();
    let (wrap, context) = (wrapped(KEY), context(1));
    let call = vault.unwrap_key(&wrap, &context);
    // Dropped at its first wait.
    let given_up = tokio::time::timeout(Duration::ZERO, call).await;
    assert!(given_up.is_err());
    let unwrapped = vault.unwrap_key(&wrapped(KEY), &self::context(1)).await.unwrap();
    assert_eq!(unwrapped.expose(), aek(7).expose());
}
