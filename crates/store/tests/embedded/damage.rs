//! A damaged file: every read is right or refused with a typed error.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId};
use cofferdam_store::{
    BlockStore, Catalog, EmbeddedOptions, EmbeddedStore, FaultyFile, StoreError, StoreErrorKind,
};
use cofferdam_vault::Inline;

use crate::embedded_support::*;

type Blocks = BTreeMap<(AccountId, BlockId), (u64, Bytes)>;

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { cache_bytes: 1 << 20, executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

/// A store with blocks of many sizes, replaced, deleted, buffered and drained ones among them, as it lies after a
/// crash or after it was closed.
async fn filled(closed: bool) -> (Vec<u8>, Blocks) {
    let file = FaultyFile::new();
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), inline()).unwrap();
    let mut rng = Rng(11);
    let mut blocks = Blocks::new();
    for version in 1..=140 {
        let (owner, name) = (account(rng.below(3) as u8), id(format!("block {}", rng.below(60))));
        if rng.one_in(6) {
            store.commit(vec![delete(owner, name.as_bytes(), version)]).await.unwrap();
            blocks.remove(&(owner, name));
            continue;
        }
        let len = [10, 700, 5000, 30_000, 61_440, 150_000][rng.below(6) as usize];
        let sealed = bytes_of(version, len);
        let op = if rng.one_in(3) {
            buffer(owner, name.as_bytes(), version, sealed.clone())
        } else {
            put(owner, name.as_bytes(), version, sealed.clone())
        };
        store.commit(vec![op]).await.unwrap();
        if rng.one_in(8)
            && let Some((id, meta)) = store.buffered(owner, None, 1).await.unwrap().pop()
        {
            let (_, sealed) = &blocks[&(owner, id.clone())];
            let drain = drain(owner, id.as_bytes(), meta.version.number(), sealed.clone(), version);
            store.commit(vec![drain]).await.unwrap();
        }
        blocks.insert((owner, name), (version, sealed));
    }
    assert!(store.buffering(None, 9).await.unwrap().len() == 3);
    for n in 0..5 {
        store.swap(&format!("record {n}"), None, Some(bytes_of(n, 300))).await.unwrap();
    }
    if closed {
        store.close().await.unwrap();
    }
    (file.bytes(), blocks)
}

#[derive(Default, Debug)]
struct Tally {
    opens_refused: u64,
    right: u64,
    refused: u64,
    caught: u64,
    compacted: u64,
}

fn typed(error: &StoreError) {
    assert!(
        matches!(
            error.kind(),
            StoreErrorKind::Corrupt | StoreErrorKind::NotAStore | StoreErrorKind::Poisoned
        ),
        "{error:?}"
    );
}

/// Opens the damaged file, reads everything, writes a little and closes.
async fn use_it(bytes: Vec<u8>, blocks: &Blocks, tally: &mut Tally, what: &str) {
    let store = match EmbeddedStore::open_on(Arc::new(FaultyFile::from_bytes(bytes)), inline()) {
        Ok(store) => store,
        Err(error) => {
            typed(&error);
            tally.opens_refused += 1;
            return;
        }
    };
    for ((owner, name), (version, sealed)) in blocks {
        match store.fetch(*owner, name).await {
            Ok(Some((at, found))) => {
                assert_eq!((at.meta.version.number(), &found), (*version, sealed), "{what}");
                tally.right += 1;
            }
            Ok(None) => panic!("{what}: {name} is gone"),
            Err(error) => {
                typed(&error);
                tally.refused += 1;
            }
        }
    }
    for owner in 0..3 {
        match BlockStore::list(&store, account(owner), None, 1000).await {
            Ok(found) => {
                let expected: Vec<_> =
                    blocks.keys().filter(|(of, _)| *of == account(owner)).map(|(_, id)| id.clone()).collect();
                assert_eq!(found.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), expected, "{what}");
            }
            Err(error) => typed(&error),
        }
    }
    let mut buffered = Some(Vec::new());
    for owner in 0..3 {
        match store.buffered(account(owner), None, 1000).await {
            Ok(found) => {
                let bytes = found.iter().map(|(_, meta)| meta.sealed_len).sum();
                let sum = (account(owner), found.len() as u64, bytes);
                buffered.iter_mut().for_each(|buffered| buffered.push(sum));
                for (id, meta) in found {
                    let (version, sealed) = &blocks[&(account(owner), id)];
                    assert_eq!((meta.version.number(), meta.sealed_len), (*version, sealed.len() as u64));
                }
            }
            Err(error) => {
                typed(&error);
                buffered = None;
            }
        }
    }
    match (store.buffering(None, 9).await, buffered) {
        (Ok(found), Some(buffered)) => {
            let found: Vec<_> = found.iter().map(|(of, usage)| (*of, usage.blocks, usage.bytes)).collect();
            assert_eq!(found, buffered, "{what}");
        }
        (Ok(_), None) => {}
        (Err(error), _) => typed(&error),
    }
    for n in 0..5 {
        match store.load(&format!("record {n}")).await {
            Ok(found) => assert_eq!(found.unwrap().bytes, bytes_of(n, 300), "{what}"),
            Err(error) => typed(&error),
        }
    }
    match store.commit(vec![put(account(1), "new", 1000, bytes_of(1, 70_000))]).await {
        Ok(_) => match store.fetch(account(1), &id("new")).await {
            Ok(found) => assert_eq!(found.unwrap().1, bytes_of(1, 70_000), "{what}"),
            Err(error) => typed(&error),
        },
        Err(error) => typed(&error),
    }
    match store.compact().await {
        // Then there was no damage in what is left, and none came to it.
        Ok(()) => {
            for ((owner, name), (version, sealed)) in blocks {
                let (at, found) = store.fetch(*owner, name).await.unwrap().unwrap();
                assert_eq!((at.meta.version.number(), &found), (*version, sealed), "{what}");
            }
            tally.compacted += 1;
        }
        Err(error) => typed(&error),
    }
    if let Err(error) = store.close().await {
        typed(&error);
    }
    tally.caught += store.activity().panics_caught;
}

static PANICS: AtomicU64 = AtomicU64::new(0);

#[tokio::test]
async fn two_thousand_bit_flips_are_read_right_or_refused() {
    let flips = if std::env::var_os("COFFERDAM_FULL").is_some() { 20_000 } else { 2_000 };
    let default_hook = std::panic::take_hook();
    // The stores work on this thread; of others this test knows nothing.
    let here = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(u64::from(std::thread::current().id() == here), Ordering::Relaxed);
        default_hook(info);
    }));
    let stores = [filled(true).await, filled(false).await];
    let mut rng = Rng(3);
    let mut tally = Tally::default();
    for flip in 0..flips {
        let (bytes, blocks) = &stores[(flip % 2) as usize];
        let byte = if flip % 4 < 2 {
            // The first 16 bytes of what the file is made of: its own header, redb's two slots with their two
            // copies each, and every page.
            let heads = 5 + (bytes.len() as u64 - 12_288) / 4104;
            let head = match rng.below(heads) {
                0 => 0,
                n @ 1..=4 => 4096 + (n - 1) * 2048,
                n => 12_288 + (n - 5) * 4104,
            };
            head + rng.below(16)
        } else {
            rng.below(bytes.len() as u64)
        };
        let bit = byte * 8 + rng.below(8);
        let mut damaged = bytes.clone();
        damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
        use_it(damaged, blocks, &mut tally, &format!("flip {flip} of bit {bit}")).await;
    }
    let panics = PANICS.load(Ordering::Relaxed);
    println!(
        "{flips} flips: {} opens refused; {} reads right, {} refused, 0 wrong; {panics} panics, {} caught by the \
         joint; 0 aborts",
        tally.opens_refused, tally.right, tally.refused, tally.caught
    );
    assert_eq!((panics, tally.caught), (0, 0));
    assert!(tally.refused > 0 && tally.right > tally.refused && tally.opens_refused < flips / 2);
}

#[tokio::test]
async fn a_file_cut_at_any_length_is_read_right_or_refused() {
    for closed in [true, false] {
        let (bytes, blocks) = filled(closed).await;
        let mut rng = Rng(5);
        let mut lengths: Vec<usize> = vec![0, 1, 15, 16, 63, 64, 4095, 4096, 8192, 12_287, 12_288, 12_289];
        lengths.extend((0..40).map(|_| rng.below(bytes.len() as u64) as usize));
        lengths.extend(
            (0..40).map(|_| 12_288 + 4104 * rng.below((bytes.len() as u64 - 12_288) / 4104) as usize),
        );
        let mut tally = Tally::default();
        for len in lengths {
            use_it(bytes[..len].to_vec(), &blocks, &mut tally, &format!("cut to {len}")).await;
        }
        println!("closed {closed}: {tally:?}");
    }
}

#[tokio::test]
async fn a_file_with_something_behind_its_end_is_read_right_or_refused() {
    let (bytes, blocks) = filled(true).await;
    let mut tally = Tally::default();
    for more in [1, 8, 4096, 4104, 4104 * 10] {
        let mut longer = bytes.clone();
        longer.extend(vec![0x55; more]);
        use_it(longer, &blocks, &mut tally, &format!("{more} bytes more")).await;
    }
}

#[tokio::test]
async fn swapped_pages_are_refused() {
    let (bytes, blocks) = filled(true).await;
    let pages = (bytes.len() - 12_288) / 4104;
    let mut rng = Rng(9);
    let mut tally = Tally::default();
    for _ in 0..100 {
        let (a, b) = (rng.below(pages as u64) as usize, rng.below(pages as u64) as usize);
        let mut swapped = bytes.clone();
        for i in 0..4104 {
            swapped.swap(12_288 + a * 4104 + i, 12_288 + b * 4104 + i);
        }
        use_it(swapped, &blocks, &mut tally, &format!("pages {a} and {b} swapped")).await;
    }
    assert!(tally.refused + tally.opens_refused > 0);
}

#[tokio::test]
async fn a_newer_format_is_said_to_be_that() {
    let (mut bytes, _) = filled(true).await;
    bytes[16] = 2;
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
    bytes[56..64].copy_from_slice(&sum.to_le_bytes());
    let error = EmbeddedStore::open_on(Arc::new(FaultyFile::from_bytes(bytes)), inline()).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NewerFormat { found: 2, supported: 1 });
}
