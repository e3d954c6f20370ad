//! Once a key is revoked, nothing that is cached is read, and nothing is left of it, in memory and on disk, whatever
//! happens to the process meanwhile.

use std::{fs, time::Duration};

use cofferdam::{
    crypto::{AccountId, BlockId},
    store::{Account, AccountKey, BlockStore, Engine, HotCacheFaults},
};
use tokio::time::sleep;

use crate::{
    cached::{HOUR, MIB, SWEPT, content, files, folder, on_disk, status},
    world::{NOTICED, POLL, World, id, is_revoked, name, scale, stored},
};

const LEN: usize = 32 << 10;

fn block(n: usize) -> BlockId {
    id(&format!("block-{n:04}"))
}

/// Two accounts under the customer's key and one under the service's, `blocks` of each in a cache that is smaller.
async fn full(world: &World, engine: &Engine, blocks: usize) -> [Account; 3] {
    let customer = world.customer_key();
    let [contoso, fabrikam, house] =
        [("contoso", &customer), ("fabrikam", &customer), ("house", &AccountKey::Service)];
    let mut accounts = Vec::new();
    for (text, key) in [contoso, fabrikam, house] {
        accounts.push(engine.create_account(&name(text), key.clone()).await.unwrap());
    }
    for n in 0..blocks {
        for (who, account) in accounts.iter().enumerate() {
            stored(account.put(&block(n), content((3 * n + who) as u64, LEN)).await);
        }
    }
    engine.settle_hot_cache().await;
    <[Account; 3]>::try_from(accounts).unwrap()
}

async fn revoke(world: &World, accounts: &[Account]) {
    world.customer.disable(&world.kek).await.unwrap();
    for account in accounts {
        let _ = account.check_key().await;
    }
    sleep(NOTICED).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_full_cache_nothing_is_read_and_no_file_is_left() {
    let blocks = scale(1200, 120);
    let world = World::new(401).await;
    let (memory, disk) = ((blocks * LEN) as u64 / 3, (blocks * 3 * (LEN + 8192)) as u64);
    let engine = world.cached(on_disk(&world, memory, disk)).await.unwrap();
    let [contoso, fabrikam, house] = full(&world, &engine, blocks).await;
    let before = [&contoso, &fabrikam, &house].map(Account::hot_cached);
    assert!(before.iter().all(|of| of.memory.blocks > 0 && of.disk.blocks > 0), "{before:?}");
    let (files_before, folders_before) = files(&folder(&world));
    assert_eq!(folders_before, 3);

    revoke(&world, &[contoso.clone(), fabrikam.clone()]).await;
    let mut reads = 0;
    for n in 0..blocks {
        for account in [&contoso, &fabrikam] {
            let answer = account.get(&block(n)).await;
            assert!(is_revoked(&answer), "{answer:?}");
            let answer = account.get_range(&block(n), 0..10).await;
            reads += usize::from(!is_revoked(&answer));
        }
    }
    let left = [&contoso, &fabrikam].map(Account::hot_cached);
    assert_eq!(left, <[_; 2]>::default());
    let (files_after, folders_after) = files(&folder(&world));
    let of_others =
        files_after.iter().filter(|path| !path.starts_with(folder(&world).join(house.id().to_string())));
    assert_eq!((of_others.count(), folders_after, reads), (0, 1, 0));
    // Others keep what they have.
    assert_eq!(house.hot_cached(), before[2]);
    println!(
        "{} files of {folders_before} accounts; after the revocation of 2: {} reads, 0 of their files, 0 blocks in memory, {} files of the third; \
         {} blocks purged",
        files_before.len(),
        reads,
        files_after.len(),
        status(&engine).purged_blocks,
    );

    // With access restored it fills again.
    world.customer.enable(&world.kek).await.unwrap();
    sleep(POLL).await;
    assert_eq!(contoso.get(&block(7)).await.unwrap(), content(21, LEN));
    assert_eq!(contoso.hot_cached().memory.blocks, 1);
    engine.close().await.unwrap();
}

/// The process is killed: the engines are gone without a word.
async fn kill(world: &mut World, engine: &mut Engine) {
    drop(std::mem::replace(engine, world.second_engine().await));
    world.crash().await;
}

async fn accounts(engine: &Engine) -> [Account; 3] {
    let account = async |text: &str| engine.account(&name(text)).await.unwrap();
    [account("contoso").await, account("fabrikam").await, account("house").await]
}

fn ids(accounts: &[Account]) -> Vec<AccountId> {
    accounts.iter().map(Account::id).collect()
}

/// How many files there are of accounts that are revoked.
fn files_of(world: &World, accounts: &[AccountId]) -> usize {
    let homes: Vec<_> = accounts.iter().map(|of| folder(world).join(of.to_string())).collect();
    files(&folder(world)).0.iter().filter(|path| homes.iter().any(|home| path.starts_with(home))).count()
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_is_killed_at_any_file_is_finished_before_the_next_engine_is_open() {
    let blocks = scale(60, 16);
    let mut world = World::new(402).await;
    let mut engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let customers = full(&world, &engine, blocks).await.map(|account| account.id());
    let customers = &customers[..2];
    let (mut kills, mut left_behind) = (0, 0);
    for removed in 0.. {
        kill(&mut world, &mut engine).await;
        let faults = HotCacheFaults::default();
        engine = world.cached(on_disk(&world, MIB, 64 * MIB).faults(faults.clone())).await.unwrap();
        let opened = accounts(&engine).await;
        for n in 0..blocks {
            for account in &opened {
                account.get(&block(n)).await.unwrap();
            }
        }
        engine.settle_hot_cache().await;
        let before = files_of(&world, customers);
        assert!(before > 4, "{before}");

        faults.set_removals(Some(removed));
        revoke(&world, &opened[..2]).await;
        let after = files_of(&world, customers);
        assert_eq!(after, before.saturating_sub(removed));
        assert!(is_revoked(&opened[0].get(&block(0)).await));
        drop(opened);
        kill(&mut world, &mut engine).await;
        kills += 1;
        left_behind += after;

        engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
        assert_eq!(files_of(&world, customers), 0, "killed after {removed} of {before} files");
        assert!(is_revoked(&accounts(&engine).await[0].get(&block(0)).await));
        world.customer.enable(&world.kek).await.unwrap();
        sleep(POLL).await;
        if removed >= before {
            break;
        }
    }
    println!(
        "{kills} kills in a purge, {left_behind} files left behind by them in all, 0 left once open again"
    );
}

#[tokio::test(start_paused = true)]
async fn files_that_can_not_be_removed_are_tried_again_until_they_are_gone() {
    let world = World::new(403).await;
    let faults = HotCacheFaults::default();
    let engine = world.cached(on_disk(&world, MIB, 64 * MIB).faults(faults.clone())).await.unwrap();
    let accounts = full(&world, &engine, 30).await;
    faults.set_removals(Some(3));
    revoke(&world, &accounts[..2]).await;
    assert!(files_of(&world, &ids(&accounts[..2])) > 0 && status(&engine).troubles > 0);
    // Listed it is not, and so not to be read.
    assert_eq!(accounts[0].hot_cached().disk.blocks, 0);
    faults.set_removals(None);
    sleep(Duration::from_secs(11)).await;
    assert_eq!(files_of(&world, &ids(&accounts[..2])), 0);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_another_node_noticed_is_obeyed_by_a_cache_that_is_closed_or_idle() {
    let mut world = World::new(404).await;
    let mut engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let accounts = full(&world, &engine, 30).await;
    // Nobody uses this engine's accounts: their keys are dropped, and their vault is not asked.
    sleep(2 * HOUR).await;
    let elsewhere = [name("contoso"), name("fabrikam")];
    world.customer.disable(&world.kek).await.unwrap();
    for name in &elsewhere {
        let _ = world.engine.account(name).await.unwrap().check_key().await;
    }
    sleep(NOTICED).await;
    assert!(files_of(&world, &ids(&accounts[..2])) > 0);
    sleep(SWEPT).await;
    assert_eq!(files_of(&world, &ids(&accounts[..2])), 0);
    assert_eq!(accounts[0].hot_cached().memory.blocks, 0);

    // The same while it is closed.
    world.customer.enable(&world.kek).await.unwrap();
    sleep(POLL).await;
    for n in 0..30 {
        for account in &accounts {
            account.get(&block(n)).await.unwrap();
        }
    }
    engine.settle_hot_cache().await;
    drop(accounts);
    kill(&mut world, &mut engine).await;
    world.customer.disable(&world.kek).await.unwrap();
    for name in &elsewhere {
        let _ = world.engine.account(name).await.unwrap().check_key().await;
    }
    sleep(NOTICED).await;
    assert!(files(&folder(&world)).0.len() > 30);
    engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let accounts = self::accounts(&engine).await;
    assert_eq!(files_of(&world, &ids(&accounts[..2])), 0);
    assert!(accounts[2].hot_cached().disk.blocks > 0, "the service's own account is not revoked");
}

#[tokio::test(start_paused = true)]
async fn what_is_cached_of_an_account_that_is_not_known_is_deleted_at_opening() {
    let mut world = World::new(405).await;
    let mut engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let accounts = full(&world, &engine, 30).await;
    let gone = accounts[1].id();
    drop(accounts);
    kill(&mut world, &mut engine).await;
    let strange = folder(&world).join("00000000-0000-4000-8000-00000000002a");
    fs::rename(folder(&world).join(gone.to_string()), &strange).unwrap();
    engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    assert!(!strange.exists());
    assert_eq!(status(&engine).purges, 1);
    assert!(self::accounts(&engine).await[0].hot_cached().disk.blocks > 0);
}

/// Also by work that was under way when the key was taken away.
#[tokio::test(start_paused = true)]
async fn nothing_comes_in_of_an_account_whose_key_is_revoked() {
    let world = World::new(406).await;
    let engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let accounts = full(&world, &engine, 4).await;
    revoke(&world, &accounts[..1]).await;
    let bare = world.store.fetch(accounts[0].id(), &block(1)).await.unwrap();
    assert!(bare.is_some(), "what is stored stays");
    for n in 0..4 {
        assert!(is_revoked(&accounts[0].get(&block(n)).await));
        assert!(is_revoked(&accounts[0].put(&block(n), "late".into()).await));
    }
    assert!(accounts[0].delete(&block(0)).await.unwrap());
    assert_eq!(accounts[0].hot_cached(), Default::default());
    assert_eq!(files_of(&world, &ids(&accounts[..1])), 0);
}
