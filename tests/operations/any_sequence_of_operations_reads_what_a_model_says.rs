//! Any sequence of put, delete, rotations, link, unlink, revoke, restore, deletion, recovery and crash keeps every acknowledged
//! block readable exactly when a model says so, and refuses with the right word when not.

use std::collections::BTreeMap;

use bytes::Bytes;
use cofferdam::{
    crypto::{BlockId, KeyId, Provider},
    store::{Account, BlockStore, EngineError, LinkTo, OperationHandle, OperationStatus, Reencrypt},
};
use proptest::prelude::*;
use tokio::time::sleep;

use crate::world::{NOTICED, World, is_revoked, name, scale};

#[derive(Clone, Copy, Debug)]
enum Step {
    Put { block: u8 },
    Remove { block: u8 },
    RotateKek,
    RotateAek { anew: bool },
    Link { anew: bool },
    Unlink { anew: bool },
    Revoke,
    Restore,
    DisableFormer,
    Delete,
    Recover,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let block = 0..5u8;
    let anew = prop::bool::ANY;
    prop_oneof![
        8 => block.clone().prop_map(|block| Step::Put { block }),
        2 => block.prop_map(|block| Step::Remove { block }),
        4 => Just(Step::RotateKek),
        4 => anew.prop_map(|anew| Step::RotateAek { anew }),
        3 => anew.prop_map(|anew| Step::Link { anew }),
        3 => anew.prop_map(|anew| Step::Unlink { anew }),
        2 => Just(Step::Revoke),
        3 => Just(Step::Restore),
        2 => Just(Step::DisableFormer),
        2 => Just(Step::Delete),
        3 => Just(Step::Recover),
        2 => Just(Step::Crash),
    ]
}

/// What must be so.
struct Model {
    blocks: BTreeMap<u8, (Bytes, Provider)>,
    linked: bool,
    /// It has a customer's key: linked, or not any longer.
    has_key: bool,
    /// The version that its keys are wrapped under, and whether it is disabled.
    current: KeyId,
    revoked: bool,
    deleted: bool,
    /// Versions that it was under before.
    former: Vec<KeyId>,
}

impl Model {
    fn may_read(&self, under: Provider) -> bool {
        !self.revoked || (!self.linked && under == Provider::Service)
    }

    fn own(&self) -> Provider {
        if self.linked { Provider::Customer } else { Provider::Service }
    }

    fn seal_all_under(&mut self, provider: Provider) {
        self.blocks.values_mut().for_each(|(_, under)| *under = provider);
    }
}

fn id(block: u8) -> BlockId {
    BlockId::new([b'b', block]).unwrap()
}

fn reencrypt(anew: bool) -> Reencrypt {
    if anew { Reencrypt::Yes } else { Reencrypt::No }
}

fn is_deleted<T: std::fmt::Debug>(answer: &Result<T, EngineError>) -> bool {
    matches!(answer, Err(EngineError::AccountDeleted { .. }))
}

/// It was begun, and is done; or it was refused, as it had to be.
async fn settle(begun: Result<OperationHandle, EngineError>, allowed: bool, context: &str) {
    match begun {
        Ok(handle) => {
            assert!(allowed, "{context}: it was begun");
            let ended = handle.wait().await.unwrap();
            assert_eq!(ended.status, OperationStatus::Succeeded, "{context}: {ended:?}");
        }
        Err(refused) => assert!(!allowed, "{context}: {refused}"),
    }
}

async fn run(seed: u64, steps: Vec<Step>) {
    let mut world = World::new(seed).await;
    let mut slot = Some(world.contoso().await);
    let mut model = Model {
        blocks: BTreeMap::new(),
        linked: true,
        has_key: true,
        current: world.kek.clone(),
        revoked: false,
        deleted: false,
        former: Vec::new(),
    };
    for (n, step) in steps.into_iter().enumerate() {
        let context = format!("seed {seed}, step {n}, {step:?}");
        one(&mut world, &mut slot, &mut model, step, n, &context).await;
        check(slot.as_ref().unwrap(), &model, &context).await;
    }
    // At the end it must all be there.
    if model.deleted {
        let recovered = world.engine.recover_account(&name("contoso")).await;
        settle(recovered, true, "at the end").await;
        model.deleted = false;
        slot = Some(world.contoso_again().await);
    }
    let account = slot.unwrap();
    if model.revoked {
        world.customer.enable(&model.current).await.unwrap();
        model.revoked = false;
        sleep(NOTICED).await;
    }
    check(&account, &model, &format!("seed {seed}, at the end")).await;
    for (block, (_, under)) in &model.blocks {
        let at = world.store.stat(account.id(), &id(*block)).await.unwrap().unwrap();
        assert_eq!(at.meta.provider, *under, "seed {seed}: block {block}");
    }
}

async fn check(account: &Account, model: &Model, context: &str) {
    for block in 0..5 {
        let got = account.get(&id(block)).await;
        match model.blocks.get(&block) {
            _ if model.deleted => assert!(is_deleted(&got), "{context}: {got:?}"),
            Some((_, under)) if !model.may_read(*under) => assert!(is_revoked(&got), "{context}: {got:?}"),
            Some((data, _)) => assert_eq!(&got.unwrap(), data, "{context}: block {block}"),
            None => assert!(got.is_err(), "{context}: {got:?}"),
        }
    }
}

async fn one(
    world: &mut World,
    slot: &mut Option<Account>,
    model: &mut Model,
    step: Step,
    n: usize,
    context: &str,
) {
    if let (Step::Crash, false) = (step, model.deleted) {
        *slot = None;
        world.crash().await;
        *slot = Some(world.contoso_again().await);
        return;
    }
    let Some(account) = slot.as_ref() else { return };
    let usable = !model.revoked && !model.deleted;
    match step {
        Step::Put { block } => {
            let data = Bytes::from(format!("content {n}"));
            let put = account.put(&id(block), data.clone()).await;
            match (model.deleted, model.linked && model.revoked) {
                (true, _) => assert!(is_deleted(&put), "{context}: {put:?}"),
                (_, true) => assert!(is_revoked(&put), "{context}: {put:?}"),
                _ => {
                    put.unwrap();
                    model.blocks.insert(block, (data, model.own()));
                }
            }
        }
        Step::Remove { block } => {
            let removed = account.delete(&id(block)).await;
            if model.deleted {
                assert!(is_deleted(&removed), "{context}: {removed:?}");
            } else {
                assert_eq!(removed.unwrap(), model.blocks.remove(&block).is_some(), "{context}");
            }
        }
        Step::RotateKek => {
            let new = world.customer.new_version("payroll").await.unwrap();
            let allowed = usable && model.linked;
            settle(account.rotate_kek(None, new.clone(), None).await, allowed, context).await;
            if allowed {
                model.former.push(std::mem::replace(&mut model.current, new));
            }
        }
        Step::RotateAek { anew } => {
            let allowed = usable && model.linked;
            settle(account.rotate_aek(reencrypt(anew)).await, allowed, context).await;
            if allowed && anew {
                model.seal_all_under(Provider::Customer);
            }
        }
        Step::Link { anew } => {
            let new = world.customer.new_version("payroll").await.unwrap();
            let to = LinkTo { principal: World::principal(), kek: new.clone(), buffer: world.mode };
            // What it has from before under a customer's key must be unwrapped for that.
            let needs_key = model.has_key && model.revoked;
            let allowed = !model.deleted && !model.linked && !needs_key;
            settle(account.link(to, reencrypt(anew)).await, allowed, context).await;
            if allowed {
                model.former.push(std::mem::replace(&mut model.current, new));
                (model.linked, model.has_key, model.revoked) = (true, true, false);
                if anew {
                    model.seal_all_under(Provider::Customer);
                }
            }
        }
        Step::Unlink { anew } => {
            // With re-encryption it would wait for a key that is taken away.
            let anew = anew && usable;
            let allowed = !model.deleted && model.linked;
            settle(account.unlink(reencrypt(anew)).await, allowed, context).await;
            if allowed {
                model.linked = false;
                if anew {
                    model.seal_all_under(Provider::Service);
                    model.has_key = false;
                }
            }
        }
        Step::Revoke if !model.revoked => {
            world.customer.disable(&model.current).await.unwrap();
            model.revoked = true;
            sleep(NOTICED).await;
        }
        Step::Restore if model.revoked => {
            world.customer.enable(&model.current).await.unwrap();
            model.revoked = false;
            sleep(NOTICED).await;
        }
        Step::DisableFormer => {
            for former in model.former.drain(..) {
                world.customer.disable(&former).await.unwrap();
            }
            sleep(NOTICED).await;
        }
        Step::Delete => {
            settle(account.delete_account().await, !model.deleted, context).await;
            model.deleted = true;
        }
        Step::Recover => {
            let recovered = world.engine.recover_account(&name("contoso")).await;
            settle(recovered, model.deleted, context).await;
            model.deleted = false;
        }
        Step::Revoke | Step::Restore | Step::Crash => {}
    }
}

#[test]
fn every_acknowledged_block_is_readable_exactly_when_the_model_says_so() {
    let cases = u32::try_from(scale(2_000, 60)).unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(seed in 1..1_000_000u64, steps in prop::collection::vec(step(), 1..30))| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(seed, steps));
    });
}
