//! Blocks of no byte, of one, of the most and one more; ranges at and past the ends; ids of any bytes.

use bytes::Bytes;
use cofferdam::{
    crypto::BlockId,
    store::{Account, EngineError, EngineErrorKind},
};

use crate::world::{World, name};

const MOST: usize = 1 << 20;

async fn account(world: &World) -> Account {
    world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn blocks_of_every_length_up_to_the_most_are_kept() {
    let world = World::new(7).await;
    let account = account(&world).await;
    for len in [0, 1, 65_535, 65_536, 65_537, MOST - 1, MOST] {
        let id = BlockId::new(format!("{len}")).unwrap();
        let data: Bytes = (0..len).map(|i| (i * 7) as u8).collect();
        account.put(&id, data.clone()).await.unwrap();
        assert_eq!(account.get(&id).await.unwrap(), data, "{len} bytes");
        assert_eq!(account.get_range(&id, 0..len as u64).await.unwrap(), data, "{len} bytes by range");
    }
    let id = BlockId::new("one more").unwrap();
    let answer = account.put(&id, vec![0; MOST + 1].into()).await.unwrap_err();
    assert!(
        matches!(answer, EngineError::BlockTooLarge { len, max } if len == MOST as u64 + 1 && max == MOST as u64)
    );
    assert_eq!(account.get(&id).await.unwrap_err().kind(), EngineErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn one_block_too_large_keeps_the_whole_batch_out() {
    let world = World::new(8).await;
    let account = account(&world).await;
    let id = |n: u8| BlockId::new([n]).unwrap();
    let batch = vec![(id(1), "small".into()), (id(2), vec![0; MOST + 1].into())];
    assert_eq!(account.put_batch(batch).await.unwrap_err().kind(), EngineErrorKind::Invalid);
    assert_eq!(account.list(None, 10).await.unwrap().blocks, []);
    assert_eq!(account.put_batch(vec![]).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn of_two_blocks_of_one_id_in_a_batch_the_later_wins() {
    let world = World::new(9).await;
    let account = account(&world).await;
    let id = BlockId::new("twice").unwrap();
    account.put_batch(vec![(id.clone(), "first".into()), (id.clone(), "second".into())]).await.unwrap();
    assert_eq!(account.get(&id).await.unwrap(), "second");
}

#[tokio::test(start_paused = true)]
async fn ranges_past_the_end_or_reversed_are_named() {
    let world = World::new(10).await;
    let account = account(&world).await;
    let id = BlockId::new("block").unwrap();
    account.put(&id, vec![5; 100_000].into()).await.unwrap();
    for (start, end) in [(0, 0), (100_000, 100_000), (99_999, 100_000), (65_535, 65_537)] {
        assert_eq!(account.get_range(&id, start..end).await.unwrap().len() as u64, end - start);
    }
    for (start, end) in
        [(0, 100_001), (100_001, 100_001), (2, 1), (0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0)]
    {
        let answer = account.get_range(&id, start..end).await.unwrap_err();
        assert!(
            matches!(&answer, EngineError::Range { range, len: 100_000, .. } if *range == (start..end)),
            "{start}..{end}: {answer}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn ids_hold_any_byte_and_sort_as_bytes() {
    let world = World::new(11).await;
    let account = account(&world).await;
    let mut ids: Vec<_> = (0..=255u8).map(|b| BlockId::new([b]).unwrap()).collect();
    ids.extend([BlockId::new([0, 0]).unwrap(), BlockId::new(vec![0xff; 1024]).unwrap()]);
    for id in ids.iter().rev() {
        account.put(id, Bytes::copy_from_slice(id.as_bytes())).await.unwrap();
    }
    ids.sort();
    let listed: Vec<_> = account.list(None, 1000).await.unwrap().blocks.into_iter().map(|b| b.id).collect();
    assert_eq!(listed, ids);
    for id in &ids {
        assert_eq!(account.get(id).await.unwrap(), id.as_bytes());
        assert!(account.delete(id).await.unwrap());
        assert!(!account.delete(id).await.unwrap(), "it was deleted twice");
    }
}
