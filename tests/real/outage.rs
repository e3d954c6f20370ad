//! An account through an outage of its vault, while a writer writes and a reader reads: grace, buffer, drain.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cofferdam::{
    crypto::Provider,
    keyring::{KeyEvent, KeyState, Policy, What},
    store::{Account, EngineError, Outcome, PutReceipt},
};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinHandle,
};

use super::{Customer, Real, Stopwatch, block, content, is_unavailable, lost};

/// A grace of seconds, retries every two.
pub(crate) fn policy() -> Policy {
    let second = Duration::from_secs(1);
    let policy = super::policy().with_call_timeout(2 * second).unwrap();
    policy.with_grace(18 * second).unwrap().with_retry_max(2 * second).unwrap()
}

/// What the key is called; no other test calls one so, as they share a token.
pub(crate) const KEY: &str = "of-an-outage";
/// How often a write begins.
const EVERY: Duration = Duration::from_millis(10);
/// How long a step of the story may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes one block after the other until it is told to stop.
pub(crate) struct Writer {
    written: Arc<Mutex<Written>>,
    over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// What a writer was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// Every block that was acknowledged.
    acknowledged: BTreeSet<usize>,
    stored: usize,
    buffered: usize,
    /// What was said of others: nothing was acknowledged.
    refused: Vec<String>,
}

impl Written {
    fn note(&mut self, n: usize, answer: Result<PutReceipt, EngineError>) {
        match answer.map(|receipt| receipt.outcome) {
            Ok(Outcome::Stored) => self.stored += 1,
            Ok(Outcome::Buffered) => self.buffered += 1,
            Ok(other) => panic!("nobody knows what {other:?} promises"),
            Err(e) => return self.refused.push(e.to_string()),
        }
        self.acknowledged.insert(n);
    }
}

impl Writer {
    fn start(account: &Account) -> Self {
        let (written, over) = (Arc::<Mutex<Written>>::default(), Arc::<AtomicBool>::default());
        let task = {
            let (account, written, over) = (account.clone(), written.clone(), over.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    if over.load(Ordering::Acquire) {
                        return;
                    }
                    let answer = account.put(&block(n), content(n).into()).await;
                    written.lock().unwrap_or_else(PoisonError::into_inner).note(n, answer);
                    tokio::time::sleep(EVERY).await;
                }
            })
        };
        Self { written, over, task }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stop(self) -> Written {
        self.over.store(true, Ordering::Release);
        self.task.await.unwrap();
        Arc::into_inner(self.written).unwrap().into_inner().unwrap()
    }
}

/// The states that the account's key goes through, while somebody listens.
struct States {
    seen: Arc<Mutex<Vec<KeyState>>>,
    task: JoinHandle<()>,
}

impl States {
    fn of(account: &Account, mut events: Receiver<KeyEvent>) -> Self {
        let (account, seen) = (account.id(), Arc::<Mutex<Vec<KeyState>>>::default());
        let states = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(KeyEvent { account: of, provider: Provider::Customer, what, .. }) if of == account => {
                        if let What::Changed { to, .. } = what {
                            states.lock().unwrap_or_else(PoisonError::into_inner).push(to);
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => panic!("{missed} events were missed"),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Self { seen, task }
    }

    /// All until now.
    fn seen(self) -> Vec<KeyState> {
        assert!(!self.task.is_finished(), "events were missed");
        self.task.abort();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What an outage is made of.
pub(crate) struct Outage<Lose, Worse, Regain> {
    /// Takes the vault away.
    pub(crate) lose: Lose,
    /// What else happens to it while the grace is over; it does not come back.
    pub(crate) worse: Worse,
    /// Brings it back.
    pub(crate) regain: Regain,
}

/// Has an account ride it out; prints what became of what was written, and checks that nothing was lost.
pub(crate) async fn ride_out<Lose, Worse, Regain>(customer: Customer, outage: Outage<Lose, Worse, Regain>)
where
    Lose: AsyncFnOnce(),
    Worse: AsyncFnOnce(),
    Regain: AsyncFnOnce(),
{
    let mut real = Real::over(std::slice::from_ref(&customer), policy()).await;
    let events = real.engine.events();
    let kek = customer.owner.create(KEY).await;
    let account = real.create_account(&customer, kek).await;
    let states = States::of(&account, events);
    let writer = Writer::start(&account);
    let mut story = Vec::new();
    let began = Stopwatch::start();
    let mut tell = |what: &str, writer: &Writer| {
        let written = writer.written();
        story.push((began.read(), what.to_owned(), written.stored, written.buffered));
    };

    until(&account, "50 blocks are stored", async || writer.written().stored >= 50).await;
    tell("vault serves", &writer);

    (outage.lose)().await;
    tell("vault lost", &writer);
    in_state(&account, KeyState::Grace).await;
    tell("grace", &writer);
    let at = writer.written().stored;
    // Whatever is asked now is answered under the key that is held.
    until(&account, "grace serves", async || {
        let read = account.get(&block(0)).await;
        assert!(read.is_ok_and(|bytes| bytes == content(0)), "grace did not read");
        writer.written().stored >= at + 50
    })
    .await;
    assert_eq!(writer.written().buffered, 0, "written to the buffer within the grace");

    in_state(&account, KeyState::Unavailable).await;
    tell("grace over", &writer);
    until(&account, "writes wait", async || writer.written().buffered >= 50).await;
    refused(&account, 0).await;
    (outage.worse)().await;
    tell("vault worse", &writer);
    let at = writer.written().buffered;
    until(&account, "writes wait still", async || writer.written().buffered >= at + 50).await;
    let waits = writer.written().acknowledged.last().copied().unwrap();
    refused(&account, 0).await;
    refused(&account, waits).await;

    (outage.regain)().await;
    tell("vault back", &writer);
    in_state(&account, KeyState::Active).await;
    tell("key active", &writer);
    let at = writer.written().stored;
    until(&account, "writes are stored again", async || writer.written().stored >= at + 50).await;
    let written = writer.stop().await;
    until(&account, "the buffer is drained", async || {
        let report = account.drain().await.unwrap();
        report.left.is_none()
    })
    .await;
    let left = account.status().await.unwrap().buffer.blocks;

    let warm = lost(&account, written.acknowledged.iter().copied()).await;
    let states = states.seen();
    real.restart().await;
    let account = real.engine.account(&super::name(customer.name)).await.unwrap();
    let cold = lost(&account, written.acknowledged.iter().copied()).await;
    let listed = account.status().await.unwrap().blocks;

    println!("{}: {}", customer.name, policy_in_words());
    println!("| at | what | stored | buffered |\n| --- | --- | --- | --- |");
    for (at, what, stored, buffered) in &story {
        println!("| {at:.1?} | {what} | {stored} | {buffered} |");
    }
    println!(
        "acknowledged {} ({} stored, {} buffered), refused {}, left in the buffer {left}, lost {}, lost after a restart {}; \
         key: {states:?}",
        written.acknowledged.len(),
        written.stored,
        written.buffered,
        written.refused.len(),
        warm.len(),
        cold.len(),
    );
    assert_eq!((warm, cold), (vec![], vec![]));
    assert_eq!(listed, written.acknowledged.len() as u64, "what was not acknowledged is there");
    assert_eq!(left, 0);
    assert_eq!(written.refused, [""; 0], "the writer was sent away");
    assert!(!states.contains(&KeyState::Revoked), "an outage was taken for a revocation: {states:?}");
    let order = [KeyState::Active, KeyState::Grace, KeyState::Unavailable, KeyState::Active];
    let mut after = states.iter();
    assert!(order.iter().all(|state| after.any(|of| of == state)), "{states:?}");
    real.engine.close().await.unwrap();
}

fn policy_in_words() -> String {
    let policy = policy();
    format!(
        "refresh {:?}, grace {:?}, time-out {:?}, retries up to {:?}",
        policy.refresh(),
        policy.grace(),
        policy.call_timeout(),
        policy.retry_max()
    )
}

/// A block is refused as unavailable, and in no other way.
async fn refused(account: &Account, n: usize) {
    let read = account.get(&block(n)).await;
    assert!(is_unavailable(&read), "block {n}: {:?}", read.map(|bytes| bytes.len()));
}

async fn in_state(account: &Account, state: KeyState) {
    until(account, state.name(), async || super::key_state(account).await == state).await;
}

/// Waits until it is so; what is never so meanwhile is a revocation.
async fn until(account: &Account, what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = Stopwatch::start();
    while !is_so().await {
        let read = account.get(&block(0)).await;
        let fine = match &read {
            Ok(bytes) => *bytes == content(0),
            // Before the first write, and without a key.
            Err(EngineError::NoBlock { .. } | EngineError::KeyUnavailable { .. }) => true,
            Err(_) => false,
        };
        assert!(fine, "waiting until {what}: {:?}", read.map(|bytes| bytes.len()));
        assert!(waited.read() < PATIENCE, "it never came to pass that {what}");
        tokio::time::sleep(EVERY).await;
    }
}
