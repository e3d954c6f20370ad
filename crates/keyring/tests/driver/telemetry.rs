//! Every change of state is one event, one audit line and one count, and none of them tells a secret.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    num::NonZeroUsize,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use cofferdam_crypto::Provider;
use cofferdam_keyring::{KeyState, Policy, What};
use cofferdam_vault::{VaultErrorKind as Kind, testing::Answer};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::time::sleep;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::common::{SECOND, World};

/// Counters and gauges by name and labels, and how many values each histogram got.
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

impl Figures {
    fn counters(&self, of: &str) -> BTreeMap<String, u64> {
        let counters = self.counters.lock().unwrap();
        let of = counters.iter().filter(|(name, _)| name.starts_with(of));
        of.map(|(name, value)| (name.clone(), value.load(Ordering::Relaxed))).collect()
    }

    fn gauges(&self) -> BTreeMap<String, f64> {
        let gauges = self.gauges.lock().unwrap();
        gauges.iter().map(|(name, v)| (name.clone(), f64::from_bits(v.load(Ordering::Relaxed)))).collect()
    }

    fn everything(&self) -> String {
        let histograms: Vec<String> = self.histograms.lock().unwrap().keys().cloned().collect();
        format!("{:?} {:?} {histograms:?}", self.counters(""), self.gauges())
    }
}

/// What was written to the audit log.
#[derive(Clone, Default)]
struct Audit(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Audit {
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
        if event.metadata().target() == "cofferdam::audit" {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }
}

/// A life of two accounts with every state in it. Returns the changes that were told as events, as they are counted.
async fn live(figures: &Figures) -> BTreeMap<String, u64> {
    let world = World::with(Policy::default().with_max_keys(NonZeroUsize::new(3).unwrap()));
    let (account, other) = (world.account(1).await, world.account(1).await);
    let mut events = world.keyring.subscribe();
    let mut told = Vec::new();

    world.key(account).await.unwrap();
    world.use_for(account, 100 * SECOND, SECOND).await;
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    world.use_for(account, 100 * SECOND, SECOND).await;
    assert_eq!(world.state(account), KeyState::Grace);
    let grace = "cofferdam_keys_held{provider=customer,state=grace}";
    assert_eq!(figures.gauges()[grace], 1.0);
    world.use_for(account, 1800 * SECOND, SECOND).await;
    assert_eq!(world.state(account), KeyState::Unavailable);
    assert_eq!(figures.gauges()[grace], 0.0);
    told.extend(std::iter::from_fn(|| events.try_recv().ok()));
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    world.use_for(account, 40 * SECOND, SECOND).await;
    assert_eq!(world.state(account), KeyState::Revoked);
    world.customer.answer(Answer::Work);
    world.use_for(account, 40 * SECOND, SECOND).await;
    assert_eq!(world.state(account), KeyState::Active);
    world.keyring.sealing_key(account, Provider::Service).await.unwrap();
    world.service.answer(Answer::Fail(Kind::AccessDenied));
    for _ in 0..100 {
        world.keyring.sealing_key(account, Provider::Service).await.unwrap();
        sleep(SECOND).await;
    }
    world.service.answer(Answer::Work);
    world.key(account).await.unwrap();
    world.key(other).await.unwrap();
    world.keyring.forget(account);
    world.customer.answer(Answer::WrongKey);
    assert!(world.key(account).await.is_err());
    told.extend(std::iter::from_fn(|| events.try_recv().ok()));

    let held = world.keyring.held_keys() as f64;
    let gauged = figures.gauges().into_iter().filter(|(name, _)| name.starts_with("cofferdam_keys_held"));
    assert_eq!(gauged.map(|(_, held)| held).sum::<f64>(), held);
    world.keyring.close().await;
    assert!(figures.gauges().values().all(|&held| held == 0.0), "{:?}", figures.gauges());

    let mut changes = BTreeMap::new();
    for event in told {
        let provider = if event.provider == Provider::Customer { "customer" } else { "service" };
        if let What::Changed { from, to, .. } = event.what {
            let name =
                format!("cofferdam_key_state_changes_total{{from={from},provider={provider},to={to}}}");
            *changes.entry(name).or_default() += 1;
        }
    }
    changes
}

#[test]
fn every_change_is_an_event_a_count_and_an_audit_line_without_a_secret() {
    let (figures, audit) = (Figures::default(), Audit::default());
    // With a second subscriber, a thread without one that comes to a callsite first does not silence it for all.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let changes = metrics::with_local_recorder(&figures, || {
        tracing::subscriber::with_default(audit.clone(), || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(live(&figures))
        })
    });
    assert_eq!(figures.counters("cofferdam_key_state_changes_total"), changes);
    let states = ["cold", "active", "grace", "unavailable", "revoked"];
    for state in states {
        assert!(changes.keys().any(|name| name.contains(&format!("to={state}"))), "{state}: {changes:?}");
    }
    let lines = audit.0.lock().unwrap().clone();
    let of_change = lines.iter().filter(|line| line.contains("key state changed")).count() as u64;
    assert_eq!(of_change, changes.values().sum::<u64>());

    let calls: u64 = figures.counters("cofferdam_vault_calls_total").values().sum();
    let mut histograms = figures.histograms.lock().unwrap();
    histograms.retain(|name, _| name.starts_with("cofferdam_vault_call_seconds"));
    let seconds: Vec<f64> = histograms.values().flat_map(|values| values.0.lock().unwrap().clone()).collect();
    assert_eq!(seconds.len() as u64, calls);
    assert!(seconds.iter().all(|&took| took <= Duration::from_secs(5).as_secs_f64() + 0.01));
    drop(histograms);
    for expected in [
        "cofferdam_vault_calls_total{outcome=access_denied,provider=service}",
        "cofferdam_vault_calls_total{outcome=corrupt,provider=customer}",
        "cofferdam_key_alarms_total{alarm=corrupt,provider=customer}",
        "cofferdam_key_alarms_total{alarm=service_denied,provider=service}",
        "cofferdam_key_evictions_total{provider=customer,why=expired}",
        "cofferdam_key_evictions_total{provider=customer,why=displaced}",
        "cofferdam_key_evictions_total{provider=service,why=forgotten}",
        "cofferdam_key_refreshes_total{provider=customer}",
    ] {
        assert!(
            figures.counters(expected).values().sum::<u64>() > 0,
            "{expected}: {:?}",
            figures.counters("")
        );
    }
    // Labels are words: nothing in them has an account, a key id or bytes.
    let everything = figures.everything();
    assert!(!everything.contains("test://") && !everything.chars().any(|c| c == '-'), "{everything}");
    // Audit lines name account and KEK, and nothing as long as a key.
    for line in &lines {
        let longest = line.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max();
        assert!(longest.is_some_and(|longest| longest < 32), "{line}");
    }
}
