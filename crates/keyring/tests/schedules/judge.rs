//! What must hold in every schedule, and the memory that tells whether it does.
//!
//! Everything here happens within one step of a schedule, so its order is that of the schedule.

use std::{
    collections::BTreeMap,
    env,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cofferdam_crypto::{AccountId, KeyScope, Provider};
use cofferdam_keyring::{KeyEvent, KeyState, What, rt::time};
use shuttle::current::me;
use tokio::sync::broadcast;

type Key = (AccountId, Provider);

/// A call of a vault that brought the key.
#[derive(Clone, Copy)]
struct Unwrapped {
    begun: u64,
    sent: Duration,
}

/// A denial that a vault gave.
#[derive(Clone, Copy)]
struct Denial {
    given: u64,
    /// The keyring has done something since that shows that it knows.
    known: bool,
}

#[derive(Default)]
struct Of {
    in_flight: usize,
    unwrapped: Option<Unwrapped>,
    denial: Option<Denial>,
    state: Option<KeyState>,
    revoked_in_record: bool,
}

#[derive(Default)]
struct Seen {
    step: u64,
    of: BTreeMap<Key, Of>,
    closing: bool,
    faults: Vec<String>,
    /// What happens is printed: somebody looks at one schedule.
    traced: bool,
}

pub struct Judge {
    seen: Mutex<Seen>,
    events: Mutex<Option<broadcast::Receiver<KeyEvent>>>,
    usable_for: Duration,
}

/// A use that has begun.
pub struct Use {
    key: Key,
    at: Duration,
    /// The key must have been unwrapped by a call that was begun after this.
    after: u64,
}

/// A call that has begun.
pub struct Call<'a> {
    judge: &'a Judge,
    key: Key,
    begun: u64,
    sent: Duration,
}

impl Seen {
    fn step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    fn fault(&mut self, said: impl Into<String>) {
        let said = said.into();
        self.note(|| format!("FAULT: {said}"));
        self.faults.push(said);
    }

    fn note(&mut self, said: impl FnOnce() -> String) {
        if self.traced {
            println!("{:>9.3?} {:?}: {}", time::now().as_secs_f64(), me(), said());
        }
    }

    /// The keyring has done something for this key that it does only once it knows of the last answer.
    fn is_known(&mut self, key: Key) {
        if let Some(denial) = &mut self.of.entry(key).or_default().denial {
            denial.known = true;
        }
    }

    fn event(&mut self, event: &KeyEvent) {
        self.note(|| format!("heard {:?} {:?}: {:?}", event.account, event.provider, event.what));
        let key = (event.account, event.provider);
        let What::Changed { from, to, .. } = event.what else { return };
        let of = self.of.entry(key).or_default();
        let before = of.state.replace(to).unwrap_or(KeyState::Cold);
        // An entry that rests and is held by nobody is forgotten; the next one begins cold.
        let rested = from == KeyState::Cold && !matches!(before, KeyState::Active | KeyState::Grace);
        let (revoked, unwrapped, denial) = (of.revoked_in_record, of.unwrapped, of.denial);
        if from != before && !rested {
            self.fault(format!("{key:?}: told {from} -> {to} after -> {before}"));
        }
        if to == KeyState::Revoked && !revoked {
            self.fault(format!("{key:?}: told as revoked and not persisted"));
        }
        if from == KeyState::Revoked {
            let after = denial.map_or(0, |denial| denial.given);
            if !unwrapped.is_some_and(|unwrapped| unwrapped.begun > after) {
                self.fault(format!("{key:?}: {from} -> {to} without an unwrap that began after the denial"));
            }
            if revoked {
                self.fault(format!("{key:?}: {from} -> {to} and still revoked in its record"));
            }
        }
        let leaves = matches!(from, KeyState::Active | KeyState::Grace);
        if leaves && !matches!(to, KeyState::Active | KeyState::Grace) {
            self.is_known(key);
        }
    }
}

impl Judge {
    /// Of a keyring whose keys may be used for this long.
    pub fn new(usable_for: Duration) -> Self {
        let traced = env::var_os("COFFERDAM_SCHEDULE").is_some();
        let seen = Mutex::new(Seen { traced, ..Seen::default() });
        Self { seen, events: Mutex::default(), usable_for }
    }

    /// Hears these events, from now on.
    pub fn listen(&self, events: broadcast::Receiver<KeyEvent>) {
        *self.events.lock().unwrap() = Some(events);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With what was told until now taken in.
    fn up_to_date(&self) -> MutexGuard<'_, Seen> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.seen();
        let Some(events) = events.as_mut() else { return seen };
        loop {
            match events.try_recv() {
                Ok(event) => seen.event(&event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => seen.fault("more events than are kept"),
                Err(_) => return seen,
            }
        }
    }

    pub fn fault(&self, said: impl Into<String>) {
        self.seen().fault(said);
    }

    /// Takes note of what happened, for who looks at this schedule alone.
    pub fn note(&self, said: impl FnOnce() -> String) {
        self.up_to_date().note(said);
    }

    /// Ends the schedule if something was wrong.
    pub fn check(&self) {
        let faults = std::mem::take(&mut self.up_to_date().faults);
        assert!(faults.is_empty(), "{faults:#?}");
    }

    pub fn note_closing(&self) {
        self.seen().closing = true;
    }

    pub fn is_closing(&self) -> bool {
        self.seen().closing
    }

    pub fn was_denied(&self, account: AccountId) -> bool {
        self.seen().of.get(&(account, Provider::Customer)).is_some_and(|of| of.denial.is_some())
    }

    pub fn begin_call(&self, scope: &KeyScope) -> Call<'_> {
        let key = (scope.account, scope.provider);
        let mut seen = self.up_to_date();
        let begun = seen.step();
        seen.is_known(key);
        let of = seen.of.entry(key).or_default();
        of.in_flight += 1;
        let in_flight = of.in_flight;
        seen.note(|| format!("vault called for {scope}, {in_flight} under way"));
        if in_flight > 1 {
            seen.fault(format!("{key:?}: two calls of its vault at once"));
        }
        Call { judge: self, key, begun, sent: time::now() }
    }

    pub fn read_record(&self, key: Key) {
        self.up_to_date().is_known(key);
    }

    pub fn persist(&self, account: AccountId, revoked: bool) {
        let key = (account, Provider::Customer);
        let mut seen = self.up_to_date();
        seen.is_known(key);
        seen.of.entry(key).or_default().revoked_in_record = revoked;
    }

    pub fn begin_use(&self, scope: &KeyScope) -> Use {
        let key = (scope.account, scope.provider);
        let mut seen = self.up_to_date();
        let denial = seen.of.entry(key).or_default().denial;
        let after = denial.filter(|denial| denial.known).map_or(0, |denial| denial.given);
        Use { key, at: time::now(), after }
    }

    /// The keyring has said that the key may be used.
    pub fn may_use(&self, used: &Use) {
        let mut seen = self.seen();
        let Use { key, at, after } = *used;
        match seen.of.entry(key).or_default().unwrapped {
            Some(unwrapped) if unwrapped.begun <= after => {
                seen.fault(format!("{key:?}: used although its vault denied it, which was known"));
            }
            Some(unwrapped) if at >= unwrapped.sent + self.usable_for => {
                seen.fault(format!("{key:?}: used at {at:?}, past its bound"));
            }
            Some(_) => {}
            None => seen.fault(format!("{key:?}: used and never unwrapped")),
        }
    }
}

impl Call<'_> {
    pub fn unwrapped(self) {
        let mut seen = self.judge.seen();
        seen.note(|| format!("vault gives {:?}", self.key));
        let unwrapped = Unwrapped { begun: self.begun, sent: self.sent };
        seen.of.entry(self.key).or_default().unwrapped = Some(unwrapped);
    }

    pub fn denied(self) {
        let mut seen = self.judge.up_to_date();
        let given = seen.step();
        seen.note(|| format!("vault denies {:?}", self.key));
        // A denial by the service's own vault is an outage.
        if self.key.1 == Provider::Customer {
            seen.of.entry(self.key).or_default().denial = Some(Denial { given, known: false });
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.judge.seen().of.entry(self.key).or_default().in_flight -= 1;
    }
}
