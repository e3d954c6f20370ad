//! Parquet files in an object store that is sealed under a customer's key.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test, with figures"
)]
#![expect(
    deprecated,
    reason = "parquet 60 wants each system to have a reader of its own; they are as this one is"
)]

mod a_revoked_key_stops_a_read;
mod nothing_is_in_the_clear;
mod one_process_writes_and_another_reads;
mod what_is_fetched_beyond_what_was_asked_for;
#[path = "../../../world.rs"]
mod world;

use std::{ops::Range, sync::Arc};

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use futures_util::TryStreamExt;
use object_store::{ObjectStore, buffered::BufWriter, path::Path};
use parquet::{
    arrow::{
        AsyncArrowWriter, ParquetRecordBatchStreamBuilder, ProjectionMask,
        async_reader::{ParquetObjectReader, ParquetRecordBatchStream},
    },
    errors::ParquetError,
    file::properties::WriterProperties,
};

/// Rows of a row group.
const GROUP: usize = 20_000;
const GROUPS: usize = 6;
const COLUMNS: [&str; 5] = ["id", "employee", "iban", "salary", "remark"];

fn path() -> Path {
    Path::from("payroll/2026-11.parquet")
}

/// The rows of a group. They follow from its number, so that who reads them knows them.
fn group(number: usize) -> RecordBatch {
    let rows = || number * GROUP..(number + 1) * GROUP;
    let numbers =
        |number: fn(usize) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows().map(number))) };
    let texts =
        |text: fn(usize) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows().map(text))) };
    RecordBatch::try_from_iter([
        (COLUMNS[0], numbers(|n| n as i64)),
        (COLUMNS[1], texts(|n| format!("employee-{n:06}"))),
        (COLUMNS[2], texts(|n| format!("DE89{:018}", n * 7_919))),
        (COLUMNS[3], numbers(|n| (n as i64).wrapping_mul(2_654_435_761) % 9_999_991)),
        (COLUMNS[4], texts(|n| format!("remark on {n}: {}", "5105-1051-0510-5100 ".repeat(3 + n % 5)))),
    ])
    .unwrap()
}

/// Writes the file, as a program does that has never heard of keys.
async fn write(store: &Arc<dyn ObjectStore>) -> Result<(), ParquetError> {
    let first = group(0);
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP))
        .set_dictionary_enabled(false)
        .build();
    let out = BufWriter::new(store.clone(), path());
    let mut writer = AsyncArrowWriter::try_new(out, first.schema(), Some(properties))?;
    for number in 0..GROUPS {
        writer.write(&group(number)).await?;
    }
    writer.close().await?;
    Ok(())
}

/// These columns of these row groups, a batch a row group.
async fn open(
    store: &Arc<dyn ObjectStore>,
    columns: Range<usize>,
    groups: Range<usize>,
) -> Result<ParquetRecordBatchStream<ParquetObjectReader>, ParquetError> {
    let reader = ParquetObjectReader::new(store.clone(), path());
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
    builder.with_projection(mask).with_row_groups(groups.collect()).with_batch_size(GROUP).build()
}

/// Reads them, and compares them with what was written.
async fn read_and_check(
    store: &Arc<dyn ObjectStore>,
    columns: Range<usize>,
    groups: Range<usize>,
) -> Result<(), ParquetError> {
    let indices: Vec<_> = columns.clone().collect();
    let batches: Vec<_> = open(store, columns, groups.clone()).await?.try_collect().await?;
    assert_eq!(batches.len(), groups.len());
    for (batch, number) in batches.iter().zip(groups) {
        assert_eq!(*batch, group(number).project(&indices).unwrap(), "group {number}");
        assert_eq!(batch.column(0).len(), GROUP);
    }
    Ok(())
}
