//! `cofferdam.json`: that a folder is a home, of which format, and its settings.
//!
//! Guarantees: written atomically; a newer format is told apart from damage; key times are within the
//! bounds of a [`Policy`]. A home made before a setting was there has the default one.

use std::{path::Path, sync::Arc, time::Duration};

use cofferdam_crypto::KeyId;
use cofferdam_keyring::{Policy, PolicyError};
use cofferdam_store::{EmbeddedStore, Engine, EngineBuilder, ReceiptKey};
use cofferdam_vault::{Clock, SystemClock, VaultRegistry};
use serde::{Deserialize, Serialize};

use super::{IN_FLIGHT, MAX_BLOCK_LEN};
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
    /// What writes may wait for while a key is unavailable.
    #[serde(default)]
    pub(crate) buffer: BufferBounds,
    /// What happens to accounts by themselves.
    #[serde(default)]
    pub(crate) accounts: AccountTimes,
}

/// When accounts are destroyed, and their own keys rotated, by themselves. The engine holds them to its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountTimes {
    /// How long a deleted account can be recovered.
    pub(crate) deleted_retention_ms: u64,
    /// How long new blocks are sealed under one epoch.
    pub(crate) cryptoperiod_ms: u64,
}

impl AccountTimes {
    fn apply(&self, engine: EngineBuilder) -> EngineBuilder {
        engine
            .deleted_retention(Duration::from_millis(self.deleted_retention_ms))
            .cryptoperiod(Some(Duration::from_millis(self.cryptoperiod_ms)))
    }
}

impl Default for AccountTimes {
    fn default() -> Self {
        const DAY: u64 = 24 * 3_600_000;
        Self { deleted_retention_ms: 14 * DAY, cryptoperiod_ms: 365 * DAY }
    }
}

/// What may wait in an account's buffer, how much and how long. The engine holds them to its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BufferBounds {
    /// How long it takes writes, from the first one in it; 0 turns it off.
    pub(crate) max_time_ms: u64,
    /// The most sealed bytes in it.
    pub(crate) max_bytes: u64,
    /// How long a revocation is observed before what was buffered is discarded.
    pub(crate) revoked_retention_ms: u64,
    /// How long one key of a write-only buffer is used. Homes made before there were any have the default.
    #[serde(default = "segment_time_ms")]
    pub(crate) segment_time_ms: u64,
}

const fn segment_time_ms() -> u64 {
    300_000
}

impl BufferBounds {
    /// An engine with these settings.
    fn apply(&self, engine: EngineBuilder) -> EngineBuilder {
        let ms = Duration::from_millis;
        engine
            .buffer_time(ms(self.max_time_ms))
            .buffer_bytes(self.max_bytes)
            .revoked_retention(ms(self.revoked_retention_ms))
            .segment_time(ms(self.segment_time_ms))
    }

    pub(crate) fn max_time(&self) -> Duration {
        Duration::from_millis(self.max_time_ms)
    }

    /// Whether writes may wait at all.
    pub(crate) fn is_on(&self) -> bool {
        self.max_time_ms > 0
    }
}

impl Default for BufferBounds {
    fn default() -> Self {
        const HOUR: u64 = 3_600_000;
        Self {
            max_time_ms: 6 * HOUR,
            max_bytes: 1 << 30,
            revoked_retention_ms: 14 * 24 * HOUR,
            segment_time_ms: segment_time_ms(),
        }
    }
}

/// What a home is made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) key_times: KeyTimes,
    pub(crate) buffer: BufferBounds,
    pub(crate) accounts: AccountTimes,
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
    /// Homes made before accounts had several KEKs have the default.
    #[serde(default = "max_bridge_ms")]
    pub(crate) max_bridge_ms: u64,
}

fn max_bridge_ms() -> u64 {
    KeyTimes::default().max_bridge_ms
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
            .with_call_timeout(ms(self.call_timeout_ms))?
            .with_max_bridge(ms(self.max_bridge_ms))
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
            max_bridge_ms: ms(policy.max_bridge()),
        }
    }
}

impl Config {
    pub(super) fn new(service_kek: KeyId, settings: Settings) -> Self {
        let created = Time(SystemClock.now().wall).to_string();
        let Settings { key_times, buffer, accounts } = settings;
        Self { format: FORMAT.into(), version: VERSION, created, service_kek, key_times, buffer, accounts }
    }

    /// An engine by these settings.
    pub(super) fn engine(
        &self,
        store: EmbeddedStore,
        vaults: VaultRegistry,
        receipt_key: Option<ReceiptKey>,
    ) -> Result<EngineBuilder, PolicyError> {
        let engine = Engine::builder(Arc::new(store), vaults, self.service_kek.clone())
            .policy(self.key_times.policy()?)
            .max_block_len(MAX_BLOCK_LEN)
            .in_flight(IN_FLIGHT);
        let engine = match receipt_key {
            Some(key) => engine.receipt_key(key),
            None => engine,
        };
        Ok(self.accounts.apply(self.buffer.apply(engine)))
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
        Config::new(KeyId::new("local://service/keys/cofferdam").unwrap(), Settings::default())
    }

    #[test]
    fn a_home_reads_back_as_it_was_written() {
        let json = serde_json::to_string(&sample()).unwrap();
        assert_eq!(parse(&json).unwrap().key_times, KeyTimes::default());
        assert_eq!(parse(&json).unwrap().buffer, BufferBounds::default());
    }

    #[test]
    fn a_home_made_before_a_setting_was_there_has_the_default_one() {
        let mut json = serde_json::to_value(sample()).unwrap();
        for later in ["buffer", "accounts"] {
            json.as_object_mut().unwrap().remove(later).unwrap();
        }
        json["key_times"].as_object_mut().unwrap().remove("max_bridge_ms").unwrap();
        let parsed = parse(&json.to_string()).unwrap();
        assert_eq!((parsed.buffer, parsed.accounts), (BufferBounds::default(), AccountTimes::default()));
        assert_eq!(parsed.key_times, KeyTimes::default());
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
