//! A server's process, from its start to its end.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// How often is looked whether a server answers or has ended, and how many times: a minute in all.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 3000;
/// How many looks a server has for ending by itself: a second.
const LOOKS_AT_END: u32 = 50;
/// How often another port is tried: somebody else may have taken the one that was free.
const TRIES: u32 = 3;

/// A running server; ended when dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, and waits until it answers at `path` with one of these codes.
    ///
    /// # Errors
    /// What it printed, when it ends or does not answer within a minute.
    pub(super) fn start(
        name: &'static str,
        command: &mut Command,
        log: &Path,
        address: SocketAddr,
        ready: (&str, &[u16]),
    ) -> Result<Self, String> {
        let output = File::create(log).expect("a log for the server");
        let errors = output.try_clone().expect("its log for both streams");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0).spawn();
        let child = child.map_err(|e| format!("can't start {name}: {e}"))?;
        let mut process = Self { name, child, log: log.to_path_buf() };
        for _ in 0..LOOKS {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(process.said(&format!("ended with {status}")));
            }
            if status_at(address, ready.0).is_some_and(|status| ready.1.contains(&status)) {
                return Ok(process);
            }
            std::thread::park_timeout(LOOK);
        }
        Err(process.said(&format!("does not answer at {address}{}", ready.0)))
    }

    /// Ends it as a power cut would.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    fn said(&self, what: &str) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let last = &log[log.len().saturating_sub(8192)..];
        format!("{} {what}. It printed:\n{}", self.name, String::from_utf8_lossy(last))
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // It may have ended by itself.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::TERM);
        for _ in 0..LOOKS_AT_END {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::park_timeout(LOOK);
        }
        self.kill();
    }
}

/// A running server with a folder of its own, which ends with it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    pub(super) address: SocketAddr,
    process: Process,
    _folder: TempDir,
}

impl Server {
    /// Starts it by a command that is made for a port; it is ready once a path is answered with one of these codes.
    #[track_caller]
    pub(super) fn start(
        name: &'static str,
        ready: (&str, &[u16]),
        command: impl Fn(&str) -> Command,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        let (process, address) = on_a_free_port(name, &folder.path().join("log"), ready, |address| {
            let mut command = command(&address.port().to_string());
            command.current_dir(folder.path()).env("TMPDIR", folder.path());
            command
        });
        Self { url: format!("http://{address}"), address, process, _folder: folder }
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Starts a server on a free port of the loopback.
#[track_caller]
pub(super) fn on_a_free_port(
    name: &'static str,
    log: &Path,
    ready: (&str, &[u16]),
    command: impl Fn(SocketAddr) -> Command,
) -> (Process, SocketAddr) {
    let mut said = String::new();
    for _ in 0..TRIES {
        let address = free_address();
        match Process::start(name, &mut command(address), log, address, ready) {
            Ok(process) => return (process, address),
            Err(why) => said = why,
        }
    }
    panic!("{said}");
}

/// An address of the loopback that nobody has at this moment.
pub(super) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// The status that a GET is answered with, if it is.
pub(super) fn status_at(address: SocketAddr, path: &str) -> Option<u16> {
    const WAIT: Duration = Duration::from_secs(1);
    status_of(address, "GET", path, WAIT)
}

/// The status that a PUT of nothing is answered with, if it is.
pub(super) fn status_of_put(address: SocketAddr, path: &str) -> Option<u16> {
    // Of a server that others keep busy.
    const WAIT: Duration = Duration::from_secs(30);
    status_of(address, "PUT", path, WAIT)
}

fn status_of(address: SocketAddr, method: &str, path: &str, wait: Duration) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, wait).ok()?;
    stream.set_read_timeout(Some(wait)).ok()?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: 0\r\n\r\n").ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}
