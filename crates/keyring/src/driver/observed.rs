//! What tests of schedules see that nobody else does. Only in builds with `--cfg cofferdam_shuttle`.

use super::Keyring;

impl Keyring {
    /// How many accounts' keys would be given out at this moment, by account and provider: in one step, so that
    /// no two moments are mixed.
    pub fn serving_keys(&self) -> usize {
        self.shared.entries.count(|entry| entry.live.peek().is_some())
    }
}
