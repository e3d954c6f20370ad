//! Sessions, logins and tokens that are lost in mid-run: the next call makes them anew, and what can't be made anew is an
//! outage, never a denial.

use std::{process::Command, sync::Arc, time::Duration};

use cofferdam_crypto::WrappedKey;
use cofferdam_vault::{
    KeyKind, KeyVault, Threads, VaultErrorKind as Kind,
    pkcs11::{Pkcs11Error, Pkcs11Options, Pkcs11Vault},
    testing::servers::SoftHsm,
};

use crate::{
    support::{aek, context, kind},
    tokens::{GivenPin, Token},
};

async fn wrapped(vault: &Pkcs11Vault, label: &str) -> WrappedKey {
    let key = vault.create_key(label, KeyKind::Aes256).await.unwrap();
    vault.wrap_key(&key, &aek(7), &context()).await.unwrap()
}

async fn works(vault: &Pkcs11Vault, wrapped: &WrappedKey) {
    assert_eq!(vault.unwrap_key(wrapped, &context()).await.unwrap().expose(), aek(7).expose());
}

#[tokio::test]
async fn a_session_that_others_closed_is_made_anew() {
    for token in Token::each() {
        let given = GivenPin::new(token.pin);
        let mut options = token.options(token.pin);
        options.pin = given.clone();
        let vault = Pkcs11Vault::open(options).await.unwrap();
        let wrapped = wrapped(&vault, "closed").await;
        works(&vault, &wrapped).await;
        let before = *given.asked.lock().unwrap();
        token.raw().finalize().unwrap();
        // Initialises it, so that of the session alone nothing is known.
        token.raw();
        works(&vault, &wrapped).await;
        assert_eq!(*given.asked.lock().unwrap(), before + 1, "it was logged out of");
    }
}

#[tokio::test]
async fn who_was_logged_out_by_others_logs_in_again_and_finds_its_keys() {
    for token in Token::each() {
        let vault = token.vault().await;
        let wrapped = wrapped(&vault, "logged-out").await;
        for _ in 0..3 {
            token.session().logout().unwrap();
            works(&vault, &wrapped).await;
            token.session().logout().unwrap();
            assert_eq!(kind(vault.key_properties(&wrapped.key_id).await), None, "hidden is not gone");
        }
    }
}

#[tokio::test]
async fn a_library_that_others_finalised_is_initialised_again() {
    for token in Token::each() {
        let (vault, second) = (token.vault().await, token.vault().await);
        let wrapped = wrapped(&vault, "finalised").await;
        works(&second, &wrapped).await;
        for _ in 0..3 {
            token.raw().finalize().unwrap();
            token.clock.advance(Duration::from_secs(1));
            works(&vault, &wrapped).await;
            // Its sessions are of before, and their numbers now the other's.
            works(&second, &wrapped).await;
            works(&vault, &wrapped).await;
        }
    }
}

#[tokio::test]
async fn a_vault_is_opened_without_its_token_but_not_without_its_library() {
    for token in Token::each() {
        let options = Pkcs11Options::new(&token.module, "not there", GivenPin::new(token.pin));
        let vault = Pkcs11Vault::open(options).await.unwrap();
        let key = vault.key_id("any", KeyKind::Aes256).unwrap();
        let error = vault.wrap_key(&key, &aek(7), &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("the token not there is not there"), "{error}");
        let no_library = Pkcs11Options::new("/no/such/library.so", token.label, GivenPin::new(token.pin));
        let refused = Pkcs11Vault::open(no_library).await;
        assert!(matches!(refused, Err(Pkcs11Error::Library { .. })), "{refused:?}");
        let no_module = Pkcs11Options::new("libc.so.6", token.label, GivenPin::new(token.pin));
        assert!(matches!(Pkcs11Vault::open(no_module).await, Err(Pkcs11Error::Library { .. })));
        for label in ["", "ends with a blank ", "a label of thirty-three characters"] {
            let options = Pkcs11Options::new(&token.module, label, GivenPin::new(token.pin));
            assert!(matches!(Pkcs11Vault::open(options).await, Err(Pkcs11Error::BadLabel { .. })), "{label}");
        }
    }
}

/// SoftHSM2 alone: Kryoptic's token is a database that it holds open.
#[tokio::test]
async fn a_token_that_is_taken_out_is_an_outage_and_works_when_it_is_put_back() {
    let (Some(token), Some(softhsm)) = (Token::softhsm(), SoftHsm::start()) else { return };
    let options = token.options(token.pin).executor(Arc::new(Threads::new(4)));
    let vault = Pkcs11Vault::open(options).await.unwrap();
    let wrapped = wrapped(&vault, "taken-out").await;
    let many = async |n: usize| {
        let ask = |_| {
            let (vault, wrapped) = (vault.clone(), wrapped.clone());
            tokio::spawn(async move { kind(vault.unwrap_key(&wrapped, &context()).await) })
        };
        let mut answers = Vec::new();
        for call in (0..n).map(ask).collect::<Vec<_>>() {
            answers.push(call.await.unwrap());
        }
        answers
    };
    for _ in 0..3 {
        assert_eq!(many(12).await, [None; 12], "several sessions are open");
        softhsm.remove();
        for _ in 0..3 {
            assert_eq!(many(12).await, [Some(Kind::Unavailable); 12], "no denial");
            for error in [
                vault.wrap_key(&wrapped.key_id, &aek(7), &context()).await.map(drop).unwrap_err(),
                vault.key_properties(&wrapped.key_id).await.map(drop).unwrap_err(),
            ] {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            }
            token.clock.advance(Duration::from_secs(1));
        }
        softhsm.put_back();
        token.clock.advance(Duration::from_secs(1));
        assert_eq!(many(12).await, [None; 12], "it is found again");
    }
}

/// The last that is done to this process's token: its own is deleted.
#[tokio::test]
async fn a_second_token_of_its_label_and_one_in_its_place_are_not_mistaken_for_it() {
    let (Some(token), Some(softhsm)) = (Token::softhsm(), SoftHsm::start()) else { return };
    if std::env::var_os("SECOND_TOKEN").is_none() {
        // In a process of its own, whose token is another: the tests here share theirs.
        let folder = tempfile::tempdir().unwrap();
        let mut own = Command::new(std::env::current_exe().unwrap());
        own.args([
            "--exact",
            "lost::a_second_token_of_its_label_and_one_in_its_place_are_not_mistaken_for_it",
        ]);
        own.env("SECOND_TOKEN", "1").env("SOFTHSM2_CONF", folder.path().join("softhsm2.conf"));
        let output = own.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let vault = token.vault().await;
    let wrapped = wrapped(&vault, "mistaken").await;
    let client = token.raw();
    let slot = client.get_slots_with_initialized_token().unwrap()[0];
    let serial = client.get_token_info(slot).unwrap().serial_number().to_owned();
    let util = |arguments: &[&str]| {
        let done = softhsm.util().args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        client.clone().finalize().unwrap();
        token.clock.advance(Duration::from_secs(1));
    };
    util(&["--init-token", "--free", "--label", token.label, "--so-pin", token.so_pin, "--pin", token.pin]);
    let error = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
    assert!(error.kind() == Kind::Other && error.to_string().contains("two tokens"), "{error}");
    util(&["--delete-token", "--serial", &serial]);
    let error = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
    assert!(error.kind() == Kind::Other && error.to_string().contains("but was"), "{error}");
    let opened_again = token.vault().await;
    assert_eq!(kind(opened_again.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyNotFound));
}
