//! What an import refuses leaves nothing behind, and asks no vault that it may not ask.

use std::{io::Cursor, time::Duration};

use bytes::Bytes;
use cofferdam::{
    crypto::KeyId,
    store::{
        Account, ArchiveError, BlockStore, EngineError, EngineErrorKind, ImportOptions, Reencrypt, Refusal,
    },
    vault::Principal,
};
use tokio::time::{sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    elsewhere::{Elsewhere, Stuck, allowing, everything, export, importer, named},
    world::{self, NOTICED, World, id, scale},
};

async fn small(world: &World) -> Account {
    let account = world.contoso().await;
    for n in 0..3 {
        account.put(&id(&format!("block {n}")), Bytes::from(vec![n; 100])).await.unwrap();
    }
    account
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_is_not_allowed_is_never_asked() {
    let world = World::new(851).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 851).await;
    let others = [
        ImportOptions::new(),
        ImportOptions::new().allow(Principal::new("somebody else"), importer()),
        ImportOptions::new().allow(World::principal(), Principal::new("nobody")),
    ];
    for (n, options) in others.into_iter().enumerate() {
        let refused = there.import(&archive, options).await.unwrap_err();
        let EngineError::NotImportable { refused: keks, .. } = &refused else { panic!("{refused}") };
        let is_told = match n {
            2 => matches!(keks[0].why, Refusal::NoVault { .. }),
            _ => matches!(keks[0].why, Refusal::NotAllowed),
        };
        assert!(is_told, "{n}: {refused}");
        assert_eq!(refused.kind(), EngineErrorKind::Invalid);
        assert_eq!((there.allowed.calls(), there.other.calls()), (0, 0), "{n}");
        assert!(there.is_empty(&account).await);
    }
    there.import(&archive, allowing()).await.unwrap();
    assert!(there.allowed.calls() > 0);
    assert_eq!(there.other.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_archive_is_refused_before_any_vault_is_asked() {
    let world = World::new(852).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 852).await;
    let every = archive.len() / scale(4000, 400).min(archive.len());
    for at in (0..archive.len()).step_by(every.max(1)) {
        let mut flipped = archive.clone();
        flipped[at] ^= 1 << (at % 8);
        for damaged in [&flipped[..], &archive[..at]] {
            let refused = there.import(damaged, allowing()).await.unwrap_err();
            assert!(matches!(refused, EngineError::Archive(_)), "byte {at}: {refused}");
        }
    }
    assert_eq!((there.allowed.calls(), there.other.calls()), (0, 0));
    assert!(there.is_empty(&account).await);
    assert_eq!(there.store.last_version().await.unwrap().number(), 0);
}

/// Where each record of an archive is.
fn records(archive: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut records) = (9, Vec::new());
    while at < archive.len() {
        let len = u64::from_be_bytes(archive[at + 9..at + 17].try_into().unwrap()) as usize;
        records.push(at..at + 17 + len + 8);
        at += 17 + len + 8;
    }
    records
}

/// The same with checksums and the hash made right, by somebody who has no key.
fn mended(mut archive: Vec<u8>) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    for record in records(&archive) {
        if archive[record.start] == b'E' {
            let counts = record.start + 17 + 32;
            let hash = Sha256::digest(&archive[..counts]);
            archive[counts..counts + 32].copy_from_slice(&hash);
        }
        let sum = xxh3_64(&archive[record.start..record.end - 8]).to_be_bytes();
        archive[record.end - 8..record.end].copy_from_slice(&sum);
    }
    archive
}

#[tokio::test(start_paused = true)]
async fn a_forged_archive_is_refused_by_its_tag() {
    let world = World::new(853).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    assert_eq!(mended(archive.clone()), archive);
    let there = Elsewhere::new(&world, 853).await;

    let places = records(&archive);
    let block = &places[1];
    let mut of_block = archive.clone();
    of_block[block.end - 12] ^= 1;
    let mut of_record = archive.clone();
    // The account's name: still a record, and another's.
    let at_name = archive.windows(7).position(|w| w == b"contoso").unwrap();
    of_record[at_name] = b'k';
    let mut of_tag = archive.clone();
    // The customer's is the first of two.
    let tag = archive.len() - 8 - 37 - 20;
    of_tag[tag] ^= 1;
    for forged in [of_block, of_record, of_tag] {
        assert_ne!(forged, archive);
        let refused = there.import(&mended(forged), allowing()).await.unwrap_err();
        assert!(matches!(refused, EngineError::Archive(ArchiveError::Forged { .. })), "{refused}");
        assert_eq!(refused.kind(), EngineErrorKind::Corrupt);
        assert!(there.is_empty(&account).await);
    }
    assert_eq!(there.store.last_version().await.unwrap().number(), 0, "a block was stored");
}

#[tokio::test(start_paused = true)]
async fn where_the_services_key_is_to_vouch_it_must() {
    let world = World::new(861).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 861).await;
    // Another service's vault has not wrapped this.
    let refused = there.import(&archive, allowing().allow_own_service()).await.unwrap_err();
    assert!(matches!(refused, EngineError::NotImportable { .. }), "{refused}");
    assert!(there.is_empty(&account).await);
    let service = std::sync::Arc::new(world.service.clone());
    let (_, imported) = there.import(&archive, allowing().allow_service(service)).await.unwrap();
    assert!(imported.vouched);
}

#[tokio::test(start_paused = true)]
async fn blocks_whose_record_can_not_be_read_are_not_taken_for_anybodys() {
    let mut world = World::new(862).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    let stored = cofferdam::store::Catalog::load(&world.store, "account/contoso").await.unwrap().unwrap();
    let mut newer = stored.bytes.to_vec();
    newer[0] = 99;
    let (key, revision) = ("account/contoso", Some(&stored.revision));
    cofferdam::store::Catalog::swap(&world.store, key, revision, Some(newer.into())).await.unwrap();
    let id = account.id();
    drop(account);
    world.restart().await;
    let options = || ImportOptions::new().allow(World::principal(), World::principal());
    for _ in 0..2 {
        let import = world.engine.import(Cursor::new(&archive), named(options(), "other"));
        let refused = import.await.unwrap_err();
        assert!(matches!(refused, EngineError::StrayBlocks { .. }), "{refused}");
        sleep(NOTICED).await;
        assert_eq!(world.store.list(id, None, 10).await.unwrap().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_import_that_ends_early_leaves_nothing_and_can_be_begun_again() {
    let world = World::new(854).await;
    let account = world.contoso().await;
    for n in 0..500 {
        account.put(&id(&format!("block {n:03}")), Bytes::from(vec![7; 2000])).await.unwrap();
    }
    let before = everything(&account).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 854).await;
    // Of the second reading a part.
    let stuck = || Stuck::after(&archive, archive.len() + archive.len() * 2 / 3);
    let dropped = timeout(Duration::from_secs(1), there.engine.import(stuck(), allowing())).await;
    assert!(dropped.is_err());
    assert!(there.engine.accounts(None, 10).await.unwrap().is_empty());
    assert!(!there.store.list(account.id(), None, 10).await.unwrap().is_empty(), "nothing was stored before");
    sleep(NOTICED).await;
    assert!(there.is_empty(&account).await, "what was left behind is still there");

    // While one goes on, another is refused; an engine that was killed amid it leaves it to the next.
    let going_on = tokio::spawn({
        let (engine, stuck) = (there.engine.clone(), stuck());
        async move { engine.import(stuck, allowing()).await.map(drop) }
    });
    sleep(Duration::from_secs(1)).await;
    let refused = there.import(&archive, allowing()).await.unwrap_err();
    assert!(matches!(refused, EngineError::ImportRunning { .. }), "{refused}");
    let refused = there.import(&archive, named(allowing(), "other")).await.unwrap_err();
    assert!(matches!(refused, EngineError::ImportRunning { .. }), "{refused}");
    going_on.abort();
    let _ = going_on.await;
    let twin = there.twin().await;
    let (restored, _) = twin.import(Cursor::new(&archive), allowing()).await.unwrap();
    assert_eq!(everything(&restored).await, before);
    sleep(NOTICED).await;
    assert_eq!(everything(&restored).await, before, "a sweep took the blocks of an account that is there");
}

#[tokio::test(start_paused = true)]
async fn of_engines_that_share_a_catalog_one_imports_and_no_other_sweeps_up_behind_it() {
    let world = World::new(860).await;
    let account = world.contoso().await;
    for n in 0..500 {
        account.put(&id(&format!("block {n:03}")), Bytes::from(vec![7; 2000])).await.unwrap();
    }
    let before = everything(&account).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 860).await;
    let (one, other) = (there.shared().await, there.shared().await);
    // Which takes the store for its own.
    drop(there.engine);
    let stuck = Stuck::after(&archive, archive.len() + archive.len() * 2 / 3);
    let going_on = tokio::spawn({
        let one = one.clone();
        async move { one.import(stuck, allowing()).await.map(drop) }
    });
    sleep(NOTICED * 5).await;
    let refused = other.import(Cursor::new(&archive), allowing()).await.unwrap_err();
    assert!(matches!(refused, EngineError::ImportRunning { .. }), "{refused}");
    let loaded = there.store.list(account.id(), None, 10).await.unwrap();
    assert!(!loaded.is_empty(), "the blocks of an import that goes on were removed");

    // That engine is gone, without a word: its lease ends.
    going_on.abort();
    let _ = going_on.await;
    drop(one);
    sleep(NOTICED * 5).await;
    assert!(there.store.list(account.id(), None, 10).await.unwrap().is_empty());
    let (restored, _) = other.import(Cursor::new(&archive), allowing()).await.unwrap();
    assert_eq!(everything(&restored).await, before);
}

#[tokio::test(start_paused = true)]
async fn an_export_needs_the_accounts_key_and_is_recorded_while_it_is_of_use() {
    let world = World::new(855).await;
    let account = small(&world).await;
    let (_, report) = export(&account).await;
    let recorded = account.archives().await.unwrap();
    assert_eq!(recorded.len(), 1);
    assert!(recorded[0].finished && recorded[0].id == report.id && recorded[0].keys == report.keys);
    assert!(report.keys.contains(&world.kek), "{:?}", report.keys);

    // One that can't be written is not.
    struct Full;
    impl tokio::io::AsyncWrite for Full {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::task::Poll::Ready(Err(std::io::ErrorKind::StorageFull.into()))
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
    let failed = account.export(Full).await.unwrap_err();
    assert!(matches!(failed, EngineError::Archive(ArchiveError::Io { .. })), "{failed}");
    assert_eq!(account.archives().await.unwrap().len(), 1);
    // One whose future is dropped amid it is, since it may be somewhere.
    let (_never_read, pipe) = tokio::io::duplex(16);
    assert!(timeout(Duration::from_secs(1), account.export(pipe)).await.is_err());
    let recorded = account.archives().await.unwrap();
    assert_eq!(recorded.iter().filter(|entry| !entry.finished).count(), 1);
    for entry in recorded {
        account.forget_archive(entry.id).await.unwrap();
        let gone = account.forget_archive(entry.id).await.unwrap_err();
        assert!(matches!(gone, EngineError::NoArchive { .. }), "{gone}");
    }
    assert!(account.archives().await.unwrap().is_empty());

    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    let refused = account.export(Vec::new()).await.unwrap_err();
    assert!(world::is_revoked(&Err::<(), _>(refused)));
    assert!(account.archives().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_rotated_amid_an_export_is_said_to_be_that() {
    let world = World::new(856).await;
    let account = world.contoso().await;
    for n in 0..3 {
        account.put(&id(&format!("block {n}")), Bytes::from(vec![n; 20_000])).await.unwrap();
    }
    let (mut read, pipe) = tokio::io::duplex(16);
    let exporting = tokio::spawn({
        let account = account.clone();
        async move { account.export(pipe).await }
    });
    sleep(Duration::from_secs(1)).await;
    account.rotate_aek(Reencrypt::Yes).await.unwrap().wait().await.unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut read, &mut Vec::new()).await.unwrap();
    let said = exporting.await.unwrap().unwrap_err();
    assert!(said.to_string().contains("export it again"), "{said}");
    export(&account).await;
}

#[tokio::test(start_paused = true)]
async fn a_kek_that_would_not_do_for_a_new_account_does_not_do_for_an_imported_one() {
    let world = World::new(857).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 857).await;
    let fleeting = world.customer.create_key_with("fleeting", cofferdam::vault::Recovery::Off).await.unwrap();
    let nobody = KeyId::new("local://customer/keys/nobody").unwrap();
    for kek in [fleeting, nobody] {
        let refused = there.import(&archive, allowing().under(importer(), kek)).await.unwrap_err();
        assert!(matches!(refused, EngineError::UnfitKek { .. } | EngineError::Vault { .. }), "{refused}");
        assert!(there.is_empty(&account).await);
    }
}

#[cfg(cofferdam_planted)]
#[tokio::test(start_paused = true)]
async fn an_import_that_asks_any_vault_shows() {
    use cofferdam::crypto::planted::{Bug, plant};
    let world = World::new(858).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 858).await;
    plant(Some(Bug::ImportCallsAnyVault));
    let imported = there.import(&archive, ImportOptions::new()).await;
    plant(None);
    imported.unwrap();
    assert!(there.other.calls() > 0);
}

#[cfg(cofferdam_planted)]
#[tokio::test(start_paused = true)]
async fn an_import_that_checks_no_tag_shows() {
    use cofferdam::crypto::planted::{Bug, plant};
    let world = World::new(859).await;
    let account = small(&world).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 859).await;
    let mut forged = archive.clone();
    forged[records(&archive)[1].end - 12] ^= 1;
    plant(Some(Bug::ArchiveUncheckedMac));
    let imported = there.import(&mended(forged), allowing()).await;
    plant(None);
    imported.unwrap();
}
