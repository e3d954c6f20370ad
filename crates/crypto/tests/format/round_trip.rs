//! What is sealed opens: whole, in part, in place, in batches, by either AEAD.

use std::ops::Range;

use cofferdam_crypto::{
    Aead, BlockBuf, HEADER_LEN, Header, LengthError, OpenError, PageSize, PageSpan, Provider, RangeError,
    RustCrypto, SealError, SealItem, SealedBuf, Sealer, plaintext_len, sealed_len,
};
use proptest::prelude::*;

use crate::common::{Dry, Fixed, Seeded, V1, aek, bytes, home, id, rng, scope};

fn default_sealer() -> Sealer {
    Sealer::new(&aek(&[7; 32]), home())
}

fn rust_crypto() -> Sealer<RustCrypto> {
    Sealer::with_aead(&aek(&[7; 32]), home())
}

fn page_sizes() -> impl Strategy<Value = PageSize> {
    (12u32..=16).prop_map(|log2| PageSize::new(1 << log2).unwrap())
}

/// Lengths around page boundaries as well as anywhere.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        0usize..40_000,
        (0usize..10, 0usize..3).prop_map(|(pages, off)| (pages * 4096 + off).saturating_sub(1)),
    ]
}

fn open_all<A: Aead>(sealer: &Sealer<A>, plaintext: &[u8], sealed: &[u8]) {
    let block = id("b");
    let at = block.at(V1);
    assert_eq!(sealer.open(at, sealed).unwrap(), plaintext);
    let in_place = sealer.open_in_place(at, SealedBuf::from_vec(sealed.to_vec())).unwrap();
    assert_eq!(in_place.to_vec(), plaintext);
    let mut out = vec![0xee; plaintext.len() + 5];
    assert_eq!(sealer.open_to(at, sealed, &mut out).unwrap(), plaintext.len());
    assert_eq!(out[..plaintext.len()], *plaintext);
    assert_eq!(out[plaintext.len()..], [0xee; 5], "what lies behind the plaintext stays");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_way_of_sealing_gives_the_same_bytes_and_every_way_of_opening_the_plaintext(
        len in lengths(), page in page_sizes(), seed: u64,
    ) {
        let plaintext = bytes(&mut rand::SeedableRng::seed_from_u64(seed), len);
        let salt = Fixed([9; 32]);
        let block = id("b");
        let sealed = default_sealer().seal(block.at(V1), page, &plaintext, &salt).unwrap();
        prop_assert_eq!(sealed.len() as u64, sealed_len(len as u64, page).unwrap());
        prop_assert_eq!(len as u64, plaintext_len(sealed.len() as u64, page).unwrap());
        prop_assert_eq!(&rust_crypto().seal(block.at(V1), page, &plaintext, &salt).unwrap(), &sealed);

        let mut buf = BlockBuf::new(len as u64, page).unwrap();
        prop_assert!(buf.copy_from_slice(&plaintext));
        let in_place = default_sealer().seal_in_place(block.at(V1), buf, &salt).unwrap();
        prop_assert_eq!(in_place.as_ref(), &sealed[..]);
        let mut buf = BlockBuf::new(len as u64, page).unwrap();
        prop_assert!(buf.copy_from_slice(&plaintext));
        prop_assert_eq!(&rust_crypto().seal_in_place(block.at(V1), buf, &salt).unwrap(), &in_place);

        open_all(&default_sealer(), &plaintext, &sealed);
        open_all(&rust_crypto(), &plaintext, &sealed);
    }

    #[test]
    fn a_range_opens_as_the_slice_of_the_whole(
        len in lengths(), page in page_sizes(), ends: (prop::sample::Index, prop::sample::Index), seed: u64,
    ) {
        let plaintext = bytes(&mut rand::SeedableRng::seed_from_u64(seed), len);
        let (a, b) = (ends.0.index(len + 1), ends.1.index(len + 1));
        let range = a.min(b)..a.max(b);
        let wide = range.start as u64..range.end as u64;
        let block = id("b");
        let sealer = default_sealer();
        let sealed = sealer.seal(block.at(V1), page, &plaintext, &Fixed([9; 32])).unwrap();

        let mut out = vec![0xee; range.len() + 3];
        prop_assert_eq!(sealer.open_range(block.at(V1), &sealed, wide.clone(), &mut out).unwrap(), range.len());
        prop_assert_eq!(&out[..range.len()], &plaintext[range.clone()]);
        prop_assert_eq!(&out[range.len()..], &[0xee; 3]);

        let header = Header::parse(&sealed).unwrap();
        let span = PageSpan::locate(sealed.len() as u64, header.page_size(), wide).unwrap();
        let read = span.bytes();
        let pages = &sealed[read.start as usize..read.end as usize];
        let mut out = vec![0xee; range.len()];
        let opened = rust_crypto().open_span(block.at(V1), &sealed[..HEADER_LEN], &span, pages, &mut out);
        prop_assert_eq!(opened.unwrap() as u64, span.plaintext_len());
        prop_assert_eq!(&out[..], &plaintext[range]);
    }
}

proptest! {
    #[test]
    fn sealed_length_and_plaintext_length_determine_each_other(len: u64, log2 in 12u32..=24, small in 0..=1u64 << 36) {
        let page = PageSize::new(1 << log2).unwrap();
        let sealed = sealed_len(small, page).unwrap();
        prop_assert_eq!(plaintext_len(sealed, page), Ok(small));
        for len in [len, len >> 27, sealed - 1, sealed + 1] {
            match plaintext_len(len, page) {
                Ok(plain) => prop_assert_eq!(sealed_len(plain, page), Ok(len)),
                Err(e) => prop_assert_eq!(e, LengthError::NotASealedLength { len, page }),
            }
        }
        prop_assert_eq!(sealed_len(len, page).is_ok(), len <= 1 << 36);
    }
}

#[test]
fn a_sealer_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Sealer>();
    shared::<Sealer<RustCrypto>>();
    shared::<BlockBuf>();
}

#[test]
fn blocks_of_0_and_1_byte_and_at_page_boundaries_round_trip_at_every_page_size() {
    for log2 in 12..=24u32 {
        let page = PageSize::new(1 << log2).unwrap();
        for len in [0, 1, (1 << log2) - 1, 1 << log2, (1 << log2) + 1] {
            let plaintext = bytes(&mut rand::SeedableRng::seed_from_u64(1), len);
            let sealed = default_sealer().seal(id("b").at(V1), page, &plaintext, &Seeded::new(1)).unwrap();
            assert_eq!(sealed.len() as u64, sealed_len(len as u64, page).unwrap());
            open_all(&default_sealer(), &plaintext, &sealed);
        }
    }
}

#[test]
fn the_header_says_what_the_block_was_sealed_with() {
    let scope = scope(3, 77, Provider::Service);
    let sealer: Sealer = Sealer::with_aead(&aek(&[1; 32]), scope);
    let sealed = sealer.seal(id("b").at(V1), PageSize::MAX, b"x", &Fixed([5; 32])).unwrap();
    let header = Header::parse(&sealed).unwrap();
    assert_eq!((header.epoch(), header.provider()), (scope.epoch, scope.provider.kind()));
    assert_eq!((header.page_size(), *header.salt()), (PageSize::MAX, [5; 32]));
}

#[test]
fn a_batch_seals_each_block_as_alone_and_draws_all_salts_in_order() {
    let mut rng = rng("batch");
    let (sealer, page) = (default_sealer(), PageSize::MIN);
    let ids: Vec<_> = (0..100).map(|i| id(format!("block {i}"))).collect();
    let texts: Vec<_> = (0..100).map(|i| bytes(&mut rng, i * 97)).collect();
    let mut outs: Vec<_> =
        texts.iter().map(|t| vec![0; sealed_len(t.len() as u64, page).unwrap() as usize]).collect();
    let mut items: Vec<_> = ids
        .iter()
        .zip(&texts)
        .zip(&mut outs)
        .map(|((id, plaintext), out)| SealItem { block: id.at(V1), plaintext, out })
        .collect();
    sealer.seal_batch(&mut items, page, &Seeded::new(5)).unwrap();
    let alone = Seeded::new(5);
    for ((id, text), out) in ids.iter().zip(&texts).zip(&outs) {
        assert_eq!(*out, sealer.seal(id.at(V1), page, text, &alone).unwrap());
    }
    sealer.seal_batch(&mut [], page, &Dry).unwrap();
}

#[test]
fn a_batch_with_one_output_too_small_seals_nothing() {
    let (a, b) = (id("a"), id("b"));
    let (mut first, mut second) = (vec![1; 200], vec![1; 92]);
    let error = default_sealer()
        .seal_batch(
            &mut [
                SealItem { block: a.at(V1), plaintext: b"one", out: &mut first },
                SealItem { block: b.at(V1), plaintext: b"two", out: &mut second },
            ],
            PageSize::MIN,
            &Seeded::new(1),
        )
        .unwrap_err();
    assert_eq!(error.index, 1);
    assert!(matches!(error.error, SealError::OutputTooSmall { needed: 95, len: 92 }));
    assert_eq!((first, second), (vec![0; 200], vec![0; 92]));
}

#[test]
fn without_a_salt_nothing_is_sealed() {
    let (mut out, block) = (vec![1; 200], id("b"));
    let error = default_sealer().seal_to(block.at(V1), PageSize::MIN, b"text", &mut out, &Dry).unwrap_err();
    assert!(matches!(error, SealError::Entropy(_)), "{error}");
    assert_eq!(out, [0; 200]);
    let mut items = [SealItem { block: block.at(V1), plaintext: b"text", out: &mut out }];
    assert_eq!(default_sealer().seal_batch(&mut items, PageSize::MIN, &Dry).unwrap_err().index, 0);
    let buf = BlockBuf::new(4, PageSize::MIN).unwrap();
    assert!(default_sealer().seal_in_place(block.at(V1), buf, &Dry).is_err());
}

#[test]
fn two_writes_of_one_block_share_no_key() {
    let salts = Seeded::new(1);
    let seal = || default_sealer().seal(id("b").at(V1), PageSize::MIN, &[0; 64], &salts).unwrap();
    let (a, b) = (seal(), seal());
    assert_ne!(a[12..44], b[12..44], "salts");
    assert_ne!(a[44..76], b[44..76], "commitments");
    assert_ne!(a[76..], b[76..], "ciphertexts");
}

#[test]
fn outputs_too_small_are_named_and_zeroed() {
    let (sealer, block) = (default_sealer(), id("b"));
    let sealed = sealer.seal(block.at(V1), PageSize::MIN, &[1; 5000], &Seeded::new(1)).unwrap();
    let mut out = vec![1; 4999];
    let needed = OpenError::OutputTooSmall { needed: 5000, len: 4999 };
    assert_eq!(sealer.open_to(block.at(V1), &sealed, &mut out), Err(needed));
    assert_eq!(out, [0; 4999]);
    out.fill(1);
    let error =
        sealer.seal_to(block.at(V1), PageSize::MIN, &[1; 5000], &mut out, &Seeded::new(1)).unwrap_err();
    assert!(matches!(error, SealError::OutputTooSmall { needed: 5108, len: 4999 }), "{error}");
    assert_eq!(out, [0; 4999]);
}

#[test]
fn ranges_reversed_or_beyond_the_end_are_named_and_zero_the_output() {
    let (sealer, block) = (default_sealer(), id("b"));
    let sealed = sealer.seal(block.at(V1), PageSize::MIN, &[1; 5000], &Seeded::new(1)).unwrap();
    let cases: [(Range<u64>, RangeError); 4] = [
        (Range { start: 9, end: 8 }, RangeError::Reversed { start: 9, end: 8 }),
        (0..5001, RangeError::BeyondEnd { start: 0, end: 5001, len: 5000 }),
        (5001..5001, RangeError::BeyondEnd { start: 5001, end: 5001, len: 5000 }),
        (u64::MAX - 1..u64::MAX, RangeError::BeyondEnd { start: u64::MAX - 1, end: u64::MAX, len: 5000 }),
    ];
    for (range, error) in cases {
        let mut out = [1; 64];
        assert_eq!(sealer.open_range(block.at(V1), &sealed, range, &mut out), Err(OpenError::Range(error)));
        assert_eq!(out, [0; 64]);
    }
    let mut out = [1; 9];
    assert_eq!(
        sealer.open_range(block.at(V1), &sealed, 0..10, &mut out),
        Err(OpenError::OutputTooSmall { needed: 10, len: 9 })
    );
    assert_eq!(out, [0; 9]);
    assert_eq!(sealer.open_range(block.at(V1), &sealed, 5000..5000, &mut []), Ok(0));
}

#[test]
fn a_span_with_other_bytes_than_it_asked_for_is_named() {
    let (sealer, block) = (default_sealer(), id("b"));
    let sealed = sealer.seal(block.at(V1), PageSize::MIN, &[1; 5000], &Seeded::new(1)).unwrap();
    let span = PageSpan::locate(sealed.len() as u64, PageSize::MIN, 10..20).unwrap();
    let mut out = [1; 10];
    assert_eq!(
        sealer.open_span(block.at(V1), &sealed[..76], &span, &sealed[76..4187], &mut out),
        Err(OpenError::Pages { needed: 4112, len: 4111 })
    );
    assert_eq!(out, [0; 10]);
    let other = PageSpan::locate(sealed.len() as u64, PageSize::DEFAULT, 10..20).unwrap();
    out.fill(1);
    assert_eq!(
        sealer.open_span(block.at(V1), &sealed[..76], &other, &sealed[76..], &mut out),
        Err(OpenError::Refused),
        "a span located with another page size"
    );
    assert_eq!(out, [0; 10]);
}

#[test]
fn a_buffer_takes_only_plaintext_of_its_length_and_can_be_used_again() {
    let (sealer, block) = (default_sealer(), id("b"));
    let mut buf = BlockBuf::new(9000, PageSize::MIN).unwrap();
    assert!(!buf.copy_from_slice(&[1; 8999]));
    assert!(buf.copy_from_slice(&[1; 9000]));
    assert_eq!(buf.pages().map(<[u8]>::len).collect::<Vec<_>>(), [4096, 4096, 808]);
    let sealed = sealer.seal_in_place(block.at(V1), buf, &Seeded::new(1)).unwrap();
    let mut again = BlockBuf::reuse(sealed.into_vec(), 5, PageSize::MIN).unwrap();
    again.pages_mut().for_each(|page| page.fill(2));
    let sealed = sealer.seal_in_place(block.at(V1), again, &Seeded::new(2)).unwrap();
    assert_eq!(sealer.open(block.at(V1), sealed.as_ref()).unwrap(), [2; 5]);
    assert!(BlockBuf::new((1 << 36) + 1, PageSize::MIN).is_err());
}

#[test]
fn nothing_prints_a_secret() {
    let sealer = default_sealer();
    let printed = format!("{sealer:?} {:?}", BlockBuf::new(4, PageSize::MIN).unwrap());
    assert!(
        printed.starts_with("Sealer(account a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1, epoch 1, customer key, ")
    );
    assert!(!printed.contains("0707"), "{printed}");
}
