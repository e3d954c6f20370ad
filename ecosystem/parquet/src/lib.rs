//! Parquet files, written and read through an encrypted object store.
