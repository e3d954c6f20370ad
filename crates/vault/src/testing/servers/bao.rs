//! OpenBao, whose Transit engine is HashiCorp Vault's.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;
use tempfile::TempDir;

use super::{
    installed,
    process::{Process, free_address, on_a_free_port},
};

/// Where health is told: 200 unsealed, 501 not initialised, 503 sealed.
const HEALTH: &str = "/v1/sys/health";
const UNSEALED: &[u16] = &[200];
const ANSWERS: &[u16] = &[200, 501, 503];

/// A server of OpenBao, with a root token.
pub struct Bao {
    program: PathBuf,
    address: SocketAddr,
    root_token: String,
    /// None where it is never sealed.
    unseal_key: Option<String>,
    process: Mutex<Option<Process>>,
    folder: TempDir,
}

/// What `operator init` prints.
#[derive(Deserialize)]
struct Initialised {
    unseal_keys_b64: Vec<String>,
    root_token: String,
}

impl Bao {
    /// Starts one that keeps everything in memory, unsealed; none where it is not installed.
    pub fn dev() -> Option<Self> {
        const TOKEN: &str = "root-of-a-test";
        let program = installed("COFFERDAM_BAO")?;
        let folder = tempfile::tempdir().expect("a folder for the server");
        let (process, address) =
            on_a_free_port("bao", &folder.path().join("log"), (HEALTH, UNSEALED), |address| {
                let mut command = Command::new(&program);
                command.args(["server", "-dev", "-dev-no-store-token"]);
                command.arg(format!("-dev-listen-address={address}")).env("BAO_DEV_ROOT_TOKEN_ID", TOKEN);
                command.env("HOME", folder.path());
                command
            });
        let process = Mutex::new(Some(process));
        Some(Self { program, address, root_token: TOKEN.into(), unseal_key: None, process, folder })
    }

    /// Starts one that keeps everything on disk, initialised and unsealed; none where it is not installed. It comes
    /// up sealed after a restart.
    pub fn raft() -> Option<Self> {
        let program = installed("COFFERDAM_BAO")?;
        let folder = tempfile::tempdir().expect("a folder for the server");
        std::fs::create_dir(folder.path().join("data")).expect("a folder for its data");
        let (process, address) =
            on_a_free_port("bao", &folder.path().join("log"), (HEALTH, ANSWERS), |address| {
                configure(folder.path(), address);
                server(&program, folder.path())
            });
        let process = Mutex::new(Some(process));
        let mut bao = Self { program, address, root_token: String::new(), unseal_key: None, process, folder };
        let told = bao.run(&["operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json"]);
        let mut told: Initialised = serde_json::from_str(&told).expect("init prints keys and a token");
        bao.root_token = told.root_token;
        bao.unseal_key = told.unseal_keys_b64.pop();
        bao.unseal();
        Some(bao)
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// Runs `bao` with these arguments and the root token; what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        match self.try_run(arguments) {
            Ok(printed) => printed,
            Err(why) => panic!("bao {}: {why}", arguments.join(" ")),
        }
    }

    /// The same; an error is what it printed on standard error.
    ///
    /// # Errors
    /// When it ends with anything but 0.
    pub fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("BAO_ADDR", self.url()).env("HOME", self.folder.path());
        command.env_remove("VAULT_ADDR").env_remove("VAULT_TOKEN").env_remove("VAULT_NAMESPACE");
        if self.root_token.is_empty() {
            command.env_remove("BAO_TOKEN");
        } else {
            command.env("BAO_TOKEN", &self.root_token);
        }
        let output = command.output().map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Seals it: it answers 503 to whoever wants a key.
    #[track_caller]
    pub fn seal(&self) {
        self.run(&["operator", "seal"]);
    }

    /// Unseals it, and waits until it serves.
    ///
    /// # Panics
    /// When it is of [`dev`](Self::dev), which keeps no unseal key.
    #[track_caller]
    pub fn unseal(&self) {
        let key = self.unseal_key.as_deref().expect("only one of Bao::raft is unsealed");
        self.run(&["operator", "unseal", key]);
        for _ in 0..3000 {
            if super::process::status_at(self.address, HEALTH) == Some(200) {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        panic!("bao is unsealed and does not serve: {}", self.run(&["status"]));
    }

    /// Ends it as a power cut would: connections are reset, then refused.
    pub fn kill(&self) {
        if let Some(mut process) = self.process().take() {
            process.kill();
        }
    }

    /// Starts it again at the same address, over the same data. One of [`raft`](Self::raft) is sealed then.
    ///
    /// # Panics
    /// When it runs still, is of [`dev`](Self::dev), whose data are gone, or does not start.
    #[track_caller]
    pub fn restart(&self) {
        assert!(self.unseal_key.is_some(), "one of Bao::dev has nothing to start again with");
        let mut process = self.process();
        assert!(process.is_none(), "it runs still: kill it first");
        let log = self.folder.path().join("log-again");
        let mut command = server(&self.program, self.folder.path());
        match Process::start("bao", &mut command, &log, self.address, (HEALTH, ANSWERS)) {
            Ok(started) => *process = Some(started),
            Err(why) => panic!("{why}"),
        }
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Bao {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bao({}, process {:?})", self.url(), self.process().as_ref().map(Process::id))
    }
}

fn configure(folder: &Path, address: SocketAddr) {
    // Its own port for a cluster, which has one node.
    let cluster = free_address();
    let text = format!(
        "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"one\"\n  performance_multiplier = 1\n}}\n\
         listener \"tcp\" {{\n  address = \"{address}\"\n  tls_disable = true\n}}\n\
         api_addr = \"http://{address}\"\ncluster_addr = \"http://{cluster}\"\n",
        folder.join("data").display()
    );
    std::fs::write(folder.join("bao.hcl"), text).expect("settings for the server");
}

fn server(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("server").arg(format!("-config={}", folder.join("bao.hcl").display()));
    command.env("HOME", folder);
    command
}
