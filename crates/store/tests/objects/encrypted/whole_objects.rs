//! What is put comes back, and is stored as sealed blocks and nothing else.

use cofferdam_crypto::{Header, PageSize, ProviderKind, sealed_len};
use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion, path::Path,
};

use super::world::{World, bytes};

#[tokio::test(start_paused = true)]
async fn objects_of_any_length_come_back() {
    let world = World::new().await;
    for len in [0, 1, 75, 4095, 4096, 4097, 8192, 100_000, 300_000] {
        let plain = bytes(len as u64, len);
        world.put("a/b", &plain).await;
        let path = Path::from("a/b");
        let got = world.store.get(&path).await.unwrap();
        assert_eq!((got.meta.size, got.range.clone()), (len as u64, 0..len as u64));
        assert_eq!(got.meta.location, path);
        assert!(got.bytes().await.unwrap() == plain, "{len} bytes");
        let head = world.store.head(&path).await.unwrap();
        assert_eq!(head.size, len as u64);

        let stored = world.stored("a/b").await;
        assert_eq!(stored.len() as u64, sealed_len(len as u64, PageSize::MIN).unwrap());
        let header = Header::parse(&stored).unwrap();
        assert_eq!((header.page_size(), header.provider()), (PageSize::MIN, ProviderKind::Customer));
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_of_many_pieces_is_one_object() {
    let world = World::new().await;
    let plain = bytes(1, 50_000);
    for piece in [1000, 4096, 4097, 20_000] {
        let payload: PutPayload = plain.chunks(piece).map(bytes::Bytes::copy_from_slice).collect();
        world.store.put(&Path::from("a"), payload).await.unwrap();
        assert!(world.get("a").await.unwrap() == plain, "in pieces of {piece}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_stored_in_the_clear() {
    let world = World::new().await;
    let secret = b"the customer's own words";
    let plain = secret.repeat(5_000);
    world.put("plain", &plain).await;
    world.store.copy(&Path::from("plain"), &Path::from("copied")).await.unwrap();
    let mut upload = world.store.put_multipart(&Path::from("uploaded")).await.unwrap();
    upload.put_part(plain.clone().into()).await.unwrap();
    upload.complete().await.unwrap();
    for path in ["plain", "copied", "uploaded"] {
        let stored = world.stored(path).await;
        assert!(stored.len() > plain.len());
        assert!(!stored.windows(8).any(|window| secret.windows(8).any(|part| part == window)), "{path}");
        assert!(world.get(path).await.unwrap() == plain);
    }
    // Each time under another salt, so that equal objects can't be told.
    assert_ne!(world.stored("plain").await, world.stored("copied").await);
}

#[tokio::test(start_paused = true)]
async fn conditional_puts_are_the_stores_own() {
    let world = World::new().await;
    let path = Path::from("a");
    let put = async |text: &'static str, mode: PutMode| {
        world.store.put_opts(&path, text.into(), PutOptions::from(mode)).await
    };
    let first = put("one", PutMode::Create).await.unwrap();
    let taken = put("two", PutMode::Create).await.unwrap_err();
    assert!(matches!(&taken, Error::AlreadyExists { path, .. } if path == "a"), "{taken}");
    let second = put("three", PutMode::Update(first.clone().into())).await.unwrap();
    let stale = put("four", PutMode::Update(first.into())).await.unwrap_err();
    assert!(matches!(stale, Error::Precondition { .. }), "{stale}");
    assert_eq!(world.get("a").await.unwrap(), "three");
    let none = put("five", PutMode::Update(UpdateVersion { e_tag: None, version: None })).await.unwrap_err();
    assert!(matches!(none, Error::Generic { .. }), "{none}");

    let get = async |options: GetOptions| world.store.get_opts(&path, options).await;
    let (tag, other) = (second.e_tag.unwrap(), "\"other\"".to_owned());
    get(GetOptions::new().with_if_match(Some(tag.clone()))).await.unwrap();
    let unlike = get(GetOptions::new().with_if_match(Some(other.clone()))).await.unwrap_err();
    assert!(matches!(unlike, Error::Precondition { .. }), "{unlike}");
    let unchanged =
        get(GetOptions::new().with_if_none_match(Some(tag)).with_range(Some(0..2))).await.unwrap_err();
    assert!(matches!(unchanged, Error::NotModified { .. }), "{unchanged}");
    get(GetOptions::new().with_if_none_match(Some(other))).await.unwrap();
    let modified = world.store.head(&path).await.unwrap().last_modified;
    let unchanged = get(GetOptions::new().with_if_modified_since(Some(modified))).await.unwrap_err();
    assert!(matches!(unchanged, Error::NotModified { .. }), "{unchanged}");
    get(GetOptions::new().with_if_unmodified_since(Some(modified))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attributes_come_back() {
    let world = World::new().await;
    let attributes = Attributes::from_iter([
        (Attribute::ContentType, "text/csv"),
        (Attribute::Metadata("of".into()), "contoso"),
    ]);
    let path = Path::from("a");
    world.store.put_opts(&path, "text".into(), attributes.clone().into()).await.unwrap();
    assert_eq!(world.store.get(&path).await.unwrap().attributes, attributes);
    let head = GetOptions::new().with_head(true);
    assert_eq!(world.store.get_opts(&path, head).await.unwrap().attributes, attributes);
    let mut upload =
        world.store.put_multipart_opts(&Path::from("b"), attributes.clone().into()).await.unwrap();
    upload.put_part("text".into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(world.store.get(&Path::from("b")).await.unwrap().attributes, attributes);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found() {
    let world = World::new().await;
    let path = Path::from("no/such");
    for range in [None, Some(0..10), Some(100_000..100_001)] {
        let options = GetOptions::new().with_range(range);
        let none = world.store.get_opts(&path, options).await.unwrap_err();
        assert!(matches!(&none, Error::NotFound { path, .. } if path == "no/such"), "{none}");
    }
    let none = world.store.head(&path).await.unwrap_err();
    assert!(matches!(none, Error::NotFound { .. }), "{none}");
    let none = world.store.get_ranges(&path, &[0..1, 7..9]).await.unwrap_err();
    assert!(matches!(none, Error::NotFound { .. }), "{none}");
}
