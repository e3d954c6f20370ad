//! Where work that blocks a thread is done.
//!
//! Guarantees: production code never holds up a runtime's thread with a file; a simulator runs the same work
//! in place, so that a run has one order. Not its job: to bound or to cancel the work: what was started is
//! finished, also when the caller has given up.

use thiserror::Error;

/// Where work that blocks a thread is done. Passed in, like the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocking {
    /// On tokio's threads for such work (`spawn_blocking`).
    #[default]
    Spawn,
    /// In place, for simulators and for programs that do one thing at a time.
    Inline,
}

impl Blocking {
    /// Does the work and waits for it. A dropped future lets started work go on to its end.
    ///
    /// # Errors
    /// [`BlockingError`] when the work can't be started or panicked; never with [`Blocking::Inline`].
    pub async fn run<T, F>(self, work: F) -> Result<T, BlockingError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::Inline => Ok(work()),
            Self::Spawn => {
                let runtime = tokio::runtime::Handle::try_current().map_err(|_| BlockingError::NoRuntime)?;
                runtime.spawn_blocking(work).await.map_err(|e| {
                    if e.is_panic() { BlockingError::Panicked } else { BlockingError::ShuttingDown }
                })
            }
        }
    }
}

/// Why blocking work gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// There is no runtime to run it on.
    #[error("blocking work needs a tokio runtime: call from within one, or choose Blocking::Inline")]
    NoRuntime,
    /// The runtime is shutting down.
    #[error("the runtime is shutting down: the work was not started")]
    ShuttingDown,
    /// The work panicked: a defect.
    #[error("blocking work panicked: this is a defect, please report it")]
    Panicked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_places_answer_the_same() {
        assert_eq!(Blocking::Inline.run(|| 6 * 7).await, Ok(42));
        assert_eq!(Blocking::Spawn.run(|| 6 * 7).await, Ok(42));
    }

    #[tokio::test]
    async fn a_panic_in_spawned_work_is_an_error() {
        let answer = Blocking::Spawn.run(|| panic!("on purpose")).await;
        assert_eq!(answer, Err::<(), _>(BlockingError::Panicked));
    }

    #[test]
    fn spawning_without_a_runtime_is_an_error() {
        let mut future = std::pin::pin!(Blocking::Spawn.run(|| ()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert_eq!(
            std::future::Future::poll(future.as_mut(), &mut context),
            std::task::Poll::Ready(Err(BlockingError::NoRuntime))
        );
    }
}
