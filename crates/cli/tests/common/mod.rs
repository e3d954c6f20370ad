//! Runs the program as a user would.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod strace;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The number of rounds: a sample by default, all with COFFERDAM_FULL=1.
pub(crate) fn scale(sample: u64, full: u64) -> u64 {
    if std::env::var_os("COFFERDAM_FULL").is_some_and(|value| value == "1") { full } else { sample }
}

/// The program without a home, and without what the environment might add.
pub(crate) fn cofferdam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.env_remove("COFFERDAM_HOME").env_remove("COFFERDAM_PASSPHRASE").stdin(Stdio::null());
    command
}

/// What a run left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, more) = self.stdout.split_at(self.stdout.len().min(4000));
        write!(f, "exit code {}\nstdout: {}", self.code, String::from_utf8_lossy(shown))?;
        if !more.is_empty() {
            write!(f, "... and {} bytes more", more.len())?;
        }
        write!(f, "\nstderr: {}", self.stderr)
    }
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: code(output.status),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Checks the exit code, and that a failure is one sentence that says this.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, saying: &str) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains(saying), "does not say {saying:?}: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// The exit code; a signal as its negative number.
pub(crate) fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
}

/// A home in a folder of its own.
pub(crate) struct Home {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A home made with these arguments of init.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home");
        let home = Self { folder, path };
        home.run([&["init"], arguments].concat()).succeeds();
        home
    }

    /// A home with account `a` under a key of the customer's, and that key.
    pub(crate) fn with_account(arguments: &[&str]) -> (Self, String) {
        let home = Self::with(arguments);
        let key = home.run(["vault", "create-key", "k"]).succeeds().text().trim().to_owned();
        home.run(["account", "create", "a", "--kek", &key]).succeeds();
        (home, key)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = cofferdam();
        command.arg("--home").arg(&self.path);
        command
    }

    pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Ran {
        Ran::of(self.command().args(arguments).output().unwrap())
    }

    /// Runs with this on standard input.
    pub(crate) fn feed<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I, input: &[u8]) -> Ran {
        let mut child = self.spawn(self.command().args(arguments));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // It may end before it has read all.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let ran = Ran::of(child.wait_with_output().unwrap());
        writer.join().unwrap();
        ran
    }

    /// A new version of this key of the customer's.
    pub(crate) fn new_version(&self, name: &str) -> String {
        self.run(["vault", "new-version", name]).succeeds().text().trim().to_owned()
    }

    /// What a command prints as JSON, a value for each line.
    #[track_caller]
    pub(crate) fn json<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Vec<Value> {
        let ran = Ran::of(self.command().arg("--json").args(arguments).output().unwrap());
        ran.succeeds().text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn put(&self, block: &str, data: &[u8]) {
        self.feed(["put", "a", block], data).succeeds();
    }

    /// Starts it with all three streams in our hands.
    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A copy of this home, which nobody has open, in a folder of its own.
    pub(crate) fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home");
        std::fs::create_dir(&path).unwrap();
        for file in std::fs::read_dir(&self.path).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), path.join(file.file_name())).unwrap();
        }
        Self { folder, path }
    }
}

/// Sends a signal by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}

/// Whether this runs as root, whom file modes do not stop.
pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// A file system of its own, unmounted when dropped. None where this process may not mount.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn tmpfs(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0700");
        Self::by(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at), at)
    }

    pub(crate) fn read_only(what: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        Self::by(Command::new("mount").args(["-o", "bind,ro"]).arg(what).arg(at), at)
    }

    fn by(command: &mut Command, at: &Path) -> Option<Self> {
        let done = command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        done.then(|| Self(at.to_path_buf()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a test that fails may have left a file open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Numbers that look random, from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit.max(1)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.below(u64::MAX).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A line of an ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) block: String,
    pub(crate) version: u64,
    pub(crate) len: u64,
    pub(crate) sha256: String,
}

/// Parses the lines that start with this word and end with a line end: a killed writer may have cut the last
/// one short.
pub(crate) fn lines_of(word: &str, output: &[u8]) -> Vec<Acknowledged> {
    let whole = output.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&output[..whole]).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.strip_prefix(word)?.strip_prefix(' ')?.rsplitn(4, ' ');
            let sha256 = fields.next().unwrap().to_owned();
            let len = fields.next().unwrap().parse().unwrap();
            let version = fields.next().unwrap().parse().unwrap();
            Some(Acknowledged { block: fields.next().unwrap().to_owned(), version, len, sha256 })
        })
        .collect()
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}

/// Checks that the store is sound and every acknowledged block is there as it was acknowledged. Answers with
/// how many blocks there are.
#[track_caller]
pub(crate) fn all_there(home: &Home, acknowledged: &[Acknowledged], context: &str) -> usize {
    let verified = home.run(["verify", "--digests"]);
    assert_eq!(verified.code, 0, "{context}: {}\n{}", verified.stderr, verified.text());
    let opened = lines_of("Opened", &verified.stdout);
    let by_block: BTreeMap<&str, &Acknowledged> =
        opened.iter().map(|line| (line.block.as_str(), line)).collect();
    for line in acknowledged {
        assert_eq!(by_block.get(line.block.as_str()), Some(&line), "{context}: lost or wrong");
    }
    by_block.len()
}
