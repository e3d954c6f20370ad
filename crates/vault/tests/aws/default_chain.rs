//! AWS's default chain of credentials, in processes with an environment of their own.

use std::{env, fs, process::Command};

use cofferdam_vault::{
    KeyVault,
    aws::{AwsOptions, AwsVault},
    testing::servers::Rogue,
};

use crate::aws_support::{ACCOUNT, KEY, REGION, context, decrypted, ok, recorded, wrapped};

const URL: &str = "COFFERDAM_TEST_URL";

/// In a process that the other tests start: unwraps once at the URL that it is told, and prints what came of it.
#[tokio::test]
async fn a_process_of_its_own_unwraps_once() {
    let Ok(url) = env::var(URL) else {
        let (_, said) = run(&[]);
        assert!(said.contains("unauthenticated: "), "a process without credentials says so: {said}");
        return;
    };
    let options = AwsOptions::new(REGION, ACCOUNT).endpoint(url).allow_plain_http_to_loopback();
    match AwsVault::connect(options) {
        Err(refused) => println!("refused: {refused}"),
        Ok(vault) => match vault.unwrap_key(&wrapped(KEY), &context(1)).await {
            Ok(_) => println!("unwrapped"),
            Err(failed) => println!("{}: {failed}", failed.kind()),
        },
    }
}

/// What a process with these variables prints, and the server that it was told to ask.
fn run(variables: &[(&str, &str)]) -> (Rogue, String) {
    let server = recorded([ok(&decrypted(&[7; 32]))]);
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", "default_chain::a_process_of_its_own_unwraps_once", "--nocapture"])
        .env_clear()
        .env(URL, server.url());
    // Nothing of the machine's own.
    child
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent")
        .envs(variables.iter().copied());
    let output = child.output().unwrap();
    (server, String::from_utf8(output.stdout).unwrap())
}

fn signature(server: &Rogue) -> String {
    server.requests()[0].header("authorization").unwrap().to_owned()
}

#[test]
fn credentials_come_from_the_environment() {
    let (server, said) =
        run(&[("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT"), ("AWS_SECRET_ACCESS_KEY", "secret")]);
    assert!(said.contains("unwrapped"), "{said}");
    assert!(signature(&server).contains("Credential=AKIAENVIRONMENT/"));
}

#[test]
fn credentials_come_from_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    fs::write(&file, "[work]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = secret\n").unwrap();
    let file = file.to_str().unwrap();
    let (server, said) = run(&[("AWS_SHARED_CREDENTIALS_FILE", file), ("AWS_PROFILE", "work")]);
    assert!(said.contains("unwrapped"), "{said}");
    assert!(signature(&server).contains("Credential=AKIAPROFILE/"));
}

#[test]
fn no_credentials_anywhere_is_an_outage() {
    let (server, said) = run(&[]);
    assert!(said.contains("unauthenticated: "), "{said}");
    assert_eq!(server.connections(), 0);
}

#[test]
fn no_vault_is_made_where_the_sdk_was_told_to_log_bodies() {
    for variable in ["LOG_SIGNABLE_BODY", "LOG_SENSITIVE_BODIES"] {
        let (server, said) = run(&[(variable, "TRUE")]);
        assert!(said.contains("refused: ") && said.contains(variable), "{said}");
        assert_eq!(server.connections(), 0);
    }
}
