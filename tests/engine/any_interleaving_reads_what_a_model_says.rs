//! Any interleaving of put, get, delete, list, disable, enable, outages and restart answers exactly what a model says:
//! whether a write was stored or buffered, and under which kind of key, is never to be seen in what is read.

use std::collections::BTreeMap;

use cofferdam::{
    crypto::BlockId,
    store::{Account, BlockStore, BufferMode, EngineError, Outcome, PutReceipt},
};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use crate::world::{GRACE, MODES, NOTICED, World, is_revoked, is_unavailable, name, scale};

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
    Offline,
    Online,
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
        2 => Just(Step::Offline),
        2 => Just(Step::Online),
        1 => Just(Step::Restart),
        2 => prop_oneof![0..300u64, 0..2400u64].prop_map(|seconds| Step::Wait { seconds }),
    ]
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

type Model = [BTreeMap<BlockId, Vec<u8>>; ACCOUNTS.len()];

fn id(block: u8) -> BlockId {
    BlockId::new([block, 0xff, b'/']).unwrap()
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + i / 256) as u8).collect()
}

/// What the customer did, and what was seen of it.
struct Truth {
    enabled: bool,
    offline: Option<Instant>,
    /// By account: it was refused as revoked since the key was last enabled within reach.
    seen_revoked: [bool; ACCOUNTS.len()],
}

/// How an account's key is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Usable,
    Unavailable,
    Revoked,
}

impl Truth {
    /// The key as the engine sees it, which must be as it can be seen.
    async fn key(&mut self, handle: &Account, account: usize, context: &str) -> Key {
        let answer = handle.check_key().await;
        let key = match &answer {
            Ok(()) => Key::Usable,
            answer if is_revoked(answer) => Key::Revoked,
            answer if is_unavailable(answer) => Key::Unavailable,
            answer => panic!("{context}: {answer:?}"),
        };
        let expected = match self.offline {
            _ if account == 2 => key == Key::Usable,
            None => key == if self.enabled { Key::Usable } else { Key::Revoked },
            Some(_) if self.seen_revoked[account] => key == Key::Revoked,
            Some(since) => key != Key::Usable || since.elapsed() < GRACE,
        };
        assert!(expected, "{context}: {answer:?}");
        self.seen_revoked[account] |= key == Key::Revoked;
        key
    }
}

impl Key {
    /// Whether the write came through, as this key demands.
    fn wrote(self, answer: Result<Vec<PutReceipt>, EngineError>, context: &str) -> bool {
        let outcome = match self {
            Self::Usable => Outcome::Stored,
            Self::Unavailable => Outcome::Buffered,
            Self::Revoked => {
                assert!(is_revoked(&answer), "{context}: {answer:?}");
                return false;
            }
        };
        assert!(answer.unwrap().iter().all(|receipt| receipt.outcome == outcome), "{context}");
        true
    }

    /// Whether a read is to be looked at; else it was refused as this key demands.
    fn reads<T: std::fmt::Debug>(self, answer: &Result<T, EngineError>, context: &str) -> bool {
        match self {
            Self::Usable => return true,
            Self::Unavailable => assert!(is_unavailable(answer), "{context}: {answer:?}"),
            Self::Revoked => assert!(is_revoked(answer), "{context}: {answer:?}"),
        }
        false
    }
}

async fn run(mode: BufferMode, seed: u64, steps: Vec<Step>) {
    let mut world = World::set_up_in(mode, seed, |builder| builder.buffer_time(48 * HOUR)).await;
    let mut model = Model::default();
    let mut truth = Truth { enabled: true, offline: None, seen_revoked: [false; ACCOUNTS.len()] };
    for (i, account) in ACCOUNTS.iter().enumerate() {
        let key = if i == 2 { cofferdam::store::AccountKey::Service } else { world.customer_key() };
        world.engine.create_account(&name(account), key).await.unwrap();
    }
    for (n, step) in steps.into_iter().enumerate() {
        let context = format!("step {n}, {step:?}, enabled {}, offline {:?}", truth.enabled, truth.offline);
        match step {
            Step::Put { account, block, len } => {
                let data = content(n, len);
                let handle = world.engine.account(&name(ACCOUNTS[account])).await.unwrap();
                let key = truth.key(&handle, account, &context).await;
                let answer = handle.put(&id(block), data.clone().into()).await;
                if key.wrote(answer.map(|receipt| vec![receipt]), &context) {
                    model[account].insert(id(block), data);
                }
            }
            Step::PutBatch { account, blocks } => {
                let blocks: Vec<_> =
                    blocks.iter().enumerate().map(|(i, (b, len))| (id(*b), content(n + i, *len))).collect();
                let batch = blocks.iter().map(|(id, data)| (id.clone(), data.clone().into())).collect();
                let handle = world.engine.account(&name(ACCOUNTS[account])).await.unwrap();
                let key = truth.key(&handle, account, &context).await;
                if key.wrote(handle.put_batch(batch).await, &context) {
                    model[account].extend(blocks);
                }
            }
            Step::Get { account, block } => {
                let handle = world.engine.account(&name(ACCOUNTS[account])).await.unwrap();
                let key = truth.key(&handle, account, &context).await;
                let answer = handle.get(&id(block)).await;
                match model[account].get(&id(block)) {
                    _ if !key.reads(&answer, &context) => {}
                    Some(data) => assert_eq!(answer.unwrap(), data, "{context}"),
                    None => {
                        assert!(matches!(answer, Err(EngineError::NoBlock { .. })), "{context}: {answer:?}")
                    }
                }
            }
            Step::GetRange { account, block, start, end } => {
                let handle = world.engine.account(&name(ACCOUNTS[account])).await.unwrap();
                let key = truth.key(&handle, account, &context).await;
                let answer = handle.get_range(&id(block), start..end).await;
                match model[account].get(&id(block)) {
                    _ if !key.reads(&answer, &context) => {}
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
                truth.enabled = false;
                sleep(NOTICED).await;
            }
            Step::Enable => {
                world.customer.enable(&world.kek).await.unwrap();
                truth.enabled = true;
                sleep(NOTICED).await;
            }
            Step::Offline => {
                world.customer.set_offline(true).await.unwrap();
                truth.offline.get_or_insert_with(Instant::now);
            }
            Step::Online => {
                world.customer.set_offline(false).await.unwrap();
                truth.offline = None;
                sleep(NOTICED).await;
            }
            Step::Restart => world.restart().await,
            Step::Wait { seconds } => sleep(std::time::Duration::from_secs(seconds)).await,
        }
        if truth.offline.is_none() && truth.enabled {
            truth.seen_revoked = [false; ACCOUNTS.len()];
        }
    }
    // Whatever happened, all of it is there once the key is back, also after a restart.
    world.customer.enable(&world.kek).await.unwrap();
    world.customer.set_offline(false).await.unwrap();
    sleep(NOTICED).await;
    for report in world.engine.drain().await.unwrap() {
        assert_eq!((report.left, report.blocked), (None, None));
    }
    assert!(world.store.buffering(None, 10).await.unwrap().is_empty());
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
        cases: scale(2000, 40) as u32,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_interleaving_reads_what_a_model_says(seed: u64, steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(MODES[seed as usize % MODES.len()], seed, steps));
    }
}
