//! Discarding what was buffered for an account whose key is revoked for good.
//!
//! Guarantees: only what was observed counts: time in which an engine saw the key revoked and both clocks went on, by
//! what the slower of them says; none for the time that no engine ran, or that the machine slept. Nothing is discarded
//! but after a denial of just now. What is stored stays.
//!
//! Not its job: deleting an account.

use std::time::Duration;

use cofferdam_crypto::Provider;
use cofferdam_keyring::KeyState;
use cofferdam_vault::{Meaning, Timestamp};

use super::{
    buffer::{BufferChange, Moved},
    drain::{Drain, Stopped},
};
use crate::{Applied, BlockOp};

/// How often what was observed is written down.
const WRITTEN_EVERY: Duration = Duration::from_secs(3600);
const PAGE: usize = 256;

/// What this engine has seen of a revocation that goes on.
#[derive(Debug, Default)]
pub(super) struct Revocation {
    /// Up to when it is written down.
    written: Option<Timestamp>,
    /// What all engines have seen of it.
    observed: Duration,
}

impl Drain {
    /// Takes note that the key is revoked, and discards what is buffered if that has been so for long enough. Whether
    /// it did.
    pub(super) async fn outlived_retention(&mut self) -> Result<bool, Stopped> {
        let now = self.engine.clock.now();
        let retention = self.engine.buffer.revoked_retention;
        let every = WRITTEN_EVERY.min(retention / 4);
        let Some(written) = self.revocation.written else {
            self.revocation.written = Some(now);
            return Ok(false);
        };
        let passed = agreed(written, now);
        if passed < every {
            // The clocks may disagree for good, after one was set: count from here.
            if now.since(&written) >= every {
                self.revocation.written = Some(now);
            }
            if self.revocation.observed < retention {
                return Ok(false);
            }
        } else {
            // A machine that slept saw nothing.
            let passed = passed.min(2 * every);
            self.revocation.written = Some(now);
            self.revocation.observed = match self.engine.records.observe_revoked(self.account, passed).await?
            {
                Some(observed) => observed,
                None => return Ok(false),
            };
        }
        if self.revocation.observed < retention || !self.denied_just_now() {
            return Ok(false);
        }
        self.discard().await?;
        Ok(true)
    }

    /// Whether the vault itself has said no since the last poll.
    fn denied_just_now(&self) -> bool {
        let policy = &self.engine.policy;
        let recent = policy.revoked_poll() + policy.call_timeout() * 2;
        let status = self.engine.keyring.status(self.account, Provider::Customer);
        status.state == KeyState::Revoked
            && status.last_failure.is_some_and(|failure| {
                failure.kind.is_some_and(|kind| kind.meaning() != Meaning::Outage)
                    && self.engine.clock.now().since(&failure.at) <= recent
            })
    }

    async fn discard(&self) -> Result<(), Stopped> {
        let (engine, account) = (&self.engine, self.account);
        while self.denied_just_now() {
            let rows = engine.blocks.buffered(account, None, PAGE).await?;
            if rows.is_empty() {
                break;
            }
            let ops = rows
                .iter()
                .map(|(id, meta)| BlockOp::Discard { account, id: id.clone(), version: meta.version })
                .collect();
            let applied = engine.blocks.commit(ops).await?;
            let mut gone = Moved::default();
            for ((_, meta), _) in
                rows.iter().zip(&applied).filter(|(_, applied)| **applied == Applied::Deleted)
            {
                gone.add(Moved { blocks: 1, bytes: meta.sealed_len });
            }
            let revoked_for = self.revocation.observed;
            engine.drains.tell(engine, account, BufferChange::Discarded { gone, revoked_for });
        }
        Ok(())
    }
}

/// How much time has passed for both clocks.
fn agreed(earlier: Timestamp, now: Timestamp) -> Duration {
    now.boot.saturating_sub(earlier.boot).min(now.wall.saturating_sub(earlier.wall))
}
