//! How many calls were sent of late, exactly.
//!
//! Guarantees: a call counts for the whole window after it was sent, ends included, so that no window holds more calls
//! than were let through by its count. Not its job: to say how many are allowed.

use std::{collections::VecDeque, time::Duration};

/// When the calls of the last window were sent, the oldest first, as time since boot.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    per: Duration,
    sent: VecDeque<Duration>,
}

impl Window {
    pub(crate) fn new(per: Duration) -> Self {
        Self { per, sent: VecDeque::new() }
    }

    /// Forgets what is older than the window.
    pub(crate) fn pass(&mut self, now: Duration) {
        while self.sent.front().is_some_and(|&sent| now.saturating_sub(sent) > self.per) {
            self.sent.pop_front();
        }
        if self.sent.capacity() > 64 && self.sent.len() * 4 < self.sent.capacity() {
            self.sent.shrink_to(self.sent.len() * 2);
        }
    }

    pub(crate) fn note(&mut self, now: Duration) {
        // Threads may come with readings of the clock that are out of order.
        let now = self.sent.back().map_or(now, |&last| last.max(now));
        self.sent.push_back(now);
    }

    /// How many were sent within the window that ends now.
    pub(crate) fn count(&self) -> usize {
        self.sent.len()
    }

    /// How many were sent within this time, which is at most the window.
    pub(crate) fn count_within(&self, time: Duration, now: Duration) -> usize {
        self.sent.len() - self.sent.partition_point(|&sent| now.saturating_sub(sent) > time)
    }

    /// When fewer than `most` were sent within `time`, if no more are sent. `most` is at least 1.
    pub(crate) fn fewer_at(&self, most: usize, time: Duration) -> Option<Duration> {
        let last_in_the_way = self.sent.len().checked_sub(most)?;
        let sent = self.sent.get(last_in_the_way)?;
        Some(*sent + time + Duration::from_nanos(1))
    }
}
