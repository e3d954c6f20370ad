//! What every vault must do, as checks that a vault's own tests run: every promise of [`KeyVault`](crate::KeyVault) and every
//! row of the table of errors (`docs/vault-errors.md`).
//!
//! A vault's tests implement [`Factory`], whose hooks make keys and put the vault into each state, and [`run`] the checks:
//!
//! ```
//! use std::sync::Arc;
//!
//! use cofferdam_crypto::KeyId;
//! use cofferdam_vault::{
//!     KeyKind, KeyVault, LocalVault, SystemEntropy,
//!     conformance::{self, Factory, Hook, Subject},
//! };
//!
//! struct Mine(LocalVault);
//!
//! #[async_trait::async_trait]
//! impl Factory for Mine {
//!     fn subject(&self) -> Subject {
//!         Subject::new("my vault", KeyKind::Aes256).recoverable()
//!     }
//!
//!     async fn vault(&self) -> Hook<Arc<dyn KeyVault>> {
//!         Ok(Arc::new(self.0.clone()))
//!     }
//!
//!     async fn new_key(&self) -> Hook<KeyId> {
//!         let name = format!("key-{}", self.0.list().await?.len());
//!         Ok(self.0.create_key(&name).await?)
//!     }
//!
//!     async fn disable(&self, key: &KeyId) -> Hook {
//!         Ok(self.0.disable(key).await?)
//!     }
//!     // And so on: what has no hook is told as not applicable.
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let vault = LocalVault::create(folder.path().join("vault"), "mine", Default::default()).await?;
//! let report = conformance::run(&Mine(vault), &SystemEntropy).await;
//! assert!(report.is_ok(), "{report}");
//! # assert_eq!(report.counts().failed, 0);
//! # Ok(())
//! # }
//! ```
//!
//! Guarantees: [`run`] never panics and ends with a [`Report`] of every check, in one order; a panic of the vault or of a hook
//! fails the check that it came in. It starts no task, reads no clock and needs no runtime but what the vault itself
//! needs; what it draws at random comes from the [`Entropy`] that is passed in. What a hook can't do is reported as not applicable, with the
//! reason, and never as passed.
//!
//! Not its job: to wait (the hooks do), to judge what a vault does with its keys inside.

mod canary;
mod checks;
mod factory;
mod report;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

pub use factory::{Factory, Hook, NotDone, Subject};
pub use report::{Checked, Counts, Outcome, Report};

use crate::Entropy;
use canary::Canary;
use checks::{ALL, Check};
use world::{Heard, Note, Step, Stop, World};

/// The name of every check and what a vault promises by it, in the order in which they are made.
pub fn checks() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter().map(|check| (check.name, check.promise))
}

/// Makes every check.
pub async fn run(factory: &dyn Factory, entropy: &dyn Entropy) -> Report {
    run_some(factory, entropy, |_| true).await
}

/// Makes the checks that are wanted, by name.
pub async fn run_some(
    factory: &dyn Factory,
    entropy: &dyn Entropy,
    wanted: impl Fn(&str) -> bool + Send + Sync,
) -> Report {
    let setup = setup(factory, entropy);
    let subject = match &setup {
        Ok((subject, _)) => subject.name.clone(),
        Err(_) => "a vault".into(),
    };
    let heard = Mutex::new(Heard::default());
    let mut checks = Vec::new();
    for check in ALL.iter().filter(|check| wanted(check.name)) {
        let found = match &setup {
            Ok((subject, canary)) => {
                let made = make(check, World::new(factory, subject, entropy, canary, &heard));
                world::caught(made).await.unwrap_or_else(|panic| world::failed("the check to end", panic))
            }
            Err(stop) => Err(stop.clone()),
        };
        checks.push(Checked { name: check.name, promise: check.promise, outcome: found.into() });
    }
    Report { subject, checks }
}

fn setup(factory: &dyn Factory, entropy: &dyn Entropy) -> Step<(Subject, Canary)> {
    let foreign = || (factory.subject(), Canary::draw(entropy));
    let (subject, canary) = catch_unwind(AssertUnwindSafe(foreign))
        .or_else(|panic| world::failed("a subject and random bytes", world::say_panic(&*panic)))?;
    let canary = canary.or_else(|e| world::failed("random bytes", e.to_string()))?;
    Ok((subject, canary))
}

async fn make<'a>(check: &Check, world: impl Future<Output = Step<World<'a>>>) -> Step<Note> {
    let world = world.await?;
    if let Some(excuse) = world.factory.excuse(check.name) {
        return world::not_applicable(excuse);
    }
    (check.run)(&world).await
}

impl From<Step<Note>> for Outcome {
    fn from(found: Step<Note>) -> Self {
        match found {
            Ok(note) => Self::Passed { note },
            Err(Stop::Failed { expected, came }) => Self::Failed { expected, came },
            Err(Stop::NotApplicable(reason)) => Self::NotApplicable { reason },
        }
    }
}
