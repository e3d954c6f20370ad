//! A block that is sealed piece by piece has the bytes of one that is sealed at once, and opens page by page.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test fails by panicking, and counts are printed"
)]

mod common;

use std::{fs, path::PathBuf};

use allocation_counter::measure;
use cofferdam_crypto::{
    AccountId, Aead, BlockId, BlockRef, BlockWriter, DefaultAead, Epoch, HEADER_LEN, KeyScope, OpenError,
    PageSize, PageSpan, Provider, RustCrypto, SealError, Sealer, SegmentId, Version, sealed_len,
};
use common::{
    Dry, Fixed, V1, aek, bytes, home, id, rng, scale, scope,
    vectors::{BlockVector, array, hex, unhex},
};
use rand::RngExt;

fn write<A: Aead>(sealer: &Sealer<A>, writer: &mut BlockWriter, piece: &[u8], sealed: &mut Vec<u8>) {
    let (from, len) = (sealed.len(), writer.write_len(piece.len()));
    sealed.resize(from + len, 0xee);
    assert_eq!(sealer.write(writer, piece, &mut sealed[from..]).unwrap(), len);
}

fn finish<A: Aead>(sealer: &Sealer<A>, writer: BlockWriter, sealed: &mut Vec<u8>) {
    let (from, len) = (sealed.len(), writer.finish_len());
    sealed.resize(from + len, 0xee);
    assert_eq!(sealer.finish(writer, &mut sealed[from..]).unwrap(), len);
}

fn seal_in_pieces<A: Aead>(
    sealer: &Sealer<A>,
    at: BlockRef<'_>,
    page: PageSize,
    plaintext: &[u8],
    salt: [u8; 32],
    mut next: impl FnMut() -> usize,
) -> Vec<u8> {
    let mut writer = sealer.begin(at, page, &Fixed(salt)).unwrap();
    let (mut sealed, mut rest) = (Vec::new(), plaintext);
    while !rest.is_empty() {
        let (piece, following) = rest.split_at(next().min(rest.len()));
        write(sealer, &mut writer, piece, &mut sealed);
        rest = following;
    }
    assert_eq!(writer.plaintext_len(), plaintext.len() as u64);
    let header = *writer.header();
    finish(sealer, writer, &mut sealed);
    assert_eq!(sealed[..HEADER_LEN], header);
    sealed
}

fn open_by_pages<A: Aead>(
    sealer: &Sealer<A>,
    at: BlockRef<'_>,
    sealed: &[u8],
    span: PageSpan,
) -> Result<Vec<u8>, OpenError> {
    let pages = span.bytes();
    let mut reader = sealer.begin_reading(at, &sealed[..HEADER_LEN], span)?;
    let (mut opened, mut rest) = (Vec::new(), &sealed[pages.start as usize..pages.end as usize]);
    while let Some(len) = reader.sealed_len() {
        let (page, following) = rest.split_at(len);
        let mut out = vec![0xee; reader.plaintext_len().unwrap()];
        let part = match sealer.read(&mut reader, page, &mut out) {
            Ok(part) => part,
            Err(e) => {
                assert!(out.iter().all(|&byte| byte == 0), "something is left of a page that did not open");
                assert_eq!(reader.sealed_len(), None);
                return Err(e);
            }
        };
        opened.extend_from_slice(&out[part]);
        rest = following;
    }
    assert!(rest.is_empty());
    Ok(opened)
}

fn whole(sealed: &[u8], page: PageSize) -> PageSpan {
    PageSpan::whole(sealed.len() as u64, page).unwrap()
}

fn vector_by<A: Aead>(name: &str, vector: &BlockVector) {
    let provider = match (&*vector.provider, &vector.segment) {
        ("customer", None) => Provider::Customer,
        ("service", None) => Provider::Service,
        ("buffer", Some(segment)) => Provider::Buffer(SegmentId::from_bytes(array(segment))),
        other => panic!("provider {other:?}"),
    };
    let account = AccountId::from_bytes(array(&vector.account.replace('-', "")));
    let scope = KeyScope { account, epoch: Epoch::new(vector.epoch), provider };
    let sealer = Sealer::<A>::with_aead(&aek(&array(&vector.aek)), scope);
    let block = BlockId::new(unhex(&vector.block_id)).unwrap();
    let at = block.at(Version::new(u64::from_be_bytes(array(&vector.version))));
    let derived = vector.derived.as_ref().unwrap();
    let (page, sealed) = (PageSize::new(derived.page_size).unwrap(), unhex(&vector.sealed));
    let opened = open_by_pages(&sealer, at, &sealed, whole(&sealed, page)).unwrap();
    assert_eq!(opened, sealer.open(at, &sealed).unwrap(), "{name}");
    for piece in [1, 7, 4095, 4096, 4097, usize::MAX] {
        let again = seal_in_pieces(&sealer, at, page, &opened, array(&derived.salt), || piece);
        assert_eq!(hex(&again), vector.sealed, "{name} in pieces of {piece}");
    }
}

#[test]
fn every_good_vector_opens_by_pages_and_seals_again_to_its_bytes_in_pieces_by_both_aeads() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/open");
    let mut vectors = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let vector = serde_json::from_str(&fs::read_to_string(entry.path()).unwrap()).unwrap();
        vector_by::<DefaultAead>(&name, &vector);
        vector_by::<RustCrypto>(&name, &vector);
        vectors += 1;
    }
    println!("{vectors} good vectors, in pieces and by pages, by both AEADs");
    assert!(vectors >= 10);
}

#[test]
fn pieces_of_any_size_give_the_bytes_of_a_block_sealed_at_once() {
    let mut rng = rng("pieces_of_any_size_give_the_bytes_of_a_block_sealed_at_once");
    let (default, rust) =
        (Sealer::new(&aek(&[7; 32]), home()), Sealer::<RustCrypto>::with_aead(&aek(&[7; 32]), home()));
    let block = id("b");
    let at = block.at(V1);
    for _ in 0..scale(200, 5_000) {
        let page = PageSize::new(1 << rng.random_range(12..=14)).unwrap();
        let len = match rng.random_range(0..3) {
            0 => rng.random_range(0..50_000),
            1 => rng.random_range(0..4) * page.bytes() + rng.random_range(0..3),
            _ => (rng.random_range(1..4) * page.bytes()).saturating_sub(1),
        };
        let plaintext = bytes(&mut rng, len);
        let salt = common::array(&mut rng);
        let sealed = default.seal(at, page, &plaintext, &Fixed(salt)).unwrap();
        let most = [3, 100, 5_000, 20_000][rng.random_range(0..4)];
        let mut cut = || rng.random_range(0..=most);
        assert_eq!(seal_in_pieces(&default, at, page, &plaintext, salt, &mut cut), sealed);
        assert_eq!(seal_in_pieces(&rust, at, page, &plaintext, salt, &mut cut), sealed);
        assert_eq!(open_by_pages(&default, at, &sealed, whole(&sealed, page)).unwrap(), plaintext);
        assert_eq!(open_by_pages(&rust, at, &sealed, whole(&sealed, page)).unwrap(), plaintext);
        let start = rng.random_range(0..=len);
        let end = rng.random_range(start..=len);
        let span = PageSpan::locate(sealed.len() as u64, page, start as u64..end as u64).unwrap();
        assert_eq!(open_by_pages(&default, at, &sealed, span).unwrap(), plaintext[start..end]);
    }
}

#[test]
fn a_block_cut_at_a_pages_end_does_not_open_to_its_new_end() {
    let sealer = Sealer::new(&aek(&[7; 32]), home());
    let (block, page) = (id("b"), PageSize::MIN);
    let at = block.at(V1);
    for pages in 2..5 {
        let sealed = sealer.seal(at, page, &vec![1; pages * 4096], &Fixed([1; 32])).unwrap();
        for left in 1..pages {
            let cut = &sealed[..HEADER_LEN + left * 4112];
            let opened = open_by_pages(&sealer, at, cut, whole(cut, page));
            assert_eq!(opened.unwrap_err(), OpenError::Refused, "{left} of {pages} pages");
        }
    }
    let empty = sealer.seal(at, page, b"", &Fixed([1; 32])).unwrap();
    assert_eq!(open_by_pages(&sealer, at, &empty, whole(&empty, page)).unwrap(), b"");
    let mut forged = empty.clone();
    forged[HEADER_LEN] ^= 1;
    assert_eq!(open_by_pages(&sealer, at, &forged, whole(&forged, page)).unwrap_err(), OpenError::Refused);
}

#[test]
fn pages_open_in_their_own_place_alone_and_a_reader_that_refused_opens_nothing_more() {
    let sealer = Sealer::new(&aek(&[7; 32]), home());
    let (block, page) = (id("b"), PageSize::MIN);
    let at = block.at(V1);
    let sealed = sealer.seal(at, page, &[5; 3 * 4096], &Fixed([1; 32])).unwrap();
    let page_of = |n: usize| &sealed[HEADER_LEN + n * 4112..][..4112];
    let begin = |at, header: &[u8]| sealer.begin_reading(at, header, whole(&sealed, page));

    let mut reader = begin(at, &sealed).unwrap();
    let mut out = vec![0xee; 4096];
    assert_eq!(sealer.read(&mut reader, page_of(1), &mut out).unwrap_err(), OpenError::Refused);
    assert_eq!(out, [0; 4096]);
    assert_eq!(sealer.read(&mut reader, page_of(0), &mut out).unwrap_err(), OpenError::Refused);

    // Lengths that don't fit are the caller's slip, and change nothing.
    let mut reader = begin(at, &sealed).unwrap();
    let short = sealer.read(&mut reader, &page_of(0)[1..], &mut out).unwrap_err();
    assert_eq!(short, OpenError::Pages { needed: 4112, len: 4111 });
    let small = sealer.read(&mut reader, page_of(0), &mut out[1..]).unwrap_err();
    assert_eq!(small, OpenError::OutputTooSmall { needed: 4096, len: 4095 });
    assert_eq!(sealer.read(&mut reader, page_of(0), &mut out).unwrap(), 0..4096);

    let other = Sealer::new(&aek(&[7; 32]), scope(0xa1, 2, Provider::Customer));
    assert_eq!(other.read(&mut reader, page_of(1), &mut out).unwrap_err(), OpenError::Refused);
    assert_eq!(other.begin_reading(at, &sealed, whole(&sealed, page)).unwrap_err(), OpenError::Refused);
    assert_eq!(begin(block.at(Version::new(2)), &sealed).unwrap_err(), OpenError::Refused);
    let wide = PageSpan::whole(sealed_len(1, PageSize::DEFAULT).unwrap(), PageSize::DEFAULT).unwrap();
    assert_eq!(sealer.begin_reading(at, &sealed, wide).unwrap_err(), OpenError::Refused);
}

#[test]
fn a_write_that_fails_has_taken_nothing() {
    let sealer = Sealer::new(&aek(&[7; 32]), home());
    let (block, page) = (id("b"), PageSize::MIN);
    let at = block.at(V1);
    let plaintext = bytes(&mut rng("a_write_that_fails_has_taken_nothing"), 20_000);
    let mut writer = sealer.begin(at, page, &Fixed([1; 32])).unwrap();
    let mut sealed = Vec::new();
    write(&sealer, &mut writer, &plaintext[..5_000], &mut sealed);

    let needed = writer.write_len(10_000);
    let mut out = vec![0xee; needed - 1];
    let small = sealer.write(&mut writer, &plaintext[5_000..15_000], &mut out).unwrap_err();
    assert!(matches!(small, SealError::OutputTooSmall { needed: n, .. } if n == needed as u64), "{small}");
    assert!(out.iter().all(|&byte| byte == 0));
    for other in
        [Sealer::new(&aek(&[8; 32]), home()), Sealer::new(&aek(&[7; 32]), scope(0xa1, 2, Provider::Customer))]
    {
        let mut out = vec![0xee; needed];
        let refused = other.write(&mut writer, &plaintext[5_000..15_000], &mut out).unwrap_err();
        assert!(matches!(refused, SealError::OtherKey), "{refused}");
        assert!(out.iter().all(|&byte| byte == 0));
    }
    write(&sealer, &mut writer, &plaintext[5_000..], &mut sealed);
    finish(&sealer, writer, &mut sealed);
    assert_eq!(sealed, sealer.seal(at, page, &plaintext, &Fixed([1; 32])).unwrap());
    assert!(matches!(sealer.begin(at, page, &Dry).unwrap_err(), SealError::Entropy(_)));
}

#[test]
fn a_page_is_the_only_thing_that_is_allocated() {
    fn count<A: Aead>() -> (u64, u64) {
        let sealer = Sealer::<A>::with_aead(&aek(&[7; 32]), home());
        let block = id("b");
        let at = block.at(V1);
        let plaintext = vec![1; 20 * 4096 + 5];
        let mut out = vec![0; 21 * 4112 + HEADER_LEN];
        sealer.seal_to(at, PageSize::MIN, &plaintext, &mut out, &Fixed([1; 32])).unwrap();
        let sealing = measure(|| {
            let mut writer = sealer.begin(at, PageSize::MIN, &Fixed([1; 32])).unwrap();
            let mut written = 0;
            for piece in plaintext.chunks(3_000) {
                written += sealer.write(&mut writer, piece, &mut out[written..]).unwrap();
            }
            written += sealer.finish(writer, &mut out[written..]).unwrap();
            assert_eq!(written as u64, sealed_len(plaintext.len() as u64, PageSize::MIN).unwrap());
        });
        let mut opened = vec![0; 4096];
        let span =
            whole(&out[..sealed_len(plaintext.len() as u64, PageSize::MIN).unwrap() as usize], PageSize::MIN);
        let opening = measure(|| {
            let mut reader = sealer.begin_reading(at, &out, span).unwrap();
            let mut from = HEADER_LEN;
            while let Some(len) = reader.sealed_len() {
                sealer.read(&mut reader, &out[from..from + len], &mut opened).unwrap();
                from += len;
            }
        });
        (sealing.count_total, opening.count_total)
    }
    assert_eq!(count::<DefaultAead>(), (1, 0));
    assert_eq!(count::<RustCrypto>(), (1, 0));
}
