//! Events of an entry are told, logged and counted.
//!
//! Guarantees: with no lock held, and in the order in which they happened, whoever they happened to: a listener that
//! hears last of all that a key is active knows that it is.
//!
//! Not its job: who listens too slowly.

use super::{Shared, entry::Entry, slot::AtDesk};
use crate::{KeyEvent, telemetry};

impl Entry {
    /// Leaves the desk and tells these events, after those that happened before; or leaves them to who is telling
    /// those now.
    pub(super) fn tell(&self, shared: &Shared, mut desk: AtDesk<'_>, events: Vec<KeyEvent>) {
        if events.is_empty() {
            return;
        }
        if let Some(untold) = &mut desk.untold {
            untold.extend(events);
            return;
        }
        desk.untold = Some(events);
        drop(desk);
        let mut telling = Telling { entry: self, over: false };
        while let Some(events) = telling.next() {
            for event in events {
                event.log();
                telemetry::count(&event);
                // Nobody may be listening.
                let _ = shared.events.send(event);
            }
        }
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
