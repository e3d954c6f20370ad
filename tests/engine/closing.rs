//! A closed engine takes nothing more, and what it acknowledged is there.

use cofferdam::{
    crypto::BlockId,
    store::{EmbeddedOptions, EngineError},
};

use crate::world::{World, name};

#[tokio::test(start_paused = true)]
async fn everything_is_refused_after_close() {
    let world = World::new(13).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let id = BlockId::new("block").unwrap();
    account.put(&id, "kept".into()).await.unwrap();
    world.engine.close().await.unwrap();
    world.engine.close().await.unwrap();
    let answers = [
        account.put(&id, "late".into()).await.map(drop),
        account.get(&id).await.map(drop),
        account.get_range(&id, 0..1).await.map(drop),
        account.delete(&id).await.map(drop),
        account.list(None, 1).await.map(drop),
        account.status().await.map(drop),
        account.check_key().await,
        world.engine.account(&name("contoso")).await.map(drop),
        world.engine.accounts(None, 1).await.map(drop),
    ];
    for answer in answers {
        assert!(matches!(answer, Err(EngineError::Closed)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_put_whose_future_is_dropped_is_whole_or_absent() {
    let mut world = World::threaded(14, EmbeddedOptions::default()).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let id = BlockId::new("block").unwrap();
    account.put(&id, vec![0; 300_000].into()).await.unwrap();
    for n in 1..60u8 {
        let mut put = Box::pin(account.put(&id, vec![n; 300_000].into()));
        for _ in 0..n % 12 {
            if futures_util::poll!(&mut put).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(put);
        let block = account.get(&id).await.unwrap();
        assert!(block.iter().all(|b| *b == block[0]), "torn at {n}");
    }
    world.restart().await;
    let block = world.engine.account(&name("contoso")).await.unwrap().get(&id).await.unwrap();
    assert!(block.len() == 300_000 && block.iter().all(|b| *b == block[0]));
}

#[tokio::test(start_paused = true)]
async fn writers_under_way_finish_before_the_store_closes() {
    let mut world = World::new(15).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let writers: Vec<_> = (0..100u8)
        .map(|n| {
            let account = account.clone();
            tokio::spawn(
                async move { account.put(&BlockId::new([n]).unwrap(), vec![n; 20_000].into()).await },
            )
        })
        .collect();
    tokio::task::yield_now().await;
    world.engine.close().await.unwrap();
    let mut acknowledged = Vec::new();
    for (n, writer) in writers.into_iter().enumerate() {
        match writer.await.unwrap() {
            Ok(_) => acknowledged.push(n as u8),
            Err(e) => assert!(matches!(e, EngineError::Closed), "{e}"),
        }
    }
    world.restart().await;
    let account = world.engine.account(&name("contoso")).await.unwrap();
    for n in acknowledged {
        assert_eq!(account.get(&BlockId::new([n]).unwrap()).await.unwrap(), vec![n; 20_000]);
    }
}

#[tokio::test]
async fn closing_that_was_given_up_is_finished_by_the_next_call() {
    let mut world = World::threaded(16, EmbeddedOptions::default()).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    account.put(&BlockId::new("block").unwrap(), "kept".into()).await.unwrap();
    for polls in 0..6 {
        let mut close = Box::pin(world.engine.close());
        for _ in 0..polls {
            if futures_util::poll!(&mut close).is_ready() {
                break;
            }
        }
        drop(close);
        let (one, other) = tokio::join!(world.engine.close(), world.engine.close());
        one.and(other).unwrap();
        // Opening it again fails unless the store was let go of.
        world.restart().await;
        let account = world.engine.account(&name("contoso")).await.unwrap();
        assert_eq!(account.get(&BlockId::new("block").unwrap()).await.unwrap(), "kept");
    }
}
