//! Parquet files under a customer's key: a file is sealed as it is written, and a reader fetches and opens the pages that its
//! columns and row groups are in.
//!
//! Run it with `cargo run -p cofferdam-with-parquet --example parquet`. A service has a bucket and its customers' real vaults; here
//! objects are in memory, vaults in files, and time passes by a clock of the example's own.

#![allow(clippy::print_stdout, reason = "an example")]
#![expect(
    deprecated,
    reason = "parquet 60 wants each system to have a reader of its own; this one asks a store as they do"
)]

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use cofferdam::{
    crypto::KeyId,
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        encrypted::EncryptedObjectStore,
    },
    vault::{
        Inline, LocalVault, LocalVaultOptions, Principal, SystemEntropy, VaultRegistry, testing::TokioClock,
    },
};
use futures_util::TryStreamExt;
use object_store::{buffered::BufWriter, memory::InMemory};
use parquet::arrow::{
    AsyncArrowWriter, ParquetRecordBatchStreamBuilder, ProjectionMask, async_reader::ParquetObjectReader,
};
use tokio::time::{pause, sleep};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    pause();
    let home = tempfile::tempdir()?;
    let (account, customer, kek) = account(home.path()).await?;
    let names: ArrayRef = Arc::new(StringArray::from(vec!["alice", "bob"]));
    let salaries: ArrayRef = Arc::new(Int64Array::from(vec![4_200, 3_900]));
    let rows = RecordBatch::try_from_iter([("name", names), ("salary", salaries)])?;

    // The bucket is wrapped, and Parquet is given what wraps it.
    let bucket = Arc::new(InMemory::new());
    let sealed = Arc::new(EncryptedObjectStore::open(bucket, account).await?);
    let out = BufWriter::new(sealed.clone(), "payroll.parquet".into());
    let mut writer = AsyncArrowWriter::try_new(out, rows.schema(), None)?;
    writer.write(&rows).await?;
    writer.close().await?;
    let reader = ParquetObjectReader::new(sealed.clone(), "payroll.parquet".into());
    let builder = ParquetRecordBatchStreamBuilder::new(reader.clone()).await?;
    let salaries = ProjectionMask::columns(builder.parquet_schema(), ["salary"]);
    let read: Vec<_> = builder.with_projection(salaries).build()?.try_collect().await?;
    println!("one column: {:?}", read[0].column(0));

    customer.disable(&kek).await?;
    sleep(Duration::from_secs(70)).await;
    let refusal = ParquetRecordBatchStreamBuilder::new(reader).await.err().ok_or("it was read")?;
    println!("the key is disabled: {refusal}");
    Ok(())
}

/// What a service has already: an engine, and an account whose key is in the customer's vault.
async fn account(home: &Path) -> Result<(Account, LocalVault, KeyId), Box<dyn Error>> {
    let clock = Arc::new(TokioClock::new());
    let options =
        || LocalVaultOptions::new(clock.clone(), Arc::new(SystemEntropy)).executor(Arc::new(Inline));
    let service = LocalVault::create(home.join("service.vault"), "service", options()).await?;
    let customer = LocalVault::create(home.join("customer.vault"), "customer", options()).await?;
    let (service_kek, kek) = (service.create_key("storage").await?, customer.create_key("payroll").await?);
    let principal = Principal::new("contoso");
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));
    let accounts = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let accounts = EmbeddedStore::create(home.join("accounts.store"), accounts)?;
    let engine =
        Engine::builder(Arc::new(accounts), vaults, service_kek).clock(clock).executor(Arc::new(Inline));
    let key = AccountKey::Customer { principal, kek: kek.clone(), buffer: BufferMode::default() };
    let account = engine.open().await?.create_account(&AccountName::new("payroll")?, key).await?;
    Ok((account, customer, kek))
}
