//! Salts for sealed blocks.
//!
//! Guarantees: no salt is given twice, not across threads (each has its own buffer), restarts (nothing is kept)
//! or forks (a buffer filled by another process is thrown away). A machine image that is restored with a
//! buffer in it is hedged: a reading of both clocks goes into each salt. What was given is wiped.
//!
//! A buffer is the ChaCha12 stream of a seed of its own: 64 salts for one call of the source, which would take
//! twenty times as long for as many bytes. Salts are no secrets; only their being drawn once counts.

use std::{cell::RefCell, fmt, sync::Arc};

use cofferdam_crypto::{EntropyError, SALT_LEN, Salt, SaltSource};
use cofferdam_vault::{Clock, Entropy};
use rand::{Rng, SeedableRng, rngs::StdRng};
use thread_local::ThreadLocal;
use zeroize::{Zeroize, Zeroizing};

/// How many bytes of salts a thread has ready: few, so that a restored image can repeat few.
const BUFFER_LEN: usize = 64 * SALT_LEN;

/// A source of salts over an [`Entropy`].
pub struct Salts {
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    buffers: ThreadLocal<RefCell<Buffer>>,
}

struct Buffer {
    bytes: Box<Zeroizing<[u8; BUFFER_LEN]>>,
    used: usize,
    process: u32,
}

impl Salts {
    /// The source that draws from `entropy` and mixes in `clock`.
    pub fn new(entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Self {
        Self { entropy, clock, buffers: ThreadLocal::new() }
    }

    fn fill_as(&self, process: u32, salts: &mut [Salt]) -> Result<(), EntropyError> {
        let now = self.clock.now();
        let mut reading = [0; 16];
        // The low 64 bits of nanoseconds last 584 years.
        reading[..8].copy_from_slice(&(now.boot.as_nanos() as u64).to_le_bytes());
        reading[8..].copy_from_slice(&(now.wall.as_nanos() as u64).to_le_bytes());

        let mut buffer = self.buffers.get_or(|| RefCell::new(Buffer::empty())).borrow_mut();
        if buffer.process != process {
            buffer.discard();
            buffer.process = process;
        }
        for salt in salts {
            buffer.take(&*self.entropy, salt)?;
            salt.iter_mut().zip(&reading).for_each(|(s, r)| *s ^= r);
        }
        Ok(())
    }
}

impl Buffer {
    fn empty() -> Self {
        Self { bytes: Box::new(Zeroizing::new([0; BUFFER_LEN])), used: BUFFER_LEN, process: 0 }
    }

    fn discard(&mut self) {
        self.bytes.zeroize();
        self.used = BUFFER_LEN;
    }

    fn take(&mut self, entropy: &dyn Entropy, salt: &mut Salt) -> Result<(), EntropyError> {
        if self.used + SALT_LEN > BUFFER_LEN {
            // Whatever the source does, a half-filled buffer is never used.
            self.used = BUFFER_LEN;
            let mut seed = Zeroizing::new([0; 32]);
            entropy.fill(&mut *seed)?;
            StdRng::from_seed(*seed).fill_bytes(&mut **self.bytes);
            self.used = 0;
        }
        let bytes = &mut self.bytes[self.used..self.used + SALT_LEN];
        salt.copy_from_slice(bytes);
        bytes.zeroize();
        self.used += SALT_LEN;
        Ok(())
    }
}

impl SaltSource for Salts {
    fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
        self.fill_as(process(), salts)
    }
}

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salts").field("entropy", &self.entropy).finish_non_exhaustive()
    }
}

/// This process. A fork has another; where there is no fork it does not matter.
#[cfg(unix)]
fn process() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()
}

#[cfg(not(unix))]
fn process() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicU8, Ordering},
        time::Duration,
    };

    use cofferdam_vault::testing::{ManualClock, SeededEntropy};

    use super::*;

    const SEED: u64 = 7;

    fn source(clock: &Arc<ManualClock>) -> Salts {
        Salts::new(Arc::new(SeededEntropy::new(SEED)), clock.clone())
    }

    fn draw(salts: &Salts, process: u32, count: usize) -> Vec<Salt> {
        let mut drawn = vec![[0; SALT_LEN]; count];
        salts.fill_as(process, &mut drawn).unwrap();
        drawn
    }

    #[test]
    fn no_salt_is_given_twice_across_threads_and_refills() {
        let salts = source(&Arc::new(ManualClock::default()));
        let drawn: Vec<Salt> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| draw(&salts, 1, 5_000))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(drawn.len(), 40_000);
        assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len(), "seed {SEED}");
    }

    #[test]
    fn a_fork_does_not_repeat_its_parents_salts() {
        let clock = Arc::new(ManualClock::default());
        let (parent, child) = (source(&clock), source(&clock));
        draw(&parent, 1, 1);
        draw(&child, 1, 1);
        // Both hold the same buffer now, as after a fork; the child finds that it is another process.
        let (parents, childs) = (draw(&parent, 1, 40), draw(&child, 2, 40));
        assert!(parents.iter().all(|salt| !childs.contains(salt)), "seed {SEED}");
    }

    #[test]
    fn a_restored_image_does_not_repeat_salts_once_its_clock_moved() {
        let (before, after) = (Arc::new(ManualClock::default()), Arc::new(ManualClock::default()));
        after.advance(Duration::from_nanos(1));
        let (image, restored) = (draw(&source(&before), 1, 40), draw(&source(&after), 1, 40));
        assert!(image.iter().all(|salt| !restored.contains(salt)), "seed {SEED}");
    }

    #[test]
    fn what_was_given_is_wiped_from_the_buffer() {
        let salts = source(&Arc::new(ManualClock::default()));
        draw(&salts, 1, 3);
        let buffer = salts.buffers.get().unwrap().borrow();
        assert!(buffer.bytes[..3 * SALT_LEN].iter().all(|&byte| byte == 0));
        assert!(buffer.bytes[3 * SALT_LEN..].iter().any(|&byte| byte != 0));
    }

    #[derive(Debug)]
    struct FailsOnce(AtomicU8);

    impl Entropy for FailsOnce {
        fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
            out.fill(self.0.fetch_add(1, Ordering::Relaxed) + 1);
            if out[0] == 1 { Err(EntropyError("no bytes".into())) } else { Ok(()) }
        }
    }

    #[test]
    fn bytes_of_a_failed_draw_are_never_given() {
        let clock = Arc::new(ManualClock::new(cofferdam_vault::Timestamp {
            boot: Duration::ZERO,
            wall: Duration::ZERO,
        }));
        let salts = Salts::new(Arc::new(FailsOnce(AtomicU8::new(0))), clock);
        assert!(salts.fill_salts(&mut [[0; SALT_LEN]]).is_err());
        let mut drawn = [[0; SALT_LEN]];
        salts.fill_salts(&mut drawn).unwrap();
        let mut second = [0; SALT_LEN];
        StdRng::from_seed([2; 32]).fill_bytes(&mut second);
        assert_eq!(drawn, [second]);
    }
}
