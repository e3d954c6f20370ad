//! Every real vault: an account under a key in it, 100 blocks; the key is disabled, or the permission to use it taken away:
//! refused within one refresh; given back: all of it reads within one poll. In real time, all vaults at once.
//!
//! AWS KMS is ministack, which refuses keys by their state as AWS does. moto is no witness here: a key that is disabled
//! in it decrypts still.

use std::{sync::Arc, time::Duration};

use cofferdam::{
    crypto::{BlockId, KeyId},
    keyring::KeyState,
    vault::testing::servers::{Bao, Ministack},
};
use futures_util::future;

use crate::real::{
    self, Customer, Real, Stopwatch, alone, block, content, is_revoked, key_state, lost, policy,
};

const BLOCKS: usize = 100;
const POLL: Duration = Duration::from_secs(3);
const KEY: &str = "payroll";
const STEP: Duration = Duration::from_millis(20);

/// How a key is taken away.
#[derive(Clone, Copy)]
enum Taken {
    Disabled,
    Denied,
    Deleted,
}

struct Case {
    customer: Customer,
    taken: Taken,
    /// How the vault's owner would call it.
    how: &'static str,
}

impl Case {
    fn new(customer: Customer, taken: Taken, how: &'static str) -> Self {
        Self { customer, taken, how }
    }

    async fn take_away(&self, key: &KeyId) {
        match self.taken {
            Taken::Disabled => self.customer.owner.disable(key).await,
            Taken::Denied => self.customer.owner.deny().await,
            Taken::Deleted => self.customer.owner.schedule_deletion(key).await,
        }
    }

    async fn give_back(&self, key: &KeyId) {
        match self.taken {
            Taken::Disabled => self.customer.owner.enable(key).await,
            Taken::Denied => self.customer.owner.allow(KEY).await,
            Taken::Deleted => self.customer.owner.cancel_deletion(key).await,
        }
    }
}

struct Measured {
    /// Reads and writes that still succeeded after it was taken away.
    served: usize,
    refused_after: Duration,
    refused: usize,
    back_after: Duration,
    read: usize,
}

async fn cases(folder: &std::path::Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for token in [Customer::softhsm().await, Customer::kryoptic().await].into_iter().flatten() {
        cases.push(Case::new(token, Taken::Disabled, "CKA_WRAP, CKA_UNWRAP off"));
    }
    if let Some(bao) = Bao::dev() {
        let bao = real::openbao_server(bao).await;
        let customer = Customer::openbao(&bao, "openbao", "disabled").await;
        cases.push(Case::new(customer, Taken::Disabled, "min_decryption_version up"));
        let customer = Customer::openbao(&bao, "openbao-2", KEY).await;
        cases.push(Case::new(customer, Taken::Denied, "policy deleted"));
    }
    let customer = Customer::key_vault(folder, "key-vault").await;
    cases.push(Case::new(customer, Taken::Disabled, "key disabled"));
    let customer = Customer::key_vault(folder, "key-vault-2").await;
    cases.push(Case::new(customer, Taken::Denied, "permissions removed"));
    if let Some(server) = Ministack::start().map(Arc::new) {
        cases.push(Case::new(Customer::aws(&server, "aws"), Taken::Disabled, "key disabled"));
        cases.push(Case::new(Customer::aws(&server, "aws-2"), Taken::Deleted, "deletion scheduled"));
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refused_within_one_refresh_and_readable_within_one_poll() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let cases: Vec<Arc<Case>> = cases(folder.path()).await.into_iter().map(Arc::new).collect();
    let customers: Vec<Customer> = cases.iter().map(|case| case.customer.clone()).collect();
    let policy = policy().with_revoked_poll(POLL).unwrap();
    let (refresh, time_out) = (policy.refresh(), policy.call_timeout());
    let real = Arc::new(Real::over(&customers, policy).await);
    let lives = cases.iter().map(|case| tokio::spawn(life(real.clone(), case.clone(), refresh + time_out)));
    let lives: Vec<Measured> = future::join_all(lives).await.into_iter().map(Result::unwrap).collect();

    println!("refresh {refresh:?}, poll {POLL:?}, time-out of a call {time_out:?}; AWS KMS is ministack");
    println!("| vault | taken away | served after | all refused after | refused | back after | read |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (Case { customer, how, .. }, of) in cases.iter().map(AsRef::as_ref).zip(&lives) {
        println!(
            "| {} | {how} | {} | {:.2?} | {} of {BLOCKS} | {:.2?} | {} of {BLOCKS} |",
            customer.name, of.served, of.refused_after, of.refused, of.back_after, of.read
        );
    }
    for (case, of) in cases.iter().zip(&lives) {
        let of_all = (of.refused, of.read);
        assert_eq!(of_all, (BLOCKS, BLOCKS), "{}: {}", case.customer.name, case.how);
    }
    real.engine.close().await.unwrap();
}

async fn life(real: Arc<Real>, case: Arc<Case>, within: Duration) -> Measured {
    let what = format!("{}, {}", case.customer.name, case.how);
    let key = if case.customer.name == "openbao" { "disabled" } else { KEY };
    let key = case.customer.owner.create(key).await;
    let account = real.create_account(&case.customer, key.clone()).await;
    for n in 0..BLOCKS {
        account.put(&block(n), content(n).into()).await.unwrap();
    }
    assert_eq!(lost(&account, 0..BLOCKS).await, [""; 0], "{what}");

    case.take_away(&key).await;
    let taken = Stopwatch::start();
    let late = BlockId::new("late").unwrap();
    let (mut served, mut last) = (0, None);
    let refused_after = loop {
        let n = served % BLOCKS;
        let text = format!("write {served}");
        let (read, write) =
            future::join(account.get(&block(n)), account.put(&late, text.clone().into())).await;
        let after = taken.read();
        if is_revoked(&read) && is_revoked(&write) {
            break after;
        }
        assert!(after <= within, "{what}: still served after {after:?}: {read:?} {write:?}");
        assert!(read.is_ok() || is_revoked(&read), "{what}: {read:?}");
        assert!(write.is_ok() || is_revoked(&write), "{what}: {write:?}");
        served += usize::from(read.is_ok()) + usize::from(write.is_ok());
        last = write.is_ok().then_some(text).or(last);
        tokio::time::sleep(STEP).await;
    };
    assert!(refused_after <= within, "{what}: refused only after {refused_after:?}");
    let mut refused = 0;
    for n in 0..BLOCKS {
        refused += usize::from(is_revoked(&account.get(&block(n)).await));
    }
    assert!(is_revoked(&account.put(&late, "refused".into()).await), "{what}");
    assert_eq!(key_state(&account).await, KeyState::Revoked, "{what}");

    case.give_back(&key).await;
    let given = Stopwatch::start();
    let back_after = loop {
        let read = account.get(&block(0)).await;
        let after = given.read();
        let within = POLL + Duration::from_secs(5);
        assert!(after <= within, "{what}: {read:?} after {after:?}");
        match read {
            Ok(_) => break after,
            refused => assert!(is_revoked(&refused), "{what}: {refused:?}"),
        }
        tokio::time::sleep(STEP).await;
    };
    let lost = lost(&account, 0..BLOCKS).await;
    if let Some(last) = last {
        assert_eq!(account.get(&late).await.unwrap(), last, "{what}: what was acknowledged is kept");
    }
    assert_eq!(lost, [""; 0], "{what}");
    Measured { served, refused_after, refused, back_after, read: BLOCKS - lost.len() }
}
