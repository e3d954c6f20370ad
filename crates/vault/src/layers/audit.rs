//! Tells of every call.
//!
//! Guarantees: a sink gets one record of every call, when it has ended, those that are given up too; a record has names, times
//! and kinds, never a byte of a key or of a wrap. Not its job: to keep records, or to hold up calls: what a sink does is done
//! before the caller has its answer, so it must be quick.

use std::{fmt, sync::Arc, time::Duration};

use cofferdam_crypto::{KeyId, KeyScope};

use super::{Operation, Question};
use crate::{Clock, KeyVault, Timestamp, VaultError, VaultErrorKind};

/// Takes records of calls.
pub trait AuditSink: fmt::Debug + Send + Sync {
    /// Takes one. Must not wait.
    fn record(&self, record: &AuditRecord);
}

/// What was asked of a vault, and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRecord {
    /// What it was asked.
    pub operation: Operation,
    /// The KEK, as it was asked for.
    pub key_id: KeyId,
    /// Which AEK it was for; `None` where it was for none.
    pub scope: Option<KeyScope>,
    /// What came.
    pub result: AuditResult,
    /// When it was asked.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditResult {
    /// The vault did what it was asked.
    Answered,
    /// It failed.
    Failed(VaultErrorKind),
    /// The caller gave up, or foreign code panicked.
    GivenUp,
}

impl AuditResult {
    /// Its name, as the log carries it: `answered`, `given_up`, or the kind of the failure.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed(kind) => kind.name(),
            Self::GivenUp => "given_up",
        }
    }
}

/// Writes records to the log, under the target `cofferdam::audit::vault`, each an event of level info.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingAudit;

impl AuditSink for TracingAudit {
    fn record(&self, record: &AuditRecord) {
        let AuditRecord { operation, key_id, scope, result, at, took } = record;
        let scope = scope.map(tracing::field::display);
        tracing::info!(
            target: "cofferdam::audit::vault",
            operation = operation.name(),
            %key_id,
            scope,
            result = result.name(),
            at_ms = at.wall.as_millis(),
            took_us = took.as_micros(),
            "vault asked"
        );
    }
}

/// A vault whose calls are told.
#[derive(Debug)]
pub struct Audit<V> {
    vault: V,
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
}

impl<V: KeyVault> Audit<V> {
    /// The vault, whose calls are told to this sink.
    pub fn new(vault: V, sink: Arc<dyn AuditSink>, clock: Arc<dyn Clock>) -> Self {
        Self { vault, sink, clock }
    }

    /// The vault as it is without this.
    pub fn inner(&self) -> &V {
        &self.vault
    }

    async fn call<T>(
        &self,
        question: Question<'_>,
        asked: impl Future<Output = Result<T, VaultError>>,
    ) -> Result<T, VaultError> {
        let mut told = Told {
            sink: &*self.sink,
            clock: &*self.clock,
            question,
            at: self.clock.now(),
            result: AuditResult::GivenUp,
        };
        let answer = asked.await;
        told.result = match &answer {
            Ok(_) => AuditResult::Answered,
            Err(failed) => AuditResult::Failed(failed.kind()),
        };
        answer
    }
}

/// A call that is told when it ends, however that comes.
struct Told<'a> {
    sink: &'a dyn AuditSink,
    clock: &'a dyn Clock,
    question: Question<'a>,
    at: Timestamp,
    result: AuditResult,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.sink.record(&AuditRecord {
            operation: self.question.operation,
            key_id: self.question.key_id.clone(),
            scope: self.question.scope,
            result: self.result,
            at: self.at,
            took: self.clock.now().since(&self.at),
        });
    }
}

layer!(Audit);
