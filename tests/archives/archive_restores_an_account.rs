//! An archive restores its account elsewhere: with all its blocks, after rotations, under another key.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam::{
    crypto::{Epoch, Provider, rsa::RsaSize},
    store::{
        Account, AccountKey, BlockStore, BufferMode, EngineError, EngineErrorKind, ImportOptions, LinkTo,
        OperationStatus, Reencrypt,
    },
    vault::{KeyKind, Recovery},
};
use tokio::time::sleep;

use crate::{
    elsewhere::{Elsewhere, allowing, everything, export, importer, named},
    world::{GRACE, Held, MODES, NOTICED, POLL, World, id, name, scale},
};

async fn fill(account: &Account) {
    for (n, len) in [0, 1, 17, 4096, 65_536, 65_537, 300_000].into_iter().enumerate() {
        account.put(&id(&format!("block {n}")), Bytes::from(vec![n as u8; len])).await.unwrap();
    }
    account.put(&id("block 1"), "written again".into()).await.unwrap();
    account.delete(&id("block 2")).await.unwrap();
}

/// Whose engine drains nothing while it is told to wait.
async fn held(mode: BufferMode, seed: u64) -> (World, Arc<Held>) {
    let (mut world, held) = World::held(seed).await;
    if mode == BufferMode::WriteOnly {
        let rsa = KeyKind::Rsa(RsaSize::Rsa2048);
        world.kek = world.customer.create_key_of("rsa", rsa, Recovery::default()).await.unwrap();
        world.mode = mode;
    }
    (world, held)
}

#[tokio::test(start_paused = true)]
async fn everything_reads_elsewhere_as_it_did_with_its_versions() {
    let world = World::new(801).await;
    let account = world.contoso().await;
    fill(&account).await;
    let before = everything(&account).await;
    let (archive, report) = export(&account).await;
    assert_eq!((report.counts.stored, report.counts.buffered), (6, 0));

    let there = Elsewhere::new(&world, 801).await;
    let (restored, imported) = there.import(&archive, allowing()).await.unwrap();
    assert_eq!((imported.archive, imported.counts), (report.id, report.counts));
    assert_eq!((imported.drained, imported.renumbered), (0, 0));
    assert_eq!(imported.unwrapped_by.as_ref(), Some(&world.kek));
    assert!(!imported.vouched, "no service's vault was to be asked");
    assert_eq!(restored.id(), account.id());
    assert_eq!(everything(&restored).await, before);
    assert_eq!(there.other.calls(), 0);

    // It goes on from there, under an epoch of its own.
    restored.put(&id("block 1"), "there".into()).await.unwrap();
    restored.put(&id("new"), "there".into()).await.unwrap();
    let blocks = restored.list(None, 100).await.unwrap().blocks;
    let epoch = |name: &str| blocks.iter().find(|block| block.id == id(name)).unwrap().epoch;
    assert_eq!(
        (epoch("block 0"), epoch("block 1"), epoch("new")),
        (Epoch::FIRST, Epoch::new(2), Epoch::new(2))
    );
    assert_eq!(restored.get(&id("block 1")).await.unwrap(), "there");
    sleep(NOTICED).await;
    assert_eq!(restored.get(&id("block 6")).await.unwrap().len(), 300_000);
    // And through another engine, which knows nothing of it yet.
    let twin = there.twin().await;
    assert_eq!(everything(&twin.account(&name("contoso")).await.unwrap()).await, everything(&restored).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_buffered_is_in_the_archive_and_drained_by_the_import() {
    for (n, mode) in MODES.iter().enumerate() {
        let seed = 810 + n as u64;
        let (world, held) = held(*mode, seed).await;
        let account = world.contoso().await;
        let data = |text: &str| Bytes::from(text.repeat(40_000));
        account.put(&id("a"), data("stored")).await.unwrap();
        account.put(&id("b"), data("stored")).await.unwrap();
        world.lose_key(&account).await;
        account.put(&id("b"), data("buffered")).await.unwrap();
        account.put(&id("c"), data("buffered")).await.unwrap();
        // Another segment, where there are such.
        sleep(Duration::from_secs(301)).await;
        account.put(&id("d"), data("buffered")).await.unwrap();
        held.hold();
        world.customer.set_offline(false).await.unwrap();
        sleep(POLL).await;
        let (archive, report) = export(&account).await;
        assert_eq!((report.counts.stored, report.counts.buffered), (2, 3), "{mode}");
        let segments = if *mode == BufferMode::WriteOnly { 2 } else { 0 };
        assert_eq!(report.counts.segments, segments);

        let there = Elsewhere::new(&world, seed).await;
        // Under a service-managed buffer it takes the vault of the service that wrote it.
        let options = allowing().allow_service(Arc::new(world.service.clone()));
        let (restored, imported) = there.import(&archive, options).await.unwrap();
        assert_eq!((imported.drained, imported.vouched), (3, true), "{mode}");
        let status = restored.key_status().await.unwrap();
        assert_eq!((status.buffer_mode, status.buffer.blocks), (Some(*mode), 0));
        let read: Vec<_> = everything(&restored).await.into_iter().map(|(id, _, data)| (id, data)).collect();
        let expected = [("a", "stored"), ("b", "buffered"), ("c", "buffered"), ("d", "buffered")];
        assert_eq!(read, expected.map(|(id, text)| (id.to_owned(), data(text))), "{mode}");
        let blocks = restored.list(None, 10).await.unwrap().blocks;
        assert!(blocks.iter().all(|block| block.provider == Provider::Customer));
        assert!(held.release() > 0, "nothing was to be drained");
    }
}

#[tokio::test(start_paused = true)]
async fn it_restores_after_rotations_while_a_version_that_it_names_unwraps() {
    let world = World::new(821).await;
    let account = world.contoso().await;
    fill(&account).await;
    let before = everything(&account).await;
    let (archive, _) = export(&account).await;
    for _ in 0..3 {
        let new = world.customer.new_version("payroll").await.unwrap();
        let rotated = account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
        assert_eq!(rotated.status, OperationStatus::Succeeded, "{rotated:?}");
    }
    account.rotate_aek(Reencrypt::Yes).await.unwrap().wait().await.unwrap();

    // The version of then is disabled, deleted, out of reach: each is said, and nothing is imported.
    let there = Elsewhere::new(&world, 821).await;
    world.customer.disable(&world.kek).await.unwrap();
    let refused = there.import(&archive, allowing()).await.unwrap_err();
    assert!(matches!(refused, EngineError::NotImportable { .. }), "{refused}");
    assert_eq!(refused.kind(), EngineErrorKind::Revoked);
    assert!(refused.to_string().contains(world.kek.as_str()), "{refused}");
    world.customer.set_offline(true).await.unwrap();
    let refused = there.import(&archive, allowing()).await.unwrap_err();
    assert_eq!(refused.kind(), EngineErrorKind::Unavailable, "{refused}");
    world.customer.set_offline(false).await.unwrap();
    assert!(there.is_empty(&account).await);

    world.customer.enable(&world.kek).await.unwrap();
    let newest = world.customer.new_version("payroll").await.unwrap();
    let (restored, _) = there.import(&archive, allowing().under(importer(), newest.clone())).await.unwrap();
    assert_eq!(everything(&restored).await, before);
    // From here on only the new version is needed.
    world.customer.delete(&world.kek).await.unwrap();
    sleep(GRACE + NOTICED).await;
    assert_eq!(everything(&restored).await, before);
    assert_eq!(restored.key_status().await.unwrap().key.key_id, Some(newest));
}

#[tokio::test(start_paused = true)]
async fn an_account_of_many_epochs_reads_whole() {
    let world = World::new(822).await;
    let account = world.contoso().await;
    for n in 0..4 {
        account.put(&id(&format!("of epoch {n}")), Bytes::from(vec![n; 1000])).await.unwrap();
        account.rotate_aek(Reencrypt::No).await.unwrap().wait().await.unwrap();
    }
    let before = everything(&account).await;
    let (archive, _) = export(&account).await;
    let there = Elsewhere::new(&world, 822).await;
    let (restored, _) = there.import(&archive, allowing()).await.unwrap();
    assert_eq!(everything(&restored).await, before);
    // An archive of what was restored restores it again.
    let (again, _) = export(&restored).await;
    let further = Elsewhere::new(&world, 823).await;
    let options = ImportOptions::new().allow(importer(), importer());
    let (restored, _) = further.import(&again, options).await.unwrap();
    assert_eq!(everything(&restored).await, before);
}

#[tokio::test(start_paused = true)]
async fn of_several_keks_any_one_is_enough() {
    let world = World::new(824).await;
    let account = world.contoso().await;
    fill(&account).await;
    let second = world.customer.create_key("second").await.unwrap();
    account.add_kek(World::principal(), second.clone()).await.unwrap().wait().await.unwrap();
    let before = everything(&account).await;
    let (archive, report) = export(&account).await;
    assert!(report.keys.contains(&world.kek) && report.keys.contains(&second), "{:?}", report.keys);
    world.customer.disable(&world.kek).await.unwrap();
    let there = Elsewhere::new(&world, 824).await;
    let (restored, imported) = there.import(&archive, allowing()).await.unwrap();
    assert_eq!(imported.unwrapped_by, Some(second.clone()));
    assert_eq!(everything(&restored).await, before);
    assert_eq!(restored.key_status().await.unwrap().key.key_id, Some(second));
}

#[tokio::test(start_paused = true)]
async fn an_account_under_the_services_key_needs_the_vault_of_the_service() {
    let world = World::new(831).await;
    let account = world.engine.create_account(&name("own"), AccountKey::Service).await.unwrap();
    fill(&account).await;
    let before = everything(&account).await;
    let (archive, report) = export(&account).await;
    assert_eq!(report.keys.len(), 1);
    let there = Elsewhere::new(&world, 831).await;
    // Not allowed; and the wrong one.
    for options in [ImportOptions::new(), ImportOptions::new().allow_own_service()] {
        let refused = there.import(&archive, options).await.unwrap_err();
        assert!(matches!(refused, EngineError::NotImportable { .. }), "{refused}");
        assert!(there.is_empty(&account).await);
    }
    let options = ImportOptions::new().allow_service(Arc::new(world.service.clone()));
    let (restored, imported) = there.import(&archive, options).await.unwrap();
    assert!(imported.vouched && imported.unwrapped_by.is_none());
    assert_eq!(everything(&restored).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_purged_account_comes_back_from_its_archive_into_the_same_store() {
    let world = World::new(832).await;
    let account = world.contoso().await;
    fill(&account).await;
    let before = everything(&account).await;
    let (archive, _) = export(&account).await;
    let options = || ImportOptions::new().allow(World::principal(), World::principal()).allow_own_service();
    let import = async |options| world.engine.import(std::io::Cursor::new(&archive), options).await;

    let refused = import(options()).await.unwrap_err();
    assert!(matches!(refused, EngineError::AccountExists { .. }), "{refused}");
    let refused = import(named(options(), "other")).await.unwrap_err();
    assert!(matches!(refused, EngineError::AccountIdExists { .. }), "{refused}");
    sleep(NOTICED).await;
    assert_eq!(
        everything(&account).await,
        before,
        "a refused import took blocks of an account that is there"
    );
    account.delete_account().await.unwrap().wait().await.unwrap();
    let refused = import(named(options(), "other")).await.unwrap_err();
    assert!(matches!(refused, EngineError::AccountIdExists { .. }), "{refused}");
    let blocks = world.store.list(account.id(), None, 100).await.unwrap();
    assert_eq!(blocks.len(), before.len(), "a refused import took blocks of a deleted account");
    world.engine.purge_account(&name("contoso")).await.unwrap().wait().await.unwrap();

    let (restored, imported) = import(named(options(), "again")).await.unwrap();
    assert!(imported.vouched);
    assert_eq!(restored.name(), &name("again"));
    assert_eq!(everything(&restored).await, before);
}

#[tokio::test(start_paused = true)]
async fn blocks_whose_versions_are_taken_there_are_sealed_anew() {
    let world = World::new(833).await;
    let account = world.contoso().await;
    let there = Elsewhere::new(&world, 833).await;
    let own = there.engine.create_account(&name("own"), AccountKey::Service).await.unwrap();
    // By one clock, so under the same versions.
    for n in 0..300 {
        account.put(&id(&format!("block {n}")), format!("of the archive {n}").into()).await.unwrap();
        own.put(&id(&format!("block {n}")), format!("of its own {n}").into()).await.unwrap();
    }
    let before: Vec<_> = everything(&account).await.into_iter().map(|(id, _, data)| (id, data)).collect();
    let own_before = everything(&own).await;
    let (archive, _) = export(&account).await;
    let (restored, imported) = there.import(&archive, allowing()).await.unwrap();
    assert!(imported.renumbered > 0, "{imported:?}");
    let after: Vec<_> = everything(&restored).await.into_iter().map(|(id, _, data)| (id, data)).collect();
    assert_eq!(after, before);
    assert_eq!(everything(&own).await, own_before);
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_is_written_while_its_account_is_has_each_block_in_one_of_its_versions() {
    let world = World::new(834).await;
    let account = world.contoso().await;
    for n in 0..600 {
        account.put(&id(&format!("block {n:03}")), format!("{n} 0").into()).await.unwrap();
    }
    let (mut read, written) = tokio::io::duplex(4096);
    let exporting = tokio::spawn({
        let account = account.clone();
        async move { account.export(written).await }
    });
    let mut archive = Vec::new();
    let mut chunk = vec![0; 4096];
    for round in 1.. {
        let n = tokio::io::AsyncReadExt::read(&mut read, &mut chunk).await.unwrap();
        if n == 0 {
            break;
        }
        archive.extend_from_slice(&chunk[..n]);
        for n in (round % 7..600).step_by(41) {
            account.put(&id(&format!("block {n:03}")), format!("{n} {round}").into()).await.unwrap();
        }
    }
    let report = exporting.await.unwrap().unwrap();
    assert_eq!(report.counts.stored, 600);
    let there = Elsewhere::new(&world, 834).await;
    let (restored, _) = there.import(&archive, allowing()).await.unwrap();
    let blocks = everything(&restored).await;
    assert_eq!(blocks.len(), 600);
    let mut changed = 0;
    for (n, (_, _, data)) in blocks.iter().enumerate() {
        let text = std::str::from_utf8(data).unwrap();
        let (of, round) = text.split_once(' ').unwrap();
        assert_eq!(of, n.to_string());
        changed += usize::from(round != "0");
    }
    assert!(changed > 0, "nothing was written meanwhile");
}

/// Blocks under the service's key and a customer's, of several epochs and versions of the KEK; linked at the end, or not.
async fn mixed(world: &World, blocks: usize, linked: bool) -> Account {
    let account = world.engine.create_account(&name("contoso"), AccountKey::Service).await.unwrap();
    let link = async || {
        let to = LinkTo { principal: World::principal(), kek: world.kek.clone(), buffer: world.mode };
        account.link(to, Reencrypt::No).await.unwrap().wait().await.unwrap();
    };
    let rotate = async || {
        let new = world.customer.new_version("payroll").await.unwrap();
        account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
    };
    for n in 0..blocks {
        let part = blocks / 6;
        match n {
            n if n == part => link().await,
            n if n == part * 2 => {
                drop(account.rotate_aek(Reencrypt::No).await.unwrap().wait().await.unwrap())
            }
            n if n == part * 3 => rotate().await,
            n if n == part * 4 => drop(account.unlink(Reencrypt::No).await.unwrap().wait().await.unwrap()),
            n if n == part * 5 && linked => link().await,
            _ => {}
        }
        account
            .put(&id(&format!("block {n:05}")), Bytes::from(vec![n as u8; 1 + n * 37 % 5000]))
            .await
            .unwrap();
    }
    account
}

#[tokio::test(start_paused = true)]
async fn of_mixed_keys_and_epochs_all_reads_after_three_rotations_were_skipped() {
    let blocks = scale(10_000, 300);
    for (seed, linked) in [(841, true), (842, false)] {
        let world = World::new(seed).await;
        let account = mixed(&world, blocks, linked).await;
        let (archive, report) = export(&account).await;
        assert_eq!(report.counts.stored, blocks as u64);
        for _ in 0..3 {
            let new = world.customer.new_version("payroll").await.unwrap();
            if linked {
                account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
            }
        }
        let there = Elsewhere::new(&world, seed).await;
        let options = || allowing().allow_service(Arc::new(world.service.clone()));
        // What is sealed under the service's key needs its vault.
        let refused = there.import(&archive, allowing()).await.unwrap_err();
        assert!(matches!(refused, EngineError::NotImportable { .. }), "{refused}");
        let (restored, imported) = there.import(&archive, options()).await.unwrap();
        assert!(imported.vouched && imported.unwrapped_by.is_some());
        let (mut after, mut read, mut keys) = (None, 0, BTreeSet::new());
        loop {
            let page = restored.list(after.as_ref(), 1000).await.unwrap();
            for block in &page.blocks {
                let data = restored.get(&block.id).await.unwrap();
                assert_eq!(data, account.get(&block.id).await.unwrap());
                keys.insert((block.provider, block.epoch));
                read += 1;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(read, blocks);
        println!(
            "restored from an archive of {} bytes, {}linked, 3 rotations skipped: {read} of {blocks} blocks read, under {} keys",
            archive.len(),
            if linked { "" } else { "un" },
            keys.len()
        );
        let receipt = restored.put(&id("more"), "there".into()).await.unwrap();
        assert!(receipt.version.number() > 0);
        assert_eq!(restored.get(&id("more")).await.unwrap(), "there");
    }
}
