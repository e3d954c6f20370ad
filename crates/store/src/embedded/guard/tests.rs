use std::{
    io::{self, ErrorKind},
    sync::Mutex,
    thread,
};

use cofferdam_vault::Inline;
use redb::TableDefinition;

use super::{
    super::{
        commit::Committer,
        faulty::{Fault as FileFault, FaultyFile, FileOp},
        layer::LockedFile,
        queue::Lane,
        tables::{self, Work},
    },
    *,
};

const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("t");

fn write(database: &Database, value: u64, fails: bool) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        table.insert(1, value)?;
        assert!(!fails, "a panic with a transaction and a table open");
    }
    transaction.commit()?;
    Ok(())
}

fn read(database: &Database) -> Result<u64, Fault> {
    use redb::ReadableDatabase;
    let table = database.begin_read()?.open_table(TABLE)?;
    Ok(table.get(1)?.map_or(0, |value| value.value()))
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_panic_is_told_as_corrupt_and_poisons_the_handle() {
    let file = Arc::new(FaultyFile::new());
    let joint = Joint::create(file.clone(), None, 1 << 20).unwrap();
    joint.run(|database| write(database, 5, false)).unwrap();
    assert_eq!(kind(joint.run(|database| write(database, 6, true))), StoreErrorKind::Corrupt);
    assert_eq!(joint.caught(), 1);
    assert_eq!(kind(joint.run(read)), StoreErrorKind::Poisoned);
    assert_eq!(kind(joint.run_alone(|database| write(database, 7, false))), StoreErrorKind::Poisoned);
    joint.close().unwrap();
    assert_eq!(kind(joint.run(read)), StoreErrorKind::Closed);
    let again = Joint::open(file, None, 1 << 20).unwrap();
    assert_eq!(again.run(read).unwrap(), 5);
}

#[test]
fn a_panic_gives_up_the_lock_on_the_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("a.store");
    let file = std::fs::File::create_new(&path).unwrap();
    drop(file);
    let joint = Joint::create(Arc::new(LockedFile::open(&path).unwrap()), None, 1 << 20).unwrap();
    assert_eq!(kind(LockedFile::open(&path)), StoreErrorKind::Locked);
    assert_eq!(kind(joint.run(|database| write(database, 6, true))), StoreErrorKind::Corrupt);
    let again = Joint::open(Arc::new(LockedFile::open(&path).unwrap()), None, 1 << 20).unwrap();
    again.run(|database| write(database, 8, false)).unwrap();
    assert_eq!(again.run(read).unwrap(), 8);
}

#[test]
fn what_our_own_code_finds_wrong_is_not_tried_again_and_breaks_nothing() {
    let joint = Joint::create(Arc::new(FaultyFile::new()), None, 1 << 20).unwrap();
    joint.run(|database| write(database, 5, false)).unwrap();
    let tries = AtomicU64::new(0);
    let error = joint.run(|_| -> Result<(), Fault> {
        tries.fetch_add(1, Ordering::Relaxed);
        Err(StoreError::new(StoreErrorKind::Corrupt).into())
    });
    assert_eq!((kind(error), tries.into_inner()), (StoreErrorKind::Corrupt, 1));
    assert_eq!(joint.run(read).unwrap(), 5);
}

/// A file that does something in the midst of a sync.
#[derive(Default)]
struct Staged {
    file: FaultyFile,
    /// How many syncs go by first, and what is done then.
    during_sync: Mutex<Option<(u64, Hook)>>,
}

type Hook = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staged({:?})", self.file)
    }
}

impl FileLayer for Staged {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let due = {
            let mut staged = self.during_sync.lock().unwrap();
            match &mut *staged {
                Some((0, _)) => staged.take(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, hook)) = due {
            hook();
        }
        self.file.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn beside(&self) -> io::Result<Arc<dyn FileLayer>> {
        self.file.beside()
    }

    fn replace(&self) -> io::Result<()> {
        self.file.replace()
    }

    fn sync_place(&self) -> io::Result<()> {
        self.file.sync_place()
    }

    fn clear_beside(&self) -> io::Result<()> {
        self.file.clear_beside()
    }
}

fn record(key: &str) -> Work {
    Work::Swap { key: key.into(), expected: None, new: Some("x".into()) }
}

#[tokio::test]
async fn a_read_that_fails_during_a_sync_that_fails_does_not_hide_it() {
    for nth in 0..2 {
        let layer = Arc::new(Staged::default());
        let joint = Arc::new(Joint::create(layer.clone(), None, 0).unwrap());
        let committer = Arc::new(Committer::new(joint.clone(), Arc::new(Inline), 1 << 20, 1 << 20).unwrap());
        for n in 0..5 {
            committer.commit(Lane::Catalog, 100, record(&format!("{n}"))).await.unwrap();
        }
        let health = match &*joint.state.read().unwrap() {
            State::Open { health, .. } => health.clone(),
            _ => panic!("it is not open"),
        };
        let reader = Arc::new(Mutex::new(None));
        let hook = Box::new({
            let (layer, joint, health, reader) =
                (layer.clone(), joint.clone(), health.clone(), reader.clone());
            move || {
                layer.file.fail(FileOp::Read, 0, FileFault::Error(ErrorKind::Other));
                let reading = joint.clone();
                *reader.lock().unwrap() =
                    Some(thread::spawn(move || reading.run(|database| tables::load(database, "1"))));
                // Until it has failed, and perhaps waits already to take the database out of use.
                while health.failure().is_none() {
                    thread::yield_now();
                }
                let _ = (0..100_000).find(|_| {
                    thread::yield_now();
                    joint.state.try_read().is_err()
                });
                assert_eq!(health.failure(), Some(Failure::Read(ErrorKind::Other)));
                layer.file.fail(FileOp::Sync, 0, FileFault::Error(ErrorKind::Other));
            }
        });
        *layer.during_sync.lock().unwrap() = Some((nth, hook));
        let error = committer.commit(Lane::Catalog, 100, record("lost")).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Io, "{error}");
        assert_eq!(health.failure(), Some(Failure::Sync(ErrorKind::Other)));
        assert!(matches!(*joint.state.read().unwrap(), State::Poisoned));
        let reader = reader.lock().unwrap().take().unwrap();
        reader.join().unwrap().unwrap_err();
        for n in 5..10 {
            let later = committer.commit(Lane::Catalog, 100, record(&format!("{n}"))).await;
            assert_eq!(kind(later), StoreErrorKind::Poisoned);
        }
        assert_eq!(kind(joint.run(|database| tables::load(database, "1"))), StoreErrorKind::Poisoned);
        let after = Joint::open(Arc::new(layer.file.after_crash(|| 0)), None, 0).unwrap();
        assert!(after.run(|database| tables::load(database, "4")).unwrap().is_some());
        assert!(after.run(|database| tables::load(database, "lost")).unwrap().is_none());
    }
}

#[test]
fn a_sync_that_fails_while_opening_again_poisons_the_handle() {
    let file = Arc::new(FaultyFile::new());
    let joint = Joint::create(file.clone(), None, 0).unwrap();
    joint.run(|database| write(database, 5, false)).unwrap();
    file.fail(FileOp::Read, 0, FileFault::Error(ErrorKind::Other));
    file.fail(FileOp::Sync, 0, FileFault::Error(ErrorKind::Other));
    assert_eq!(kind(joint.run(read)), StoreErrorKind::Io);
    assert_eq!(kind(joint.run(read)), StoreErrorKind::Io);
    assert_eq!(kind(joint.run(read)), StoreErrorKind::Poisoned);
}

#[test]
fn closing_right_after_a_panic_does_not_drop_the_database() {
    let file = Arc::new(FaultyFile::new());
    let joint = Joint::create(file.clone(), None, 1 << 20).unwrap();
    joint.run(|database| write(database, 5, false)).unwrap();
    {
        let state = joint.state.read().unwrap();
        let State::Open { database, health } = &*state else { panic!("it is not open") };
        assert!(guarded(health, || write(database, 6, true)).is_err());
    }
    joint.close().unwrap();
    assert_eq!(Joint::open(file, None, 1 << 20).unwrap().run(read).unwrap(), 5);
}
