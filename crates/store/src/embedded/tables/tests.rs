use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{Epoch, PageSize, Provider};
use cofferdam_vault::Inline;

use super::{
    super::{EmbeddedOptions, EmbeddedStore, faulty::FaultyFile},
    *,
};
use crate::block_store::{BlockStore, Located, Place};

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
