//! Any interleaving of put, get, delete, list, disable, enable and restart answers exactly what a model says.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::collections::BTreeMap;

use cofferdam::{crypto::BlockId, store::EngineError};
use proptest::prelude::*;
use world::{NOTICED, World, is_revoked, name};

const ACCOUNTS: [&str; 3] = ["contoso", "fabrikam", "under-the-service-key"];

#[derive(Clone, Debug)]
enum Step {
    Put { account: usize, block: u8, len: usize },
    PutBatch { account: usize, blocks: Vec<(u8, usize)> },
    Get { account: usize, block: u8 },
    GetRange { account: usize, block: u8, start: u64, end: u64 },
    Delete { account: usize, block: u8 },
    List { account: usize, limit: usize },
    Disable,
    Enable,
    Restart,
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let account = 0..ACCOUNTS.len();
    let block = 0..6u8;
    let len = prop_oneof![Just(0), Just(1), 1..5000usize, 60_000..70_000usize, Just(200_000)];
    prop_oneof![
        6 => (account.clone(), block.clone(), len.clone()).prop_map(|(account, block, len)| Step::Put { account, block, len }),
        2 => (account.clone(), prop::collection::vec((block.clone(), len), 0..4))
            .prop_map(|(account, blocks)| Step::PutBatch { account, blocks }),
        6 => (account.clone(), block.clone()).prop_map(|(account, block)| Step::Get { account, block }),
        4 => (account.clone(), block.clone(), 0..210_000u64, 0..210_000u64)
            .prop_map(|(account, block, start, end)| Step::GetRange { account, block, start, end }),
        2 => (account.clone(), block).prop_map(|(account, block)| Step::Delete { account, block }),
        2 => (account, 1..8usize).prop_map(|(account, limit)| Step::List { account, limit }),
        2 => Just(Step::Disable),
        2 => Just(Step::Enable),
        1 => Just(Step::Restart),
        2 => (0..300u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

type Model = [BTreeMap<BlockId, Vec<u8>>; ACCOUNTS.len()];

fn id(block: u8) -> BlockId {
    BlockId::new([block, 0xff, b'/']).unwrap()
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + i / 256) as u8).collect()
}

async fn run(seed: u64, steps: Vec<Step>) {
    let mut world = World::new(seed).await;
    let mut model = Model::default();
    let mut enabled = true;
    for (i, account) in ACCOUNTS.iter().enumerate() {
        let key = if i == 2 { cofferdam::store::AccountKey::Service } else { world.customer_key() };
        world.engine.create_account(&name(account), key).await.unwrap();
    }
    for (n, step) in steps.into_iter().enumerate() {
        let context = format!("step {n}, {step:?}, enabled {enabled}");
        let refused = |account: usize| account != 2 && !enabled;
        match step {
            Step::Put { account, block, len } => {
                let data = content(n, len);
                let answer = world
                    .engine
                    .account(&name(ACCOUNTS[account]))
                    .await
                    .unwrap()
                    .put(&id(block), data.clone().into())
                    .await;
                if refused(account) {
                    assert!(is_revoked(&answer), "{context}: {answer:?}");
                } else {
                    answer.unwrap();
                    model[account].insert(id(block), data);
                }
            }
            Step::PutBatch { account, blocks } => {
                let blocks: Vec<_> =
                    blocks.iter().enumerate().map(|(i, (b, len))| (id(*b), content(n + i, *len))).collect();
                let batch = blocks.iter().map(|(id, data)| (id.clone(), data.clone().into())).collect();
                let answer =
                    world.engine.account(&name(ACCOUNTS[account])).await.unwrap().put_batch(batch).await;
                if refused(account) {
                    assert!(is_revoked(&answer), "{context}: {answer:?}");
                } else {
                    assert_eq!(answer.unwrap().len(), blocks.len(), "{context}");
                    model[account].extend(blocks);
                }
            }
            Step::Get { account, block } => {
                let answer =
                    world.engine.account(&name(ACCOUNTS[account])).await.unwrap().get(&id(block)).await;
                match model[account].get(&id(block)) {
                    _ if refused(account) => assert!(is_revoked(&answer), "{context}: {answer:?}"),
                    Some(data) => assert_eq!(answer.unwrap(), data, "{context}"),
                    None => {
                        assert!(matches!(answer, Err(EngineError::NoBlock { .. })), "{context}: {answer:?}")
                    }
                }
            }
            Step::GetRange { account, block, start, end } => {
                let account_handle = world.engine.account(&name(ACCOUNTS[account])).await.unwrap();
                let answer = account_handle.get_range(&id(block), start..end).await;
                match model[account].get(&id(block)) {
                    _ if refused(account) => assert!(is_revoked(&answer), "{context}: {answer:?}"),
                    None => {
                        assert!(matches!(answer, Err(EngineError::NoBlock { .. })), "{context}: {answer:?}")
                    }
                    Some(data) => match data.get(start as usize..end as usize) {
                        Some(part) => assert_eq!(answer.unwrap(), part, "{context}"),
                        None => {
                            assert!(matches!(answer, Err(EngineError::Range { .. })), "{context}: {answer:?}")
                        }
                    },
                }
            }
            Step::Delete { account, block } => {
                let handle = world.engine.account(&name(ACCOUNTS[account])).await.unwrap();
                let was_there = handle.delete(&id(block)).await.unwrap();
                assert_eq!(was_there, model[account].remove(&id(block)).is_some(), "{context}");
            }
            Step::List { account, limit } => {
                let handle = world.engine.account(&name(ACCOUNTS[account])).await.unwrap();
                let (mut listed, mut after) = (Vec::new(), None);
                loop {
                    let page = handle.list(after.as_ref(), limit).await.unwrap();
                    assert!(page.blocks.len() <= limit, "{context}");
                    listed.extend(page.blocks.into_iter().map(|b| (b.id, b.len)));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                let expected: Vec<_> =
                    model[account].iter().map(|(id, d)| (id.clone(), d.len() as u64)).collect();
                assert_eq!(listed, expected, "{context}");
            }
            Step::Disable => {
                world.customer.disable(&world.kek).await.unwrap();
                enabled = false;
                tokio::time::sleep(NOTICED).await;
            }
            Step::Enable => {
                world.customer.enable(&world.kek).await.unwrap();
                enabled = true;
                tokio::time::sleep(NOTICED).await;
            }
            Step::Restart => world.restart().await,
            Step::Wait { seconds } => tokio::time::sleep(std::time::Duration::from_secs(seconds)).await,
        }
    }
    // Whatever happened, all of it is there once the key is back, also after a restart.
    world.customer.enable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    world.restart().await;
    for (i, account) in ACCOUNTS.iter().enumerate() {
        let account = world.engine.account(&name(account)).await.unwrap();
        for (id, data) in &model[i] {
            assert_eq!(account.get(id).await.unwrap(), data);
        }
    }
    world.engine.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("COFFERDAM_FULL").is_some() { 2000 } else { 48 },
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_interleaving_reads_what_a_model_says(seed: u64, steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(seed, steps));
    }
}
