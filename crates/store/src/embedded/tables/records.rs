//! The catalog's records.
//!
//! Guarantees: a record changes only from the revision that its writer expects; no revision comes twice.
//!
//! Not its job: what records say.

use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use redb::{Database, ReadableDatabase, ReadableTable, Table};

use super::{CATALOG, corrupt, existing};
use crate::{
    catalog::{Revision, Stored},
    embedded::guard::Fault,
    error::{StoreError, StoreErrorKind},
};

pub(super) fn swap(
    catalog: &mut Table<'_, &'static str, &'static [u8]>,
    key: &str,
    expected: Option<&Revision>,
    new: Option<&Bytes>,
    last: &mut u64,
) -> Result<Result<Option<Revision>, StoreError>, Fault> {
    let stored = match catalog.get(key)? {
        Some(stored) => Some(decode_record(stored.value())?.revision),
        None => None,
    };
    if stored.as_ref() != expected {
        let detail = match stored {
            Some(_) => format!("record {key:?} has another revision"),
            None => format!("record {key:?} does not exist"),
        };
        return Ok(Err(StoreError::new(StoreErrorKind::Conflict).with_detail(detail)));
    }
    let Some(new) = new else {
        catalog.remove(key)?;
        return Ok(Ok(None));
    };
    *last += 1;
    let mut record = BytesMut::with_capacity(8 + new.len());
    record.extend_from_slice(&last.to_be_bytes());
    record.extend_from_slice(new);
    catalog.insert(key, &record[..])?;
    Ok(Ok(Some(revision(*last))))
}

pub(crate) fn load(database: &Database, key: &str) -> Result<Option<Stored>, Fault> {
    let reader = database.begin_read()?;
    let Some(catalog) = existing(reader.open_table(CATALOG))? else { return Ok(None) };
    Ok(match catalog.get(key)? {
        Some(record) => Some(decode_record(record.value())?),
        None => None,
    })
}

pub(crate) fn list_records(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Stored)>, Fault> {
    let reader = database.begin_read()?;
    let Some(catalog) = existing(reader.open_table(CATALOG))? else { return Ok(Vec::new()) };
    let lower = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut found = Vec::new();
    for entry in catalog.range::<&str>((lower, Bound::Unbounded))?.take(limit) {
        let (key, record) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_owned(), decode_record(record.value())?));
    }
    Ok(found)
}

fn revision(number: u64) -> Revision {
    Revision::new(number.to_string())
}

fn decode_record(record: &[u8]) -> Result<Stored, StoreError> {
    match record.split_first_chunk::<8>() {
        Some((number, bytes)) => Ok(Stored {
            bytes: Bytes::copy_from_slice(bytes),
            revision: revision(u64::from_be_bytes(*number)),
        }),
        None => Err(corrupt("a record does not decode")),
    }
}
