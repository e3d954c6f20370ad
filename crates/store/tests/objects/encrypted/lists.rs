//! Lists show objects as long as their plaintext is, and nothing of the store's own.

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{Error, ObjectStore, ObjectStoreExt, path::Path};

use super::world::{World, said};

async fn filled() -> World {
    let world = World::new().await;
    for (path, len) in [("a/one", 0), ("a/two", 4096), ("a/b/three", 4097), ("four", 100_000)] {
        world.put(path, &vec![7; len]).await;
    }
    world
}

#[tokio::test(start_paused = true)]
async fn lists_tell_the_plaintexts_lengths() {
    let world = filled().await;
    let list = async |prefix: Option<&str>| {
        let prefix = prefix.map(Path::from);
        let listed = world.store.list(prefix.as_ref()).map_ok(|meta| (meta.location.to_string(), meta.size));
        let mut listed: Vec<_> = listed.try_collect().await.unwrap();
        listed.sort();
        listed
    };
    let of = |listed: &[(&str, u64)]| {
        listed.iter().map(|(path, len)| (path.to_string(), *len)).collect::<Vec<_>>()
    };
    assert_eq!(
        list(None).await,
        of(&[("a/b/three", 4097), ("a/one", 0), ("a/two", 4096), ("four", 100_000)])
    );
    assert_eq!(list(Some("a/b")).await, of(&[("a/b/three", 4097)]));
    let after = world.store.list_with_offset(None, &Path::from("a/one")).map_ok(|meta| meta.size);
    let mut after: Vec<_> = after.try_collect().await.unwrap();
    after.sort();
    assert_eq!(after, [4096, 100_000]);
    let level = world.store.list_with_delimiter(Some(&Path::from("a"))).await.unwrap();
    assert_eq!(level.common_prefixes, [Path::from("a/b")]);
    let mut sizes: Vec<_> = level.objects.iter().map(|meta| meta.size).collect();
    sizes.sort();
    assert_eq!(sizes, [0, 4096]);
}

#[tokio::test(start_paused = true)]
async fn what_is_the_stores_own_is_hidden_and_can_not_be_touched() {
    let world = filled().await;
    let (marker, free) = (Path::from(".cofferdam/store"), Path::from(".cofferdam/free"));
    assert!(world.below.head(&marker).await.is_ok());
    assert_eq!(world.store.list(None).count().await, 4);
    assert_eq!(world.store.list(Some(&Path::from(".cofferdam"))).count().await, 0);
    assert_eq!(world.store.list_with_offset(None, &Path::from("")).count().await, 4);
    let top = world.store.list_with_delimiter(None).await.unwrap();
    assert_eq!(top.common_prefixes, [Path::from("a")]);
    let own = world.store.list_with_delimiter(Some(&Path::from(".cofferdam"))).await.unwrap();
    assert!(own.objects.is_empty() && own.common_prefixes.is_empty());

    for none in [
        world.store.get(&marker).await.map(drop),
        world.store.head(&marker).await.map(drop),
        world.store.get_ranges(&marker, &[0..1]).await.map(drop),
        world.store.copy(&marker, &Path::from("b")).await,
        world.store.rename(&marker, &Path::from("b")).await,
    ] {
        assert!(matches!(none, Err(Error::NotFound { .. })), "{none:?}");
    }
    for refused in [
        world.store.put(&free, "x".into()).await.map(drop),
        world.store.put_multipart(&free).await.map(drop),
        world.store.copy(&Path::from("four"), &free).await,
        world.store.rename(&Path::from("four"), &free).await,
        world.store.delete(&marker).await,
    ] {
        let (error, name) = said(refused);
        assert_eq!(name, "Reserved");
        assert!(matches!(error, Error::NotSupported { .. }), "{error}");
    }
    assert!(world.below.head(&marker).await.is_ok());
    assert!(world.below.head(&free).await.is_err());
    assert_eq!(world.get("four").await.unwrap().len(), 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_deletions_answers_each() {
    let world = filled().await;
    let paths = ["a/one", ".cofferdam/store", "a/two"].map(Path::from);
    let deleted = world.store.delete_stream(stream::iter(paths.map(Ok)).boxed()).collect::<Vec<_>>().await;
    assert_eq!(deleted.len(), 3);
    assert_eq!(*deleted[0].as_ref().unwrap(), Path::from("a/one"));
    assert_eq!(*deleted[2].as_ref().unwrap(), Path::from("a/two"));
    assert!(deleted[1].is_err());
    let mut left: Vec<_> =
        world.store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    left.sort();
    assert_eq!(left, ["a/b/three", "four"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_sealed_object_is_listed_and_can_be_deleted_and_not_read() {
    let world = World::new().await;
    for (path, bytes) in [("short", vec![1; 5]), ("long", vec![1; 5000]), ("page", vec![1; 76 + 4112])] {
        world.store_raw(path, bytes).await;
        assert_eq!(said(world.get(path).await).1, "NotEncrypted", "{path}");
        let range = world.store.get_range(&Path::from(path), 0..3).await;
        assert_eq!(said(range).1, "NotEncrypted", "{path}");
        assert_eq!(
            said(world.store.get_ranges(&Path::from(path), &[0..3]).await).1,
            "NotEncrypted",
            "{path}"
        );
    }
    assert_eq!(said(world.store.head(&Path::from("short")).await).1, "NotEncrypted");
    let mut sizes: Vec<_> = world.store.list(None).map_ok(|meta| meta.size).try_collect().await.unwrap();
    sizes.sort();
    assert_eq!(sizes, [5, 4096, 5000 - 76 - 32]);
    for path in ["short", "long", "page"] {
        world.store.delete(&Path::from(path)).await.unwrap();
    }
    assert_eq!(world.store.list(None).count().await, 0);
}
