//! What the tests of this crate share: keys, places, salts, scale, seeds.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test file uses a part of it, and counts and seeds are printed"
)]

#[cfg(target_os = "linux")]
pub mod memory;
pub mod spec;
pub mod vectors;

use std::{convert::Infallible, sync::Mutex};

use cofferdam_crypto::{
    AccountId, Aek, BlockId, EntropyError, Epoch, KeyScope, Provider, Salt, SaltSource, Version,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// `full` when the figures are to be shown (`COFFERDAM_FULL=1`), else `sample`.
pub fn scale(sample: usize, full: usize) -> usize {
    if std::env::var("COFFERDAM_FULL").is_ok_and(|v| v == "1") { full } else { sample }
}

/// A generator whose seed is printed, so that a failure can be replayed with `COFFERDAM_SEED`.
pub fn rng(test: &str) -> StdRng {
    let seed = match std::env::var("COFFERDAM_SEED") {
        Ok(seed) => seed.parse().unwrap_or_else(|e| panic!("COFFERDAM_SEED is not a number: {e}")),
        Err(_) => 0xc0ff_e12d,
    };
    println!("{test}: seed {seed}");
    StdRng::seed_from_u64(seed)
}

pub fn bytes(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

pub fn array<const N: usize>(rng: &mut StdRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

pub fn aek(bytes: &[u8; 32]) -> Aek {
    let filled = Aek::try_from_fn(|aek| {
        *aek = *bytes;
        Ok::<_, Infallible>(())
    });
    filled.unwrap_or_else(|never| match never {})
}

pub fn scope(account: u8, epoch: u32, provider: Provider) -> KeyScope {
    KeyScope { account: AccountId::from_bytes([account; 16]), epoch: Epoch::new(epoch), provider }
}

/// Account 0xa1…, epoch 1, customer.
pub fn home() -> KeyScope {
    scope(0xa1, 1, Provider::Customer)
}

pub fn id(bytes: impl AsRef<[u8]>) -> BlockId {
    BlockId::new(bytes).unwrap_or_else(|e| panic!("{e}"))
}

pub const V1: Version = Version::new(1);

/// Salts from a seeded generator: the same in every run.
#[derive(Debug)]
pub struct Seeded(Mutex<StdRng>);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl SaltSource for Seeded {
    fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
        let mut rng = self.0.lock().unwrap_or_else(|e| panic!("{e}"));
        salts.iter_mut().for_each(|salt| rng.fill_bytes(salt));
        Ok(())
    }
}

/// One salt for ever: what a real source must never be.
#[derive(Debug)]
pub struct Fixed(pub Salt);

impl SaltSource for Fixed {
    fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
        salts.fill(self.0);
        Ok(())
    }
}

/// A source that has no salt to give.
#[derive(Debug)]
pub struct Dry;

impl SaltSource for Dry {
    fn fill_salts(&self, _: &mut [Salt]) -> Result<(), EntropyError> {
        Err(EntropyError("dry".into()))
    }
}
