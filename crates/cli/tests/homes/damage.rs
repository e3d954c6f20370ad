//! Files that are not what was written.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use crate::common::{Home, Ran, Random, cofferdam, scale, sha256};

#[test]
fn a_truncated_vault_is_named() {
    let (home, _) = Home::with_account(&[]);
    home.put("b", b"data");
    for vault in ["customer.vault", "service.vault"] {
        let path = home.file(vault);
        let whole = fs::read(&path).unwrap();
        for len in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            home.run(["get", "a", "b"]).fails(5, vault);
        }
        fs::write(&path, &whole).unwrap();
    }
    home.run(["get", "a", "b"]).succeeds();
}

#[test]
fn a_vault_of_a_newer_version_is_refused() {
    let (home, _) = Home::with_account(&[]);
    let path = home.file("customer.vault");
    let newer = fs::read_to_string(&path).unwrap().replacen("\"version\": 1", "\"version\": 9", 1);
    fs::write(&path, newer).unwrap();
    home.run(["vault", "list"]).fails(1, "version 9");
}

#[test]
fn a_missing_vault_is_named_and_lists_still_work() {
    let (home, _) = Home::with_account(&[]);
    home.put("b", b"data");
    fs::rename(home.file("customer.vault"), home.folder.path().join("away")).unwrap();
    home.run(["get", "a", "b"]).fails(1, "customer.vault");
    home.run(["vault", "list"]).fails(1, "customer.vault");
    assert_eq!(home.run(["ls", "a"]).succeeds().text(), "b\n");
}

#[test]
fn a_store_cut_short_is_named() {
    let (home, _) = Home::with_account(&[]);
    home.put("b", &Random::new(3).bytes(200_000));
    let path = home.file("blocks.store");
    let whole = fs::read(&path).unwrap();
    for len in [0, 100, 4096, whole.len() / 2] {
        fs::write(&path, &whole[..len]).unwrap();
        let ran = home.run(["get", "a", "b"]);
        assert!(matches!(ran.code, 1 | 5), "{len}: {ran:?}");
        ran.fails(ran.code, "blocks.store");
    }
}

#[test]
fn damage_anywhere_in_the_store_is_found_and_no_read_is_wrong() {
    let (home, _) = Home::with_account(&[]);
    let mut random = Random::new(4);
    let blocks: Vec<_> = (0..6).map(|n| (format!("block-{n}"), random.bytes(90_000 + n))).collect();
    for (id, data) in &blocks {
        home.put(id, data);
    }
    let whole = fs::read(home.file("blocks.store")).unwrap();
    let rounds = scale(12, 200);
    let (mut found, mut harmless) = (0, 0);
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        fs::write(home.file("blocks.store"), &whole).unwrap();
        let at = random.below(whole.len() as u64);
        let file = File::options().write(true).open(home.file("blocks.store")).unwrap();
        file.write_all_at(&[whole[at as usize] ^ (1 << random.below(8))], at).unwrap();
        drop(file);
        let context = format!("seed {seed}: byte {at}");
        let (id, data) = &blocks[random.below(blocks.len() as u64) as usize];
        let read = home.run(["get", "a", id]);
        match read.code {
            0 => assert_eq!(sha256(&read.stdout), sha256(data), "{context}: a wrong read"),
            5 => assert!(read.stdout.is_empty(), "{context}"),
            _ => panic!("{context}: {read:?}"),
        }
        let verified = home.run(["verify"]);
        assert!(!verified.stderr.contains("panicked"), "{context}: {verified:?}");
        match verified.code {
            5 => found += 1,
            // The byte was of no use to anything.
            0 => harmless += 1,
            _ => panic!("{context}: {verified:?}"),
        }
    }
    println!("{rounds} flips: {found} found by verify, {harmless} in bytes that nothing uses, 0 wrong reads");
    assert!(found > 0);
}

#[test]
fn a_file_that_is_no_sealed_block_is_told_from_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let inspect = |bytes: &[u8]| {
        let path = folder.path().join("f");
        fs::write(&path, bytes).unwrap();
        Ran::of(cofferdam().arg("inspect").arg(&path).output().unwrap())
    };
    let mut header = b"CFDM\x01\x01\x01\x10\0\0\0\x07".to_vec();
    header.extend([0xab; 64]);
    let mut block = header.clone();
    block.extend([0; 16 + 5]);
    let shown = inspect(&block);
    for part in
        ["format      1", "AES-256-GCM", "the customer's, epoch 7", "65536 bytes", "plaintext   5 bytes"]
    {
        assert!(shown.succeeds().text().contains(part), "{part}: {shown:?}");
    }
    assert!(inspect(&header).succeeds().text().contains("it was cut or extended"));
    inspect(b"something else, and long enough").fails(1, "not a sealed block");
    inspect(b"CFDM\x02").fails(5, "too few");
    inspect(&header[..40]).fails(5, "too few");
    inspect(b"").fails(5, "too few");
    header[7] = 63;
    inspect(&header).fails(5, "2^63");
    header[4] = 2;
    inspect(&header).fails(1, "format 2");
    Ran::of(cofferdam().arg("inspect").arg(folder.path().join("none")).output().unwrap())
        .fails(1, "can't read");
}
