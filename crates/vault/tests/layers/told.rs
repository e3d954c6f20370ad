//! Every call is counted and told, however it ends, and nothing that is told is a secret.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use cofferdam_vault::{
    Clock, KeyProperties, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind as Kind, WrapContext,
    layers::{Audit, AuditRecord, AuditResult, AuditSink, Metrics, Operation, TracingAudit},
    testing::{Answer, KINDS, TokioClock},
};
use futures_util::FutureExt;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::time::timeout;
use tracing::{Event, Subscriber, field::Visit, span};

use crate::{
    asked::{CANARY, MS, SECOND, aek, ask_all, context, kek, vault},
    heard,
};

#[derive(Clone, Debug, Default)]
struct Records(Arc<Mutex<Vec<AuditRecord>>>);

impl AuditSink for Records {
    fn record(&self, record: &AuditRecord) {
        self.0.lock().unwrap().push(record.clone());
    }
}

impl Records {
    fn take(&self) -> Vec<AuditRecord> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

const OPERATIONS: [Operation; 4] =
    [Operation::Wrap, Operation::Unwrap, Operation::Properties, Operation::PublicKey];

#[tokio::test(start_paused = true)]
async fn every_call_is_one_record_of_what_was_asked_for_whom_when_and_what_came() {
    let (vault, records, clock) = (vault(), Records::default(), Arc::new(TokioClock::new()));
    let audited = Audit::new(vault.clone(), Arc::new(records.clone()), clock.clone());
    vault.set_latency(250 * MS);
    for kind in KINDS {
        vault.answer(Answer::Fail(kind));
        let began = clock.now();
        let _ = ask_all(&audited).await;
        let told = records.take();
        assert_eq!(told.len(), 4);
        for ((n, record), operation) in (0..).zip(&told).zip(OPERATIONS) {
            assert_eq!(record.operation, operation);
            assert_eq!(record.key_id, kek());
            let is_of_a_key = matches!(operation, Operation::Wrap | Operation::Unwrap);
            assert_eq!(record.scope, is_of_a_key.then_some(context().scope));
            assert_eq!(record.result, AuditResult::Failed(kind));
            assert_eq!((record.at.since(&began), record.took), (n * 250 * MS, 250 * MS));
        }
    }
    vault.answer(Answer::Work);
    audited.wrap_key(&kek(), &aek(), &context()).await.unwrap();
    assert_eq!(records.take()[0].result, AuditResult::Answered);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_is_told_too() {
    let (vault, records) = (vault(), Records::default());
    let audited = Audit::new(vault.clone(), Arc::new(records.clone()), Arc::new(TokioClock::new()));
    vault.answer(Answer::Hang);
    assert!(timeout(SECOND, audited.key_properties(&kek())).await.is_err());
    let told = records.take();
    assert_eq!((told.len(), told[0].result), (1, AuditResult::GivenUp));
    assert!((SECOND..=SECOND + 2 * MS).contains(&told[0].took), "{:?}", told[0].took);
    drop(audited.key_properties(&kek()));
    assert!(records.take().is_empty(), "what was never begun was never asked");
}

/// Panics at every question.
#[derive(Debug)]
struct Defective;

#[async_trait]
impl KeyVault for Defective {
    async fn wrap_key(&self, _: &KeyId, _: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
        panic!("on purpose")
    }

    async fn unwrap_key(&self, _: &WrappedKey, _: &WrapContext) -> Result<Aek, VaultError> {
        panic!("on purpose")
    }

    async fn key_properties(&self, _: &KeyId) -> Result<KeyProperties, VaultError> {
        panic!("on purpose")
    }

    async fn public_key(&self, _: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_vault_that_panics_is_told_of_too() {
    let records = Records::default();
    let audited = Audit::new(Defective, Arc::new(records.clone()), Arc::new(TokioClock::new()));
    let key = kek();
    let asked = std::panic::AssertUnwindSafe(audited.key_properties(&key));
    assert!(asked.catch_unwind().await.is_err());
    let told = records.take();
    assert_eq!((told.len(), told[0].result), (1, AuditResult::GivenUp));
}

/// What was written to the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().target()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_has_a_line_for_every_call_and_no_secret() {
    let log = Log::default();
    let _heard = heard::by(log.clone());
    let vault = vault();
    let audited = Audit::new(vault.clone(), Arc::new(TracingAudit), Arc::new(TokioClock::new()));
    let wrapped = audited.wrap_key(&kek(), &aek(), &context()).await.unwrap();
    vault.answer(Answer::Fail(Kind::KeyDisabled));
    audited.unwrap_key(&wrapped, &context()).await.unwrap_err();
    let lines = log.0.lock().unwrap().clone();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let scope = context().scope;
    for (line, (operation, result)) in lines.iter().zip([("wrap", "answered"), ("unwrap", "key_disabled")]) {
        assert!(line.starts_with("cofferdam::audit::vault "), "{line}");
        for part in [
            format!("operation={operation:?} "),
            format!("key_id={} ", kek()),
            format!("scope={scope} "),
            format!("result={result:?} "),
            "took_us=0 ".into(),
        ] {
            assert!(line.contains(&part), "{part} is not in {line}");
        }
    }
    let text = format!("{lines:?} {audited:?}");
    assert!(!text.contains(std::str::from_utf8(&CANARY[..12]).unwrap()), "{text}");
    let hex: String = wrapped.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!text.contains(&hex[..16]), "{text}");
}

/// Counters, gauges and histograms by name and labels.
#[derive(Default)]
struct Figures {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    histograms: Mutex<BTreeMap<String, Arc<Values>>>,
}

#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

fn name(key: &Key) -> String {
    let mut labels: Vec<String> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
    labels.sort();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

impl Recorder for Figures {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.counters.lock().unwrap().entry(name(key)).or_default().clone())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.gauges.lock().unwrap().entry(name(key)).or_default().clone())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.lock().unwrap().entry(name(key)).or_default().clone())
    }
}

#[tokio::test(start_paused = true)]
async fn every_request_counts_by_what_was_asked_and_what_came() {
    let figures = Figures::default();
    let _guard = metrics::set_default_local_recorder(&figures);
    let vault = vault();
    let counted = Metrics::new(vault.clone(), "scripted", Arc::new(TokioClock::new()));
    vault.set_latency(250 * MS);
    counted.wrap_key(&kek(), &aek(), &context()).await.unwrap();
    vault.answer(Answer::Fail(Kind::AccessDenied));
    let _ = ask_all(&counted).await;
    vault.answer(Answer::Hang);
    assert!(timeout(SECOND, counted.key_properties(&kek())).await.is_err());
    let counters: Vec<(String, u64)> = {
        let counters = figures.counters.lock().unwrap();
        counters.iter().map(|(name, value)| (name.clone(), value.load(Ordering::Relaxed))).collect()
    };
    let of = |operation: &str, outcome: &str| {
        let name = "cofferdam_vault_requests_total";
        (format!("{name}{{operation={operation},outcome={outcome},vault=scripted}}"), 1)
    };
    let expected = [
        of("properties", "access_denied"),
        of("properties", "given_up"),
        of("public_key", "access_denied"),
        of("unwrap", "access_denied"),
        of("wrap", "access_denied"),
        of("wrap", "answered"),
    ];
    assert_eq!(counters, expected);
    let gauges = figures.gauges.lock().unwrap();
    let in_flight = &gauges["cofferdam_vault_requests_in_flight{vault=scripted}"];
    assert_eq!(f64::from_bits(in_flight.load(Ordering::Relaxed)), 0.0, "those given up count no longer");
    let histograms = figures.histograms.lock().unwrap();
    assert_eq!(histograms.len(), expected.len());
    for (name, values) in histograms.iter() {
        let took = Duration::from_secs_f64(values.0.lock().unwrap()[0]);
        let expected = if name.contains("given_up") { SECOND } else { 250 * MS };
        assert!((expected..=expected + 2 * MS).contains(&took), "{name}: {took:?}");
    }
}
