//! Every order of the steps of two transactions, everything stopped after every step, answers lost at every step: what is
//! read is as if the transactions had been done one after another, each whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_store::{
    Catalog, Revision, StoreError, StoreErrorKind, Stored,
    objects::{Rows, Transaction},
};
use proptest::prelude::*;

use crate::support::*;

/// What a row is made by one transaction: its name is appended, or the row is removed, or only looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Append,
    Remove,
    Look,
}

type Script = &'static [(&'static str, Step)];
type Values = BTreeMap<&'static str, Option<String>>;

const ROWS: [&str; 3] = ["x", "y", "z"];

/// Transactions that run at once, on rows of which some are there.
#[derive(Clone, Copy, Debug)]
struct Scene {
    there: &'static [&'static str],
    actors: &'static [Script],
}

use Step::{Append, Look, Remove};

const SCENES: &[Scene] = &[
    Scene { there: &["x", "y"], actors: &[&[("x", Append), ("y", Append)], &[("x", Append), ("y", Append)]] },
    Scene { there: &["x"], actors: &[&[("x", Append), ("y", Append)], &[("y", Append), ("z", Append)]] },
    Scene { there: &[], actors: &[&[("x", Append), ("y", Append)], &[("x", Append), ("y", Append)]] },
    Scene { there: &["x", "y"], actors: &[&[("y", Append), ("z", Append)], &[("x", Append), ("y", Append)]] },
    Scene { there: &["x", "y"], actors: &[&[("x", Remove), ("y", Append)], &[("x", Append), ("y", Remove)]] },
    Scene { there: &["x", "y"], actors: &[&[("x", Look), ("y", Append)], &[("x", Append), ("y", Look)]] },
    Scene { there: &["y"], actors: &[&[("x", Append), ("y", Remove)], &[("y", Append)]] },
    Scene { there: &[], actors: &[&[("x", Append), ("y", Append)], &[("x", Remove), ("y", Remove)]] },
];

/// How one swap of an actor goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It is done; the answer is an error.
    Lost,
    /// It is not done; the answer is an error.
    Refused,
    /// The answer is an error; it is done later, or never.
    Late,
}

#[derive(Clone, Debug)]
enum Request {
    Load(String),
    Swap { key: String, expected: Option<Revision>, new: Option<Bytes> },
}

#[derive(Clone, Debug)]
enum Answer {
    Loaded(Option<Stored>),
    Swapped(Option<Option<Revision>>),
    Failed,
}

/// A catalog in which a call is done when the schedule says so.
#[derive(Debug, Default)]
struct Stage {
    rows: BTreeMap<String, Stored>,
    revisions: u64,
    calls: u64,
    /// Calls that are not done, each with whose it is, and who waits for it.
    waiting: BTreeMap<u64, (usize, Request, Option<Waker>)>,
    answers: BTreeMap<u64, Answer>,
    /// The nth swap of this actor goes wrong.
    fault: Option<(usize, usize, Fault)>,
    swaps: BTreeMap<usize, usize>,
}

impl Stage {
    fn perform(&mut self, request: &Request) -> Answer {
        match request {
            Request::Load(key) => Answer::Loaded(self.rows.get(key).cloned()),
            Request::Swap { key, expected, new } => {
                if self.rows.get(key).map(|stored| &stored.revision) != expected.as_ref() {
                    return Answer::Swapped(None);
                }
                self.revisions += 1;
                let revision = Revision::new(self.revisions.to_string());
                match new {
                    Some(bytes) => {
                        let stored = Stored { bytes: bytes.clone(), revision: revision.clone() };
                        self.rows.insert(key.clone(), stored);
                        Answer::Swapped(Some(Some(revision)))
                    }
                    None => {
                        self.rows.remove(key);
                        Answer::Swapped(Some(None))
                    }
                }
            }
        }
    }

    /// Does a call that waits, or what its fault makes of it.
    fn grant(&mut self, call: u64) {
        let (actor, request, waker) = self.waiting.remove(&call).unwrap();
        let mut fault = None;
        if waker.is_some() && matches!(request, Request::Swap { .. }) {
            let nth = self.swaps.entry(actor).or_default();
            fault = self.fault.filter(|(of, at, _)| (*of, *at) == (actor, *nth)).map(|(_, _, fault)| fault);
            *nth += 1;
        }
        let answer = match fault {
            None => self.perform(&request),
            Some(Fault::Lost) => {
                self.perform(&request);
                Answer::Failed
            }
            Some(Fault::Refused) => Answer::Failed,
            Some(Fault::Late) => {
                self.calls += 1;
                self.waiting.insert(self.calls, (actor, request, None));
                Answer::Failed
            }
        };
        if let Some(waker) = waker {
            self.answers.insert(call, answer);
            waker.wake();
        }
    }
}

/// One actor's way to the stage.
#[derive(Clone, Debug)]
struct Way {
    stage: Arc<Mutex<Stage>>,
    actor: usize,
}

impl Way {
    async fn call(&self, request: Request) -> Answer {
        let mut call = None;
        std::future::poll_fn(|context: &mut Context<'_>| {
            let mut stage = self.stage.lock().unwrap();
            let id = *call.get_or_insert_with(|| {
                stage.calls += 1;
                stage.calls
            });
            if let Some(answer) = stage.answers.remove(&id) {
                return Poll::Ready(answer);
            }
            stage.waiting.insert(id, (self.actor, request.clone(), Some(context.waker().clone())));
            Poll::Pending
        })
        .await
    }
}

#[async_trait]
impl Catalog for Way {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        match self.call(Request::Load(key.to_owned())).await {
            Answer::Loaded(stored) => Ok(stored),
            answer => panic!("{answer:?}"),
        }
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError> {
        let request = Request::Swap { key: key.to_owned(), expected: expected.cloned(), new };
        match self.call(request).await {
            Answer::Swapped(Some(revision)) => Ok(revision),
            Answer::Swapped(None) => Err(StoreError::new(StoreErrorKind::Conflict)),
            Answer::Failed => Err(StoreError::new(StoreErrorKind::Io)),
            answer => panic!("{answer:?}"),
        }
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<(String, Stored)>, StoreError> {
        panic!("transactions do not list")
    }
}

/// What an actor knows of its transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    Running,
    Done,
    NotDone,
    Unknown,
}

type Acting = Pin<Box<dyn Future<Output = Came>>>;

struct Play {
    stage: Arc<Mutex<Stage>>,
    acting: Vec<Option<Acting>>,
    came: Vec<Came>,
}

fn rows(stage: &Arc<Mutex<Stage>>, actor: usize) -> Rows {
    let way = Way { stage: stage.clone(), actor };
    Rows::new(Arc::new(way), entropy(100 + actor as u64)).with_patience(std::time::Duration::ZERO)
}

fn text(value: Option<Bytes>) -> Option<String> {
    value.map(|value| String::from_utf8(value.into()).unwrap())
}

async fn take(transaction: &mut Transaction, name: &str, script: Script) -> Result<(), StoreError> {
    for (key, step) in script {
        let value = text(transaction.load(key).await?);
        match step {
            Append => transaction.put(*key, format!("{}{name}", value.unwrap_or_default()).into()),
            Remove => transaction.remove(*key),
            Look => {}
        }
    }
    Ok(())
}

async fn act(rows: Rows, name: String, script: Script) -> Came {
    let mut transaction = rows.begin();
    let came = match take(&mut transaction, &name, script).await {
        Ok(()) => transaction.commit().await,
        // What failed was the end of another's transaction.
        Err(_) => return Came::NotDone,
    };
    match came {
        Ok(()) => Came::Done,
        Err(error) if error.kind() == StoreErrorKind::Conflict => Came::NotDone,
        Err(error) if error.to_string().contains("was not done") => Came::NotDone,
        Err(_) => Came::Unknown,
    }
}

impl Play {
    fn new(scene: Scene, fault: Option<(usize, usize, Fault)>) -> Self {
        let stage = Arc::new(Mutex::new(Stage { fault, ..Stage::default() }));
        let mut play = Self { stage, acting: Vec::new(), came: Vec::new() };
        for key in scene.there {
            let mut transaction = rows(&play.stage, 90).begin();
            transaction.put(*key, Bytes::from_static(b"-"));
            play.alone(90, transaction.commit()).unwrap();
        }
        for (actor, script) in scene.actors.iter().enumerate() {
            let name = char::from(b'A' + actor as u8).to_string();
            play.acting.push(Some(Box::pin(act(rows(&play.stage, actor), name, script))));
            play.came.push(Came::Running);
            play.drive(actor);
        }
        play
    }

    fn drive(&mut self, actor: usize) {
        let Some(Some(acting)) = self.acting.get_mut(actor) else { return };
        if let Poll::Ready(came) = acting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.came[actor] = came;
            self.acting[actor] = None;
        }
    }

    /// The calls that can be done next.
    fn next(&self) -> Vec<u64> {
        self.stage.lock().unwrap().waiting.keys().copied().collect()
    }

    fn step(&mut self, call: u64) {
        let actor = {
            let mut stage = self.stage.lock().unwrap();
            let actor = stage.waiting[&call].0;
            stage.grant(call);
            actor
        };
        self.drive(actor);
    }

    /// Runs one more to its end while nobody else moves.
    fn alone<T>(&self, actor: usize, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        for _ in 0..1000 {
            if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return answer;
            }
            let mut stage = self.stage.lock().unwrap();
            let call =
                stage.waiting.iter().find(|(_, (of, ..))| *of == actor).map(|(call, _)| *call).unwrap();
            stage.grant(call);
        }
        panic!("it does not end");
    }

    /// What is read when everybody stopped here, rows in this order.
    fn read(&self, order: [&'static str; 3]) -> Values {
        let reader = rows(&self.stage, 91);
        order.into_iter().map(|key| (key, text(self.alone(91, reader.load(key)).unwrap()))).collect()
    }

    /// What is stopped here, as another play on the same rows, with what was under way.
    fn stopped(&self) -> Self {
        let stage = self.stage.lock().unwrap();
        let waiting = stage
            .waiting
            .iter()
            .map(|(call, (actor, request, _))| (*call, (*actor, request.clone(), None)))
            .collect();
        let stage = Stage {
            rows: stage.rows.clone(),
            revisions: stage.revisions,
            calls: stage.calls,
            waiting,
            ..Stage::default()
        };
        Self { stage: Arc::new(Mutex::new(stage)), acting: Vec::new(), came: self.came.clone() }
    }
}

/// What the rows may be: the transactions that were done, and any of those that may have been, in any order.
fn admissible(scene: Scene, came: &[Came]) -> BTreeSet<Values> {
    fn go(scene: Scene, came: &[Came], done: &mut Vec<usize>, values: &Values, all: &mut BTreeSet<Values>) {
        if came.iter().enumerate().all(|(actor, came)| *came != Came::Done || done.contains(&actor)) {
            all.insert(values.clone());
        }
        for actor in 0..came.len() {
            if came[actor] == Came::NotDone || done.contains(&actor) {
                continue;
            }
            let mut next = values.clone();
            for (key, step) in scene.actors[actor] {
                let value = next.get_mut(key).unwrap();
                match step {
                    Append => {
                        let name = char::from(b'A' + actor as u8);
                        *value = Some(format!("{}{name}", value.clone().unwrap_or_default()));
                    }
                    Remove => *value = None,
                    Look => {}
                }
            }
            done.push(actor);
            go(scene, came, done, &next, all);
            done.pop();
        }
    }
    let there = |key: &str| scene.there.contains(&key).then(|| "-".to_owned());
    let values = ROWS.into_iter().map(|key| (key, there(key))).collect();
    let mut all = BTreeSet::new();
    go(scene, came, &mut Vec::new(), &values, &mut all);
    all
}

/// Everybody stops: what is read must be admissible, must not depend on the order of reading, and must stay when what was
/// under way arrives.
fn check(play: &Play, scene: Scene, how: &str) {
    let all = admissible(scene, &play.came);
    let one = play.stopped();
    let values = one.read(ROWS);
    assert!(all.contains(&values), "{how}: {values:?} of {all:?}, {:?}", play.came);
    let other = play.stopped().read(["z", "y", "x"]);
    assert!(all.contains(&other), "{how}: {other:?} of {all:?}, {:?}", play.came);
    // In either order of arrival.
    for from_last in [false, true] {
        let late = play.stopped();
        assert_eq!(late.read(ROWS), values);
        let mut calls = late.next();
        if from_last {
            calls.reverse();
        }
        for call in calls {
            late.stage.lock().unwrap().grant(call);
            let now = late.read(["y", "x", "z"]);
            // Only what is one swap by itself may still be done.
            let is_one_swap = scene.actors.iter().any(|script| script.len() == 1);
            assert!(
                now == values || is_one_swap && all.contains(&now),
                "{how}: late: {now:?} after {values:?}"
            );
        }
    }
}

/// Plays a schedule: at step n the call that `choose` picks of so many. Whether it should be stopped is asked before each.
fn play(
    scene: Scene,
    fault: Option<(usize, usize, Fault)>,
    mut choose: impl FnMut(usize, &Play) -> usize,
) -> Play {
    let mut play = Play::new(scene, fault);
    for _ in 0..200 {
        let calls = play.next();
        if play.acting.iter().all(Option::is_none) || calls.is_empty() {
            return play;
        }
        let chosen = choose(calls.len(), &play);
        play.step(calls[chosen]);
    }
    panic!("{scene:?}: it does not end");
}

/// Plays all schedules, checking after every step. How many there were.
fn play_all(scene: Scene, fault: Option<(usize, usize, Fault)>) -> (u64, BTreeSet<Vec<u8>>) {
    let (mut schedules, mut outcomes) = (0, BTreeSet::new());
    let mut script: Vec<(usize, usize)> = Vec::new();
    let mut fresh_from = 0;
    loop {
        let mut at = 0;
        let end = play(scene, fault, |of, so_far| {
            // What comes before was checked in an earlier schedule.
            if at >= fresh_from {
                check(so_far, scene, &format!("{scene:?} {fault:?} {:?}", &script[..at.min(script.len())]));
            }
            if at == script.len() {
                script.push((0, of));
            }
            at += 1;
            script[at - 1].0
        });
        check(&end, scene, &format!("{scene:?} {fault:?} {script:?}"));
        schedules += 1;
        outcomes.insert(end.came.iter().map(|came| *came as u8).collect());
        while script.last().is_some_and(|(chosen, of)| chosen + 1 == *of) {
            script.pop();
        }
        let Some(last) = script.last_mut() else { return (schedules, outcomes) };
        last.0 += 1;
        fresh_from = script.len();
    }
}

#[test]
fn every_interleaving_of_two_transactions_stopped_anywhere_is_whole() {
    let mut all = 0;
    for scene in SCENES {
        let (schedules, outcomes) = play_all(*scene, None);
        assert!(schedules > 100, "{scene:?}: {schedules}");
        let done = [Came::Done as u8; 2].to_vec();
        assert!(outcomes.contains(&done), "{scene:?}: both are done in some order: {outcomes:?}");
        assert!(outcomes.len() > 1, "{scene:?}: in some they end each other: {outcomes:?}");
        all += schedules;
    }
    println!("{all} interleavings, stopped after every step");
}

#[test]
fn a_transaction_alone_with_one_answer_lost_anywhere_knows_what_it_did_or_says_that_it_does_not() {
    const ALONE: &[Scene] = &[
        Scene { there: &["x", "y"], actors: &[&[("x", Append), ("y", Append), ("z", Append)]] },
        Scene { there: &[], actors: &[&[("x", Append), ("y", Append)]] },
        Scene { there: &["x", "y", "z"], actors: &[&[("x", Remove), ("y", Remove), ("z", Look)]] },
        Scene { there: &[], actors: &[&[("x", Append)]] },
    ];
    for scene in ALONE {
        for nth in 0..8 {
            for fault in [Fault::Lost, Fault::Refused, Fault::Late] {
                play_all(*scene, Some((0, nth, fault)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: scale(400, 100_000), ..ProptestConfig::default() })]

    #[test]
    fn any_order_with_any_one_answer_lost_is_whole(
        scene in 0..SCENES.len(), nth in 0_usize..8, actor in 0_usize..2,
        fault in prop_oneof![Just(Fault::Lost), Just(Fault::Refused), Just(Fault::Late)],
        order in prop::collection::vec(any::<prop::sample::Index>(), 80),
    ) {
        let scene = SCENES[scene];
        let mut at = 0;
        let end = play(scene, Some((actor, nth, fault)), |of, so_far| {
            check(so_far, scene, &format!("{scene:?} {fault:?} at step {at}"));
            at += 1;
            order.get(at - 1).map_or(0, |choice| choice.index(of))
        });
        check(&end, scene, &format!("{scene:?} {fault:?} at the end"));
    }

    #[test]
    fn any_order_of_three_transactions_is_whole(order in prop::collection::vec(any::<prop::sample::Index>(), 120)) {
        const THREE: Scene = Scene {
            there: &["x"],
            actors: &[&[("x", Append), ("y", Append)], &[("y", Append), ("z", Append)], &[("z", Append), ("x", Append)]],
        };
        let mut at = 0;
        let end = play(THREE, None, |of, so_far| {
            check(so_far, THREE, &format!("at step {at}"));
            at += 1;
            order.get(at - 1).map_or(0, |choice| choice.index(of))
        });
        check(&end, THREE, "at the end");
    }
}
