//! Copying every table into an empty database, a piece at a time.
//!
//! Guarantees: rows are copied as the bytes that they are; a table that this program does not know is not left behind
//! without a word; the sums are compared at the end. What is in memory at a time is bounded.
//!
//! Not its job: which file is where ([`crate::embedded::compact`]), or that nothing changes meanwhile.

use std::ops::Bound;

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTableMetadata, TableDefinition, TableHandle,
    Value,
};

use super::{BLOCKS, BUFFER, BUFFERED, CATALOG, META, ROWS, SEGMENTS, corrupt, existing};
use crate::{
    embedded::{guard::Fault, header::FORMAT},
    error::{StoreError, StoreErrorKind},
};

/// How many bytes of keys and values a piece has, about.
const PIECE: usize = 4 << 20;

/// Rows of one table, in order.
#[derive(Debug, Default)]
pub(crate) struct Piece(Vec<(Vec<u8>, Vec<u8>)>);

impl Piece {
    /// Where it ends; `None` for an empty one, which is the end of the table.
    pub(crate) fn last_key(&self) -> Option<Vec<u8>> {
        self.0.last().map(|(key, _)| key.clone())
    }
}

/// A table, to be copied.
pub(crate) struct Copied {
    name: &'static str,
    read: fn(&Database, Option<&[u8]>) -> Result<Piece, Fault>,
    write: fn(&Database, &Piece) -> Result<(), Fault>,
    len: fn(&ReadTransaction) -> Result<Option<u64>, Fault>,
}

macro_rules! tables {
    ($($table:ident = $name:literal),*) => {
        &[$(Copied {
            name: $name,
            read: |database, after| read(database, $table, after),
            write: |database, piece| write(database, $table, piece),
            len: |reader| Ok(match existing(reader.open_table($table))? {
                Some(table) => Some(table.len()?),
                None => None,
            }),
        }),*]
    };
}

/// Every table there is.
pub(crate) const ALL: &[Copied] = tables![
    BLOCKS = "blocks",
    BUFFER = "buffer",
    ROWS = "rows",
    BUFFERED = "buffered",
    SEGMENTS = "segments",
    CATALOG = "catalog",
    META = "meta"
];

impl Copied {
    /// The next rows after this key.
    pub(crate) fn read(&self, database: &Database, after: Option<&[u8]>) -> Result<Piece, Fault> {
        (self.read)(database, after)
    }

    /// Appends rows. How durable that is does not matter before [`finish`].
    pub(crate) fn write(&self, database: &Database, piece: &Piece) -> Result<(), Fault> {
        (self.write)(database, piece)
    }
}

fn read<K: Key + 'static, V: Value + 'static>(
    database: &Database,
    table: TableDefinition<'_, K, V>,
    after: Option<&[u8]>,
) -> Result<Piece, Fault> {
    let reader = database.begin_read()?;
    let Some(table) = existing(reader.open_table(table))? else { return Ok(Piece::default()) };
    let lower = after.map_or(Bound::Unbounded, |after| Bound::Excluded(K::from_bytes(after)));
    let mut piece = Piece::default();
    let mut bytes = 0;
    for entry in table.range::<K::SelfType<'_>>((lower, Bound::Unbounded))? {
        let (key, value) = entry?;
        let key = K::as_bytes(&key.value()).as_ref().to_vec();
        let value = V::as_bytes(&value.value()).as_ref().to_vec();
        bytes += key.len() + value.len();
        piece.0.push((key, value));
        if bytes >= PIECE {
            break;
        }
    }
    Ok(piece)
}

fn write<K: Key + 'static, V: Value + 'static>(
    database: &Database,
    table: TableDefinition<'_, K, V>,
    piece: &Piece,
) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(table)?;
        for (key, value) in &piece.0 {
            table.insert(K::from_bytes(key), V::from_bytes(value))?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Refuses to copy what holds a table of a newer program's.
pub(crate) fn check_known(database: &Database) -> Result<(), Fault> {
    let reader = database.begin_read()?;
    for table in reader.list_tables()? {
        if !ALL.iter().any(|known| known.name == table.name()) {
            let newer = StoreErrorKind::NewerFormat { found: FORMAT + 1, supported: FORMAT };
            let detail = format!("this program does not know the table {:?}", table.name());
            return Err(StoreError::new(newer).with_detail(detail).into());
        }
    }
    Ok(())
}

/// The last transaction of a copy: from here on it is as every transaction leaves a store.
pub(crate) fn finish(database: &Database) -> Result<(), Fault> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    transaction.commit()?;
    Ok(())
}

/// How many rows each table has; `None`: there is no such table.
pub(crate) fn lengths(database: &Database) -> Result<Vec<Option<u64>>, Fault> {
    let reader = database.begin_read()?;
    ALL.iter().map(|table| (table.len)(&reader)).map(|len| Ok(len?.filter(|len| *len > 0))).collect()
}

/// Whether a copy has as many rows as what it is of.
pub(crate) fn check_same(of: &[Option<u64>], copy: &[Option<u64>]) -> Result<(), StoreError> {
    if of == copy {
        return Ok(());
    }
    Err(corrupt(format!("the copy has other rows: {copy:?} in place of {of:?}")))
}
