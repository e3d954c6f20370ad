//! Stand-ins for AWS KMS: what one is lax in, the other is not. moto's is one for S3 as well.

use std::{fmt, process::Command};

use super::{
    installed,
    process::{Server, status_of_put},
};

/// Says where the interpreter is that has both.
const PYTHON: &str = "COFFERDAM_PYTHON";

/// moto: refuses what was tampered with and a wrong encryption context. False pass: disabled keys, and keys whose deletion
/// is pending, decrypt still; and racing conditional puts of S3 may rarely both win.
pub struct Moto(Server);

impl Moto {
    /// Starts it; none where it is not installed.
    pub fn start() -> Option<Self> {
        let python = installed(PYTHON)?;
        Some(Self(Server::start("moto", ("/moto-api/", &[200]), |port| {
            let mut command = Command::new(&python);
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", port]);
            command
        })))
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Makes a bucket of S3.
    ///
    /// # Panics
    /// When it can't.
    #[track_caller]
    pub fn bucket(&self, name: &str) {
        let status = status_of_put(self.0.address, &format!("/{name}"));
        assert_eq!(status, Some(200), "moto makes no bucket {name}");
    }

    /// What a client of S3 is set up with to reach a bucket, by the AWS SDKs' and `object_store`'s environment variables.
    pub fn s3(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ENDPOINT", self.0.url.clone()),
            ("AWS_ALLOW_HTTP", "true".into()),
        ]
    }
}

/// ministack: refuses disabled keys, and those whose deletion is pending. False pass: ciphertext that was tampered with
/// decrypts, and so does one that is said to be of another key.
pub struct Ministack(Server);

impl Ministack {
    /// Starts it; none where it is not installed.
    pub fn start() -> Option<Self> {
        let python = installed(PYTHON)?;
        Some(Self(Server::start("ministack", ("/_ministack/health", &[200]), |port| {
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

impl fmt::Debug for Moto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moto({}, process {})", self.0.url, self.0.id())
    }
}

impl fmt::Debug for Ministack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ministack({}, process {})", self.0.url, self.0.id())
    }
}
