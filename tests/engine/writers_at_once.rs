//! Many writers at once: each reads what it wrote, one commit serves many, and memory stays within the allowance.

use cofferdam::{
    crypto::BlockId,
    store::{BlockStore, EmbeddedOptions, Engine},
};

use crate::world::{World, name};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_reads_what_it_wrote_and_commits_are_shared() {
    let world = World::threaded(41, EmbeddedOptions::default()).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let shared = BlockId::new("shared").unwrap();
    let before = world.store.activity().commits;
    let writers: Vec<_> = (0..32u8)
        .map(|writer| {
            let (account, shared) = (account.clone(), shared.clone());
            tokio::spawn(async move {
                let mut last = None;
                for n in 0..20u8 {
                    let id = BlockId::new([writer, n % 3]).unwrap();
                    let data = vec![writer ^ n; 1000 * usize::from(n) + 1];
                    account.put(&id, data.clone().into()).await.unwrap();
                    assert_eq!(account.get(&id).await.unwrap(), data);
                    assert_eq!(account.get_range(&id, 0..1).await.unwrap(), [writer ^ n][..]);
                    let receipt = account.put(&shared, vec![writer; 64].into()).await.unwrap();
                    assert!(last < Some(receipt.version), "versions grow");
                    last = Some(receipt.version);
                }
                (last, writer)
            })
        })
        .collect();
    let mut newest = None;
    for writer in writers {
        newest = newest.max(Some(writer.await.unwrap()));
    }
    let (version, writer) = newest.unwrap();
    let kept = world.store.stat(account.id(), &shared).await.unwrap().unwrap();
    assert_eq!(
        Some(kept.meta.version),
        version,
        "the newest version of the shared block is the one that is kept"
    );
    assert_eq!(account.get(&shared).await.unwrap(), vec![writer; 64]);
    let commits = world.store.activity().commits - before;
    println!("{} puts in {commits} transactions", 32 * 20 * 2);
    assert!(commits < 32 * 20, "puts share commits: {commits}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_engines_over_one_store_lose_no_later_write() {
    let world = World::threaded(42, EmbeddedOptions::default()).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    // The second engine's clock never moves: its versions lag behind those of the first.
    let second: Engine = world.second_engine().await;
    let again = second.account(&name("contoso")).await.unwrap();
    let id = BlockId::new("block").unwrap();
    for n in 0..50u8 {
        account.put(&id, vec![n; 10].into()).await.unwrap();
        again.put(&id, vec![n ^ 0xff; 10].into()).await.unwrap();
        assert_eq!(account.get(&id).await.unwrap(), vec![n ^ 0xff; 10]);
        if n % 5 == 0 {
            account.put(&id, "more".into()).await.unwrap();
            assert!(again.delete(&id).await.unwrap(), "it was there");
            assert!(account.get(&id).await.is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_past_the_allowance_are_refused_and_what_fits_goes_through_it() {
    let world = World::threaded(43, EmbeddedOptions::default()).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let batch =
        |blocks: u8| (0..blocks).map(|n| (BlockId::new([n]).unwrap(), vec![n; 1 << 20].into())).collect();
    // The world's allowance is 4 MiB and its largest block 1 MiB.
    let answer = account.put_batch(batch(5)).await;
    assert!(matches!(answer, Err(cofferdam::store::EngineError::BatchTooLarge { .. })), "{answer:?}");
    account.put_batch(batch(3)).await.unwrap();
    let writers: Vec<_> = (0..40u8)
        .map(|n| {
            let account = account.clone();
            tokio::spawn(
                async move { account.put(&BlockId::new([n]).unwrap(), vec![n; 1 << 20].into()).await },
            )
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(account.status().await.unwrap().bytes, 40 << 20);
}
