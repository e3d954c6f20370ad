//! Microsoft's own clients drive the server: what our adapter proves of it alone would prove nothing.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

use cofferdam_vault::serve::{KeyVaultServer, Permission};
use serde::Deserialize;

use crate::world::{World, blocking};

/// A call that a script tried.
#[derive(Debug, Deserialize)]
struct Tried {
    call: String,
    result: String,
}

const APP: &str = "22222222-2222-2222-2222-222222222222";

/// Where a thing is; none, after saying so, where it is not installed.
fn installed(variable: &str) -> Option<String> {
    if let Some(path) = env::var(variable).ok().filter(|path| !path.is_empty()) {
        return Some(path);
    }
    assert!(
        env::var_os("COFFERDAM_SERVICES").is_none_or(|value| value != "1"),
        "{variable} is not set, and COFFERDAM_SERVICES=1 wants every service there"
    );
    eprintln!("SKIPPED: {variable} is not set, so this client is not tested: see `cargo xtask services`");
    None
}

/// Does to the server what a script asks for.
fn obey(server: &KeyVaultServer, what: &str) {
    match what {
        "deny" => server.permit(APP, &[]).unwrap(),
        "allow" => server.permit(APP, &Permission::ALL).unwrap(),
        "expire" => server.expire_tokens(),
        "throttle-once" => server.throttle(Duration::from_secs(1), Some(1)),
        "throttle" => server.throttle(Duration::from_secs(1), None),
        "unthrottle" => server.unthrottle(),
        _ => panic!("a script asked for {what:?}"),
    }
}

/// Runs a script against a server of its own, and prints what it tried.
async fn drive(name: &str, program: &str, script: &str, more: &[(&str, &str)]) -> Vec<Tried> {
    let world = World::new().await;
    let secret = world.server.add_client(APP, &Permission::ALL).unwrap();
    let authority = world.folder.path().join("authority.pem");
    fs::write(&authority, world.server.authority_pem()).unwrap();
    let script = format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command
        .arg(&script)
        .env("VAULT_URL", world.server.url())
        .env("VAULT_CA", &authority)
        .env("NODE_EXTRA_CA_CERTS", &authority)
        .env("VAULT_CLIENT", APP)
        .env("VAULT_SECRET", &*secret)
        .envs(more.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let tried = blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut tried: Vec<Tried> = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            match line.strip_prefix('@') {
                Some(what) => {
                    obey(&world.server, what);
                    writeln!(stdin, "done").unwrap();
                }
                None => tried.push(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))),
            }
        }
        let status = child.wait().unwrap();
        assert!(status.success(), "{script} ended with {status} after {tried:#?}");
        tried
    })
    .await;
    println!("{name}");
    for Tried { call, result } in &tried {
        println!("  {call:66} {result}");
    }
    tried
}

/// Checks that these calls were tried, in this order, with these results.
#[track_caller]
fn assert_tried(tried: &[Tried], expected: &[(&str, &str)]) {
    let tried: Vec<_> = tried.iter().map(|tried| (&*tried.call, &*tried.result)).collect();
    assert_eq!(tried, expected);
}

const SAME: &str = "200, the same 32 bytes";
const DISABLED: &str = "403 Forbidden KeyDisabled";
const GONE: &str = "404 KeyNotFound";

#[tokio::test]
async fn the_python_client_drives_the_server() {
    let Some(python) = installed("COFFERDAM_PYTHON") else { return };
    let tried = drive("Python, azure-keyvault-keys", &python, "keyvault.py", &[]).await;
    let expected = [
        ("KeyClient.create_rsa_key (401, challenge, token)", "200"),
        ("KeyClient.get_key (latest, version)", "200"),
        ("KeyClient.create_rsa_key (3072, RSA-HSM)", "200"),
        ("KeyClient.create_oct_key (oct-HSM)", "200"),
        ("KeyClient.list_properties_of_key_versions", "200, 2 versions"),
        ("KeyClient.list_properties_of_keys (pages of 2)", "200, 3 keys"),
        ("CryptographyClient.wrap_key (local), unwrap_key RSA-OAEP-256", SAME),
        ("CryptographyClient.wrap_key, unwrap_key A256KW", SAME),
        ("KeyClient.send_request wrapkey RSA-OAEP-256", "200"),
        ("wrapkey RSA-OAEP, RSA1_5", "400 BadParameter"),
        ("CryptographyClient.unwrap_key (damaged)", "400 BadParameter"),
        ("KeyClient.import_key (RSA), unwrap_key", SAME),
        ("KeyClient.update_key_properties (tags)", "200"),
        ("CryptographyClient.unwrap_key (disabled)", DISABLED),
        ("KeyClient.get_key (disabled)", "200, not enabled"),
        ("KeyClient.update_key_properties (enabled), unwrap_key", SAME),
        ("KeyClient.begin_delete_key", "200"),
        ("KeyClient.get_key (deleted)", GONE),
        ("CryptographyClient.unwrap_key (deleted)", GONE),
        ("KeyClient.create_rsa_key (deleted)", "409 Conflict ObjectIsDeletedButRecoverable"),
        ("KeyClient.list_deleted_keys, get_deleted_key", "200"),
        ("KeyClient.begin_recover_deleted_key, unwrap_key", SAME),
        ("KeyClient.purge_deleted_key, get_deleted_key", GONE),
        ("KeyClient.get_key (permission taken)", "403 Forbidden AccessDenied"),
        ("KeyClient.get_key (token expired)", "401, challenge, a new token, 200"),
        ("KeyClient.get_key (throttled once)", "429, Retry-After: 1, 200"),
        ("KeyClient.get_key (throttled, no retries)", "429 Throttled"),
        ("KeyClient.get_key (authority not trusted)", "refused by the client"),
    ];
    assert_tried(&tried, &expected);
}

#[tokio::test]
async fn the_javascript_client_drives_the_server() {
    let Some(modules) = installed("COFFERDAM_NODE_MODULES") else { return };
    let more = [("COFFERDAM_NODE_MODULES", &*modules)];
    let tried = drive("JavaScript, @azure/keyvault-keys", "node", "keyvault.mjs", &more).await;
    let expected = [
        ("KeyClient.createRsaKey (401, challenge, token)", "200"),
        ("KeyClient.getKey (latest, version)", "200"),
        ("KeyClient.createOctKey (oct-HSM)", "200"),
        ("KeyClient.listPropertiesOfKeyVersions", "200, 2 versions"),
        ("KeyClient.listPropertiesOfKeys (pages of 1)", "200, 2 keys"),
        ("CryptographyClient.wrapKey, unwrapKey RSA-OAEP-256", SAME),
        ("CryptographyClient.wrapKey, unwrapKey A256KW", SAME),
        ("CryptographyClient.unwrapKey (damaged)", "400 BadParameter"),
        ("CryptographyClient.unwrapKey RSA-OAEP", "400 BadParameter"),
        ("KeyClient.importKey (RSA), unwrapKey", SAME),
        ("KeyClient.updateKeyProperties (tags)", "200"),
        ("CryptographyClient.unwrapKey (disabled)", DISABLED),
        ("KeyClient.getKey (disabled)", "200, not enabled"),
        ("KeyClient.updateKeyProperties (enabled), unwrapKey", SAME),
        ("KeyClient.beginDeleteKey", "200"),
        ("KeyClient.getKey (deleted)", GONE),
        ("KeyClient.createRsaKey (deleted)", "409 Conflict ObjectIsDeletedButRecoverable"),
        ("KeyClient.listDeletedKeys, getDeletedKey", "200"),
        ("KeyClient.beginRecoverDeletedKey, unwrapKey", SAME),
        ("KeyClient.purgeDeletedKey, getDeletedKey", GONE),
        ("KeyClient.getKey (permission taken)", "403 Forbidden AccessDenied"),
        ("KeyClient.getKey (token ended early)", "401 Unauthorized"),
        ("KeyClient.getKey (of a new client)", "401, challenge, a new token, 200"),
        ("KeyClient.getKey (throttled once)", "429, Retry-After: 1, 200"),
        ("KeyClient.getKey (throttled, no retries)", "429 Throttled"),
    ];
    assert_tried(&tried, &expected);
}
