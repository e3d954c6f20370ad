//! Of the writes and deletes of one block the last one counts, whether it was stored or buffered, before, in and after an
//! outage, and while the buffer is being drained.

use std::time::Duration;

use cofferdam::{
    crypto::BlockId,
    store::{BlockStore, BufferChange, EngineError, Place},
};
use tokio::time::sleep;

use crate::world::{MODES, POLL, World, buffered, id, stored};

#[tokio::test(start_paused = true)]
async fn the_newest_of_what_is_stored_and_buffered_is_listed_and_then_read() {
    for &mode in MODES {
        let world = World::in_mode(mode, 61).await;
        let account = world.contoso().await;
        for block in ["overwritten", "overwritten-twice", "deleted", "kept", "deleted-then-written"] {
            stored(account.put(&id(block), "stored".into()).await);
        }
        world.lose_key(&account).await;
        let first = buffered(account.put(&id("overwritten"), "buffered".into()).await);
        buffered(account.put(&id("overwritten-twice"), "buffered first".into()).await);
        let second = buffered(account.put(&id("overwritten-twice"), "buffered second".into()).await);
        assert!(first.version < second.version);
        assert!(account.delete(&id("deleted")).await.unwrap());
        assert!(account.delete(&id("deleted-then-written")).await.unwrap());
        buffered(account.put(&id("deleted-then-written"), "written anew".into()).await);
        buffered(account.put(&id("written-then-deleted"), "in vain".into()).await);
        assert!(account.delete(&id("written-then-deleted")).await.unwrap());
        assert!(!account.delete(&id("written-then-deleted")).await.unwrap(), "it is gone");
        buffered(account.put(&id("new"), "new".into()).await);

        let listed = account.list(None, 100).await.unwrap().blocks;
        let placed: Vec<_> =
            listed.iter().map(|b| (String::from_utf8_lossy(b.id.as_bytes()), b.place)).collect();
        let want = [
            ("deleted-then-written", Place::Buffer),
            ("kept", Place::Store),
            ("new", Place::Buffer),
            ("overwritten", Place::Buffer),
            ("overwritten-twice", Place::Buffer),
        ];
        assert_eq!(placed, want.map(|(id, place)| (id.into(), place)));
        assert_eq!(listed[3].version, first.version);

        world.regain_key(&account).await;
        let again = account.list(None, 100).await.unwrap().blocks;
        for (before, after) in listed.iter().zip(&again) {
            let moved = (after.id.clone(), after.version, after.stored_at, after.len, Place::Store);
            assert_eq!(moved, (before.id.clone(), before.version, before.stored_at, before.len, after.place));
        }
        assert_eq!(again.len(), 5);
        for (block, content) in [
            ("overwritten", "buffered"),
            ("overwritten-twice", "buffered second"),
            ("deleted-then-written", "written anew"),
            ("kept", "stored"),
            ("new", "new"),
        ] {
            assert_eq!(account.get(&id(block)).await.unwrap(), content);
        }
        for block in ["deleted", "written-then-deleted"] {
            assert!(matches!(account.get(&id(block)).await, Err(EngineError::NoBlock { .. })), "{block}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn writes_deletes_and_reads_while_the_buffer_is_drained_see_the_last_write() {
    for &mode in MODES {
        let world = World::in_mode(mode, 62).await;
        let account = world.contoso().await;
        let block = |n: u8| BlockId::new([b'b', n]).unwrap();
        let content = |n: u8, round: u8| vec![n ^ round.wrapping_mul(37); 300_000];
        stored(account.put(&block(0), content(0, 0).into()).await);
        world.lose_key(&account).await;
        let blocks = 60;
        for n in 0..blocks {
            buffered(account.put(&block(n), content(n, 1).into()).await);
        }
        let mut events = world.engine.buffer_events();
        world.customer.set_offline(false).await.unwrap();
        // Every batch drains three blocks; between two of them this test goes on.
        let mut rounds = 0;
        let mut last = vec![1u8; usize::from(blocks)];
        loop {
            match events.recv().await.unwrap().what {
                BufferChange::Drained { left, .. } => {
                    rounds += 1;
                    let at = account.list(None, 100).await.unwrap().blocks;
                    assert_eq!(at.len(), last.iter().filter(|round| **round != 0).count(), "round {rounds}");
                    let in_buffer = at.iter().filter(|b| b.place == Place::Buffer).count() as u64;
                    assert!(in_buffer <= left.blocks, "none comes back");
                    // One that is drained, and one that is not yet.
                    for n in [rounds - 1, blocks - 2 * rounds, blocks - 2 * rounds + 1] {
                        let n = n % blocks;
                        if last[usize::from(n)] == 0 {
                            continue;
                        }
                        assert_eq!(account.get(&block(n)).await.unwrap(), content(n, last[usize::from(n)]));
                        let part = account.get_range(&block(n), 70_000..70_001).await.unwrap();
                        assert_eq!(part, content(n, last[usize::from(n)])[..1]);
                        if n % 2 == 0 {
                            stored(account.put(&block(n), content(n, rounds + 1).into()).await);
                            last[usize::from(n)] = rounds + 1;
                        } else {
                            assert!(account.delete(&block(n)).await.unwrap(), "block {n}");
                            last[usize::from(n)] = 0;
                        }
                    }
                }
                BufferChange::Finished { .. } => break,
                what => panic!("{what:?}"),
            }
        }
        assert!(rounds > 10, "{rounds}");
        for n in 0..blocks {
            let answer = account.get(&block(n)).await;
            match last[usize::from(n)] {
                0 => assert!(matches!(answer, Err(EngineError::NoBlock { .. })), "block {n}: {answer:?}"),
                round => assert_eq!(answer.unwrap(), content(n, round), "block {n}"),
            }
        }
        assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn outages_in_a_row_leave_the_last_write_of_each() {
    for &mode in MODES {
        let world = World::in_mode(mode, 63).await;
        let account = world.contoso().await;
        for round in 0..5u8 {
            world.lose_key(&account).await;
            buffered(account.put(&id("block"), vec![round; 10].into()).await);
            world.customer.set_offline(false).await.unwrap();
            // In some rounds a write comes before the drain, in others the drain was first.
            sleep(if round % 2 == 0 { POLL } else { Duration::ZERO }).await;
            if account.check_key().await.is_ok() && round % 2 == 1 {
                stored(account.put(&id("block"), vec![round + 100; 10].into()).await);
            }
            sleep(POLL).await;
            account.drain().await.unwrap();
            let got = account.get(&id("block")).await.unwrap();
            assert!(got == vec![round; 10] || got == vec![round + 100; 10], "round {round}: {got:?}");
            assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
        }
    }
}
