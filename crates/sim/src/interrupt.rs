//! A future that is dropped at one of its awaits.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// Runs the inner future for so many polls, then drops it and answers `None`.
pub(crate) struct Interrupt<F> {
    inner: Option<Pin<Box<F>>>,
    polls: u32,
}

impl<F: Future> Interrupt<F> {
    pub(crate) fn after(polls: u32, inner: F) -> Self {
        Self { inner: Some(Box::pin(inner)), polls }
    }
}

impl<F: Future> Future for Interrupt<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &mut self.inner {
            Some(inner) => inner.as_mut().poll(context),
            None => return Poll::Ready(None),
        };
        match polled {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.polls <= 1 => {
                self.inner = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.polls -= 1;
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_at_the_await_that_was_named_or_by_itself() {
        async fn work(awaits: u32) {
            for _ in 0..awaits {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(Interrupt::after(3, work(3)).await, None);
        assert_eq!(Interrupt::after(3, work(2)).await, Some(()));
        assert_eq!(Interrupt::after(1, work(0)).await, Some(()));
    }
}
