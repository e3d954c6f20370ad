//! Azurite, Microsoft's stand-in for Azure Blob Storage.

use std::{fmt, process::Command};

use super::{
    installed,
    process::{Server, status_of_put},
};

/// The account that every Azurite has, and its key, which Microsoft publishes.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// An account SAS by that key, which lets its bearer create containers: one signature holds for every Azurite.
const MAY_CREATE: &str = "sv=2019-12-12&ss=b&srt=c&sp=c&se=2099-01-01T00%3A00%3A00Z&spr=http\
                          &sig=%2Be2mUcnhJB3V5aiKWWAxTLzW%2F%2FNovBgL4RS9MPYY2Bk%3D";

/// A server of blobs that keeps everything in memory. False pass: it keeps no attributes as Azure does.
pub struct Azurite {
    server: Server,
    url: String,
}

impl Azurite {
    /// Starts it; none where it is not installed.
    pub fn start() -> Option<Self> {
        let (node, modules) = (installed("COFFERDAM_NODE")?, installed("COFFERDAM_NODE_MODULES")?);
        // It answers so to whoever does not sign.
        let server = Server::start("azurite", ("/", &[400]), |port| {
            let mut command = Command::new(&node);
            command.arg(modules.join("azurite/dist/src/blob/main.js"));
            command.args(["--blobHost", "127.0.0.1", "--blobPort", port, "--inMemoryPersistence"]);
            command.args(["--silent", "--disableTelemetry"]);
            command
        });
        let url = format!("{}/{ACCOUNT}", server.url);
        Some(Self { server, url })
    }

    /// Where its account answers: `http://127.0.0.1:PORT/devstoreaccount1`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a container.
    ///
    /// # Panics
    /// When it can't.
    #[track_caller]
    pub fn container(&self, name: &str) {
        let path = format!("/{ACCOUNT}/{name}?restype=container&{MAY_CREATE}");
        let status = status_of_put(self.server.address, &path);
        assert_eq!(status, Some(201), "azurite makes no container {name}");
    }

    /// What a client is set up with to reach a container, by `object_store`'s environment variables.
    pub fn azure(&self) -> [(&'static str, String); 4] {
        [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY.into()),
            ("AZURE_STORAGE_ENDPOINT", self.url.clone()),
            ("AZURE_ALLOW_HTTP", "true".into()),
        ]
    }
}

impl fmt::Debug for Azurite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Azurite({}, process {})", self.url, self.server.id())
    }
}
