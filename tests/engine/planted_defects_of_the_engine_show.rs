//! Each defect that can be planted in the engine does what it is named after: else a simulator that finds none of it would
//! say nothing. Needs `--cfg cofferdam_planted`.

#![cfg(cofferdam_planted)]

use std::{io::ErrorKind, sync::Arc, time::Duration};

use cofferdam::{
    crypto::{
        Provider,
        planted::{Bug, plant},
    },
    store::{BlockStore, EmbeddedOptions, EmbeddedStore, EngineError, FaultyFile, FileFault, FileOp},
    vault::Inline,
};
use tokio::time::sleep;

use crate::world::{self, NOTICED, POLL, World, buffered, id, name, stored};

#[tokio::test(start_paused = true)]
async fn a_forgotten_revocation_lets_an_outage_buffer() {
    let mut world = World::new(131).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "content".into()).await);
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    assert!(world::is_revoked(&account.check_key().await));
    world.customer.set_offline(true).await.unwrap();
    plant(Some(Bug::RevokedForgotten));
    drop(account);
    world.restart().await;
    buffered(world.contoso_again().await.put(&id("block"), "kept".into()).await);
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn a_write_under_a_revoked_key_is_buffered() {
    let world = World::new(132).await;
    let account = world.contoso().await;
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    plant(Some(Bug::BufferedWhileRevoked));
    buffered(account.put(&id("block"), "kept".into()).await);
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn a_buffered_block_is_read_without_the_accounts_key() {
    let world = World::new(133).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    plant(Some(Bug::BufferReadWithoutKey));
    assert_eq!(account.get(&id("block")).await.unwrap(), "content");
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn nothing_drains_what_an_earlier_process_buffered() {
    let mut world = World::new(134).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    drop(account);
    plant(Some(Bug::DrainForgottenAtOpen));
    world.restart().await;
    world.customer.set_offline(false).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.store.buffering(None, 10).await.unwrap().len(), 1);
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn a_drained_block_stays_under_the_services_key() {
    let world = World::new(135).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    plant(Some(Bug::DrainUnderServiceKey));
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    let at = world.store.stat(account.id(), &id("block")).await.unwrap().unwrap();
    assert_eq!((at.place, at.meta.provider), (cofferdam::store::Place::Store, Provider::Service));
    plant(None);
}

/// A block of a segment that whoever has the public half makes, with a record whose tag is zeros.
#[cfg(feature = "aws-lc")]
async fn inject(
    world: &World,
    account: &cofferdam::store::Account,
    public: cofferdam::vault::PublicKeyAnswer,
) {
    use cofferdam::{
        crypto::{
            Aek, Epoch, KeyScope, PageSize, Salt, Sealer, SegmentId, Version, WrapAlgorithm, WrappedAek,
            WrappedKey,
        },
        store::{BlockMeta, BlockOp, BufferLimit},
    };
    #[derive(Debug)]
    struct Salts;
    impl cofferdam::crypto::SaltSource for Salts {
        fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), cofferdam::crypto::EntropyError> {
            salts.iter_mut().for_each(|salt| salt.fill(7));
            Ok(())
        }
    }
    let aek = Aek::try_from_fn(|aek| {
        aek.fill(9);
        Ok::<_, std::convert::Infallible>(())
    });
    let aek = aek.unwrap();
    let provider = Provider::Buffer(SegmentId::from_bytes([9; 16]));
    let scope = KeyScope { account: account.id(), epoch: Epoch::FIRST, provider };
    let (algorithm, bytes) = (WrapAlgorithm::RsaOaep256, public.key.wrap(&aek).unwrap());
    let key = WrappedAek::new(&aek, scope, vec![WrappedKey { key_id: public.key_id, algorithm, bytes }]);
    let body = serde_json::to_vec(&serde_json::json!({ "key": key, "created_at": Duration::ZERO })).unwrap();
    let version = Version::new(world.store.last_version().await.unwrap().number() + 1);
    let sealed = Sealer::new(&aek, scope)
        .seal(id("injected").at(version), PageSize::MIN, b"injected", &Salts)
        .unwrap();
    let meta = BlockMeta {
        version,
        sealed_len: sealed.len() as u64,
        page_size: PageSize::MIN,
        stored_at: Duration::ZERO,
        epoch: scope.epoch,
        provider,
    };
    let op = BlockOp::Buffer {
        account: account.id(),
        id: id("injected"),
        meta,
        sealed: sealed.into(),
        limit: BufferLimit { bytes: u64::MAX, since: Duration::ZERO },
        segment: Some([&[1][..], &[0; 32], &body].concat().into()),
    };
    world.store.commit(vec![op]).await.unwrap();
}

#[cfg(feature = "aws-lc")]
#[tokio::test(start_paused = true)]
async fn a_segment_without_a_right_tag_is_drained_only_where_tags_are_not_looked_at() {
    for bug in [None, Some(Bug::SegmentTagUnchecked)] {
        let world = World::write_only(137).await;
        let account = world.contoso().await;
        stored(account.put(&id("block"), "content".into()).await);
        let public = cofferdam::vault::KeyVault::public_key(&world.customer, &world.kek).await.unwrap();
        world.lose_key(&account).await;
        buffered(account.put(&id("block"), "content".into()).await);
        inject(&world, &account, public).await;
        plant(bug);
        world.customer.set_offline(false).await.unwrap();
        sleep(POLL).await;
        let injected = account.get(&id("injected")).await.is_ok();
        plant(None);
        assert_eq!(injected, bug.is_some());
    }
}

#[cfg(feature = "aws-lc")]
#[tokio::test(start_paused = true)]
async fn a_segment_goes_on_past_its_time_only_where_it_is_not_renewed() {
    for bug in [None, Some(Bug::SegmentNeverRenewed)] {
        let world = World::write_only(138).await;
        let account = world.contoso().await;
        world.lose_key(&account).await;
        plant(bug);
        for n in 0..10 {
            buffered(account.put(&id(&format!("block {n}")), "content".into()).await);
            sleep(Duration::from_secs(60)).await;
        }
        plant(None);
        let segments = world.store.segments(account.id(), None, 99).await.unwrap().len();
        assert_eq!(segments, if bug.is_some() { 1 } else { 2 });
    }
}

#[cfg(feature = "aws-lc")]
#[tokio::test(start_paused = true)]
async fn a_segment_that_leaves_with_its_first_block_strands_the_others() {
    for bug in [None, Some(Bug::SegmentRemovedEarly)] {
        let world = World::write_only(139).await;
        let account = world.contoso().await;
        world.lose_key(&account).await;
        for n in 0..3 {
            buffered(account.put(&id(&format!("block {n}")), "content".into()).await);
        }
        plant(bug);
        account.delete(&id("block 0")).await.unwrap();
        world.customer.set_offline(false).await.unwrap();
        sleep(POLL).await;
        let left = account.drain().await.unwrap().left.map_or(0, |left| left.blocks);
        plant(None);
        assert_eq!(left, if bug.is_some() { 2 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_fails_in_the_middle_loses_what_it_deleted_first() {
    let options = || EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let mut lost = 0;
    for nth in 0..4 {
        let world = World::new(136).await;
        let file = FaultyFile::new();
        let store = EmbeddedStore::create_on(Arc::new(file.clone()), options()).unwrap();
        let engine = world.engine_over(&store, world.clock.clone()).await;
        let account = engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
        world.lose_key(&account).await;
        buffered(account.put(&id("block"), "content".into()).await);
        plant(Some(Bug::DrainDeletesFirst));
        file.fail(FileOp::Sync, nth, FileFault::Error(ErrorKind::Other));
        world.customer.set_offline(false).await.unwrap();
        sleep(POLL).await;
        plant(None);
        drop((engine, account, store));
        let store = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 0)), options()).unwrap();
        let engine = world.engine_over(&store, world.clock.clone()).await;
        let account = engine.account(&name("contoso")).await.unwrap();
        sleep(POLL).await;
        lost += usize::from(matches!(account.get(&id("block")).await, Err(EngineError::NoBlock { .. })));
    }
    assert!(lost > 0, "no moment lost it");
}
