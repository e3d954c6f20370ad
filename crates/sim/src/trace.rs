//! What happened, in order.
//!
//! Guarantees: two runs with the same events have the same hash; the last events are kept whatever happens.
//! Not its job: to judge them.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    time::Duration,
};

use xxhash_rust::xxh3::Xxh3;

/// How many of the last events a violation shows.
const LAST: usize = 60;

/// The events of a run.
pub(crate) struct Trace {
    hash: Xxh3,
    line: String,
    last: VecDeque<String>,
    whole: Option<Vec<String>>,
    events: u64,
}

impl Trace {
    /// Keeps all events if `whole`.
    pub(crate) fn new(whole: bool) -> Self {
        Self {
            hash: Xxh3::new(),
            line: String::new(),
            last: VecDeque::with_capacity(LAST),
            whole: whole.then(Vec::new),
            events: 0,
        }
    }

    pub(crate) fn note(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        self.events += 1;
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        // A String takes everything.
        let _ = write!(line, "{:>10.3} {what}", at.as_secs_f64());
        self.hash.update(&at.as_nanos().to_le_bytes());
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        if let Some(whole) = &mut self.whole {
            whole.push(line.clone());
        }
        // The oldest makes way and lends its memory.
        if self.last.len() == LAST {
            self.line = self.last.pop_front().unwrap_or_default();
        }
        self.last.push_back(line);
    }

    /// The hash of all events so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }

    pub(crate) fn take_whole(&mut self) -> Vec<String> {
        self.whole.take().unwrap_or_default()
    }
}
