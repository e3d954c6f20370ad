//! Stand-ins for AWS KMS: what one is lax in, the other is not.

use std::{fmt, process::Command};

use tempfile::TempDir;

use super::{
    installed,
    process::{Process, on_a_free_port},
};

/// Says where the interpreter is that has both.
const PYTHON: &str = "COFFERDAM_PYTHON";

/// moto: refuses what was tampered with and a wrong encryption context. False pass: disabled keys, and keys whose deletion
/// is pending, decrypt still.
pub struct Moto(Server);

impl Moto {
    /// Starts it; none where it is not installed.
    pub fn start() -> Option<Self> {
        let python = installed(PYTHON)?;
        Some(Self(Server::start("moto", "/moto-api/", |port| {
            let mut command = Command::new(&python);
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", port]);
            command
        })))
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.0.url
    }
}

/// ministack: refuses disabled keys, and those whose deletion is pending. False pass: ciphertext that was tampered with
/// decrypts, and so does one that is said to be of another key.
pub struct Ministack(Server);

impl Ministack {
    /// Starts it; none where it is not installed.
    pub fn start() -> Option<Self> {
        let python = installed(PYTHON)?;
        Some(Self(Server::start("ministack", "/_ministack/health", |port| {
            let mut command = Command::new(&python);
            // One process, and none of its listeners on fixed ports.
            command.args(["-m", "hypercorn", "--workers", "0", "--bind", &format!("127.0.0.1:{port}")]);
            command.arg("ministack.app:app").env("GATEWAY_PORT", port);
            command.env("IOT_MTLS_ENABLED", "0").env("SFTP_ENABLED", "0");
            command
        })))
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.0.url
    }
}

struct Server {
    url: String,
    process: Process,
    _folder: TempDir,
}

impl Server {
    #[track_caller]
    fn start(name: &'static str, path: &str, command: impl Fn(&str) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        let (process, address) =
            on_a_free_port(name, &folder.path().join("log"), (path, &[200]), |address| {
                let mut command = command(&address.port().to_string());
                command.current_dir(folder.path()).env("TMPDIR", folder.path());
                command
            });
        Self { url: format!("http://{address}"), process, _folder: folder }
    }
}

impl fmt::Debug for Moto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moto({}, process {})", self.0.url, self.0.process.id())
    }
}

impl fmt::Debug for Ministack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ministack({}, process {})", self.0.url, self.0.process.id())
    }
}
