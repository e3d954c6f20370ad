//! The hot path allocates nothing of its own.
//!
//! Counted on Rust's global allocator, by a thread. What aws-lc allocates for a key it takes from C's, which
//! is not counted here and is its own key set-up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test fails by panicking, and counts are printed"
)]

mod common;

use allocation_counter::measure;
use cofferdam_crypto::{Aead, DefaultAead, PageSize, RustCrypto, SealItem, Sealer, sealed_len};
use common::{Fixed, V1, aek, home, id};

fn allocations_of<A: Aead>(name: &str) -> u64 {
    let sealer = Sealer::<A>::with_aead(&aek(&[7; 32]), home());
    let block = id("block");
    let (at, salts) = (block.at(V1), Fixed([1; 32]));
    let mut total = 0;
    for len in [0, 1, 4096, 3 * 65_536 + 5] {
        let plaintext = vec![1; len];
        let mut out = vec![0; sealed_len(len as u64, PageSize::DEFAULT).unwrap() as usize];
        let mut opened = vec![0; len];
        // Once outside the count: libraries detect the processor the first time.
        sealer.seal_to(at, PageSize::DEFAULT, &plaintext, &mut out, &salts).unwrap();
        sealer.open_to(at, &out, &mut opened).unwrap();

        let seal = measure(|| {
            sealer.seal_to(at, PageSize::DEFAULT, &plaintext, &mut out, &salts).unwrap();
        });
        let open = measure(|| {
            sealer.open_to(at, &out, &mut opened).unwrap();
        });
        assert_eq!(opened, plaintext);
        let refuse = measure(|| {
            sealer.open_to(block.at(cofferdam_crypto::Version::new(2)), &out, &mut opened).unwrap_err();
        });
        println!(
            "{name}, {len} bytes: seal_to {} allocations, open_to {}, a refused open_to {}",
            seal.count_total, open.count_total, refuse.count_total
        );
        total += seal.count_total + open.count_total + refuse.count_total;
    }
    let (mut a, mut b) = ([0; 200], [0; 200]);
    let batch = measure(|| {
        let mut items = [
            SealItem { block: at, plaintext: b"one", out: &mut a },
            SealItem { block: at, plaintext: b"two", out: &mut b },
        ];
        sealer.seal_batch(&mut items, PageSize::DEFAULT, &salts).unwrap();
    });
    println!("{name}, a batch of two: {} allocations", batch.count_total);
    total + batch.count_total
}

#[test]
fn sealing_and_opening_by_rust_crypto_allocates_nothing() {
    assert_eq!(allocations_of::<RustCrypto>("RustCrypto"), 0);
}

#[test]
fn sealing_and_opening_by_the_default_aead_allocates_nothing_outside_its_key_set_up() {
    assert_eq!(allocations_of::<DefaultAead>("default AEAD"), 0);
}
