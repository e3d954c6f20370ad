//! Sealing and opening blocks beside the bare cipher under one key, in one run.
//!
//! `raw-*` is what a service would have without Cofferdam: one key, a counted nonce, no derivation, no commitment, no
//! pages, in place. The rest is everything that a write pays: salt, identity, two Expands, key set-up, pages.
//! `cargo xtask bench` prints the ratios.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{hint::black_box, sync::Arc};

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cofferdam::{
    crypto::{
        AccountId, Aead, Aek, AwsLc, BlockBuf, BlockId, Epoch, KeyScope, PageSize, Provider, RustCrypto,
        SaltSource, Sealer, Version, sealed_len,
    },
    keyring::Salts,
    vault::{SystemClock, SystemEntropy},
};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};

const SIZES: [(&str, usize); 5] =
    [("4KiB", 4 << 10), ("16KiB", 16 << 10), ("64KiB", 64 << 10), ("1MiB", 1 << 20), ("16MiB", 16 << 20)];

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn scope() -> KeyScope {
    KeyScope { account: AccountId::from_bytes([7; 16]), epoch: Epoch::FIRST, provider: Provider::Customer }
}

fn sealer<A: Aead>() -> Sealer<A> {
    let aek = Aek::try_from_fn(|bytes| {
        bytes.fill(9);
        Ok::<_, ()>(())
    });
    Sealer::with_aead(&aek.unwrap(), scope())
}

fn salts() -> impl SaltSource {
    Salts::new(Arc::new(SystemEntropy), Arc::new(SystemClock))
}

/// The smallest page that takes the whole block.
fn one_page(len: usize) -> PageSize {
    PageSize::new(len.next_power_of_two() as u64).unwrap()
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&counter.to_le_bytes());
    nonce
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for (name, len) in SIZES {
        group.throughput(Throughput::Bytes(len as u64));
        raw_aws_lc_seal(&mut group, name, len);
        seal_with::<AwsLc>(&mut group, "aws-lc", name, len, PageSize::DEFAULT);
        if len > PageSize::DEFAULT.bytes() {
            seal_with::<AwsLc>(&mut group, "aws-lc-one-page", name, len, one_page(len));
            seal_in_place(&mut group, name, len, one_page(len));
        }
        raw_rustcrypto_seal(&mut group, name, len);
        seal_with::<RustCrypto>(&mut group, "rustcrypto", name, len, PageSize::DEFAULT);
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for (name, len) in SIZES {
        group.throughput(Throughput::Bytes(len as u64));
        raw_aws_lc_open(&mut group, name, len);
        open_with::<AwsLc>(&mut group, "aws-lc", name, len, PageSize::DEFAULT);
        if len > PageSize::DEFAULT.bytes() {
            open_with::<AwsLc>(&mut group, "aws-lc-one-page", name, len, one_page(len));
        }
        raw_rustcrypto_open(&mut group, name, len);
        open_with::<RustCrypto>(&mut group, "rustcrypto", name, len, PageSize::DEFAULT);
    }
    group.finish();
}

fn raw_aws_lc_seal(group: &mut Group<'_>, name: &str, len: usize) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[9; 32]).unwrap());
    let mut buf = vec![1; len];
    let mut counter = 0;
    group.bench_function(BenchmarkId::new("raw-aws-lc", name), |b| {
        b.iter(|| {
            counter += 1;
            let nonce = Nonce::assume_unique_for_key(nonce(counter));
            black_box(key.seal_in_place_separate_tag(nonce, Aad::from([0; 32]), &mut buf).unwrap())
        });
    });
}

fn raw_aws_lc_open(group: &mut Group<'_>, name: &str, len: usize) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[9; 32]).unwrap());
    let mut sealed = vec![1; len];
    let unique = || Nonce::assume_unique_for_key(nonce(1));
    let tag = key.seal_in_place_separate_tag(unique(), Aad::from([0; 32]), &mut sealed).unwrap();
    let mut out = vec![0; len];
    group.bench_function(BenchmarkId::new("raw-aws-lc", name), |b| {
        b.iter(|| {
            key.open_separate_gather(unique(), Aad::from([0; 32]), &sealed, tag.as_ref(), &mut out).unwrap();
            black_box(&mut out);
        });
    });
}

fn raw_rustcrypto_seal(group: &mut Group<'_>, name: &str, len: usize) {
    let key = Aes256Gcm::new(&[9; 32].into());
    let mut buf = vec![1; len];
    let mut counter = 0;
    group.bench_function(BenchmarkId::new("raw-rustcrypto", name), |b| {
        b.iter(|| {
            counter += 1;
            black_box(
                key.encrypt_inout_detached(&nonce(counter).into(), &[0; 32], (&mut buf[..]).into()).unwrap(),
            )
        });
    });
}

fn raw_rustcrypto_open(group: &mut Group<'_>, name: &str, len: usize) {
    use aes_gcm::aead::inout::InOutBuf;
    let key = Aes256Gcm::new(&[9; 32].into());
    let mut sealed = vec![1; len];
    let tag = key.encrypt_inout_detached(&nonce(1).into(), &[0; 32], (&mut sealed[..]).into()).unwrap();
    let mut out = vec![0; len];
    group.bench_function(BenchmarkId::new("raw-rustcrypto", name), |b| {
        b.iter(|| {
            let buf = InOutBuf::new(&sealed, &mut out).unwrap();
            key.decrypt_inout_detached(&nonce(1).into(), &[0; 32], buf, &tag).unwrap();
        });
    });
}

fn seal_with<A: Aead>(group: &mut Group<'_>, function: &str, name: &str, len: usize, page: PageSize) {
    let (sealer, salts) = (sealer::<A>(), salts());
    let id = BlockId::new("2026-11-24/000017").unwrap();
    let plaintext = vec![1; len];
    let mut out = vec![0; sealed_len(len as u64, page).unwrap() as usize];
    let mut version = 0;
    group.bench_function(BenchmarkId::new(function, name), |b| {
        b.iter(|| {
            version += 1;
            black_box(
                sealer.seal_to(id.at(Version::new(version)), page, &plaintext, &mut out, &salts).unwrap(),
            )
        });
    });
}

/// In place as the bare cipher is: out of place, a block takes twice the cache.
fn seal_in_place(group: &mut Group<'_>, name: &str, len: usize, page: PageSize) {
    let (sealer, salts) = (sealer::<AwsLc>(), salts());
    let id = BlockId::new("2026-11-24/000017").unwrap();
    let mut version = 0;
    let mut memory = Some(Vec::new());
    group.bench_function(BenchmarkId::new("aws-lc-one-page-in-place", name), |b| {
        b.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                version += 1;
                let buf = BlockBuf::reuse(memory.take().unwrap(), len as u64, page).unwrap();
                #[allow(clippy::disallowed_methods, reason = "a benchmark times itself")]
                let began = std::time::Instant::now();
                let sealed = sealer.seal_in_place(id.at(Version::new(version)), buf, &salts).unwrap();
                #[allow(clippy::disallowed_methods, reason = "a benchmark times itself")]
                let took = began.elapsed();
                spent += took;
                memory = Some(black_box(sealed).into_vec());
            }
            spent
        });
    });
}

fn open_with<A: Aead>(group: &mut Group<'_>, function: &str, name: &str, len: usize, page: PageSize) {
    let sealer = sealer::<A>();
    let id = BlockId::new("2026-11-24/000017").unwrap();
    let block = id.at(Version::new(1));
    let mut sealed = vec![0; sealed_len(len as u64, page).unwrap() as usize];
    sealer.seal_to(block, page, &vec![1; len], &mut sealed, &salts()).unwrap();
    let mut out = vec![0; len];
    group.bench_function(BenchmarkId::new(function, name), |b| {
        b.iter(|| black_box(sealer.open_to(block, &sealed, &mut out).unwrap()));
    });
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
