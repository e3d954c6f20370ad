//! Who can write to the catalog can't have an engine change an account's keys.

use bytes::Bytes;
use cofferdam::store::{Account, Catalog, OperationStatus};
use serde_json::{Value, json};

use crate::world::{NOTICED, World, id, name, stored};

fn key(account: &Account) -> String {
    format!("operation/{}", account.id())
}

async fn row(world: &World, account: &Account) -> Value {
    let stored = world.store.load(&key(account)).await.unwrap().unwrap();
    serde_json::from_slice(&stored.bytes).unwrap()
}

/// Puts this row in place, restarts, and tells how the operation ended.
async fn obeyed(world: &mut World, account: Account, row: &Value) -> (OperationStatus, String) {
    let key = key(&account);
    drop(account);
    let stored = world.store.load(&key).await.unwrap();
    let bytes = Bytes::from(serde_json::to_vec(row).unwrap());
    world.store.swap(&key, stored.as_ref().map(|stored| &stored.revision), Some(bytes)).await.unwrap();
    world.restart().await;
    tokio::time::sleep(NOTICED).await;
    world.engine.settle_operations().await;
    let operation = world.contoso_again().await.operation().await.unwrap().unwrap();
    (operation.status, operation.failure.map(|failure| failure.code).unwrap_or_default())
}

/// A genuine operation's row, as it was before it began: of a rotation that has ended since.
async fn begun(world: &World) -> (Account, Value) {
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let new = world.customer.new_version("payroll").await.unwrap();
    account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
    let mut row = row(world, &account).await;
    row["last"]["operation"]["status"] = json!("in-progress");
    row["last"]["operation"]["step"] = json!("change");
    row["last"]["operation"].as_object_mut().unwrap().remove("ended_at");
    (account, row)
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_was_told_to_do_something_else_changes_nothing() {
    for edit in ["to", "id", "base", "tag"] {
        let mut world = World::new(571).await;
        let (account, mut row) = begun(&world).await;
        let other = world.customer.create_key("other").await.unwrap();
        let record = world.store.load("account/contoso").await.unwrap().unwrap().bytes;
        match edit {
            "to" => row["last"]["operation"]["kind"]["to"] = json!(other.as_str()),
            "id" => {}
            "base" => row["last"]["base"] = json!("00".repeat(32)),
            _ => row["last"]["tag"] = json!("00".repeat(32)),
        }
        // Else it is the one that has changed the account already, and there is nothing to do.
        row["last"]["operation"]["id"] = json!("00".repeat(16));
        let (status, code) = obeyed(&mut world, account, &row).await;
        assert_eq!((status, code.as_str()), (OperationStatus::Failed, "forged"), "{edit}");
        let after = world.store.load("account/contoso").await.unwrap().unwrap().bytes;
        assert_eq!(after, record, "{edit}: the account was changed");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_of_before_that_is_put_back_is_not_done_again() {
    let mut world = World::new(572).await;
    let (account, row) = begun(&world).await;
    // The rotation away from the version that the row goes to.
    let newer = world.customer.new_version("payroll").await.unwrap();
    account.rotate_kek(None, newer.clone(), None).await.unwrap().wait().await.unwrap();
    let (status, code) = obeyed(&mut world, account, &row).await;
    assert_eq!((status, code.as_str()), (OperationStatus::Failed, "conflict"));
    let account = world.contoso_again().await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    assert_eq!(account.key_status().await.unwrap().key.key_id, Some(newer));
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_nobody_began_destroys_nothing() {
    let mut world = World::new(573).await;
    let (account, mut row) = begun(&world).await;
    row["last"]["operation"]["kind"] = json!({ "is": "purge" });
    row["last"]["operation"]["status"] = json!("deleting");
    for step in ["destroy", "remove"] {
        row["last"]["operation"]["step"] = json!(step);
        // Of an account that there is, whatever name it gives.
        row["last"]["operation"]["account"] = json!(if step == "remove" { "nobody" } else { "contoso" });
        let again = world.engine.account(&name("contoso")).await.unwrap();
        obeyed(&mut world, again, &row).await;
        assert_eq!(world.contoso_again().await.get(&id("block")).await.unwrap(), "data", "{step}");
    }
    drop(account);
}
