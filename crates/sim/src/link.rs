//! What one node sees of one vault.
//!
//! Guarantees: the model learns of every call when it is sent and of every answer in the moment in which the node
//! does; a node that crashed reaches nothing any more.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, Provider, WrappedKey};
use cofferdam_vault::{
    KeyProperties, KeyVault, PublicKeyAnswer, Reauthenticating, VaultError, VaultErrorKind, WrapContext,
    testing::TokioClock,
};

use crate::{
    Check,
    hub::{Hub, Moment},
    model::{self, Verdict},
    way::Way,
};

/// Set when the node's process is gone.
pub(crate) type Cut = Arc<AtomicBool>;

pub(crate) struct Link {
    pub(crate) node: usize,
    /// Which vault it leads to.
    pub(crate) vault: usize,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) way: Reauthenticating<Way>,
    pub(crate) cut: Cut,
}

/// A call under way. Dropped before its answer, it was given up.
struct Call<'a> {
    link: &'a Link,
    wrapped: &'a WrappedKey,
    context: &'a WrapContext,
    sent: Moment,
    is_doubtful: bool,
    answered: bool,
}

impl Link {
    async fn unless_cut(&self) {
        if self.cut.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    fn begin<'a>(&'a self, wrapped: &'a WrappedKey, context: &'a WrapContext) -> Call<'a> {
        let sent = self.hub.moment(&self.clock);
        let mut state = self.hub.state();
        state.counts.vault_calls += 1;
        let is_doubtful = state.accounts.is_operating(context.scope.account);
        let (scope, kek) = (&context.scope, &wrapped.key_id);
        let call = model::Call { scope, kek, is_current: true, is_doubtful };
        let alone = state.keys.call_begins(self.node, &call);
        let within = match is_doubtful {
            // An operation asks without a turn.
            true => Ok(()),
            false => state.budgets.call_begins(self.node, self.vault, sent),
        };
        let genuine = match context.scope.provider {
            Provider::Buffer(segment) => state.segments.judge_asked(context.scope.account, segment),
            Provider::Customer | Provider::Service => Ok(()),
        };
        drop(state);
        self.hub.check(alone.and(within).and(genuine));
        Call { link: self, wrapped, context, sent, is_doubtful, answered: false }
    }
}

impl Call<'_> {
    fn conclude(&mut self, verdict: Verdict) {
        self.answered = true;
        let Link { hub, node, vault, clock, .. } = self.link;
        let answered = hub.moment(clock);
        let (scope, kek) = (&self.context.scope, &self.wrapped.key_id);
        let mut state = hub.state();
        match verdict {
            Verdict::Denied(_) if scope.provider != Provider::Service => state.counts.denials += 1,
            Verdict::Verified => {}
            Verdict::Outage(kind @ VaultErrorKind::Throttled { .. }) => {
                state.counts.throttled += 1;
                state.counts.vault_outages += 1;
                state.budgets.throttled(*node, *vault, (self.sent, answered), kind, !self.is_doubtful);
            }
            _ => state.counts.vault_outages += 1,
        }
        state.trace.note(
            answered.at,
            format_args!("node {node}: unwrap {scope} by {kek} sent {:?} {verdict:?}", self.sent.at),
        );
        let records = state.accounts.possible(scope.account, answered.seq, answered.seq);
        let has_wrap = |record: &model::Written| {
            record.as_ref().is_none_or(|record| record.has_wrap(&self.wrapped.bytes))
        };
        // A segment's wrap is in no account's record.
        let is_current =
            scope.provider.segment().is_some() || records.is_empty() || records.iter().any(has_wrap);
        let is_doubtful = self.is_doubtful || state.accounts.is_operating(scope.account);
        let call = model::Call { scope, kek, is_current, is_doubtful };
        state.keys.call_ends(*node, &call, self.sent, answered, verdict);
        let usable = state.weather.usable_since(kek);
        drop(state);
        if let Verdict::Denied(kind @ (VaultErrorKind::AccessDenied | VaultErrorKind::KeyDisabled)) = verdict
            && usable.is_some_and(|since| since <= self.sent.at)
        {
            let what = format!("{kek}: {kind} was passed on though its owner lets it be used");
            hub.fail(Check::FalseRevocation, what);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.answered && !self.link.cut.load(Ordering::Relaxed) {
            self.conclude(Verdict::Unanswered);
        }
    }
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
        let wrapped = self.way.wrap_key(key_id, aek, context).await?;
        self.unless_cut().await;
        self.hub.state().keys.learn_wrap(context.scope, &wrapped, *aek.expose());
        Ok(wrapped)
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        self.unless_cut().await;
        let mut call = self.begin(wrapped, context);
        let answer = self.way.unwrap_key(wrapped, context).await;
        self.unless_cut().await;
        let verdict = match &answer {
            Ok(aek) if self.hub.state().keys.is_right(context.scope, wrapped, aek.expose()) => {
                Verdict::Verified
            }
            Ok(_) => Verdict::Wrong,
            Err(error) => Verdict::of(error.kind()),
        };
        call.conclude(verdict);
        answer
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        self.unless_cut().await;
        let answer = self.way.key_properties(key_id).await;
        self.unless_cut().await;
        answer
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.unless_cut().await;
        let answer = self.way.public_key(key_id).await;
        self.unless_cut().await;
        answer
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link(node {}, {:?})", self.node, self.way)
    }
}
