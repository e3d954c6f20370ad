//! A local vault's file: whatever is wrong with it is a typed error, is never a denial, and loses nothing.

use std::{fs, path::Path, sync::Arc, time::Duration};

use cofferdam_crypto::{KeyId, WrapAlgorithm, WrappedKey, rsa::RsaSize};
use cofferdam_vault::{
    KeyKind, KeyVault, LocalVault, LocalVaultError as E, Meaning, Passphrase, PassphraseCost, Recovery,
    SpawnBlocking, VaultErrorKind,
};
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::support::{Fixture, aek, context, kind, scale};

const CHECKSUM: &str = ",\n  \"checksum\": \"";

/// A vault with two keys, one of them disabled, and a wrapped AEK under the other.
async fn furnished(passphrase: Option<&'static str>) -> (Fixture, LocalVault, WrappedKey) {
    let fixture = Fixture::new(passphrase);
    let vault = fixture.create().await;
    let key = vault.create_key("payroll").await.unwrap();
    let other = vault.create_key("archive").await.unwrap();
    vault.disable(&other).await.unwrap();
    let wrapped = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
    (fixture, vault, wrapped)
}

/// The same with keys of RSA.
async fn furnished_with_rsa(passphrase: Option<&'static str>) -> (Fixture, LocalVault, WrappedKey) {
    let fixture = Fixture::new(passphrase);
    let vault = fixture.create().await;
    let rsa = KeyKind::Rsa(RsaSize::Rsa2048);
    let key = vault.create_key_of("payroll", rsa, Recovery::default()).await.unwrap();
    let other = vault.create_key_of("archive", rsa, Recovery::default()).await.unwrap();
    vault.disable(&other).await.unwrap();
    let wrapped = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
    (fixture, vault, wrapped)
}

/// The file with this in place of that, under a checksum that fits.
fn forge(path: &Path, this: &str, that: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(this), "{this} is not in {text}");
    let text = text.replacen(this, that, 1);
    let body = &text[..text.rfind(CHECKSUM).unwrap()];
    write_with_checksum(path, body);
}

fn write_with_checksum(path: &Path, body: &str) {
    let checksum = HEXLOWER.encode(&Sha256::digest(body.as_bytes()));
    fs::write(path, format!("{body}{CHECKSUM}{checksum}\"\n}}\n")).unwrap();
}

/// A serving vault calls it an outage.
async fn assert_outage(vault: &LocalVault, wrapped: &WrappedKey, what: &str) {
    let unwrapped = kind(vault.unwrap_key(wrapped, &context()).await);
    let asked = kind(vault.key_properties(&wrapped.key_id).await);
    assert!(unwrapped.is_some_and(|k| k.meaning() == Meaning::Outage), "{what}: {unwrapped:?}");
    assert_eq!(unwrapped, asked, "{what}");
}

#[tokio::test]
async fn a_file_cut_at_any_length_is_refused_and_an_outage() {
    for (passphrase, rsa) in [(None, false), (Some("correct horse"), false), (Some("correct horse"), true)] {
        let (fixture, vault, wrapped) = match rsa {
            false => furnished(passphrase).await,
            true => furnished_with_rsa(passphrase).await,
        };
        let whole = fs::read(fixture.path()).unwrap();
        for len in 0..whole.len() {
            fs::write(fixture.path(), &whole[..len]).unwrap();
            let opened = LocalVault::open(fixture.path(), fixture.options(passphrase)).await;
            assert!(matches!(opened, Err(E::Damaged { .. })), "{len} bytes: {opened:?}");
            assert_outage(&vault, &wrapped, &format!("{len} bytes")).await;
            assert!(vault.create_key("new").await.is_err(), "{len} bytes");
            assert_eq!(fs::read(fixture.path()).unwrap(), &whole[..len], "a refused change wrote");
        }
        fs::write(fixture.path(), &whole).unwrap();
        assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
    }
}

#[tokio::test]
async fn a_file_with_any_bit_flipped_is_refused_and_an_outage() {
    for (passphrase, rsa) in [(None, false), (Some("correct horse"), false), (None, true)] {
        let (fixture, vault, wrapped) = match rsa {
            false => furnished(passphrase).await,
            true => furnished_with_rsa(passphrase).await,
        };
        let whole = fs::read(fixture.path()).unwrap();
        // Every byte, by one or two bits of it, or by each.
        let step = scale(7, 1);
        for bit in (0..whole.len() * 8).step_by(step) {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(fixture.path(), &bad).unwrap();
            let opened = LocalVault::open(fixture.path(), fixture.options(passphrase)).await;
            assert!(
                matches!(opened, Err(E::Damaged { .. } | E::NotAVault { .. } | E::NewerVersion { .. })),
                "bit {bit}: {opened:?}"
            );
            assert_outage(&vault, &wrapped, &format!("bit {bit}")).await;
        }
        println!("{} bits flipped, all refused", (whole.len() * 8).div_ceil(step));
    }
}

#[tokio::test]
async fn without_the_passphrase_no_state_can_be_forged() {
    let (fixture, vault, wrapped) = furnished(Some("correct horse")).await;
    let whole = fs::read(fixture.path()).unwrap();
    for (this, that) in [
        ("\"enabled\": false", "\"enabled\": true"),
        ("\"name\": \"archive\"", "\"name\": \"brchive\""),
        ("\"offline\": false", "\"offline\": true"),
        ("\"generation\": 4", "\"generation\": 9"),
        ("\"deleted_ms\": null", "\"deleted_ms\": 1"),
        ("\n  \"tag\": \"", "\n  \"tag\":  \""),
    ] {
        forge(&fixture.path(), this, that);
        let opened = LocalVault::open(fixture.path(), fixture.options(Some("correct horse"))).await;
        assert!(matches!(opened, Err(E::Damaged { .. })), "{that}: {opened:?}");
        assert_outage(&vault, &wrapped, that).await;
        fs::write(fixture.path(), &whole).unwrap();
    }
}

#[tokio::test]
async fn an_unprotected_vault_in_its_place_is_not_obeyed() {
    let (fixture, vault, wrapped) = furnished(Some("correct horse")).await;
    let (attacker, _, _) = furnished(None).await;
    fs::copy(attacker.path(), fixture.path()).unwrap();
    let opened = LocalVault::open(fixture.path(), fixture.options(Some("correct horse"))).await;
    assert!(matches!(opened, Err(E::PassphraseNotNeeded { .. })), "{opened:?}");
    assert_outage(&vault, &wrapped, "replaced").await;
    assert!(matches!(vault.list().await, Err(E::Replaced { .. })));
}

#[tokio::test]
async fn a_vault_of_another_name_in_its_place_is_not_obeyed() {
    let (fixture, vault, wrapped) = furnished(None).await;
    fs::remove_file(fixture.path()).unwrap();
    LocalVault::create(fixture.path(), "other", fixture.options(None)).await.unwrap();
    assert!(matches!(vault.list().await, Err(E::Replaced { .. })));
    assert_outage(&vault, &wrapped, "another name").await;
}

#[tokio::test]
async fn an_older_copy_of_the_file_is_refused_by_who_saw_a_newer() {
    let (fixture, vault, wrapped) = furnished(None).await;
    let older = fs::read(fixture.path()).unwrap();
    vault.disable(&wrapped.key_id).await.unwrap();
    fs::write(fixture.path(), older).unwrap();
    assert_outage(&vault, &wrapped, "rolled back").await;
    assert!(matches!(vault.list().await, Err(E::RolledBack { seen: 5, found: 4, .. })));
    assert_eq!(fixture.open().await.list().await.unwrap().len(), 2, "who restored a backup opens it again");
}

#[tokio::test]
async fn each_wrong_passphrase_has_its_error() {
    let (fixture, _, _) = furnished(Some("correct horse")).await;
    for wrong in ["correct hors", "Correct horse", "correct horse ", "correct horse\0", "x"] {
        let opened = LocalVault::open(fixture.path(), fixture.options(Some(wrong))).await;
        assert!(matches!(opened, Err(E::WrongPassphrase { .. })), "{wrong}: {opened:?}");
    }
    let opened = LocalVault::open(fixture.path(), fixture.options(None)).await;
    assert!(matches!(opened, Err(E::PassphraseMissing { .. })), "{opened:?}");
    let (fixture, _, _) = furnished(None).await;
    let opened = LocalVault::open(fixture.path(), fixture.options(Some("any"))).await;
    assert!(matches!(opened, Err(E::PassphraseNotNeeded { .. })), "{opened:?}");
}

#[tokio::test]
async fn a_newer_version_is_named() {
    let (fixture, vault, wrapped) = furnished(None).await;
    forge(&fixture.path(), "\"version\": 1", "\"version\": 4");
    let opened = LocalVault::open(fixture.path(), fixture.options(None)).await.unwrap_err();
    assert!(matches!(opened, E::NewerVersion { found: 4, supported: 3, .. }), "{opened:?}");
    assert!(opened.to_string().contains("use a newer program"), "{opened}");
    assert_outage(&vault, &wrapped, "newer").await;
}

#[tokio::test]
async fn hostile_files_are_refused_before_they_cost_anything() {
    let (fixture, _, _) = furnished(Some("correct horse")).await;
    let whole = fs::read(fixture.path()).unwrap();
    for (this, that) in [
        ("\"memory_kib\": 8", "\"memory_kib\": 4294967295"),
        ("\"memory_kib\": 8", "\"memory_kib\": 0"),
        ("\"memory_kib\": 8", "\"memory_kib\": -1"),
        ("\"passes\": 1", "\"passes\": 4294967295"),
        ("\"passes\": 1", "\"passes\": 1e300"),
        ("\"lanes\": 1", "\"lanes\": 16777215"),
        ("\"lanes\": 1", "\"lanes\": 0"),
    ] {
        forge(&fixture.path(), this, that);
        let opened = LocalVault::open(fixture.path(), fixture.options(Some("correct horse"))).await;
        assert!(matches!(opened, Err(E::Damaged { .. })), "{that}: {opened:?}");
        fs::write(fixture.path(), &whole).unwrap();
    }

    let (fixture, _, _) = furnished(None).await;
    let whole = fs::read(fixture.path()).unwrap();
    for (this, that) in [
        ("\"name\": \"archive\"", "\"name\": \"payroll\""),
        ("\"name\": \"archive\"", "\"name\": \"../../etc\""),
        ("\"vault\": \"acme\"", "\"vault\": \"\""),
        ("\"offline\": false", "\"offline\": false,\n  \"offline\": true"),
        ("\"offline\": false", "\"offline\": false,\n  \"surprise\": 1"),
        ("\"offline\": false", "\"offline\": 0"),
        ("\"clear\": \"", "\"clear\": \"00"),
        ("\"clear\": \"", "\"clear\": \"\\u0030"),
        ("\"created_ms\": ", "\"created_ms\": 99999999999999999999999"),
    ] {
        forge(&fixture.path(), this, that);
        let opened = LocalVault::open(fixture.path(), fixture.options(None)).await;
        assert!(matches!(opened, Err(E::Damaged { .. })), "{that}: {opened:?}");
        fs::write(fixture.path(), &whole).unwrap();
    }

    let head = "{\n  \"format\": \"cofferdam local vault\",\n  \"version\": 1,\n  \"keys\": ";
    write_with_checksum(&fixture.path(), &format!("{head}{}", "[".repeat(1_000_000)));
    let opened = LocalVault::open(fixture.path(), fixture.options(None)).await;
    assert!(matches!(opened, Err(E::Damaged { .. })), "deep nesting: {opened:?}");

    let huge = fs::File::create(fixture.path()).unwrap();
    std::io::Write::write_all(&mut &huge, head.as_bytes()).unwrap();
    huge.set_len(1 << 40).unwrap();
    let opened = LocalVault::open(fixture.path(), fixture.options(None)).await;
    assert!(matches!(opened, Err(E::Damaged { .. })), "1 TiB: {opened:?}");
}

#[tokio::test]
async fn what_is_not_a_vault_is_named() {
    let fixture = Fixture::new(None);
    for bytes in [&b"hello"[..], b"{}", b"{\"format\": \"something else\"}", &[0; 4096], b"\xff\xfe"] {
        fs::write(fixture.path(), bytes).unwrap();
        let opened = LocalVault::open(fixture.path(), fixture.options(None)).await;
        assert!(matches!(opened, Err(E::NotAVault { .. })), "{opened:?}");
    }
    let opened = LocalVault::open(fixture.folder.path(), fixture.options(None)).await;
    assert!(matches!(opened, Err(E::NotAVault { .. })), "a folder: {opened:?}");
    let opened = LocalVault::open(fixture.folder.path().join("none"), fixture.options(None)).await;
    assert!(matches!(opened, Err(E::Io { .. })), "no file: {opened:?}");
}

#[tokio::test]
async fn a_missing_file_is_an_outage_until_it_returns() {
    let (fixture, vault, wrapped) = furnished(None).await;
    let away = fixture.folder.path().join("away");
    fs::rename(fixture.path(), &away).unwrap();
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(VaultErrorKind::Unavailable));
    assert!(matches!(vault.create_key("new").await, Err(E::Io { .. })));
    fs::rename(&away, fixture.path()).unwrap();
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), None);
}

#[tokio::test]
async fn a_second_vault_does_not_take_the_place_of_the_first() {
    let (fixture, vault, _) = furnished(None).await;
    let made = LocalVault::create(fixture.path(), "acme", fixture.options(None)).await;
    assert!(matches!(made, Err(E::AlreadyExists { .. })), "{made:?}");
    assert_eq!(vault.list().await.unwrap().len(), 2);
    for bad in ["", "a b", "a/b", &"v".repeat(128)] {
        let made = LocalVault::create(fixture.folder.path().join("b"), bad, fixture.options(None)).await;
        assert!(matches!(made, Err(E::BadName { .. })), "{bad}: {made:?}");
    }
    let made = LocalVault::create(fixture.folder.path().join("no/b"), "b", fixture.options(None)).await;
    assert!(matches!(made, Err(E::Io { .. })), "{made:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_the_owners_alone_and_nothing_else_is_left() {
    use std::os::unix::fs::PermissionsExt;
    let (fixture, vault, _) = furnished(Some("correct horse")).await;
    vault.new_version("payroll").await.unwrap();
    assert_eq!(fixture.files(), ["vault.json", "vault.json.lock"]);
    for name in fixture.files() {
        let mode = fs::metadata(fixture.folder.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_a_crash_left_beside_the_file_is_neither_used_nor_followed() {
    let (fixture, vault, _) = furnished(None).await;
    let victim = fixture.folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, fixture.folder.path().join("vault.json.tmp")).unwrap();
    vault.create_key("new").await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fixture.files(), ["vault.json", "vault.json.lock", "victim"]);
}

#[tokio::test]
async fn a_change_that_can_not_be_written_changes_nothing() {
    let (fixture, vault, _) = furnished(None).await;
    let before = fs::read(fixture.path()).unwrap();
    fs::create_dir(fixture.folder.path().join("vault.json.tmp")).unwrap();
    assert!(matches!(vault.create_key("new").await, Err(E::Io { .. })));
    assert_eq!(fs::read(fixture.path()).unwrap(), before);
    assert_eq!(vault.list().await.unwrap().len(), 2);
}

#[cfg(unix)]
#[tokio::test]
async fn a_change_through_a_link_reaches_the_file_behind_it() {
    let (fixture, _, _) = furnished(None).await;
    let link = fixture.folder.path().join("link");
    std::os::unix::fs::symlink(fixture.path(), &link).unwrap();
    let vault = LocalVault::open(&link, fixture.options(None)).await.unwrap();
    vault.create_key("new").await.unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(fixture.open().await.list().await.unwrap().len(), 3);
}

#[tokio::test]
async fn protected_files_hold_no_key_and_no_message_holds_one() {
    let (fixture, vault, _) = furnished(None).await;
    let text = fs::read_to_string(fixture.path()).unwrap();
    let key = text.split("\"clear\": \"").nth(1).unwrap()[..64].to_owned();
    assert!(HEXLOWER.decode(key.as_bytes()).is_ok());
    forge(&fixture.path(), &key, &format!("{}zz", &key[..62]));
    let error = vault.list().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&key[..8]), "{error:?}");
    assert!(!format!("{vault:?}").contains(&key[..8]));

    let (fixture, vault, _) = furnished(Some("correct horse")).await;
    let text = fs::read_to_string(fixture.path()).unwrap();
    assert!(!text.contains("clear") && !text.contains("horse"));
    let options = format!("{:?} {vault:?}", fixture.options(Some("correct horse")));
    assert!(!options.contains("horse"), "{options}");
}

#[tokio::test]
async fn malformed_wrapped_keys_are_corrupt_before_the_file_is_read() {
    let (fixture, vault, wrapped) = furnished(None).await;
    for bit in 0..wrapped.bytes.len() * 8 {
        let mut bad = wrapped.clone();
        bad.bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            kind(vault.unwrap_key(&bad, &context()).await),
            Some(VaultErrorKind::Corrupt),
            "bit {bit}"
        );
    }
    fs::remove_file(fixture.path()).unwrap();
    for len in (0..200).filter(|&len| len != 40) {
        let bad = WrappedKey { bytes: vec![0xa6; len], ..wrapped.clone() };
        assert_eq!(kind(vault.unwrap_key(&bad, &context()).await), Some(VaultErrorKind::Corrupt), "{len}");
    }
    let unversioned = WrappedKey { key_id: vault.key_id("payroll").unwrap(), ..wrapped };
    assert_eq!(kind(vault.unwrap_key(&unversioned, &context()).await), Some(VaultErrorKind::Corrupt));
}

#[tokio::test]
async fn ids_of_another_vault_say_nothing_of_a_key() {
    let (_fixture, vault, _) = furnished(None).await;
    for uri in
        ["https://kv.example/keys/payroll", "local://other/keys/payroll", "local://acme/keys/payroll/1"]
    {
        let id = KeyId::new(uri).unwrap();
        assert_eq!(
            kind(vault.wrap_key(&id, &aek(7), &context()).await),
            Some(VaultErrorKind::Other),
            "{uri}"
        );
        assert_eq!(kind(vault.key_properties(&id).await), Some(VaultErrorKind::Other), "{uri}");
        let wrapped =
            WrappedKey { key_id: id.clone(), algorithm: WrapAlgorithm::Aes256Kw, bytes: vec![0; 40] };
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(VaultErrorKind::Other), "{uri}");
        assert!(matches!(vault.disable(&id).await, Err(E::BadKeyId { .. })), "{uri}");
    }
}

#[tokio::test]
async fn a_lock_that_is_not_let_go_is_named_and_uses_go_on() {
    let (fixture, _, wrapped) = furnished(None).await;
    let options = fixture.options(None).lock_wait(Duration::ZERO);
    let vault = LocalVault::open(fixture.path(), options).await.unwrap();
    let lock = fs::File::open(fixture.folder.path().join("vault.json.lock")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(vault.create_key("new").await, Err(E::Locked { .. })));
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), None);
    drop(lock);
    fixture.open().await.create_key("new").await.unwrap();
}

#[tokio::test]
async fn a_recommended_passphrase_cost_works_on_blocking_threads() {
    let fixture = Fixture::new(None);
    let options = || {
        let passphrase = Passphrase::new("correct horse".to_owned()).unwrap();
        fixture
            .options(None)
            .passphrase(passphrase)
            .executor(Arc::new(SpawnBlocking))
            .cost(PassphraseCost::RECOMMENDED)
    };
    let vault = LocalVault::create(fixture.path(), "acme", options()).await.unwrap();
    assert!(vault.protected());
    let key = vault.create_key("k").await.unwrap();
    let wrapped = vault.wrap_key(&key, &aek(1), &context()).await.unwrap();
    let again = LocalVault::open(fixture.path(), options()).await.unwrap();
    assert_eq!(again.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(1).expose());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_after_the_head_are_refused(
        junk in proptest::collection::vec(any::<u8>(), 0..300), head in any::<bool>(), sum in any::<bool>(),
    ) {
        let fixture = Fixture::new(None);
        let mut bytes = match head {
            true => b"{\n  \"format\": \"cofferdam local vault\",\n  \"version\": 1,".to_vec(),
            false => Vec::new(),
        };
        bytes.extend_from_slice(&junk);
        if sum {
            let checksum = HEXLOWER.encode(&Sha256::digest(&bytes));
            bytes.extend_from_slice(format!("{CHECKSUM}{checksum}\"\n}}\n").as_bytes());
        }
        fs::write(fixture.path(), &bytes).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for passphrase in [None, Some("x")] {
            let opened = runtime.block_on(LocalVault::open(fixture.path(), fixture.options(passphrase)));
            prop_assert!(matches!(opened, Err(E::Damaged { .. } | E::NotAVault { .. })), "{opened:?}");
        }
    }
}
