//! Each path has one account, and its objects open under that account's key alone.

use cofferdam_store::encrypted::{Accounts, EncryptedObjectStore};
use object_store::{ObjectStoreExt, path::Path};

use super::world::{World, open, said};

#[tokio::test(start_paused = true)]
async fn the_longest_prefix_has_the_account() {
    let world = World::new().await;
    let accounts = Accounts::by_prefix([
        (Path::from("tenants"), world.account.clone()),
        (Path::from("tenants/other"), world.other.clone()),
    ]);
    let store = open(world.below.clone(), accounts).await;
    for path in ["tenants/a", "tenants/otherwise", "tenants/other", "tenants/other/b/c"] {
        store.put(&Path::from(path), "text".into()).await.unwrap();
        assert_eq!(store.get(&Path::from(path)).await.unwrap().bytes().await.unwrap(), "text");
    }
    let outside = Path::from("elsewhere");
    assert_eq!(said(store.put(&outside, "x".into()).await).1, "NoAccount");
    assert_eq!(said(store.put_multipart(&outside).await).1, "NoAccount");

    // Whose key it is shows where one account is asked for all.
    let one = open(world.below.clone(), world.account.clone()).await;
    let other = open(world.below.clone(), world.other.clone()).await;
    for (path, of_other) in [
        ("tenants/a", false),
        ("tenants/otherwise", false),
        ("tenants/other", true),
        ("tenants/other/b/c", true),
    ] {
        let path = Path::from(path);
        let (its, not_its) = if of_other { (&other, &one) } else { (&one, &other) };
        assert_eq!(its.get(&path).await.unwrap().bytes().await.unwrap(), "text");
        assert_eq!(said(not_its.get(&path).await).1, "Damaged");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_between_prefixes_changes_the_account() {
    let world = World::new().await;
    let accounts = Accounts::by_prefix([
        (Path::from("a"), world.account.clone()),
        (Path::from("b"), world.other.clone()),
    ]);
    let store = open(world.below.clone(), accounts).await;
    let (from, to) = (Path::from("a/x"), Path::from("b/x"));
    store.put(&from, "text".into()).await.unwrap();
    store.copy(&from, &to).await.unwrap();
    assert_eq!(store.get(&to).await.unwrap().bytes().await.unwrap(), "text");
    let other = open(world.below.clone(), world.other.clone()).await;
    assert_eq!(other.get(&to).await.unwrap().bytes().await.unwrap(), "text");
    store.rename(&to, &Path::from("a/y")).await.unwrap();
    let one = open(world.below.clone(), world.account.clone()).await;
    assert_eq!(one.get(&Path::from("a/y")).await.unwrap().bytes().await.unwrap(), "text");
}

#[tokio::test(start_paused = true)]
async fn paths_that_can_not_be_bound_are_refused() {
    let world = World::new().await;
    let store: &EncryptedObjectStore = &world.store;
    let long = Path::from("x".repeat(1025));
    assert_eq!(said(store.put(&long, "x".into()).await).1, "Unnameable");
    assert_eq!(said(store.put_multipart(&long).await).1, "Unnameable");
    assert_eq!(said(store.put(&Path::default(), "x".into()).await).1, "Unnameable");
    store.put(&Path::from("x".repeat(1024)), "x".into()).await.unwrap();
    assert!(format!("{store:?}").contains("payroll"), "{store:?}");
    assert_eq!(store.to_string(), "EncryptedObjectStore(Watched)");
}
