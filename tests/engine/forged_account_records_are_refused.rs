//! Who can write to the catalog can't hand an account another key, or take it off its customer's key.

use bytes::Bytes;
use cofferdam::{
    crypto::BlockId,
    store::{Catalog, EngineError},
};

use crate::world::{World, name};

const RECORD: &str = "account/contoso";

/// Replaces the stored record, starts anew, and tells what a put and a get answer.
async fn with_record(world: &mut World, bytes: Vec<u8>) -> [Result<(), EngineError>; 2] {
    let stored = world.store.load(RECORD).await.unwrap().unwrap();
    world.store.swap(RECORD, Some(&stored.revision), Some(bytes.into())).await.unwrap();
    world.restart().await;
    let id = BlockId::new("block").unwrap();
    match world.engine.account(&name("contoso")).await {
        Ok(account) => {
            let get = account.get(&id).await.map(|data| assert_eq!(data, "content"));
            let put = account.put(&BlockId::new("other").unwrap(), "more".into()).await.map(drop);
            [get, put]
        }
        Err(e) => [Err(e), Err(EngineError::Closed)],
    }
}

async fn world() -> (World, Bytes) {
    let world = World::new(2).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    account.put(&BlockId::new("block").unwrap(), "content".into()).await.unwrap();
    let record = world.store.load(RECORD).await.unwrap().unwrap().bytes;
    (world, record)
}

fn edited(record: &[u8], edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut json = serde_json::from_slice(&record[33..]).unwrap();
    edit(&mut json);
    [&record[..33], &serde_json::to_vec(&json).unwrap()].concat()
}

#[tokio::test(start_paused = true)]
async fn an_account_can_not_be_moved_off_its_customers_key() {
    let (mut world, record) = world().await;
    let forged = edited(&record, |json| {
        json["customer"] = serde_json::Value::Null;
        json["linked"] = false.into();
    });
    for answer in with_record(&mut world, forged).await {
        assert!(matches!(answer, Err(EngineError::BadRecord { .. })), "{answer:?}");
    }
    for answer in with_record(&mut world, record.to_vec()).await {
        answer.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_principal_or_kek_can_not_be_changed() {
    let (mut world, record) = world().await;
    for (field, value) in [("principal", "somebody"), ("set", "local://customer/keys/other")] {
        let forged = edited(&record, |json| json["customer"]["keks"][0][field] = value.into());
        for answer in with_record(&mut world, forged).await {
            assert!(matches!(answer, Err(EngineError::BadRecord { .. })), "{field}: {answer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_accounts_record_is_refused() {
    let (mut world, _) = world().await;
    world.engine.create_account(&name("fabrikam"), world.customer_key()).await.unwrap();
    let other = world.store.load("account/fabrikam").await.unwrap().unwrap().bytes;
    let renamed = edited(&other, |json| json["name"] = "contoso".into());
    for bytes in [other.to_vec(), renamed] {
        let [answer, _] = with_record(&mut world, bytes).await;
        assert!(matches!(answer, Err(EngineError::BadRecord { .. })), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_format_is_named() {
    let (mut world, record) = world().await;
    let [answer, _] = with_record(&mut world, [&[4], &record[1..]].concat()).await;
    assert!(matches!(answer, Err(EngineError::NewerRecord { found: 4, supported: 3, .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn no_flipped_bit_or_cut_of_a_record_is_obeyed() {
    let (mut world, record) = world().await;
    let mut refused = 0;
    for at in (0..record.len()).step_by(11) {
        let mut flipped = record.to_vec();
        flipped[at] ^= 1 << (at % 8);
        for answer in with_record(&mut world, flipped).await {
            assert!(answer.is_err(), "the bit at byte {at} was not missed");
        }
        for answer in with_record(&mut world, record[..at].to_vec()).await {
            assert!(answer.is_err(), "what was cut at byte {at} was not missed");
        }
        refused += 2;
    }
    println!("{refused} damaged records of {} bytes, 0 obeyed", record.len());
    assert!(refused > 100);
}

#[tokio::test(start_paused = true)]
async fn a_copy_under_another_name_does_not_take_the_account_over() {
    let (mut world, record) = world().await;
    let copy = edited(&record, |json| json["name"] = "evil".into());
    world.store.swap("account/evil", None, Some(copy.into())).await.unwrap();
    for first in ["contoso", "evil"] {
        world.restart().await;
        let id = BlockId::new("block").unwrap();
        let _ = world.engine.account(&name(first)).await.unwrap().get(&id).await;
        if let Ok(evil) = world.engine.account(&name("evil")).await {
            let answer = evil.get(&id).await;
            assert!(matches!(answer, Err(EngineError::BadRecord { .. })), "{answer:?}");
        }
        let account = world.engine.account(&name("contoso")).await.unwrap();
        assert_eq!(account.get(&id).await.unwrap(), "content", "after {first}");
    }
}
