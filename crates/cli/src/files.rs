//! Files that appear whole or not at all, and folders walked in order.
//!
//! Guarantees: a replaced file holds the old bytes or the new ones; nothing is left behind on failure.
//! Walks follow no links and list files by their names' order.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;
use tempfile::NamedTempFile;

use crate::error::CliError;

/// Writes a file beside its place, makes it durable, and puts it in place.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let replacement = Replacement::begin(path)?;
    let written = replacement.new.as_file().write_all(bytes);
    written.map_err(|e| CliError::writing("write", path, e))?;
    replacement.persist()
}

/// A file that is written beside its place. Dropped, it is removed.
pub(crate) struct Replacement {
    path: PathBuf,
    folder: PathBuf,
    new: NamedTempFile,
}

impl Replacement {
    /// An empty one, readable by its owner alone.
    pub(crate) fn begin(path: &Path) -> Result<Self, CliError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let new = tempfile::Builder::new().prefix(".cofferdam-").tempfile_in(folder);
        let new = new.map_err(|e| CliError::writing("write", path, e))?;
        Ok(Self { path: path.into(), folder: folder.into(), new })
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.new.as_file().try_clone()
    }

    /// Makes it durable and puts it in place.
    pub(crate) fn persist(self) -> Result<(), CliError> {
        let Self { path, folder, new } = self;
        let failed = |e| CliError::writing("write", &path, e);
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&path).map_err(|e| failed(e.error))?;
        sync_folder(&folder).map_err(failed)
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder can't be synced; the system does so itself.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Regular files.
    pub(crate) files: Vec<Found>,
    /// Links, which are not followed, and pipes, sockets and devices.
    pub(crate) skipped: u64,
    /// Folders that could not be read, and why.
    pub(crate) unreadable: Vec<String>,
}

/// A file of a walk.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its path from where the walk began, or its name if that was the file itself.
    pub(crate) name: PathBuf,
}

/// Which files a walk leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaveOut {
    /// None.
    Nothing,
    /// Hidden ones, what .gitignore names, and folders named target.
    BuildOutput,
}

impl Walk {
    /// Adds the files under a path, or the file there.
    pub(crate) fn add(&mut self, path: &Path, leave_out: LeaveOut) -> Result<(), CliError> {
        let found = path.metadata().map_err(|e| CliError::reading(path, e))?;
        if !found.is_dir() {
            if found.is_file() {
                let name = path.file_name().map_or_else(|| path.into(), PathBuf::from);
                self.files.push(Found { path: path.into(), name });
            } else {
                self.skipped += 1;
            }
            return Ok(());
        }
        let filters = leave_out == LeaveOut::BuildOutput;
        let walk = WalkBuilder::new(path)
            .standard_filters(filters)
            .follow_links(false)
            .sort_by_file_name(|a, b| a.cmp(b))
            .filter_entry(move |entry| !filters || entry.depth() == 0 || entry.file_name() != "target")
            .build();
        for entry in walk {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    self.unreadable.push(e.to_string());
                    continue;
                }
            };
            match entry.file_type() {
                Some(kind) if kind.is_file() => {
                    let name = entry.path().strip_prefix(path).unwrap_or(entry.path()).to_path_buf();
                    self.files.push(Found { path: entry.into_path(), name });
                }
                Some(kind) if kind.is_dir() => {}
                _ => self.skipped += 1,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(walk: &Walk) -> Vec<&str> {
        walk.files.iter().map(|f| f.name.to_str().unwrap()).collect()
    }

    #[test]
    fn a_replaced_file_is_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::create_dir(folder.path().join("b")).unwrap();
        assert!(replace(&folder.path().join("b"), b"three").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn walks_leave_out_what_they_are_told_to() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2", "a", ".hidden", "target/x", "b/target/y", "b/.git/z"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let mut walk = Walk::default();
        walk.add(folder.path(), LeaveOut::BuildOutput).unwrap();
        assert_eq!(names(&walk), ["a", "b/2"]);
        let mut walk = Walk::default();
        walk.add(folder.path(), LeaveOut::Nothing).unwrap();
        assert_eq!(names(&walk), [".hidden", "a", "b/.git/z", "b/2", "b/target/y", "target/x"]);
        walk.add(&folder.path().join("a"), LeaveOut::Nothing).unwrap();
        assert_eq!(walk.files.len(), 7);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_counted_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "a").unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("l")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("m")).unwrap();
        let mut walk = Walk::default();
        walk.add(folder.path(), LeaveOut::Nothing).unwrap();
        assert_eq!((names(&walk), walk.skipped), (vec!["a"], 2));
    }
}
