//! `cofferdam.json`: that a folder is a home, of which format, and its settings.
//!
//! Guarantees: written atomically; a newer format is told apart from damage; key times are within the
//! bounds of a [`Policy`].

use std::{path::Path, time::Duration};

use cofferdam_crypto::KeyId;
use cofferdam_keyring::{Policy, PolicyError};
use cofferdam_vault::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::{error::CliError, files::replace, output::Time};

const FORMAT: &str = "cofferdam home";
const VERSION: u64 = 1;

/// What `cofferdam.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    format: String,
    version: u64,
    created: String,
    /// The KEK of the service's own keys, in the service's vault.
    pub(crate) service_kek: KeyId,
    /// When keys are renewed and how long they outlive their vault.
    pub(crate) key_times: KeyTimes,
}

/// The part that every version has.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

/// The settings of a [`Policy`], in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyTimes {
    pub(crate) refresh_ms: u64,
    pub(crate) ceiling_ms: u64,
    pub(crate) grace_ms: u64,
    pub(crate) retry_max_ms: u64,
    pub(crate) revoked_poll_ms: u64,
    pub(crate) call_timeout_ms: u64,
}

impl KeyTimes {
    /// The settings as a policy, within its bounds.
    pub(crate) fn policy(&self) -> Result<Policy, PolicyError> {
        let ms = Duration::from_millis;
        // The least refresh first, so that refresh and ceiling don't stand in each other's way.
        Policy::default()
            .with_refresh(Policy::MIN_REFRESH)?
            .with_ceiling(ms(self.ceiling_ms))?
            .with_refresh(ms(self.refresh_ms))?
            .with_grace(ms(self.grace_ms))?
            .with_retry_max(ms(self.retry_max_ms))?
            .with_revoked_poll(ms(self.revoked_poll_ms))?
            .with_call_timeout(ms(self.call_timeout_ms))
    }
}

impl Default for KeyTimes {
    fn default() -> Self {
        let policy = Policy::default();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            refresh_ms: ms(policy.refresh()),
            ceiling_ms: ms(policy.ceiling()),
            grace_ms: ms(policy.grace()),
            retry_max_ms: ms(policy.retry_max()),
            revoked_poll_ms: ms(policy.revoked_poll()),
            call_timeout_ms: ms(policy.call_timeout()),
        }
    }
}

impl Config {
    pub(super) fn new(service_kek: KeyId, key_times: KeyTimes) -> Self {
        let created = Time(SystemClock.now().wall).to_string();
        Self { format: FORMAT.into(), version: VERSION, created, service_kek, key_times }
    }

    pub(super) fn parse(home: &Path, file: &Path, bytes: &[u8]) -> Result<Self, CliError> {
        let damaged = |what: String| CliError::DamagedSettings { path: file.into(), what };
        let head: Head = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if head.format != FORMAT {
            let reason = "its cofferdam.json is of something else";
            return Err(CliError::NotAHome { path: home.into(), reason });
        }
        if head.version > VERSION {
            let (found, supported) = (head.version, VERSION);
            return Err(CliError::NewerHome { path: home.into(), found, supported });
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        config.key_times.policy().map_err(|e| damaged(e.to_string()))?;
        Ok(config)
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), CliError> {
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|e| CliError::writing("write", file, std::io::Error::other(e)))?;
        json.push(b'\n');
        replace(file, &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config, CliError> {
        Config::parse(Path::new("home"), Path::new("home/cofferdam.json"), json.as_bytes())
    }

    fn sample() -> Config {
        Config::new(KeyId::new("local://service/keys/cofferdam").unwrap(), KeyTimes::default())
    }

    #[test]
    fn a_home_reads_back_as_it_was_written() {
        let json = serde_json::to_string(&sample()).unwrap();
        assert_eq!(parse(&json).unwrap().key_times, KeyTimes::default());
    }

    #[test]
    fn other_formats_newer_ones_and_damage_are_told_apart() {
        let json = serde_json::to_string(&sample()).unwrap();
        let newer = json.replace("\"version\":1", "\"version\":2");
        assert!(matches!(parse(&newer), Err(CliError::NewerHome { found: 2, supported: 1, .. })));
        let other = json.replace("cofferdam home", "something");
        assert!(matches!(parse(&other), Err(CliError::NotAHome { .. })));
        let out_of_bounds = json.replace("\"refresh_ms\":30000", "\"refresh_ms\":1");
        for damaged in [&json[..json.len() / 2], "", "[]", "{}", &out_of_bounds] {
            assert!(matches!(parse(damaged), Err(CliError::DamagedSettings { .. })), "{damaged}");
        }
    }

    #[test]
    fn the_default_times_are_the_keyrings() {
        assert_eq!(KeyTimes::default().policy().unwrap(), Policy::default());
    }
}
