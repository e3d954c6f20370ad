//! Sealing and opening blocks beside the bare cipher under one key.
//!
//! `raw` is what a service would have without Cofferdam: one key, a counted nonce, no derivation, no commitment, no
//! pages; in place, and out of place. The rest is everything that a write pays: salt, identity, two Expands, key
//! set-up, pages. Sealing out of place takes twice the cache that sealing in place does: `seal_to` is shown
//! beside both, `seal_in_place` beside its like.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

mod paired;

use std::{hint::black_box, mem, sync::Arc};

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{AeadInOut, inout::InOutBuf},
};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cofferdam::{
    crypto::{
        AccountId, Aead, Aek, AwsLc, BlockBuf, BlockId, Epoch, KeyScope, PageSize, Provider, RustCrypto,
        SaltSource, Sealer, Version, sealed_len,
    },
    keyring::Salts,
    vault::{SystemClock, SystemEntropy},
};
use paired::{Bench, Side, Time};

const SIZES: [(&str, usize); 5] =
    [("4KiB", 4 << 10), ("16KiB", 16 << 10), ("64KiB", 64 << 10), ("1MiB", 1 << 20), ("16MiB", 16 << 20)];

const KEY: [u8; 32] = [9; 32];
const AAD: [u8; 32] = [0; 32];
const TAG: usize = 16;

/// What all sides of a comparison read and write.
struct Memory {
    from: Vec<u8>,
    to: Vec<u8>,
    /// The longest sealed block.
    longest: usize,
}

impl Memory {
    fn new(len: usize) -> Self {
        let longest = sealed_len(len as u64, PageSize::DEFAULT).unwrap() as usize;
        Self { from: vec![1; longest], to: vec![2; longest], longest }
    }

    /// Undoes what sealing in place has shortened.
    fn lengthen(&mut self) {
        self.to.resize(self.longest, 2);
    }
}

fn main() {
    let bench = Bench::from_args();
    for (name, len) in SIZES {
        seal(&bench, name, len);
        open(&bench, name, len);
        seal_rustcrypto(&bench, name, len);
        open_rustcrypto(&bench, name, len);
    }
}

fn seal(bench: &Bench, name: &str, len: usize) {
    if !bench.wants("seal", name) {
        return;
    }
    let (key, mut count) = (raw_key(), 0);
    let in_place = Side::new("raw in place", move |memory: &mut Memory| {
        let nonce = next(&mut count);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(AAD), &mut memory.to[..len]).unwrap();
        _ = black_box(tag);
    });
    let (key, mut count) = (raw_key(), 0);
    let out_of_place = Side::new("raw out of place", move |Memory { from, to, .. }: &mut Memory| {
        let (text, rest) = to.split_at_mut(len);
        let nonce = next(&mut count);
        key.seal_out_of_place_scatter(nonce, Aad::from(AAD), &from[..len], text, &[], &mut rest[..TAG])
            .unwrap();
    });
    let mut sides = vec![in_place, out_of_place];
    let pages = PageSize::DEFAULT;
    sides.push(seal_to::<AwsLc>("seal_to", len, pages).against(&["raw in place", "raw out of place"]));
    sides.push(seal_in_place("seal_in_place", len, pages).against(&["raw in place"]));
    if len > pages.bytes() {
        let page = one_page(len);
        let one = seal_to::<AwsLc>("seal_to, one page", len, page);
        sides.push(one.against(&["raw in place", "raw out of place"]));
        sides.push(seal_in_place("seal_in_place, one page", len, page).against(&["raw in place"]));
    }
    let sides = sides.into_iter().map(|side| side.prepared(Memory::lengthen)).collect();
    bench.compare(("seal", name, len), Time::Core, &mut Memory::new(len), sides);
}

fn open(bench: &Bench, name: &str, len: usize) {
    if !bench.wants("open", name) {
        return;
    }
    let key = raw_key();
    let nonce = || Nonce::assume_unique_for_key(counted(1));
    let mut sealed = vec![1; len];
    let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(AAD), &mut sealed).unwrap();
    let raw = Side::new("raw out of place", |Memory { from, to, .. }: &mut Memory| {
        key.open_separate_gather(nonce(), Aad::from(AAD), &from[..len], tag.as_ref(), &mut to[..len])
            .unwrap();
    });
    let mut sides = vec![raw.prepared(move |memory| memory.from[..len].copy_from_slice(&sealed))];
    sides.push(open_to::<AwsLc>("open_to", len, PageSize::DEFAULT).against(&["raw out of place"]));
    if len > PageSize::DEFAULT.bytes() {
        sides.push(open_to::<AwsLc>("open_to, one page", len, one_page(len)).against(&["raw out of place"]));
    }
    bench.compare(("open", name, len), Time::Core, &mut Memory::new(len), sides);
}

fn seal_rustcrypto(bench: &Bench, name: &str, len: usize) {
    if !bench.wants("seal-rustcrypto", name) {
        return;
    }
    let (key, mut count) = (Aes256Gcm::new(&KEY.into()), 0);
    let raw = Side::new("raw out of place", move |Memory { from, to, .. }: &mut Memory| {
        count += 1;
        let buf = InOutBuf::new(&from[..len], &mut to[..len]).unwrap();
        black_box(key.encrypt_inout_detached(&counted(count).into(), &AAD, buf).unwrap());
    });
    let ours = seal_to::<RustCrypto>("seal_to", len, PageSize::DEFAULT).against(&["raw out of place"]);
    bench.compare(("seal-rustcrypto", name, len), Time::Core, &mut Memory::new(len), vec![raw, ours]);
}

fn open_rustcrypto(bench: &Bench, name: &str, len: usize) {
    if !bench.wants("open-rustcrypto", name) {
        return;
    }
    let key = Aes256Gcm::new(&KEY.into());
    let mut sealed = vec![1; len];
    let tag = key.encrypt_inout_detached(&counted(1).into(), &AAD, (&mut sealed[..]).into()).unwrap();
    let raw = Side::new("raw out of place", move |Memory { from, to, .. }: &mut Memory| {
        let buf = InOutBuf::new(&from[..len], &mut to[..len]).unwrap();
        key.decrypt_inout_detached(&counted(1).into(), &AAD, buf, &tag).unwrap();
    });
    let raw = raw.prepared(move |memory| memory.from[..len].copy_from_slice(&sealed));
    let ours = open_to::<RustCrypto>("open_to", len, PageSize::DEFAULT).against(&["raw out of place"]);
    bench.compare(("open-rustcrypto", name, len), Time::Core, &mut Memory::new(len), vec![raw, ours]);
}

fn seal_to<A: Aead>(name: &'static str, len: usize, page: PageSize) -> Side<'static, Memory> {
    let (sealer, salts, id) = (sealer::<A>(), salts(), id());
    let mut version = 0;
    Side::new(name, move |Memory { from, to, .. }: &mut Memory| {
        version += 1;
        sealer.seal_to(id.at(Version::new(version)), page, &from[..len], to, &salts).unwrap();
    })
}

fn seal_in_place(name: &'static str, len: usize, page: PageSize) -> Side<'static, Memory> {
    let (sealer, salts, id) = (sealer::<AwsLc>(), salts(), id());
    let mut version = 0;
    let work = move |memory: &mut Memory| {
        version += 1;
        let buf = BlockBuf::reuse(mem::take(&mut memory.to), len as u64, page).unwrap();
        memory.to = sealer.seal_in_place(id.at(Version::new(version)), buf, &salts).unwrap().into_vec();
    };
    Side::new(name, work)
}

fn open_to<A: Aead>(name: &'static str, len: usize, page: PageSize) -> Side<'static, Memory> {
    let (sealer, id) = (sealer::<A>(), id());
    let sealed = sealer.seal(id.at(Version::new(1)), page, &vec![1; len], &salts()).unwrap();
    let copy = sealed.clone();
    Side::new(name, move |Memory { from, to, .. }: &mut Memory| {
        sealer.open_to(id.at(Version::new(1)), &from[..sealed.len()], to).unwrap();
    })
    .prepared(move |memory| memory.from[..copy.len()].copy_from_slice(&copy))
}

fn sealer<A: Aead>() -> Sealer<A> {
    let aek = Aek::try_from_fn(|bytes| {
        bytes.copy_from_slice(&KEY);
        Ok::<_, ()>(())
    });
    let account = AccountId::from_bytes([7; 16]);
    let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer };
    Sealer::with_aead(&aek.unwrap(), scope)
}

fn salts() -> impl SaltSource {
    Salts::new(Arc::new(SystemEntropy), Arc::new(SystemClock))
}

fn id() -> BlockId {
    BlockId::new("2026-11-24/000017").unwrap()
}

/// The smallest page that takes the whole block.
fn one_page(len: usize) -> PageSize {
    PageSize::new(len.next_power_of_two() as u64).unwrap()
}

fn raw_key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).unwrap())
}

fn next(count: &mut u64) -> Nonce {
    *count += 1;
    Nonce::assume_unique_for_key(counted(*count))
}

fn counted(count: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&count.to_le_bytes());
    nonce
}
