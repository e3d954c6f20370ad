//! What a home's key server is known by, kept so that clients need not be told again: its certificate with the authority
//! that they trust, and the secret of its one client.
//!
//! Guarantees: the private key and the secret are in files that their owner alone can read, each replaced whole; a
//! certificate is made anew a month before its end, and when it is for another host. Not its job: to serve.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use cofferdam_vault::{Clock, Entropy, SystemEntropy, serve::ServerCertificate};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{error::CliError, files::replace};

const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "certificate.json";
const SECRET: &str = "client-secret";

/// A certificate with less time left is made anew.
const LEFT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What it is known by.
pub(crate) struct Serving {
    pub(crate) certificate: ServerCertificate,
    /// The certificate that clients must trust.
    pub(crate) authority_file: PathBuf,
    pub(crate) secret: Zeroizing<String>,
    pub(crate) secret_file: PathBuf,
}

/// A certificate as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    host: String,
    good_until_s: u64,
    authority: String,
    certificate: String,
    key: String,
}

impl Serving {
    /// What is kept in this folder; made where it is not there.
    pub(super) fn open(folder: &Path, host: &str, clock: &dyn Clock) -> Result<Self, CliError> {
        match fs::create_dir(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(CliError::writing("make", folder, e));
            }
            _ => {}
        }
        let (kept_file, authority_file) = (folder.join(CERTIFICATE), folder.join(AUTHORITY));
        let certificate = match read(&kept_file)? {
            Some(text) => kept(&kept_file, &text, host, clock.now().wall)?,
            None => None,
        };
        let certificate = match certificate {
            Some(certificate) => certificate,
            None => {
                let made = ServerCertificate::generate(host, clock)?;
                keep(&kept_file, host, &made)?;
                made
            }
        };
        // Again each time: somebody may have taken it away.
        replace(&authority_file, certificate.pem().0.as_bytes())?;
        let secret_file = folder.join(SECRET);
        let secret = match read(&secret_file)? {
            Some(secret) => Zeroizing::new(secret.trim().to_owned()),
            None => {
                let mut bytes = Zeroizing::new([0; 32]);
                SystemEntropy.fill(&mut *bytes).map_err(cofferdam_vault::serve::ServeError::from)?;
                let secret = Zeroizing::new(BASE64URL_NOPAD.encode(&*bytes));
                replace(&secret_file, secret.as_bytes())?;
                secret
            }
        };
        if secret.is_empty() {
            let why = "delete it, to have another made".into();
            return Err(CliError::DamagedServing { path: secret_file, what: "it is empty", why });
        }
        Ok(Self { certificate, authority_file, secret, secret_file })
    }
}

fn read(path: &Path) -> Result<Option<Zeroizing<String>>, CliError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(CliError::reading(path, e)),
    }
}

/// The certificate that was kept, if it will do.
fn kept(path: &Path, text: &str, host: &str, now: Duration) -> Result<Option<ServerCertificate>, CliError> {
    let Kept { host: of, good_until_s, authority, certificate, key } =
        serde_json::from_str(text).map_err(|e| {
            let why = format!("line {}, column {}; delete it, to have another made", e.line(), e.column());
            CliError::DamagedServing { path: path.into(), what: "it is no certificate of ours", why }
        })?;
    let key = Zeroizing::new(key);
    let good_until = Duration::from_secs(good_until_s);
    if of != host || good_until < now + LEFT {
        return Ok(None);
    }
    Ok(Some(ServerCertificate::from_pem(authority, certificate, key, good_until)))
}

fn keep(path: &Path, host: &str, made: &ServerCertificate) -> Result<(), CliError> {
    let (authority, certificate, key) = made.pem();
    let good_until_s = made.good_until().as_secs();
    let json = serde_json::json!({
        "host": host,
        "good_until_s": good_until_s,
        "authority": authority,
        "certificate": certificate,
        "key": **key,
    });
    replace(path, Zeroizing::new(json.to_string()).as_bytes())
}

#[cfg(test)]
mod tests {
    use cofferdam_vault::SystemClock;

    use super::*;

    #[test]
    fn a_certificate_and_a_secret_are_kept_for_their_host_and_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("s");
        let open = |host: &str| Serving::open(&folder, host, &SystemClock).unwrap();
        let (first, again) = (open("127.0.0.1"), open("127.0.0.1"));
        assert_eq!(first.certificate.pem(), again.certificate.pem());
        assert_eq!(*first.secret, *again.secret);
        assert_eq!(fs::read_to_string(&again.authority_file).unwrap(), again.certificate.pem().0);
        let other = open("vault.test");
        assert_ne!(other.certificate.pem().0, first.certificate.pem().0);
        assert_eq!(*other.secret, *first.secret);

        #[derive(Debug)]
        struct Later;
        impl Clock for Later {
            fn now(&self) -> cofferdam_vault::Timestamp {
                let mut now = SystemClock.now();
                now.wall += Duration::from_secs(370 * 24 * 60 * 60);
                now
            }
        }
        let renewed = Serving::open(&folder, "vault.test", &Later).unwrap();
        assert_ne!(renewed.certificate.pem().0, other.certificate.pem().0);
        #[cfg(unix)]
        for file in [CERTIFICATE, SECRET] {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(folder.join(file).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        fs::write(folder.join(CERTIFICATE), "{}").unwrap();
        let refused = Serving::open(&folder, "vault.test", &SystemClock).map(drop).unwrap_err();
        assert!(matches!(refused, CliError::DamagedServing { .. }), "{refused}");
    }
}
