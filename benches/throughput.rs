//! How many bytes a second are sealed and opened, on both AEADs, and what a key costs to wrap and unwrap:
//! `cargo bench --bench throughput`.
//!
//! Absolute rates of this machine, with criterion's statistics and its comparison with the run before. What a share
//! of the bare cipher's rate that is, `seal` tells, which lets both take turns.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{hint::black_box, sync::Arc};

use cofferdam::{
    crypto::{
        AccountId, Aead, Aek, AwsLc, BlockId, Epoch, KeyScope, PageSize, Provider, RustCrypto, SaltSource,
        Sealer, Version,
        kw::Kek,
        rsa::{RsaKek, RsaSize},
        sealed_len,
    },
    keyring::Salts,
    vault::{RsaKeySource, SystemClock, SystemEntropy, testing::PublishedRsaKeys},
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

fn aek() -> Aek {
    let aek = Aek::try_from_fn(|bytes| {
        bytes.fill(9);
        Ok::<_, ()>(())
    });
    aek.unwrap()
}

fn sealer<A: Aead>() -> Sealer<A> {
    Sealer::with_aead(&aek(), scope())
}

fn salts() -> impl SaltSource {
    Salts::new(Arc::new(SystemEntropy), Arc::new(SystemClock))
}

/// The smallest page that takes the whole block.
fn one_page(len: usize) -> PageSize {
    PageSize::new(len.next_power_of_two() as u64).unwrap()
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for (name, len) in SIZES {
        group.throughput(Throughput::Bytes(len as u64));
        seal_with::<AwsLc>(&mut group, "aws-lc", name, len, PageSize::DEFAULT);
        if len > PageSize::DEFAULT.bytes() {
            seal_with::<AwsLc>(&mut group, "aws-lc-one-page", name, len, one_page(len));
        }
        seal_with::<RustCrypto>(&mut group, "rustcrypto", name, len, PageSize::DEFAULT);
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for (name, len) in SIZES {
        group.throughput(Throughput::Bytes(len as u64));
        open_with::<AwsLc>(&mut group, "aws-lc", name, len, PageSize::DEFAULT);
        if len > PageSize::DEFAULT.bytes() {
            open_with::<AwsLc>(&mut group, "aws-lc-one-page", name, len, one_page(len));
        }
        open_with::<RustCrypto>(&mut group, "rustcrypto", name, len, PageSize::DEFAULT);
    }
    group.finish();
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

/// By KEKs of each kind. `read`: what a local vault does beside it at each unwrap, the private half read from PKCS#8.
fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("keys");
    let aek = aek();
    let kek = Kek::try_from_fn(|bytes| {
        bytes.fill(3);
        Ok::<_, ()>(())
    })
    .unwrap();
    let wrapped = kek.wrap(&aek);
    group.bench_function(BenchmarkId::new("wrap", "aes-256"), |b| b.iter(|| black_box(kek.wrap(&aek))));
    group.bench_function(BenchmarkId::new("unwrap", "aes-256"), |b| {
        b.iter(|| black_box(kek.unwrap(&wrapped).unwrap()));
    });
    for size in RsaSize::ALL {
        let name = format!("rsa-{}", size.bits());
        let kek = PublishedRsaKeys::default().draw(size).unwrap();
        let (public, pkcs8) = (kek.public_key(), kek.to_pkcs8().unwrap());
        let wrapped = public.wrap(&aek).unwrap();
        group.bench_function(BenchmarkId::new("wrap", &name), |b| {
            b.iter(|| black_box(public.wrap(&aek).unwrap()));
        });
        group.bench_function(BenchmarkId::new("unwrap", &name), |b| {
            b.iter(|| black_box(kek.unwrap(&wrapped).unwrap()));
        });
        group.bench_function(BenchmarkId::new("read", &name), |b| {
            b.iter(|| black_box(RsaKek::from_pkcs8(&pkcs8).unwrap()));
        });
    }
    group.finish();
}

criterion_group!(benches, seal, open, keys);
criterion_main!(benches);
