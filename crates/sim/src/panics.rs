//! Panics of a simulation's thread.
//!
//! Guarantees: a panic anywhere in a run is seen, also one that a task or an executor catches. Those of redb are not
//! counted: the store's joint turns them into errors, which is its promise. Other threads' panics go on to the hook
//! that was there before.

use std::{
    cell::{Cell, RefCell},
    panic,
    sync::Once,
};

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// While it is there, this thread's panics are kept and not printed.
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn start() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !WATCHED.get() {
                    return before(info);
                }
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                if !place.contains("/redb-") {
                    let payload = info.payload();
                    let said = payload.downcast_ref::<&str>().copied();
                    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
                    let said = said.unwrap_or("no text");
                    SEEN.with_borrow_mut(|seen| seen.push(format!("{place}: {said}")));
                }
            }));
        });
        WATCHED.set(true);
        SEEN.take();
        Self(())
    }

    /// What panicked since the last look.
    pub(crate) fn seen() -> Option<String> {
        let seen = SEEN.take();
        (!seen.is_empty()).then(|| seen.join("; "))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.set(false);
    }
}
