//! Generates the vectors: good ones by sealing, bad ones from good ones, each with one defect, which names it.

use std::collections::BTreeMap;

use cofferdam_crypto::{
    AccountId, BlockId, Epoch, KeyCheckValue, KeyScope, PageSize, Provider, RecordKey, Sealer, SegmentId,
    kw::Kek,
};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Fixed, aek,
    spec::{Context, NONCE, collide},
};

/// A sealed block, and the place that a reader takes it to be in.
#[derive(Clone, Serialize, Deserialize)]
pub struct BlockVector {
    pub comment: String,
    pub account: String,
    pub epoch: u32,
    pub provider: String,
    /// Of one in a write-only buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    pub aek: String,
    pub block_id: String,
    /// Eight bytes, big-endian.
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derived: Option<Derived>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<Plaintext>,
    pub sealed: String,
}

/// What a decoder can check itself against on the way.
#[derive(Clone, Serialize, Deserialize)]
pub struct Derived {
    pub page_size: u64,
    pub salt: String,
    pub prk: String,
    pub identity: String,
    pub dek: String,
    pub commitment: String,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Plaintext {
    pub len: usize,
    pub sha256: String,
    /// Left out of long ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct KeyVectors {
    pub key_check_values: Vec<CheckVector>,
    pub wraps: Vec<WrapVector>,
    pub record_tags: Vec<TagVector>,
}

#[derive(Serialize, Deserialize)]
pub struct CheckVector {
    pub comment: String,
    pub account: String,
    pub epoch: u32,
    pub provider: String,
    pub aek: String,
    pub check: String,
}

#[derive(Serialize, Deserialize)]
pub struct WrapVector {
    pub comment: String,
    pub kek: String,
    pub wrapped: String,
    /// None: it is refused.
    pub aek: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct TagVector {
    pub comment: String,
    pub account: String,
    pub epoch: u32,
    pub provider: String,
    pub aek: String,
    pub record: String,
    pub tag: String,
}

/// Of the segments of write-only buffers.
#[derive(Serialize, Deserialize)]
pub struct SegmentVectors {
    pub key_check_values: Vec<SegmentCheckVector>,
    pub record_tags: Vec<TagVector>,
}

#[derive(Serialize, Deserialize)]
pub struct SegmentCheckVector {
    pub comment: String,
    pub account: String,
    pub epoch: u32,
    pub segment: String,
    pub aek: String,
    pub check: String,
}

pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub fn unhex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

pub fn array<const N: usize>(text: &str) -> [u8; N] {
    unhex(text).try_into().unwrap()
}

/// Bytes that any language can make again: SHA-256 of a label and a counter.
fn made(label: &str, len: usize) -> Vec<u8> {
    let block = |i: u32| Sha256::digest([b"cofferdam vectors ", label.as_bytes(), &i.to_be_bytes()].concat());
    (0..len.div_ceil(32) as u32).flat_map(block).take(len).collect()
}

fn key(label: &str) -> [u8; 32] {
    made(label, 32).try_into().unwrap()
}

fn account(label: &str) -> AccountId {
    AccountId::from_random_bytes(made(label, 16).try_into().unwrap())
}

/// The place of most vectors: page size 4 KiB.
fn base(salt: &str) -> Context {
    context(|_| {}, salt)
}

struct Place {
    key: [u8; 32],
    scope: KeyScope,
    id: Vec<u8>,
    version: u64,
    page: u64,
}

fn context(change: impl FnOnce(&mut Place), salt: &str) -> Context {
    let mut place = Place {
        key: key("aek"),
        scope: KeyScope { account: account("account"), epoch: Epoch::FIRST, provider: Provider::Customer },
        id: b"logs/2026/11/24.log".to_vec(),
        version: 1,
        page: 4096,
    };
    change(&mut place);
    let Place { key: aek, scope, id, version, page } = place;
    Context::new(aek, scope, BlockId::new(id).unwrap(), version, PageSize::new(page).unwrap(), key(salt))
}

/// `sealed` as the reader at `reader` meets it.
fn vector(comment: &str, reader: &Context, sealed: &[u8]) -> BlockVector {
    BlockVector {
        comment: comment.into(),
        account: reader.scope.account.to_string(),
        epoch: reader.scope.epoch.number(),
        provider: reader.scope.provider.kind().to_string(),
        segment: reader.scope.provider.segment().map(|segment| segment.to_string()),
        aek: hex(&reader.key),
        block_id: hex(reader.id.as_bytes()),
        version: hex(&reader.version.number().to_be_bytes()),
        derived: None,
        plaintext: None,
        sealed: hex(sealed),
    }
}

fn seal(context: &Context, plaintext: &[u8]) -> Vec<u8> {
    Sealer::new(&aek(&context.key), context.scope)
        .seal(context.at(), context.page, plaintext, &Fixed(context.salt))
        .unwrap()
}

fn good(comment: &str, context: &Context, plaintext: &[u8]) -> BlockVector {
    BlockVector {
        derived: Some(Derived {
            page_size: context.page.bytes() as u64,
            salt: hex(&context.salt),
            prk: hex(&context.prk),
            identity: hex(&context.identity),
            dek: hex(&context.dek),
            commitment: hex(&context.commitment),
        }),
        plaintext: Some(Plaintext {
            len: plaintext.len(),
            sha256: hex(&Sha256::digest(plaintext)),
            hex: (plaintext.len() <= 64).then(|| hex(plaintext)),
        }),
        ..vector(comment, context, &seal(context, plaintext))
    }
}

/// Name and text of every file.
pub fn generate() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut add = |kind: &str, vectors: Vec<(&str, BlockVector)>| {
        for (name, vector) in vectors {
            files.insert(format!("{kind}/{name}.json"), text(&vector));
        }
    };
    add("open", good_vectors());
    add("refuse", cut_and_changed());
    add("refuse", misplaced());
    add("refuse", built());
    add("open", good_segments());
    add("refuse", misplaced_segments());
    files.insert("keys.json".into(), text(&keys()));
    files.insert("segments.json".into(), text(&segments()));
    files
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

fn good_vectors() -> Vec<(&'static str, BlockVector)> {
    let g = |comment: &str, len: usize, change: fn(&mut Place)| {
        good(comment, &context(change, comment), &made("plaintext", len))
    };
    let nothing: fn(&mut Place) = |_| {};
    vec![
        ("empty", g("a block of 0 bytes is one empty page", 0, nothing)),
        ("one-byte", g("a block of 1 byte", 1, nothing)),
        (
            "hello",
            good(
                "the worked example of docs/format.md",
                &context(|p| p.id = b"greeting".to_vec(), "worked example"),
                b"Hello, cofferdam!",
            ),
        ),
        ("page-less-one", g("one byte less than a page", 4095, nothing)),
        ("page", g("exactly a page: no empty page follows", 4096, nothing)),
        ("page-and-one", g("a page and one byte", 4097, nothing)),
        ("three-pages", g("exactly three pages", 3 * 4096, nothing)),
        ("default-page-and-one", g("a default page of 64 KiB and one byte", 65_537, |p| p.page = 65_536)),
        ("largest-page-size", g("the largest page size, 16 MiB", 1000, |p| p.page = 1 << 24)),
        ("epoch-0", g("epoch 0", 100, |p| p.scope.epoch = Epoch::new(0))),
        ("epoch-largest", g("the largest epoch", 100, |p| p.scope.epoch = Epoch::new(u32::MAX))),
        ("provider-service", g("a service-managed key", 100, |p| p.scope.provider = Provider::Service)),
        ("version-0", g("version 0", 100, |p| p.version = 0)),
        ("version-largest", g("the largest version", 100, |p| p.version = u64::MAX)),
        ("id-one-byte", g("a block id of one byte, which is zero", 100, |p| p.id = vec![0])),
        ("id-not-utf-8", g("a block id of every byte there is", 100, |p| p.id = (0..=255).collect())),
        ("id-40-bytes", g("the longest block id in one hash compression", 100, |p| p.id = made("id", 40))),
        ("id-41-bytes", g("the shortest block id in two", 100, |p| p.id = made("id", 41))),
        ("id-longest", g("the longest block id", 100, |p| p.id = made("id", 1024))),
        (
            "account-of-any-bytes",
            g("an account id without UUID version bits", 100, |p| {
                p.scope.account = AccountId::from_bytes([0xff; 16]);
            }),
        ),
    ]
}

/// The length of a sealed 4 KiB page.
const STRIDE: usize = 4096 + 16;

fn cut_and_changed() -> Vec<(&'static str, BlockVector)> {
    let context = base("cut and changed");
    let plaintext = made("plaintext", 3 * 4096);
    let sealed = seal(&context, &plaintext);
    let empty = seal(&context, b"");
    let other = seal(&base("another write"), &plaintext);
    let page = |n: usize| 76 + n * STRIDE..76 + (n + 1) * STRIDE;

    let cut = |comment: &str, to: usize| vector(comment, &context, &sealed[..to]);
    let flip = |comment: &str, byte: usize| {
        let mut bad = sealed.clone();
        bad[byte] ^= 1;
        vector(comment, &context, &bad)
    };
    let set = |comment: &str, byte: usize, to: u8| {
        let mut bad = sealed.clone();
        bad[byte] = to;
        vector(comment, &context, &bad)
    };
    let extend = |comment: &str, more: &[u8]| vector(comment, &context, &[&sealed[..], more].concat());
    let order = |comment: &str, pages: &[usize]| {
        let mut bad = sealed[..76].to_vec();
        pages.iter().for_each(|&n| bad.extend_from_slice(&sealed[page(n)]));
        vector(comment, &context, &bad)
    };
    let splice = |comment: &str, range: std::ops::Range<usize>| {
        let mut bad = sealed.clone();
        bad[range.clone()].copy_from_slice(&other[range]);
        vector(comment, &context, &bad)
    };
    vec![
        ("no-bytes", cut("nothing at all", 0)),
        ("truncated-in-magic", cut("cut within the magic", 3)),
        ("truncated-in-header", cut("cut within the header", 75)),
        ("header-alone", cut("a header and no page", 76)),
        ("truncated-in-first-tag", cut("cut within what would be a lone tag", 76 + 15)),
        ("first-tag-alone", cut("cut to the length of an empty block", 76 + 16)),
        ("truncated-in-page", cut("cut within the second page", 76 + STRIDE + 1000)),
        ("truncated-at-page-boundary", cut("the last page cut off", 76 + 2 * STRIDE)),
        ("truncated-to-first-page", cut("all but the first page cut off", 76 + STRIDE)),
        ("truncated-by-one-byte", cut("the last byte cut off", sealed.len() - 1)),
        ("truncated-by-a-tag", cut("the last tag cut off", sealed.len() - 16)),
        ("extended-by-one-byte", extend("a zero byte behind the end", &[0])),
        ("extended-by-an-empty-page", extend("the tag of an empty page behind the end", &empty[76..])),
        ("extended-by-its-last-page", extend("the last page twice", &sealed[page(2)])),
        ("magic-wrong", set("another magic", 0, b'c')),
        ("format-0", set("format version 0", 4, 0)),
        ("format-2", set("a newer format version", 4, 2)),
        ("suite-0", set("suite 0", 5, 0)),
        ("suite-unknown", set("a suite that does not exist", 5, 2)),
        ("provider-0", set("provider 0", 6, 0)),
        ("provider-unknown", set("a provider that does not exist", 6, 3)),
        ("provider-changed", set("the header names the service's key", 6, 2)),
        ("page-size-too-small", set("pages of 2 KiB", 7, 11)),
        ("page-size-too-large", set("pages of 32 MiB", 7, 25)),
        ("page-size-255", set("pages of 2^255 bytes", 7, 255)),
        ("page-size-changed", set("pages of 16 MiB, where they are of 4 KiB", 7, 24)),
        ("epoch-changed", set("the header names another epoch", 11, 2)),
        ("salt-flipped", flip("a bit of the salt flipped", 12)),
        ("commitment-flipped", flip("a bit of the commitment flipped", 75)),
        ("ciphertext-flipped", flip("a bit of the first page flipped", 76)),
        ("last-ciphertext-flipped", flip("a bit of the last page flipped", 76 + 2 * STRIDE)),
        ("tag-flipped", flip("a bit of the first tag flipped", 76 + 4096)),
        ("last-tag-flipped", flip("a bit of the last tag flipped", sealed.len() - 1)),
        ("pages-swapped", order("the first two pages swapped", &[1, 0, 2])),
        ("pages-reversed", order("the last page first", &[2, 1, 0])),
        ("page-repeated", order("the first page in the second's place", &[0, 0, 2])),
        ("page-inserted", order("the second page twice", &[0, 1, 1, 2])),
        ("page-dropped", order("the middle page left out", &[0, 2])),
        ("first-page-dropped", order("the first page left out", &[1, 2])),
        ("page-of-another-write", splice("the second page of another write of the block", page(1))),
        ("salt-of-another-write", splice("the salt of another write of the block", 12..44)),
        ("commitment-of-another-write", splice("the commitment of another write of the block", 44..76)),
        ("header-of-another-write", splice("salt and commitment of another write", 12..76)),
    ]
}

fn misplaced() -> Vec<(&'static str, BlockVector)> {
    let salt = "misplaced";
    let written = base(salt);
    let sealed = seal(&written, &made("plaintext", 5000));
    // The header as one would change it who moves a block there.
    let moved = |comment: &str, change: fn(&mut Place)| {
        let reader = context(change, salt);
        let mut disguised = sealed.clone();
        disguised[6] = reader.scope.provider.code();
        disguised[8..12].copy_from_slice(&reader.scope.epoch.number().to_be_bytes());
        vector(comment, &reader, &disguised)
    };
    vec![
        ("other-aek", moved("sealed under another AEK", |p| p.key = key("another aek"))),
        ("other-account", moved("sealed for another account", |p| p.scope.account = account("another"))),
        (
            "other-epoch",
            moved("sealed under another epoch, header changed", |p| p.scope.epoch = Epoch::new(2)),
        ),
        (
            "other-epoch-as-sealed",
            vector(
                "sealed under another epoch, header as it was",
                &context(|p| p.scope.epoch = Epoch::new(2), salt),
                &sealed,
            ),
        ),
        (
            "other-provider",
            moved("sealed under a customer's key, header changed", |p| p.scope.provider = Provider::Service),
        ),
        ("other-block", moved("sealed for another block", |p| p.id = b"logs/2026/11/25.log".to_vec())),
        ("other-block-longer", moved("sealed for a block whose id is shorter by a zero", |p| p.id.push(0))),
        ("other-block-shorter", moved("sealed for a block whose id is longer", |p| p.id.truncate(18))),
        ("older-version", moved("an older version in the place of a newer one", |p| p.version = 2)),
        ("newer-version", moved("a newer version in the place of an older one", |p| p.version = 0)),
    ]
}

fn segment(label: &str) -> Provider {
    Provider::Buffer(SegmentId::from_bytes(made(label, 16).try_into().unwrap()))
}

const NO_SEGMENT: Provider = Provider::Buffer(SegmentId::from_bytes([0; 16]));

fn good_segments() -> Vec<(&'static str, BlockVector)> {
    let g = |comment: &str, len: usize, change: fn(&mut Place)| {
        good(comment, &context(change, comment), &made("plaintext", len))
    };
    vec![
        (
            "provider-buffer",
            g("a segment of a write-only buffer", 100, |p| p.scope.provider = segment("segment")),
        ),
        (
            "provider-buffer-zeros",
            g("a segment whose id is zeros, as HMAC pads a shorter salt", 5000, |p| {
                p.scope.provider = NO_SEGMENT
            }),
        ),
    ]
}

fn misplaced_segments() -> Vec<(&'static str, BlockVector)> {
    let salt = "misplaced segments";
    let written = |provider: Provider| {
        let mut context = base(salt);
        let scope = KeyScope { provider, ..context.scope };
        context = Context::new(context.key, scope, context.id, 1, context.page, context.salt);
        context
    };
    let moved = |comment: &str, from: Provider, to: Provider| {
        let mut sealed = seal(&written(from), &made("plaintext", 100));
        sealed[6] = to.code();
        vector(comment, &written(to), &sealed)
    };
    let one = segment("segment");
    vec![
        ("other-segment", moved("sealed in another segment", segment("another segment"), one)),
        ("segment-as-customer", moved("sealed in a segment, header changed", one, Provider::Customer)),
        (
            "segment-as-service",
            moved("sealed in a segment of zeros, header changed", NO_SEGMENT, Provider::Service),
        ),
        (
            "service-as-segment",
            moved("sealed under the service's key, header changed", Provider::Service, NO_SEGMENT),
        ),
    ]
}

fn segments() -> SegmentVectors {
    let base = base("keys");
    let check = |(comment, scope): (&str, KeyScope)| SegmentCheckVector {
        comment: comment.into(),
        account: scope.account.to_string(),
        epoch: scope.epoch.number(),
        segment: scope.provider.segment().unwrap().to_string(),
        aek: hex(&base.key),
        check: serde_json::from_value(
            serde_json::to_value(KeyCheckValue::derive(&aek(&base.key), &scope)).unwrap(),
        )
        .unwrap(),
    };
    let of = |provider: Provider| KeyScope { provider, ..base.scope };
    let scopes = [
        ("a segment", of(segment("segment"))),
        ("another segment", of(segment("another segment"))),
        ("a segment of zeros", of(NO_SEGMENT)),
        (
            "under another epoch of the service's key",
            KeyScope { epoch: Epoch::new(2), ..of(segment("segment")) },
        ),
        ("of another account", KeyScope { account: account("another"), ..of(segment("segment")) }),
    ];
    let service = of(Provider::Service);
    let tag = |comment: &str, record: &[u8]| TagVector {
        comment: comment.into(),
        account: service.account.to_string(),
        epoch: service.epoch.number(),
        provider: service.provider.kind().to_string(),
        aek: hex(&base.key),
        record: hex(record),
        tag: hex(&RecordKey::derive(&aek(&base.key), &service).segment_tag(record)),
    };
    SegmentVectors {
        key_check_values: scopes.map(check).into(),
        record_tags: vec![tag("an empty record", b""), tag("a record", br#"{"segment":1}"#)],
    }
}

/// Blocks that no sealer makes: each page is right under the block's DEK, or the block opens under raw AES-GCM.
fn built() -> Vec<(&'static str, BlockVector)> {
    let context = base("built");
    let nonce = |page: u32, last: u8| {
        let mut nonce = [0; 12];
        nonce[7..11].copy_from_slice(&page.to_be_bytes());
        nonce[11] = last;
        nonce
    };
    let text = made("plaintext", 2 * 4096);
    let (first, second) = text.split_at(4096);
    let page = |n, last, text| context.page(&nonce(n, last), &context.identity, text);
    let block = |comment: &str, pages: &[Vec<u8>]| {
        vector(comment, &context, &[context.header(), pages.concat()].concat())
    };

    let other = context_of_another_key();
    let (ciphertext, tag) = collide(made("two keys", 100), 2, &context, &other);
    assert!(context.opens_raw(&ciphertext, tag) && other.opens_raw(&ciphertext, tag));
    let two_keys = [&context.header()[..], &ciphertext, &tag.to_be_bytes()].concat();
    let small = context.page(&NONCE, &context.identity, b"text");
    let with = |commitment: [u8; 32]| [&context.header_with(&commitment)[..], &small].concat();
    let own_aead = |key: [u8; 32], aad: &[u8]| {
        let page = Context { dek: key, ..base("built") }.page(&NONCE, aad, b"text");
        [context.header(), page].concat()
    };
    vec![
        (
            "opens-under-two-keys",
            vector("right under this reader's key too, committed to another", &other, &two_keys),
        ),
        (
            "last-flag-missing",
            block("the last page is not marked as the last", &[page(0, 0, first), page(1, 0, second)]),
        ),
        (
            "last-flag-early",
            block("both pages are marked as the last", &[page(0, 1, first), page(1, 1, second)]),
        ),
        ("last-flag-2", block("the last page is marked with 2", &[page(0, 0, first), page(1, 2, second)])),
        (
            "pages-counted-from-1",
            block("the first page is numbered 1", &[page(1, 0, first), page(2, 1, second)]),
        ),
        (
            "empty-last-page",
            block("a full page, then an empty last one", &[page(0, 0, first), page(1, 1, b"")]),
        ),
        (
            "short-first-page",
            block("a first page of 100 bytes", &[page(0, 0, &first[..100]), page(1, 1, second)]),
        ),
        ("commitment-zero", vector("a commitment of zeros", &context, &with([0; 32]))),
        ("commitment-is-dek", vector("the DEK in the place of the commitment", &context, &with(context.dek))),
        (
            "page-without-aad",
            vector("the page is not bound to its place", &context, &own_aead(context.dek, b"")),
        ),
        (
            "page-with-short-aad",
            vector(
                "21 bytes of the identity as AAD",
                &context,
                &own_aead(context.dek, &context.identity[..21]),
            ),
        ),
        (
            "page-under-commitment",
            vector(
                "the page is sealed under the commitment",
                &context,
                &own_aead(context.commitment, &context.identity),
            ),
        ),
        (
            "page-under-aek",
            vector("the page is sealed under the AEK", &context, &own_aead(context.key, &context.identity)),
        ),
        (
            "page-under-prk",
            vector("the page is sealed under the PRK", &context, &own_aead(context.prk, &context.identity)),
        ),
    ]
}

fn context_of_another_key() -> Context {
    context(|p| p.key = key("another aek"), "built")
}

fn keys() -> KeyVectors {
    let base = base("keys");
    let scopes = [
        ("the first epoch of a customer's key", base.scope),
        ("another epoch", KeyScope { epoch: Epoch::new(2), ..base.scope }),
        ("a service-managed key", KeyScope { provider: Provider::Service, ..base.scope }),
        ("another account", KeyScope { account: account("another"), ..base.scope }),
    ];
    let check = |(comment, scope): (&str, KeyScope)| CheckVector {
        comment: comment.into(),
        account: scope.account.to_string(),
        epoch: scope.epoch.number(),
        provider: scope.provider.to_string(),
        aek: hex(&base.key),
        check: serde_json::from_value(
            serde_json::to_value(KeyCheckValue::derive(&aek(&base.key), &scope)).unwrap(),
        )
        .unwrap(),
    };
    let tag = |comment: &str, scope: KeyScope, record: &[u8]| TagVector {
        comment: comment.into(),
        account: scope.account.to_string(),
        epoch: scope.epoch.number(),
        provider: scope.provider.to_string(),
        aek: hex(&base.key),
        record: hex(record),
        tag: hex(&RecordKey::derive(&aek(&base.key), &scope).tag(record)),
    };
    KeyVectors {
        key_check_values: scopes.map(check).into(),
        wraps: wraps(&base),
        record_tags: vec![
            tag("an empty record", base.scope, b""),
            tag("a record", base.scope, br#"{"epoch":1}"#),
            tag("the same under the service's key", scopes[2].1, br#"{"epoch":1}"#),
            tag("a record of many blocks of the hash", base.scope, &made("record", 1000)),
        ],
    }
}

fn wraps(base: &Context) -> Vec<WrapVector> {
    let kek_bytes = key("kek");
    let kek = Kek::try_from_fn(|k| {
        *k = kek_bytes;
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap();
    let wrapped = kek.wrap(&aek(&base.key));
    let wrap = |comment: &str, kek: [u8; 32], wrapped: &[u8], aek: Option<[u8; 32]>| WrapVector {
        comment: comment.into(),
        kek: hex(&kek),
        wrapped: hex(wrapped),
        aek: aek.map(|aek| hex(&aek)),
    };
    let mut flipped = wrapped;
    flipped[39] ^= 1;
    vec![
        wrap("an AEK", kek_bytes, &wrapped, Some(base.key)),
        wrap("an AEK of zeros", kek_bytes, &kek.wrap(&aek(&[0; 32])), Some([0; 32])),
        wrap("wrapped by another KEK", key("another kek"), &wrapped, None),
        wrap("a bit flipped", kek_bytes, &flipped, None),
        wrap("the last byte cut off", kek_bytes, &wrapped[..39], None),
        wrap("cut to the wrap of a 16-byte key", kek_bytes, &wrapped[..24], None),
        wrap("the integrity value of RFC 3394 alone", kek_bytes, &[0xa6; 8], None),
        wrap("twice the integrity value of RFC 3394", kek_bytes, &[0xa6; 16], None),
        wrap("nothing", kek_bytes, b"", None),
    ]
}
