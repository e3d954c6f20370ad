//! SlateDB over an object store that is sealed under a customer's key.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test, with figures"
)]

mod a_copy_opens;
mod a_revoked_key_stops_it;
mod a_second_writer_fences_the_first;
mod all_it_wrote_is_read;
mod nothing_is_in_the_clear;
#[path = "../../../world.rs"]
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{ObjectStore, memory::InMemory};
use slatedb::{
    Db, Settings,
    config::{CompactorOptions, FlushOptions, FlushType},
};

/// Where the database is.
const PATH: &str = "payroll";

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// Small tables, so that a little data is flushed and compacted as much would be.
fn settings() -> Settings {
    Settings {
        l0_sst_size_bytes: 64 << 10,
        compactor_options: Some(CompactorOptions {
            poll_interval: Duration::from_secs(1),
            ..CompactorOptions::default()
        }),
        ..Settings::default()
    }
}

async fn open(store: &Arc<dyn ObjectStore>, settings: Settings) -> Result<Db, slatedb::Error> {
    Db::builder(PATH, store.clone()).with_settings(settings).build().await
}

async fn flush(db: &Db) -> Result<(), slatedb::Error> {
    db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await
}

fn key(n: usize) -> Bytes {
    format!("employee/{n:05}/iban-DE89370400440532013000").into()
}

fn value(n: usize, round: usize) -> Bytes {
    format!("salary of {n} in round {round}: 5105-1051-0510-5100; ").repeat(4).into()
}

/// What a scan of everything finds.
async fn scanned(db: &Db) -> Result<BTreeMap<Bytes, Bytes>, slatedb::Error> {
    let mut rows = db.scan::<std::ops::RangeFull>(..).await?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        found.insert(row.key, row.value);
    }
    Ok(found)
}
