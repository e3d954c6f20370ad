//! A block that was changed in any way does not open, and leaves no plaintext in the output.

use cofferdam_crypto::{
    Aead, DefaultAead, Header, HeaderError, OpenError, PageSize, PageSpan, RustCrypto, SealedBuf, Sealer,
};
use rand::{SeedableRng, rngs::StdRng};

use crate::common::{Fixed, Seeded, V1, aek, bytes, home, id, rng};

const PAGE: usize = 4096;
const STRIDE: usize = PAGE + 16;
/// More than any of these blocks holds, so that a block made longer is judged by its tags, not by the output.
const OUT: usize = 32 * 1024;

fn sealer<A: Aead>() -> Sealer<A> {
    Sealer::with_aead(&aek(&[7; 32]), home())
}

fn sealed(len: usize) -> Vec<u8> {
    let plaintext = bytes(&mut StdRng::seed_from_u64(1), len);
    sealer::<DefaultAead>().seal(id("b").at(V1), PageSize::MIN, &plaintext, &Seeded::new(1)).unwrap()
}

/// Opens into a dirty output: refused, and the output all zeros.
fn assert_refused<A: Aead>(sealer: &Sealer<A>, bad: &[u8], out: &mut [u8], what: impl Fn() -> String) {
    out.fill(0xee);
    assert_eq!(sealer.open_to(id("b").at(V1), bad, out), Err(OpenError::Refused), "{}", what());
    assert!(*out == ZEROS[..out.len()], "{}: plaintext or dirt left in the output", what());
}

static ZEROS: [u8; OUT] = [0; OUT];

fn every_flip_and_every_cut_is_refused<A: Aead>(name: &str) {
    let sealer = sealer::<A>();
    let mut out = vec![0; OUT];
    for (kind, len) in [("4 KiB block", PAGE), ("three-page block", 3 * PAGE)] {
        let mut block = sealed(len);
        assert_eq!(sealer.open_to(id("b").at(V1), &block, &mut out), Ok(len), "as sealed it opens");
        let bits = block.len() * 8;
        for bit in 0..bits {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_refused(&sealer, &block, &mut out, || format!("{kind}, bit {bit}"));
            block[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..block.len() {
            assert_refused(&sealer, &block[..cut], &mut out, || format!("{kind}, cut to {cut}"));
        }
        println!(
            "{name}, {kind}: {bits} bit flips and {} truncations, all refused, output all zeros",
            block.len()
        );
    }
}

#[test]
fn every_bit_flip_and_every_truncation_is_refused_by_the_default_aead() {
    every_flip_and_every_cut_is_refused::<DefaultAead>("default AEAD");
}

#[test]
fn every_bit_flip_and_every_truncation_is_refused_by_rust_crypto() {
    every_flip_and_every_cut_is_refused::<RustCrypto>("RustCrypto");
}

#[test]
fn a_changed_byte_is_refused_by_range_by_span_and_in_place() {
    let sealer = sealer::<DefaultAead>();
    let (block, good) = (id("b"), sealed(3 * PAGE));
    let at = block.at(V1);
    // Partial first and last page, so that scratch and output are both in play.
    let range = 100..(3 * PAGE as u64 - 100);
    let span = PageSpan::locate(good.len() as u64, PageSize::MIN, range.clone()).unwrap();
    let mut out = vec![0; range.end as usize - 100];
    let mut bad = good;
    for byte in 0..bad.len() {
        bad[byte] ^= 0x10;
        out.fill(0xee);
        assert_eq!(sealer.open_range(at, &bad, range.clone(), &mut out), Err(OpenError::Refused), "{byte}");
        assert!(out == ZEROS[..out.len()], "range, byte {byte}");
        out.fill(0xee);
        let opened = sealer.open_span(at, &bad[..76], &span, &bad[76..], &mut out);
        assert_eq!(opened, Err(OpenError::Refused), "{byte}");
        assert!(out == ZEROS[..out.len()], "span, byte {byte}");
        assert_eq!(
            sealer.open_in_place(at, SealedBuf::from_vec(bad.clone())).unwrap_err(),
            OpenError::Refused
        );
        assert_eq!(sealer.open(at, &bad).unwrap_err(), OpenError::Refused);
        bad[byte] ^= 0x10;
    }
}

#[test]
fn a_range_opens_beside_damage_that_it_does_not_touch() {
    let sealer = sealer::<DefaultAead>();
    let mut block = sealed(3 * PAGE);
    *block.last_mut().unwrap() ^= 1;
    let mut out = vec![0; PAGE];
    assert_eq!(sealer.open_range(id("b").at(V1), &block, 0..PAGE as u64, &mut out), Ok(PAGE));
    assert_eq!(
        sealer.open_range(id("b").at(V1), &block, 2 * PAGE as u64..2 * PAGE as u64 + 1, &mut out),
        Err(OpenError::Refused)
    );
    assert_eq!(out, ZEROS[..PAGE]);
}

#[test]
fn pages_reordered_duplicated_dropped_or_spliced_are_refused() {
    let sealer = sealer::<DefaultAead>();
    let good = sealed(3 * PAGE);
    let header = &good[..76];
    let pages: Vec<&[u8]> = good[76..].chunks(STRIDE).collect();
    let mut out = vec![0; OUT];
    let mut tried = 0;
    // Every sequence of one to four of the three pages: all reorderings, repetitions and omissions.
    for count in 1..=4u32 {
        for code in 0..3usize.pow(count) {
            let order: Vec<usize> = (0..count).map(|i| code / 3usize.pow(i) % 3).collect();
            if order == [0, 1, 2] {
                continue;
            }
            let mut bad = header.to_vec();
            order.iter().for_each(|&page| bad.extend_from_slice(pages[page]));
            assert_refused(&sealer, &bad, &mut out, || format!("pages {order:?}"));
            tried += 1;
        }
    }
    // A page of another write of the same block, of another version, of another block: salts equal or not.
    for (other, version, salt) in [("b", 1, 2), ("b", 2, 2), ("c", 1, 2), ("b", 2, 1), ("c", 1, 1)] {
        let other = sealer
            .seal(
                id(other).at(cofferdam_crypto::Version::new(version)),
                PageSize::MIN,
                &bytes(&mut StdRng::seed_from_u64(2), 3 * PAGE),
                &Seeded::new(salt),
            )
            .unwrap();
        for page in 0..3 {
            let lies = 76 + page * STRIDE..76 + (page + 1) * STRIDE;
            let mut bad = good.clone();
            bad[lies.clone()].copy_from_slice(&other[lies]);
            assert_refused(&sealer, &bad, &mut out, || format!("page {page} spliced in"));
            tried += 1;
        }
    }
    println!("{tried} blocks with pages reordered, repeated, dropped or spliced, all refused");
}

#[test]
fn an_extended_block_is_refused() {
    let sealer = sealer::<DefaultAead>();
    let mut out = vec![0; OUT];
    for len in [0, 1, PAGE - 1, PAGE, 3 * PAGE, 3 * PAGE + 1] {
        let good = sealed(len);
        for more in (1..=40).chain([PAGE, STRIDE, STRIDE + 1, 2 * STRIDE]) {
            let mut bad = good.clone();
            bad.resize(good.len() + more, 0);
            assert_refused(&sealer, &bad, &mut out, || format!("{len} bytes, extended by {more}"));
            let mut bad = good.clone();
            bad.extend(good[good.len().saturating_sub(more).max(76)..].to_vec());
            assert_refused(&sealer, &bad, &mut out, || format!("{len} bytes, the last {more} repeated"));
        }
    }
}

#[test]
fn anything_that_is_no_block_is_refused_and_nothing_is_allocated_for_it() {
    let sealer = sealer::<DefaultAead>();
    let mut out = vec![0; 64];
    let mut rng = rng("garbage");
    for len in (0..300).chain([4188, 10_000]) {
        assert_refused(&sealer, &bytes(&mut rng, len), &mut out, || format!("{len} random bytes"));
        assert_eq!(sealer.open(id("b").at(V1), &vec![0; len]).unwrap_err(), OpenError::Refused);
    }
    // A header cannot claim a length: it has no field for one, and the page size that it does claim is bounded.
    let good = sealed(PAGE);
    for log2 in (0..=255).filter(|&l| l != 12) {
        let mut bad = good.clone();
        bad[7] = log2;
        assert_refused(&sealer, &bad, &mut out, || format!("pages of 2^{log2} bytes"));
        if !(12..=24).contains(&log2) {
            assert_eq!(Header::parse(&bad), Err(HeaderError::PageSize { log2 }));
        }
    }
    assert!(PageSpan::locate(1 << 63, PageSize::MIN, 0..1).is_err());
}

#[test]
fn a_block_with_another_key_or_salt_in_its_header_is_refused() {
    let (sealer, other) = (sealer::<DefaultAead>(), Sealer::new(&aek(&[8; 32]), home()));
    let mut out = vec![0; OUT];
    let block = id("b");
    let ours = sealer.seal(block.at(V1), PageSize::MIN, b"ours", &Fixed([1; 32])).unwrap();
    let theirs = other.seal(block.at(V1), PageSize::MIN, b"them", &Fixed([1; 32])).unwrap();
    assert_refused(&sealer, &theirs, &mut out, || "another AEK".into());
    let mut mixed = ours.clone();
    mixed[44..76].copy_from_slice(&theirs[44..76]);
    assert_refused(&sealer, &mixed, &mut out, || "another key's commitment".into());
    let mut mixed = theirs;
    mixed[44..76].copy_from_slice(&ours[44..76]);
    assert_refused(&sealer, &mixed, &mut out, || "our commitment on another key's pages".into());
}
