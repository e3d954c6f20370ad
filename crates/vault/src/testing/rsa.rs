//! RSA keys that were generated once, so that no test waits for primes. Published: they protect nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_crypto::rsa::{RsaError, RsaKek, RsaSize};

use crate::RsaKeySource;

const OF_2048: [&[u8]; 4] = [
    include_bytes!("keys/rsa-2048-0.pk8"),
    include_bytes!("keys/rsa-2048-1.pk8"),
    include_bytes!("keys/rsa-2048-2.pk8"),
    include_bytes!("keys/rsa-2048-3.pk8"),
];
const OF_3072: [&[u8]; 1] = [include_bytes!("keys/rsa-3072.pk8")];
const OF_4096: [&[u8]; 1] = [include_bytes!("keys/rsa-4096.pk8")];

/// Gives the published keys by turns: four of 2,048 bits, one of each other size. For tests only.
#[derive(Debug, Default)]
pub struct PublishedRsaKeys {
    next: AtomicUsize,
}

impl RsaKeySource for PublishedRsaKeys {
    fn draw(&self, size: RsaSize) -> Result<RsaKek, RsaError> {
        let keys: &[&[u8]] = match size {
            RsaSize::Rsa2048 => &OF_2048,
            RsaSize::Rsa3072 => &OF_3072,
            RsaSize::Rsa4096 => &OF_4096,
        };
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % keys.len();
        RsaKek::from_pkcs8(keys[turn])
    }
}
