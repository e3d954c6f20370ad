//! A copy is sealed anew for its own path.

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{
    Attribute, Attributes, CopyOptions, Error, ObjectStore, ObjectStoreExt, RenameOptions, path::Path,
};

use super::world::{World, bytes, said};

/// More than a part.
const LARGE: usize = (11 << 20) + 5;

async fn names(world: &World) -> Vec<String> {
    let names = world.below.list(None).map_ok(|meta| meta.location.to_string());
    let mut names: Vec<_> = names.try_collect().await.unwrap();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn copies_and_renamed_objects_open_under_their_new_names() {
    let world = World::new().await;
    for len in [0, 10_000, LARGE] {
        let plain = bytes(len as u64, len);
        let attributes = Attributes::from_iter([(Attribute::ContentType, "text/csv")]);
        let (a, b, c) = (Path::from("a"), Path::from("b"), Path::from("c"));
        world.store.put_opts(&a, Bytes::from(plain.clone()).into(), attributes.clone().into()).await.unwrap();
        world.put("b", b"replaced").await;
        world.store.copy(&a, &b).await.unwrap();
        assert!(world.get("a").await.unwrap() == plain && world.get("b").await.unwrap() == plain);
        assert_eq!(world.store.get(&b).await.unwrap().attributes, attributes);
        world.store.rename(&b, &c).await.unwrap();
        assert!(world.get("c").await.unwrap() == plain);
        assert_eq!(world.store.get(&c).await.unwrap().attributes, attributes);
        let gone = world.get("b").await.unwrap_err();
        assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
        assert_eq!(names(&world).await, [".cofferdam/store", "a", "c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_must_not_replace_anything_does_not() {
    let world = World::new().await;
    for len in [10_000, LARGE] {
        let plain = bytes(len as u64, len);
        world.put("a", &plain).await;
        world.put("taken", b"taken").await;
        let (a, b, taken) = (Path::from("a"), Path::from("b"), Path::from("taken"));
        for refused in [
            world.store.copy_if_not_exists(&a, &taken).await,
            world.store.rename_if_not_exists(&a, &taken).await,
            world.store.copy_if_not_exists(&a, &a).await,
            world.store.rename_if_not_exists(&a, &a).await,
        ] {
            let error = refused.unwrap_err();
            assert!(
                matches!(&error, Error::AlreadyExists { path, .. } if path == "taken" || path == "a"),
                "{error}"
            );
        }
        assert_eq!(world.get("taken").await.unwrap(), "taken");
        world.store.copy_if_not_exists(&a, &b).await.unwrap();
        assert!(world.get("b").await.unwrap() == plain);
        world.store.delete(&b).await.unwrap();
        world.store.rename_if_not_exists(&a, &b).await.unwrap();
        assert!(world.get("b").await.unwrap() == plain);
        assert_eq!(names(&world).await, [".cofferdam/store", "b", "taken"], "nothing of a copy stays behind");
        world.store.delete(&b).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_copy_does_not_replace_what_came_to_be_meanwhile() {
    let world = World::new().await;
    world.put("a", &bytes(1, LARGE)).await;
    // Its parts wait, so the target was looked for and not found.
    world.watched.hold_parts();
    let (a, b) = (Path::from("a"), Path::from("b"));
    let meanwhile = async {
        world.store_raw("b", "meanwhile").await;
        world.watched.let_parts_through(100);
    };
    let (copied, ()) = tokio::join!(world.store.copy_if_not_exists(&a, &b), meanwhile);
    let taken = copied.unwrap_err();
    assert!(!world.watched.parts().is_empty());
    assert!(matches!(&taken, Error::AlreadyExists { path, .. } if path == "b"), "{taken}");
    assert_eq!(world.stored("b").await, "meanwhile");
    assert_eq!(names(&world).await, [".cofferdam/store", "a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_renamed_to_its_own_name_stays() {
    let world = World::new().await;
    world.put("a", b"text").await;
    let a = Path::from("a");
    world.store.rename_opts(&a, &a, RenameOptions::new()).await.unwrap();
    assert_eq!(world.get("a").await.unwrap(), "text");
    let before = world.stored("a").await;
    world.store.copy_opts(&a, &a, CopyOptions::new()).await.unwrap();
    assert_eq!(world.get("a").await.unwrap(), "text");
    assert_ne!(world.stored("a").await, before, "a copy onto itself is sealed anew");
    for none in [
        world.store.copy(&Path::from("none"), &a).await,
        world.store.rename(&Path::from("none"), &a).await,
        world.store.rename(&Path::from("none"), &Path::from("none")).await,
        world.store.copy_if_not_exists(&Path::from("none"), &Path::from("b")).await,
    ] {
        assert!(matches!(none, Err(Error::NotFound { .. })), "{none:?}");
    }
    assert_eq!(world.get("a").await.unwrap(), "text");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_open_is_not_copied() {
    let world = World::new().await;
    for len in [10_000, LARGE] {
        world.put("a", &bytes(1, len)).await;
        let mut stored = world.stored("a").await.to_vec();
        let last = stored.len() - 1;
        stored[last] ^= 1;
        world.store_raw("a", stored).await;
        assert_eq!(said(world.store.copy(&Path::from("a"), &Path::from("b")).await).1, "Damaged");
        assert_eq!(
            said(world.store.copy_if_not_exists(&Path::from("a"), &Path::from("b")).await).1,
            "Damaged"
        );
        assert_eq!(said(world.store.rename(&Path::from("a"), &Path::from("b")).await).1, "Damaged");
        assert_eq!(names(&world).await, [".cofferdam/store", "a"]);
    }
}
