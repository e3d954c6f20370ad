//! How Azure names its vaults and their keys: `https://NAME.vault.azure.net/keys/KEY[/VERSION]`.
//!
//! Guarantees: one key has one spelling, and a key id of another vault, or of something that is no vault of Azure, is
//! never sent anywhere. Azure takes the names of keys in any case of letters; the spelling here is the one that the vault
//! answers.

use cofferdam_crypto::KeyId;

use super::AzureError;
use crate::{VaultError, VaultErrorKind};

const MAX_KEY_NAME: usize = 127;
const VERSION_LEN: usize = 32;

/// The clouds of Azure, by what the hosts of their vaults and of their managed HSMs end in.
const SUFFIXES: [(&str, Cloud); 6] = [
    ("vault.azure.net", Cloud::Public),
    ("managedhsm.azure.net", Cloud::Public),
    ("vault.azure.cn", Cloud::China),
    ("managedhsm.azure.cn", Cloud::China),
    ("vault.usgovcloudapi.net", Cloud::Government),
    ("managedhsm.usgovcloudapi.net", Cloud::Government),
];

/// A cloud of Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cloud {
    Public,
    China,
    Government,
    /// One of its own, or a test server.
    Other,
}

/// Which hosts may be a vault's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Those of Azure's clouds.
    Azure,
    /// Those that end in this, after a dot.
    Ending(String),
    /// Any, with any port: test servers.
    Any,
}

/// Where a vault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VaultUrl {
    /// `https://` and the host, with a port where it is not 443; no slash at the end.
    url: String,
    cloud: Cloud,
}

impl VaultUrl {
    pub(super) fn parse(url: &str, hosts: &Hosts) -> Result<Self, AzureError> {
        let bad = |why| AzureError::VaultUrl { url: url.chars().take(256).collect(), why };
        if url.starts_with("http://") {
            return Err(AzureError::PlainHttp { url: url.chars().take(256).collect() });
        }
        let url = url.strip_suffix('/').unwrap_or(url);
        let authority = url.strip_prefix("https://").ok_or_else(|| bad("it does not begin with https://"))?;
        let is_host = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
                && host.split('.').all(|label| !label.is_empty())
        };
        let cloud = match hosts {
            Hosts::Any => {
                let (host, port) = match authority.rsplit_once(':') {
                    Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port != 443)),
                    None => (authority, Some(0)),
                };
                if !is_host(host) || port.is_none() {
                    return Err(bad("a test server's looks like https://localhost:8443"));
                }
                Cloud::Other
            }
            Hosts::Azure => {
                let found = SUFFIXES.iter().find(|(suffix, _)| is_vault_of(authority, suffix));
                found
                    .ok_or_else(|| bad("no cloud of Azure has such a vault; name its suffix if yours does"))?
                    .1
            }
            Hosts::Ending(suffix) => {
                if !is_host(suffix) || !is_vault_of(authority, suffix) {
                    return Err(bad("it is no vault's under the suffix that was set"));
                }
                Cloud::Other
            }
        };
        Ok(Self { url: url.into(), cloud })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.url
    }

    pub(super) fn cloud(&self) -> Cloud {
        self.cloud
    }

    /// The parts of a key id of this vault, or what is wrong with it.
    pub(super) fn parts(&self, key_id: &str) -> Result<KeyPath, &'static str> {
        let path = key_id.strip_prefix(&self.url).and_then(|rest| rest.strip_prefix('/'));
        let path = path.ok_or("it is of another vault: use that one")?;
        let mut parts = path.split('/');
        let (Some("keys"), Some(name), version, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("one looks like https://NAME.vault.azure.net/keys/KEY or .../keys/KEY/VERSION");
        };
        if !is_key_name(name) {
            return Err("a key's name has 1 to 127 letters, digits and hyphens");
        }
        if version.is_some_and(|version| !is_version(version)) {
            return Err("a version has 32 hex digits in lower case");
        }
        Ok(KeyPath { name: name.into(), version: version.map(Into::into) })
    }

    /// The parts of a key id of this vault.
    pub(super) fn parse_key_id(&self, key_id: &KeyId) -> Result<KeyPath, VaultError> {
        self.parts(key_id.as_str()).map_err(|why| {
            let message = format!("this is no key id of the vault {}: {why}", self.url);
            VaultError::new(VaultErrorKind::Other, message).about(key_id)
        })
    }

    /// The exact key that the vault answered for one that was asked for.
    pub(super) fn answered(&self, kid: &str, asked: &KeyPath) -> Result<(KeyId, KeyPath), String> {
        let short: String = kid.chars().take(256).collect();
        let path =
            self.parts(kid).map_err(|why| format!("it answered for the key {short:?}, of which {why}"))?;
        let key_id = KeyId::new(kid).map_err(|e| format!("it answered for the key {short:?}: {e}"))?;
        if path.version.is_none() {
            return Err(format!("it answered for {key_id} without a version"));
        }
        if asked.name != path.name {
            return Err(format!("it answered for the key {key_id}: spell the key's name so"));
        }
        if asked.version.is_some() && asked.version != path.version {
            return Err(format!("it answered for another version, {key_id}"));
        }
        Ok((key_id, path))
    }
}

/// The parts of a key id after its vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPath {
    pub(super) name: String,
    /// None names the latest.
    pub(super) version: Option<String>,
}

impl KeyPath {
    /// The same without a version.
    pub(super) fn latest(&self) -> Self {
        Self { name: self.name.clone(), version: None }
    }
}

/// Whether it is `NAME.suffix` with a name that Azure lets a vault have.
fn is_vault_of(host: &str, suffix: &str) -> bool {
    let name = host.strip_suffix(suffix).and_then(|host| host.strip_suffix('.'));
    name.is_some_and(|name| {
        (3..=24).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    })
}

fn is_key_name(name: &str) -> bool {
    (1..=MAX_KEY_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_version(version: &str) -> bool {
    version.len() == VERSION_LEN && version.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "78deebed173b48e48f55abf87ed4cf71";

    fn vault(url: &str) -> Result<VaultUrl, AzureError> {
        VaultUrl::parse(url, &Hosts::Azure)
    }

    #[test]
    fn the_vaults_of_every_cloud_are_known() {
        for (url, cloud) in [
            ("https://acme.vault.azure.net", Cloud::Public),
            ("https://acme-2.managedhsm.azure.net/", Cloud::Public),
            ("https://acme.vault.azure.cn", Cloud::China),
            ("https://acme.managedhsm.azure.cn", Cloud::China),
            ("https://acme.vault.usgovcloudapi.net", Cloud::Government),
            ("https://acme.managedhsm.usgovcloudapi.net", Cloud::Government),
        ] {
            let found = vault(url).unwrap();
            assert_eq!(found.cloud(), cloud, "{url}");
            assert_eq!(found.as_str(), url.trim_end_matches('/'));
        }
    }

    #[test]
    fn a_url_that_is_no_vaults_is_refused() {
        for url in [
            "",
            "acme.vault.azure.net",
            "https://",
            "https://vault.azure.net",
            "https://.vault.azure.net",
            "https://ac.vault.azure.net",
            "https://a.b.vault.azure.net",
            "https://ACME.vault.azure.net",
            "https://acme.vault.azure.net:443",
            "https://acme.vault.azure.net:8443",
            "https://acme.vault.azure.net//",
            "https://acme.vault.azure.net/keys",
            "https://acme.vault.azure.net?x",
            "https://user@acme.vault.azure.net",
            "https://acme.vault.azure.net.evil.example",
            "https://acmevault.azure.net",
            "https://acme.vault.evil.example",
        ] {
            assert!(matches!(vault(url), Err(AzureError::VaultUrl { .. })), "{url}");
        }
        for url in ["http://acme.vault.azure.net", "http://localhost:80"] {
            for hosts in [Hosts::Azure, Hosts::Any] {
                assert!(matches!(VaultUrl::parse(url, &hosts), Err(AzureError::PlainHttp { .. })), "{url}");
            }
        }
    }

    #[test]
    fn another_cloud_is_named_by_its_suffix_and_a_test_server_by_its_port() {
        let stack = Hosts::Ending("vault.local.azurestack.external".into());
        assert!(VaultUrl::parse("https://acme.vault.local.azurestack.external", &stack).is_ok());
        assert!(VaultUrl::parse("https://acme.vault.azure.net", &stack).is_err());
        assert!(VaultUrl::parse("https://acme.", &Hosts::Ending(String::new())).is_err());
        for good in ["https://localhost:8443", "https://127.0.0.1:40123/", "https://test-server"] {
            assert!(VaultUrl::parse(good, &Hosts::Any).is_ok(), "{good}");
        }
        for bad in
            ["https://localhost:443", "https://localhost:x", "https://localhost:99999", "https://:8443"]
        {
            assert!(VaultUrl::parse(bad, &Hosts::Any).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_has_one_spelling() {
        let vault = vault("https://acme.vault.azure.net").unwrap();
        let with = format!("https://acme.vault.azure.net/keys/payroll/{VERSION}");
        let path = KeyPath { name: "payroll".into(), version: Some(VERSION.into()) };
        assert_eq!(vault.parts(&with), Ok(path.clone()));
        assert_eq!(vault.parts("https://acme.vault.azure.net/keys/payroll"), Ok(path.latest()));
        for bad in [
            "https://acme.vault.azure.net/keys/payroll/".to_owned(),
            "https://acme.vault.azure.net/keys//payroll".into(),
            "https://acme.vault.azure.net//keys/payroll".into(),
            "https://acme.vault.azure.net/keys".into(),
            "https://acme.vault.azure.net/secrets/payroll".into(),
            "https://acme.vault.azure.net/Keys/payroll".into(),
            "https://acme.vault.azure.net/keys/pay%72oll".into(),
            "https://acme.vault.azure.net/keys/payroll?api-version=7.4".into(),
            "https://acme.vault.azure.net/keys/..".into(),
            "https://acme.vault.azure.net:443/keys/payroll".into(),
            "https://acme.vault.azure.net.evil.example/keys/payroll".into(),
            "https://acme2.vault.azure.net/keys/payroll".into(),
            "https://ACME.vault.azure.net/keys/payroll".into(),
            "http://acme.vault.azure.net/keys/payroll".into(),
            "local://acme/keys/payroll".into(),
            format!("{with}/x"),
            with.to_uppercase(),
            with[..with.len() - 1].into(),
            format!("https://acme.vault.azure.net/keys/{}", "k".repeat(128)),
        ] {
            assert!(vault.parts(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_of_the_key_that_was_asked_for() {
        let vault = vault("https://acme.vault.azure.net").unwrap();
        let kid = format!("https://acme.vault.azure.net/keys/payroll/{VERSION}");
        let exact = vault.parts(&kid).unwrap();
        for asked in [exact.clone(), exact.latest()] {
            assert_eq!(vault.answered(&kid, &asked).unwrap().1, exact);
        }
        for (wrong, says) in [
            (kid.replace("acme", "globex"), "another vault"),
            (kid.replace("payroll", "Payroll"), "spell the key's name so"),
            (kid.replace("78de", "88de"), "another version"),
            ("https://acme.vault.azure.net/keys/payroll".into(), "without a version"),
            ("x".repeat(5000), "another vault"),
        ] {
            let said = vault.answered(&wrong, &exact).unwrap_err();
            assert!(said.contains(says) && said.len() < 500, "{said}");
        }
    }
}
