//! Hears all that a thread tells, whatever other tests of the process do meanwhile.

use tracing::{
    Dispatch, Subscriber,
    subscriber::{DefaultGuard, NoSubscriber},
};

/// Until it is dropped, a subscriber hears this thread.
pub(crate) struct Heard {
    _guard: DefaultGuard,
    _second: Dispatch,
}

/// While a process has one subscriber, a thread without one that comes to a callsite first silences it for all: with a
/// second one all are asked.
pub(crate) fn by(subscriber: impl Subscriber + Send + Sync + 'static) -> Heard {
    let second = Dispatch::new(NoSubscriber::default());
    Heard { _guard: tracing::subscriber::set_default(subscriber), _second: second }
}
