//! The way from one node to one vault.
//!
//! Guarantees: the model learns of every call when it is sent and of every answer in the moment in which the node
//! does; a node that crashed reaches nothing any more. What a KEK's owner wants is settled when a call is sent, so that
//! an answer is as old as it can be.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use cofferdam_vault::{
    KeyProperties, KeyVault, VaultError, VaultErrorKind, WrapContext, testing::TokioClock,
};

use crate::{
    dice::Dice,
    hub::{Hub, Moment},
    model::Verdict,
    vault::SimVault,
    weather::Fate,
};

/// Set when the node's process is gone.
pub(crate) type Cut = Arc<AtomicBool>;

pub(crate) struct Link {
    pub(crate) node: usize,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) vault: Arc<dyn SimVault>,
    pub(crate) cut: Cut,
    pub(crate) dice: Mutex<Dice>,
}

/// A call under way. Dropped before its answer, it was given up.
struct Call<'a> {
    link: &'a Link,
    context: &'a WrapContext,
    sent: Moment,
    answered: bool,
}

impl Link {
    /// What becomes of a call that is sent now.
    fn fate(&self, kek: &KeyId) -> (Fate, Duration) {
        let condition = self.hub.state().weather.condition(self.node, kek, self.hub.at());
        condition.fate(&mut self.dice.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn unless_cut(&self) {
        if self.cut.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    fn begin<'a>(&'a self, context: &'a WrapContext) -> Call<'a> {
        let sent = self.hub.moment(&self.clock);
        let mut state = self.hub.state();
        state.counts.vault_calls += 1;
        let alone = state.keys.call_begins(self.node, &context.scope);
        drop(state);
        self.hub.check(alone);
        Call { link: self, context, sent, answered: false }
    }
}

impl Call<'_> {
    fn conclude(&mut self, verdict: Verdict) {
        self.answered = true;
        let Link { hub, node, clock, .. } = self.link;
        let answered = hub.moment(clock);
        let scope = &self.context.scope;
        let mut state = hub.state();
        match verdict {
            Verdict::Denied(_) => state.counts.denials += 1,
            Verdict::Verified => {}
            _ => state.counts.vault_outages += 1,
        }
        state.trace.note(
            answered.at,
            format_args!("node {node}: unwrap {} sent {:?} {verdict:?}", scope.account, self.sent.at),
        );
        state.keys.call_ends(*node, scope, self.sent, answered, verdict);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.answered && !self.link.cut.load(Ordering::Relaxed) {
            self.conclude(Verdict::Unanswered);
        }
    }
}

fn failed(kind: VaultErrorKind, kek: &KeyId) -> VaultError {
    VaultError::new(kind, "the simulation says so").about(kek)
}

#[async_trait]
impl KeyVault for Link {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        self.unless_cut().await;
        let wrapped = self.vault.wrap_key(key_id, aek, context).await?;
        self.hub.state().keys.learn_aek(context.scope, *aek.expose());
        Ok(wrapped)
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        self.unless_cut().await;
        let kek = &wrapped.key_id;
        let mut call = self.begin(context);
        let (fate, latency) = self.fate(kek);
        let answer = match fate {
            Fate::Reaches | Fate::WrongKey => self.vault.unwrap_key(wrapped, context).await,
            Fate::Fails(kind) => Err(failed(kind, kek)),
            Fate::Absent => Err(failed(VaultErrorKind::KeyNotFound, kek)),
            Fate::Hangs => std::future::pending().await,
        };
        tokio::time::sleep(latency).await;
        self.unless_cut().await;
        let answer = match (answer, fate) {
            (Ok(aek), Fate::WrongKey) => Aek::try_from_fn(|other| {
                other.copy_from_slice(aek.expose());
                other[0] ^= 1;
                Ok(())
            }),
            (answer, _) => answer,
        };
        let verdict = match &answer {
            Ok(aek) if self.hub.state().keys.is_aek(context.scope, aek.expose()) => Verdict::Verified,
            Ok(_) => Verdict::Wrong,
            Err(error) => Verdict::of(error.kind()),
        };
        call.conclude(verdict);
        answer
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.unless_cut().await;
        self.vault.key_properties(key_id).await
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link(node {}, {:?})", self.node, self.vault)
    }
}
