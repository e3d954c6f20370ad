//! `--vault-config`: files that are wrong are refused, and homes work on keys in real vaults.

use std::{ffi::OsStr, fs, path::PathBuf};

use cofferdam_vault::{
    KeyKind,
    pkcs11::{PinFile, Pkcs11Options, Pkcs11Vault},
    testing::servers::{Bao, Kryoptic, SoftHsm},
};

use crate::common::{Home, Ran};

/// Stands where no secret may stand.
const CANARY: &str = "canary-7391";

/// A home with a file of vaults beside it.
pub(crate) struct Configured {
    pub(crate) home: Home,
    file: PathBuf,
}

impl Configured {
    pub(crate) fn new(home: Home, text: &str) -> Self {
        let file = home.folder.path().join("vaults.toml");
        fs::write(&file, text).unwrap();
        Self { home, file }
    }

    pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Ran {
        let mut command = self.home.command();
        command.arg("--vault-config").arg(&self.file).args(arguments);
        Ran::of(command.output().unwrap())
    }

    /// A file beside the home, with this text.
    pub(crate) fn beside(&self, name: &str, text: &str) {
        fs::write(self.home.folder.path().join(name), text).unwrap();
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let ran = self.run([&["--json"], arguments].concat());
        ran.succeeds().text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

const LOCAL: &str = "[vaults.own]\nkind = \"local\"\n[principals.customer]\nvaults = [\"own\"]\n";

#[test]
fn a_file_that_is_wrong_is_refused_in_one_sentence_that_says_where_and_repeats_no_secret() {
    let (home, _) = Home::with_account(&[]);
    let home = Configured::new(home, "");
    let own = "[principals.customer]\nvaults = [\"own\"]\n";
    let hsm = "[vaults.own]\nkind = \"pkcs11\"\nlibrary = \"/none.so\"\ntoken = \"t\"\n";
    let bao = "[vaults.own]\nkind = \"transit\"\nurl = \"https://localhost:1\"\n";
    let azure = "[vaults.own]\nkind = \"azure\"\nurl = \"https://acme.vault.azure.net\"\n";
    for (text, saying) in [
        (String::new(), "no principal may use any vault"),
        ("[vaults.own]\nkind = \"local\"\n".into(), "no principal may use any vault"),
        (format!("[vaults.own]\nkind = \"yubikey\"\n{own}"), "vaults.own: \"yubikey\" is no kind of vault"),
        (format!("[vaults.own]\n{own}"), "vaults.own: say its kind: local, pkcs11, azure, aws or transit"),
        (format!("[vaults.own]\nkind = 7\n{own}"), "vaults.own: say its kind"),
        (format!("[vaults.own]\nkind = \"local\"\nfiel = \"x\"\n{own}"), "vaults.own: unknown field `fiel`"),
        (format!("[vault.own]\nkind = \"local\"\n{own}"), "line 1: unknown field `vault`"),
        (format!("{LOCAL}may = 1\n"), "unknown field `may`"),
        (format!("{hsm}{own}"), "vaults.own: missing field `pin`"),
        (format!("{hsm}pin = \"{CANARY}\"\n{own}"), "vaults.own: a secret does not stand in this file"),
        (format!("{hsm}pin = {{ env = \"X\", file = \"y\" }}\n{own}"), "vaults.own: it is in one place"),
        (format!("{hsm}pin = {{ file = \"pin\" }}\n{own}"), "vaults.own: "),
        (format!("{hsm}pin = \"{CANARY}\n{own}"), "line 5: "),
        (format!("{hsm}password = \"{CANARY}\"\n{own}"), "vaults.own: unknown field `password`"),
        (
            format!("{bao}login.token = \"{CANARY}\"\n{own}"),
            "vaults.own: a secret does not stand in this file",
        ),
        (format!("{bao}login.password = \"{CANARY}\"\n{own}"), "vaults.own: unknown variant `password`"),
        (format!("{bao}call-timeout = \"soon\"\nlogin.token = {{ env = \"T\" }}\n{own}"), "give a time as"),
        (format!("{bao}ca-file = \"gone.pem\"\nlogin.token = {{ env = \"T\" }}\n{own}"), "gone.pem"),
        (
            format!(
                "{azure}credential.client-secret = {{ tenant-id = \"t\", client-id = \"c\", secret = \"{CANARY}\" }}\n{own}"
            ),
            "vaults.own: a secret does not stand in this file",
        ),
        (
            "[vaults.own]\nkind = \"aws\"\nregion = \"eu-west-1\"\naccounts = [\"1\"]\n".to_owned() + own,
            "vaults.own: \"1\" is no AWS account",
        ),
        (
            "[vaults.own]\nkind = \"local\"\n[principals.customer]\nvaults = []\n".into(),
            "it may use no vault",
        ),
        (
            format!("{LOCAL}[principals.other]\nvaults = [\"hsm\"]\n"),
            "principals.other: there is no [vaults.hsm]",
        ),
        (
            "[vaults.own]\nkind = \"local\"\n[principals.customer]\nvaults = [\"own\", \"own\"]\n".into(),
            "listed twice",
        ),
        (
            "[vaults.one]\nkind = \"local\"\n[vaults.two]\nkind = \"local\"\n[principals.customer]\n\
             vaults = [\"one\", \"two\"]\n"
                .into(),
            "one and two have the same keys",
        ),
        (format!("[vaults.own]\nkind = \"local\"\nfile = \"gone.vault\"\n{own}"), "gone.vault"),
        (
            format!("[vaults.own]\nkind = \"local\"\npassphrase = {{ env = \"P\" }}\n{own}"),
            "the home's own vault has the home's passphrase",
        ),
    ] {
        fs::write(&home.file, &text).unwrap();
        let ran = home.run(["status"]);
        ran.fails(2, saying).fails(2, "vaults.toml: ");
        assert_eq!(ran.stderr.trim_end().lines().count(), 1, "{ran:?}");
        assert!(!ran.stderr.contains(CANARY) && ran.stdout.is_empty(), "{ran:?}");
    }
    fs::write(&home.file, b"\xff\xfe").unwrap();
    home.run(["status"]).fails(2, "not UTF-8");
    fs::remove_file(&home.file).unwrap();
    home.run(["status"]).fails(1, "can't read").fails(1, "vaults.toml");
    // Who needs no key does not read it.
    home.run(["ls", "a"]).succeeds();
}

#[test]
fn a_file_names_the_homes_own_vault_and_the_environment_names_the_file() {
    let (home, key) = Home::with_account(&[]);
    home.put("b", b"data");
    let home = Configured::new(home, LOCAL);
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"data");
    let mut by_variable = home.home.command();
    by_variable.env("COFFERDAM_VAULT_CONFIG", &home.file).args(["get", "a", "b"]);
    assert_eq!(Ran::of(by_variable.output().unwrap()).succeeds().stdout, b"data");
    let other = "https://acme.vault.azure.net/keys/k";
    home.run(["account", "create", "c", "--kek", other])
        .fails(1, "no vault that may be used has it: there is own");
    home.run(["rotate-kek", "a", other]).fails(1, "there is own");
    home.run(["account", "create", "c", "--kek", &key, "--principal", "stranger"]).fails(1, "stranger");
}

#[test]
fn each_principal_reaches_its_own_vaults_alone() {
    let (home, key) = Home::with_account(&[]);
    let other = Home::with(&[]);
    let others_key = other.run(["vault", "create-key", "k"]).succeeds().text().trim().to_owned();
    assert_ne!(key, others_key);
    // Both are named `customer`, so a principal can't have both.
    let file = other.file("customer.vault");
    let text = format!(
        "[vaults.own]\nkind = \"local\"\n[vaults.other]\nkind = \"local\"\nfile = \"{}\"\n\
         [principals.customer]\nvaults = [\"own\"]\n[principals.globex]\nvaults = [\"other\"]\n",
        file.display()
    );
    let home = Configured::new(home, &text);
    home.run(["account", "create", "g", "--kek", &others_key, "--principal", "globex"]).succeeds();
    home.home.feed(["put", "a", "b"], b"acme's").succeeds();
    let put = home.home.folder.path().join("data");
    fs::write(&put, "globex's").unwrap();
    home.run([OsStr::new("put"), OsStr::new("g"), OsStr::new("b"), put.as_os_str()]).succeeds();
    assert_eq!(home.run(["get", "g", "b"]).succeeds().stdout, b"globex's");
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"acme's");
    // The key of one in the other's vault: there is none.
    home.run(["account", "create", "h", "--kek", &key, "--principal", "globex"]).fails(6, &key);
    other.run(["vault", "disable", &others_key]).succeeds();
    home.run(["get", "g", "b"]).fails(3, "revoked");
    assert_eq!(home.run(["get", "a", "b"]).succeeds().stdout, b"acme's");
    fs::write(&home.file, text.replace("vaults = [\"other\"]", "vaults = [\"own\", \"other\"]")).unwrap();
    home.run(["status"]).fails(2, "principals.globex: own and other have the same keys");
}

fn blocking<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

/// What every vault must show: an account is made under its key, its key is taken away and given back, and an account of the home's
/// own vault moves to it.
pub(crate) fn goes_through_its_life(
    home: &Configured,
    own: &str,
    key: &str,
    take_away: impl Fn(),
    give_back: impl Fn(),
) {
    home.run(["account", "create", "b", "--kek", key]).succeeds();
    for block in 0..10 {
        let put = home.home.folder.path().join("data");
        fs::write(&put, format!("block {block}")).unwrap();
        let (put, block) = (put.to_str().unwrap(), block.to_string());
        for account in ["a", "b"] {
            home.run(["put", account, &block, put]).succeeds();
        }
    }
    let reads = |account: &str| {
        for block in 0..10 {
            let read = home.run(["get", account, &block.to_string()]);
            assert_eq!(read.succeeds().stdout, format!("block {block}").into_bytes());
        }
    };
    let status = home.json(&["status", "b"]).remove(0);
    let named = status["key_id"].as_str().unwrap().to_owned();
    assert_eq!(status["keks"], serde_json::json!([{ "key_id": named }]), "{status}");
    assert!(home.run(["status", "b"]).succeeds().text().contains(&named));
    reads("b");

    let moved = home.json(&["rotate-kek", "a", key]).remove(0);
    assert_eq!((&moved["status"], &moved["to"]), (&"Succeeded".into(), &key.into()), "{moved}");
    let listed = home.json(&["account", "list"]);
    assert_eq!(listed[0]["key_ids"], serde_json::json!([named]), "{listed:?}");
    reads("a");
    home.run(["safe-to-disable", own]).succeeds();
    home.home.run(["vault", "disable", own]).succeeds();
    home.home.run(["vault", "delete", own]).succeeds();
    reads("a");

    take_away();
    for account in ["a", "b"] {
        home.run(["get", account, "0"]).fails(3, "revoked");
        home.run(["put", account, "new", "/dev/null"]).fails(3, "revoked");
    }
    give_back();
    reads("a");
    reads("b");
    home.run(["safe-to-disable", &named]).fails(7, "not safe to disable yet");

    let archive = home.home.folder.path().join("archive");
    let archive = archive.to_str().unwrap();
    home.run(["export", "b", archive]).succeeds();
    home.run(["account", "delete", "b"]).succeeds();
    home.run(["account", "purge", "b", "--yes"]).succeeds();
    let imported = home.json(&["import", archive, "--name", "c", "--kek", key]).remove(0);
    assert_eq!(imported["unwrapped_by"], named.as_str(), "{imported}");
    reads("c");
}

/// A home of one account in its own vault, and a key of this kind in a token.
fn in_a_token(module: &std::path::Path, token: &str, pin: &str, kind: KeyKind) {
    let (home, own) = Home::with_account(&[]);
    let text = format!(
        "[vaults.own]\nkind = \"local\"\n[vaults.hsm]\nkind = \"pkcs11\"\nlibrary = \"{}\"\ntoken = \"{token}\"\n\
         pin = {{ file = \"pin\" }}\nrecoverable = true\n[principals.customer]\nvaults = [\"own\", \"hsm\"]\n",
        module.display()
    );
    let home = Configured::new(home, &text);
    home.beside("pin", &format!("{pin}\n"));
    let pin = home.home.folder.path().join("pin");
    let options = Pkcs11Options::new(module, token, std::sync::Arc::new(PinFile::new(pin)));
    let vault = blocking(Pkcs11Vault::open(options)).unwrap();
    let version = blocking(vault.create_key(&format!("life-of-{kind}"), kind)).unwrap();
    let key = vault.key_id(&format!("life-of-{kind}"), kind).unwrap();
    let own = home.home.json(["status", "a"])[0]["key_id"].as_str().map_or(own, str::to_owned);
    goes_through_its_life(
        &home,
        &own,
        key.as_str(),
        || blocking(vault.disable(&version)).unwrap(),
        || blocking(vault.enable(&version)).unwrap(),
    );
    home.beside("pin", CANARY);
    let refused = home.run(["get", "a", "0"]);
    assert_eq!(refused.code, 4, "a wrong PIN is an outage: {refused:?}");
    assert!(!refused.stderr.contains(CANARY), "{refused:?}");
}

#[test]
fn an_accounts_key_lives_in_softhsm_and_moves_there_from_a_file() {
    let Some(hsm) = SoftHsm::start() else { return };
    in_a_token(hsm.module(), hsm.token(), hsm.pin(), KeyKind::Aes256);
}

#[test]
fn an_accounts_rsa_key_lives_in_kryoptic_and_moves_there_from_a_file() {
    let Some(hsm) = Kryoptic::start() else { return };
    let kind = KeyKind::Rsa(cofferdam_crypto::rsa::RsaSize::Rsa2048);
    in_a_token(hsm.module(), hsm.token(), hsm.pin(), kind);
}

#[test]
fn an_accounts_key_lives_in_openbao_and_moves_there_from_a_file() {
    let Some(bao) = Bao::dev() else { return };
    let (home, own) = Home::with_account(&[]);
    let text = format!(
        "[vaults.own]\nkind = \"local\"\n[vaults.bao]\nkind = \"transit\"\nurl = \"{}\"\nauthority = \"bao\"\n\
         allow-plain-http-to-loopback = true\nlogin.token = {{ file = \"token\" }}\n\
         [principals.customer]\nvaults = [\"own\", \"bao\"]\n",
        bao.url()
    );
    let home = Configured::new(home, &text);
    bao.run(&["secrets", "enable", "transit"]);
    bao.run(&["write", "-f", "transit/keys/k"]);
    let allow = "path \"transit/keys/k\" {\n  capabilities = [\"read\"]\n}\n\
                 path \"transit/+/k\" {\n  capabilities = [\"update\", \"read\"]\n}\n";
    let policy = home.home.folder.path().join("policy.hcl");
    let set = |text: &str| {
        fs::write(&policy, text).unwrap();
        bao.run(&["policy", "write", "cofferdam", policy.to_str().unwrap()]);
    };
    set(allow);
    home.beside("token", &bao.run(&["token", "create", "-policy=cofferdam", "-field=token"]));
    let own = home.home.json(["status", "a"])[0]["key_id"].as_str().map_or(own, str::to_owned);
    goes_through_its_life(
        &home,
        &own,
        "transit://bao/transit/keys/k",
        || set("path \"sys/nothing\" {\n  capabilities = [\"read\"]\n}\n"),
        || set(allow),
    );
}
