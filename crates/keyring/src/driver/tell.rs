//! Events of an entry are told, logged and counted.
//!
//! Guarantees: with no lock held, and in the order in which they happened, whoever they happened to: a listener that
//! hears last of all that a key is active knows that it is.
//!
//! Not its job: who listens too slowly.

use cofferdam_crypto::planted::{Bug, is_planted};

use super::{Shared, entry::Entry, slot::AtDesk};
use crate::{KeyEvent, telemetry};

impl Entry {
    /// Leaves the desk and tells these events, after those that happened before; or leaves them to who is telling
    /// those now.
    pub(super) fn tell(&self, shared: &Shared, mut desk: AtDesk<'_>, events: Vec<KeyEvent>) {
        if events.is_empty() {
            return;
        }
        if let Some(untold) = &mut desk.untold
            && !is_planted(Bug::ToldOutOfOrder)
        {
            untold.extend(events);
            return;
        }
        if is_planted(Bug::ToldOutOfOrder) {
            drop(desk);
            events.into_iter().for_each(|event| shared.tell(event));
            return;
        }
        desk.untold = Some(events);
        drop(desk);
        let mut telling = Telling { entry: self, over: false };
        while let Some(events) = telling.next() {
            events.into_iter().for_each(|event| shared.tell(event));
        }
    }
}

impl Shared {
    fn tell(&self, event: KeyEvent) {
        event.log();
        telemetry::count(&event);
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

/// Somebody who tells; when it is dropped there is nobody.
struct Telling<'a> {
    entry: &'a Entry,
    over: bool,
}

impl Telling<'_> {
    fn next(&mut self) -> Option<Vec<KeyEvent>> {
        let mut desk = self.entry.desk();
        let events = desk.untold.as_mut().map(std::mem::take).filter(|events| !events.is_empty());
        if events.is_none() {
            desk.untold = None;
            self.over = true;
        }
        events
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.over {
            // The code of who logs panicked: the next who tells goes on.
            self.entry.desk().untold = None;
        }
    }
}
