//! Layers are put around a vault in one order, and the stacks that are ready-made keep a vault's promises.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
};

use cofferdam_crypto::rsa::RsaSize;
use cofferdam_vault::{
    KeyKind, KeyVault, VaultBudget, VaultErrorKind as Kind,
    conformance::{Report, run},
    layers::{
        AuditRecord, AuditResult, AuditSink, BreakerPolicy, CallBudget, RetryPolicy, TracingAudit,
        VaultLayers,
    },
    testing::{Answer, ScriptedVault, SeededEntropy, TokioClock},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    asked::{self, MS, SECOND, ask_all, kek, vault},
    factories::{Around, LocalFactory, ScriptedFactory},
};

fn budget() -> CallBudget {
    CallBudget::new(VaultBudget::default())
}

fn none() -> VaultLayers {
    VaultLayers::none(Arc::new(TokioClock::new()), Arc::new(SeededEntropy::new(5)))
}

fn under_keyring() -> VaultLayers {
    VaultLayers::under_keyring("test", Arc::new(TokioClock::new()), Arc::new(SeededEntropy::new(5)))
}

fn on_its_own(budget: &CallBudget) -> VaultLayers {
    let (clock, entropy) = (Arc::new(TokioClock::new()), Arc::new(SeededEntropy::new(5)));
    VaultLayers::on_its_own("test", clock, entropy, budget)
}

#[derive(Clone, Debug, Default)]
struct Records(Arc<Mutex<Vec<AuditResult>>>);

impl AuditSink for Records {
    fn record(&self, record: &AuditRecord) {
        self.0.lock().unwrap().push(record.result);
    }
}

/// The layers of a stack from the caller to the vault, as its Debug nests them.
fn order(vault: &dyn std::fmt::Debug) -> Vec<&'static str> {
    let text = format!("{vault:?}");
    let mut found: Vec<(usize, &str)> =
        ["Audit {", "Retry {", "CircuitBreaker {", "Budget {", "Metrics {", "Timeout {", "ScriptedVault {"]
            .into_iter()
            .filter_map(|layer| text.find(layer).map(|at| (at, layer)))
            .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, layer)| layer.trim_end_matches(" {")).collect()
}

#[tokio::test(start_paused = true)]
async fn the_order_is_one_in_whatever_order_layers_are_named() {
    let all = ["Audit", "Retry", "CircuitBreaker", "Budget", "Metrics", "Timeout", "ScriptedVault"];
    let one = on_its_own(&budget()).over(vault());
    let other = none()
        .timeout(SECOND)
        .budget(&budget())
        .audit(Arc::new(TracingAudit))
        .metrics("test")
        .circuit_breaker(BreakerPolicy::default())
        .retry(RetryPolicy::default())
        .over(vault());
    assert_eq!((order(&one), order(&other)), (all.to_vec(), all.to_vec()));
    let under = under_keyring().over(vault());
    assert_eq!(order(&under), ["Audit", "Metrics", "Timeout", "ScriptedVault"]);
    assert_eq!(order(&none().over(vault())), ["ScriptedVault"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_one_record_and_each_try_takes_a_turn_and_is_evidence() {
    let (vault, records) = (vault(), Records::default());
    let calls = NonZeroU32::new(3).unwrap();
    let budget = CallBudget::new(VaultBudget::default().with_budget(calls).unwrap());
    let stack = on_its_own(&budget).audit(Arc::new(records.clone())).over(vault.clone());
    vault.answer_next([Answer::Fail(Kind::Unavailable), Answer::Fail(Kind::Unavailable)]);
    stack.key_properties(&kek()).await.unwrap();
    assert_eq!(*records.0.lock().unwrap(), [AuditResult::Answered], "one question");
    assert_eq!(vault.calls().len(), 3, "three tries");
    let came = Instant::now();
    stack.key_properties(&kek()).await.unwrap();
    assert!(came.elapsed() > 9 * SECOND, "three turns were taken: {:?}", came.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sent_takes_no_turn() {
    let (vault, calls) = (vault(), NonZeroU32::new(8).unwrap());
    let budget = CallBudget::new(VaultBudget::default().with_budget(calls).unwrap());
    let stack = on_its_own(&budget).over(vault.clone());
    vault.answer(Answer::Fail(Kind::Untrusted));
    // Five outages open the circuit.
    for _ in 0..5 {
        stack.key_properties(&kek()).await.unwrap_err();
    }
    vault.answer(Answer::Work);
    let came = Instant::now();
    while stack.key_properties(&kek()).await.is_err() {
        sleep(100 * MS).await;
    }
    assert!(came.elapsed() < 3 * SECOND, "{:?}", came.elapsed());
    for _ in 0..2 {
        timeout(MS, stack.key_properties(&kek())).await.unwrap().unwrap();
    }
    assert_eq!(vault.calls().len(), 8);
    assert!(timeout(SECOND, stack.key_properties(&kek())).await.is_err(), "the ninth has to wait");
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_turn_is_no_outage_of_the_vault() {
    let (vault, calls) = (vault(), NonZeroU32::MIN);
    let budget = CallBudget::new(VaultBudget::default().with_budget(calls).unwrap());
    // A turn every 10 s, a time-out of 1 s: the wait does not count.
    let stack = none().budget(&budget).timeout(SECOND).over(vault.clone());
    for _ in 0..5 {
        stack.key_properties(&kek()).await.unwrap();
    }
    assert_eq!(vault.calls().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_vault_costs_a_caller_what_the_stack_says_and_no_more() {
    let vault = vault();
    vault.answer(Answer::Hang);
    for (stack, most) in [(under_keyring(), 10 * SECOND), (on_its_own(&budget()), 10 * SECOND)] {
        let (stack, came) = (stack.over(vault.clone()), Instant::now());
        for answer in ask_all(&*stack).await {
            assert_eq!(answer.unwrap_err().kind(), Kind::Unavailable);
        }
        assert!(came.elapsed() <= 4 * (most + 2 * MS), "{:?}", came.elapsed());
    }
}

fn is_good(report: &Report) {
    assert!(report.is_ok(), "{report}");
    assert!(report.counts().passed > 35, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_vault_under_the_layers_for_a_keyring_keeps_every_promise() {
    let layers = under_keyring();
    let scripted = ScriptedFactory::new(KeyKind::Aes256);
    let around = layers.clone();
    is_good(
        &run(&Around::new(scripted).vault(move |vault| around.over(vault)), &SeededEntropy::new(1)).await,
    );
    let local = LocalFactory::new(KeyKind::Rsa(RsaSize::Rsa2048), None).await;
    is_good(&run(&Around::new(local).vault(move |vault| layers.over(vault)), &SeededEntropy::new(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_vault_under_all_layers_keeps_every_promise_but_to_ask_once() {
    let layers = on_its_own(&budget());
    // Once, as it is what remembers.
    let stack: Mutex<Option<Arc<dyn KeyVault>>> = Mutex::new(None);
    let scripted = Around::new(ScriptedFactory::new(KeyKind::Aes256))
        .excused(&["asks-once", "disabled-properties"])
        // What a circuit takes to cool down.
        .settle(3 * SECOND)
        .vault(move |vault| stack.lock().unwrap().get_or_insert_with(|| layers.over(vault)).clone());
    is_good(&run(&scripted, &SeededEntropy::new(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_stack_prints_no_key() {
    let vault: Arc<ScriptedVault> = vault();
    let stack = on_its_own(&budget()).over(vault);
    stack.wrap_key(&kek(), &asked::aek(), &asked::context()).await.unwrap();
    assert!(!format!("{stack:?}").contains("CANARY"));
}
