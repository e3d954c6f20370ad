use std::sync::Arc;

use object_store::memory::InMemory;

use super::{COLUMNS, GROUP, world::*, write};

/// A value of each kind, names of columns, and what Parquet itself writes.
fn needles() -> Vec<Vec<u8>> {
    let numbers = (0..GROUP as i64).step_by(1_000).map(|n| n.to_le_bytes().to_vec()).skip(1);
    let pairs = numbers.map(|n| {
        [n.clone(), (i64::from_le_bytes(n.try_into().unwrap()) + 1).to_le_bytes().to_vec()].concat()
    });
    let texts =
        ["employee-000042", "DE89", "remark on 119", "5105-1051", "PAR1", "parquet-rs", "ARROW:schema"];
    pairs.chain(texts.into_iter().chain(COLUMNS.into_iter().skip(1)).map(|text| text.into())).collect()
}

#[tokio::test(start_paused = true)]
async fn no_value_no_name_of_a_column_and_nothing_of_parquets_own() {
    let plain = Arc::new(InMemory::new());
    write(&(plain.clone() as _)).await.unwrap();
    let plain = objects(&*plain).await;
    for needle in needles() {
        assert_eq!(holding(&plain, &needle).len(), 1, "the search finds {}", needle.escape_ascii());
    }
    let world = World::new(7051).await;
    let inner = Arc::new(InMemory::new());
    let store = world.over(inner.clone()).await;
    write(&store).await.unwrap();
    assert_eq!(objects(&*store).await, plain, "the same file");
    let sealed = objects(&*inner).await;
    for needle in needles() {
        // Four bytes are somewhere in megabytes of random ones now and then.
        if needle.len() > 4 {
            assert_eq!(
                holding(&sealed, &needle),
                Vec::<&object_store::path::Path>::new(),
                "{}",
                needle.escape_ascii()
            );
        }
    }
    let [sealed] = sealed.values().filter(|bytes| bytes.len() > GROUP).collect::<Vec<_>>()[..] else {
        panic!("one file")
    };
    assert!(!sealed.starts_with(b"PAR1") && !sealed.ends_with(b"PAR1"));
}
