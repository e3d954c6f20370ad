use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{Epoch, PageSize, Provider};
use cofferdam_vault::Inline;

use super::{
    super::{EmbeddedOptions, EmbeddedStore, faulty::FaultyFile},
    *,
};
use crate::block_store::{BlockStore, BufferLimit, BufferUsage, Located, Place};
use crate::plan::encode_usage;

fn account() -> AccountId {
    AccountId::from_bytes([1; 16])
}

fn id(name: &str) -> BlockId {
    BlockId::new(name).unwrap()
}

fn meta(version: u64, sealed_len: u64) -> BlockMeta {
    BlockMeta {
        version: Version::new(version),
        sealed_len,
        page_size: PageSize::DEFAULT,
        stored_at: Duration::ZERO,
        epoch: Epoch::FIRST,
        provider: Provider::Customer,
    }
}

fn located(version: u64, sealed_len: u64) -> Located {
    Located { place: Place::Store, meta: meta(version, sealed_len) }
}

fn put(name: &str, version: u64, len: usize) -> BlockOp {
    let sealed = Bytes::from(vec![version as u8; len]);
    BlockOp::Put { account: account(), id: id(name), meta: meta(version, len as u64), sealed }
}

fn plant(database: &Database, name: &str, meta: &BlockMeta, rows: &[(u32, usize)]) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    transaction.open_table(BLOCKS)?.insert(&block_key(account(), &id(name))[..], &meta.encode()[..])?;
    {
        let mut table = transaction.open_table(ROWS)?;
        for (row, len) in rows {
            table.insert(&row_key(meta.version, *row), &vec![0; *len][..])?;
        }
    }
    transaction.commit()?;
    Ok(())
}

#[tokio::test]
async fn a_stored_length_that_nothing_bears_out_is_damage_of_that_block_alone() {
    for len in [1 << 63, u64::MAX, 1 << 44, 200_000, 150_001] {
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap();
        store.commit(vec![put("good", 1, 150_000), put("bad", 2, 150_000)]).await.unwrap();
        store.inner.joint.run(|database| plant(database, "bad", &meta(2, len), &[])).unwrap();
        let whole = store.fetch(account(), &id("bad")).await.unwrap_err();
        assert_eq!(whole.kind(), StoreErrorKind::Corrupt, "{len}: {whole}");
        let ranges = [0..10, 100_000..len];
        let parts = store.read(account(), &id("bad"), &located(2, len), &ranges).await.unwrap_err();
        assert_eq!(parts.kind(), StoreErrorKind::Corrupt, "{len}: {parts}");
        let removal = BlockOp::Delete { account: account(), id: id("bad"), version: Version::new(3) };
        // Two rows too few for the first lengths, a wrong last one for the last: only what is missing is met.
        if len != 150_001 {
            let removed = store.commit(vec![removal]).await.unwrap_err();
            assert_eq!(removed.kind(), StoreErrorKind::Corrupt, "{len}: {removed}");
        }
        assert_eq!(store.commit(vec![put("new", 4, 70_000)]).await.unwrap(), [Applied::Written]);
        assert_eq!(store.fetch(account(), &id("good")).await.unwrap().unwrap().1.len(), 150_000);
        let report = store.verify().await.unwrap();
        assert_eq!((report.blocks, report.damaged_blocks), (2, vec![(account(), id("bad"))]), "{len}");
        assert_eq!(store.activity().panics_caught, 0);
    }
}

#[tokio::test]
async fn a_planted_last_row_makes_nobody_take_memory_that_is_not_there() {
    let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let store = EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap();
    let last = u32::MAX - 1;
    let planted = meta(1, u64::from(last) * ROW as u64 + 5);
    store.inner.joint.run(|database| plant(database, "bad", &planted, &[(last, 5)])).unwrap();
    let error = store.fetch(account(), &id("bad")).await.unwrap_err();
    // No memory for it, or there is and the first row is missing.
    assert!(matches!(error.kind(), StoreErrorKind::TooLarge | StoreErrorKind::Corrupt), "{error}");
    assert_eq!(store.commit(vec![put("new", 4, 70_000)]).await.unwrap(), [Applied::Written]);
    assert_eq!(store.activity().panics_caught, 0);
}

fn buffer(name: &str, version: u64, len: usize) -> BlockOp {
    let limit = BufferLimit { bytes: u64::MAX, since: Duration::ZERO };
    let (meta, sealed) = (meta(version, len as u64), Bytes::from(vec![version as u8; len]));
    BlockOp::Buffer { account: account(), id: id(name), meta, sealed, limit, segment: None }
}

async fn buffering_store() -> EmbeddedStore {
    let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let store = EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap();
    let batch = vec![put("stored", 1, 130_000), buffer("buffered", 2, 70_000), put("both", 3, 10)];
    store.commit(batch).await.unwrap();
    store.commit(vec![buffer("both", 4, 20)]).await.unwrap();
    assert!(store.verify().await.unwrap().is_sound());
    store
}

/// Changes the tables behind the store's back.
fn tamper(store: &EmbeddedStore, change: impl Fn(&redb::WriteTransaction) -> Result<(), Fault>) {
    let committed = store.inner.joint.run(|database| {
        let transaction = database.begin_write()?;
        change(&transaction)?;
        transaction.commit()?;
        Ok(())
    });
    committed.unwrap();
}

fn set_usage(transaction: &redb::WriteTransaction, blocks: u64, bytes: u64) -> Result<(), Fault> {
    let usage = encode_usage(&BufferUsage { blocks, bytes, since: Duration::ZERO });
    transaction.open_table(BUFFERED)?.insert(account().as_bytes(), &usage[..])?;
    Ok(())
}

async fn structure(store: &EmbeddedStore) -> String {
    let report = store.verify().await.unwrap();
    assert_eq!(store.activity().panics_caught, 0);
    let error = report.structure.expect("something is wrong");
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
    error.to_string()
}

#[tokio::test]
async fn verify_finds_a_row_that_is_no_blocks_or_two_blocks() {
    let store = buffering_store().await;
    tamper(&store, |tables| {
        tables.open_table(ROWS)?.insert(&row_key(Version::new(99), 0), &[0; 9][..])?;
        Ok(())
    });
    assert!(structure(&store).await.contains("there are 8 rows, and blocks have 7"));
    // Two blocks with one version, and as many rows too many as they share.
    let store = buffering_store().await;
    tamper(&store, |tables| {
        let key = block_key(account(), &id("twin"));
        tables.open_table(BLOCKS)?.insert(&key[..], &meta(2, 70_000).encode()[..])?;
        let mut rows = tables.open_table(ROWS)?;
        rows.insert(&row_key(Version::new(98), 0), &[0; 9][..])?;
        rows.insert(&row_key(Version::new(98), 1), &[0; 9][..])?;
        Ok(())
    });
    assert!(structure(&store).await.contains("two blocks have version 2"));
}

#[tokio::test]
async fn verify_finds_a_usage_that_is_not_what_the_buffer_holds() {
    for (blocks, bytes) in [(1, 70_020), (2, 70_019), (3, 70_020)] {
        let store = buffering_store().await;
        tamper(&store, |tables| set_usage(tables, blocks, bytes));
        assert!(structure(&store).await.contains("is not what it holds"), "{blocks}, {bytes}");
    }
    let store = buffering_store().await;
    tamper(&store, |tables| {
        tables.open_table(BUFFERED)?.remove(account().as_bytes())?;
        Ok(())
    });
    assert!(structure(&store).await.contains("is not what it holds"));
    // Taking something out of it would make a number less than nothing.
    let removal = BlockOp::Delete { account: account(), id: id("buffered"), version: Version::new(9) };
    assert_eq!(store.commit(vec![removal]).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let store = buffering_store().await;
    tamper(&store, |tables| {
        let usage = encode_usage(&BufferUsage { blocks: 1, bytes: 1, since: Duration::ZERO });
        tables.open_table(BUFFERED)?.insert(&[9; 16], &usage[..])?;
        Ok(())
    });
    assert!(structure(&store).await.contains("is not what it holds"), "nothing is buffered there");
}

#[tokio::test]
async fn a_usage_that_does_not_decode_is_damage_of_that_account_alone() {
    for bytes in [&[][..], &[0; 29], &[1; 28], &[1; 30], &[1; 29]] {
        let store = buffering_store().await;
        tamper(&store, |tables| {
            tables.open_table(BUFFERED)?.insert(account().as_bytes(), bytes)?;
            Ok(())
        });
        let corrupt = StoreErrorKind::Corrupt;
        if bytes != [1; 29] {
            assert_eq!(store.buffer_usage(account()).await.unwrap_err().kind(), corrupt);
            assert_eq!(store.buffering(None, 9).await.unwrap_err().kind(), corrupt);
            assert_eq!(store.commit(vec![buffer("more", 9, 9)]).await.unwrap_err().kind(), corrupt);
        }
        let other = AccountId::from_bytes([7; 16]);
        let mut op = buffer("more", 10, 9);
        if let BlockOp::Buffer { account, .. } = &mut op {
            *account = other;
        }
        assert_eq!(store.commit(vec![op, put("more", 11, 9)]).await.unwrap(), [Applied::Written; 2]);
        assert_eq!(store.buffer_usage(other).await.unwrap().unwrap().bytes, 9);
        assert_eq!(store.fetch(account(), &id("buffered")).await.unwrap().unwrap().1.len(), 70_000);
        structure(&store).await;
    }
}

#[tokio::test]
async fn a_block_that_is_stored_as_new_as_it_is_buffered_is_damage_of_that_block() {
    let store = buffering_store().await;
    tamper(&store, |tables| {
        let key = block_key(account(), &id("both"));
        tables.open_table(BLOCKS)?.insert(&key[..], &meta(4, 20).encode()[..])?;
        tables.open_table(ROWS)?.remove(&row_key(Version::new(3), 0))?;
        Ok(())
    });
    for found in [
        store.stat(account(), &id("both")).await.map(drop),
        store.fetch(account(), &id("both")).await.map(drop),
        BlockStore::list(&store, account(), None, 9).await.map(drop),
    ] {
        assert_eq!(found.unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
    let report = store.verify().await.unwrap();
    assert_eq!(report.damaged_blocks, [(account(), id("both"))]);
    assert!(!report.is_sound());
    assert_eq!(store.fetch(account(), &id("stored")).await.unwrap().unwrap().1.len(), 130_000);
}

#[tokio::test]
async fn removing_an_account_goes_on_over_damage_and_leaves_a_sound_store() {
    let store = buffering_store().await;
    let other = AccountId::from_bytes([2; 16]);
    let BlockOp::Put { id: name, meta, sealed, .. } = put("others", 50, 70_000) else { panic!() };
    store.commit(vec![BlockOp::Put { account: other, id: name.clone(), meta, sealed }]).await.unwrap();
    tamper(&store, |tables| {
        // A block without one of its rows, one said to be longer than can be, a usage that is not what there is, and a
        // segment of nothing.
        tables.open_table(ROWS)?.remove(&row_key(Version::new(1), 1))?;
        let key = block_key(account(), &id("planted"));
        tables.open_table(BLOCKS)?.insert(&key[..], &self::meta(60, u64::MAX).encode()[..])?;
        let segment = [account().as_bytes().as_slice(), &[7; 16]].concat();
        let segment: [u8; 32] = segment.try_into().expect("it has 32 bytes");
        tables.open_table(SEGMENTS)?.insert(&segment, &[&[1][..], &[0, 0, 0, 0, 0, 0, 0, 5]].concat()[..])?;
        set_usage(tables, 1, 5)
    });
    let mut removed = Vec::new();
    loop {
        let n = store.remove_blocks(account(), 2).await.unwrap();
        if n == 0 {
            break;
        }
        removed.push(n);
    }
    assert_eq!(removed, [2, 2, 2], "three stored, two buffered, a segment");
    let report = store.verify().await.unwrap();
    assert!(report.is_sound() && (report.blocks, report.buffered_blocks) == (1, 0), "{report:?}");
    assert_eq!(store.fetch(other, &name).await.unwrap().unwrap().1.len(), 70_000);
    assert_eq!(store.last_version().await.unwrap(), Version::new(50));
}

#[tokio::test]
async fn a_table_that_this_program_does_not_know_is_not_left_behind_by_a_compaction() {
    let store = buffering_store().await;
    let newer: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("newer");
    tamper(&store, |tables| {
        tables.open_table(newer)?.insert(1, 2)?;
        Ok(())
    });
    let error = store.compact().await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::NewerFormat { .. }), "{error}");
    assert!(error.to_string().contains("newer"), "{error}");
    assert_eq!(store.fetch(account(), &id("stored")).await.unwrap().unwrap().1.len(), 130_000);
}
