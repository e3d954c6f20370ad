use std::{
    collections::BTreeMap,
    io::{self, Cursor, SeekFrom},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cofferdam_crypto::{
    AccountId, Aek, BlockId, Epoch, KeyScope, PageSize, Provider, ProviderKind, RecordKey, SegmentId, Version,
};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    frame::{CHECKSUM_LEN, HEAD_LEN, START_LEN},
    *,
};

const MAX_SEALED: u64 = 1 << 20;
const ACCOUNT: &[u8] = br#"{"name":"contoso"}"#;

fn scope(provider: Provider) -> KeyScope {
    KeyScope { account: AccountId::from_bytes([0xa1; 16]), epoch: Epoch::new(3), provider }
}

fn key_of(byte: u8, provider: Provider) -> RecordKey {
    let aek = Aek::try_from_fn(|aek| {
        aek.fill(byte);
        Ok::<_, std::convert::Infallible>(())
    });
    RecordKey::derive(&aek.unwrap(), &scope(provider))
}

fn customer() -> RecordKey {
    key_of(7, Provider::Customer)
}

fn service() -> RecordKey {
    key_of(8, Provider::Service)
}

fn id(name: &str) -> BlockId {
    BlockId::new(name).unwrap()
}

fn segment(byte: u8) -> SegmentId {
    SegmentId::from_bytes([byte; 16])
}

fn meta(version: u64, provider: Provider, sealed: &[u8]) -> BlockMeta {
    BlockMeta {
        version: Version::new(version),
        sealed_len: sealed.len() as u64,
        page_size: PageSize::new(4096).unwrap(),
        stored_at: Duration::from_millis(1_795_000_000_123),
        epoch: Epoch::new(3),
        provider,
    }
}

/// A record, as a test compares it.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Segment(SegmentId, Vec<u8>),
    Block(Place, BlockId, BlockMeta, Vec<u8>),
}

/// Something of each kind: two segments, buffered blocks under both kinds of key, stored blocks.
fn contents() -> Vec<Seen> {
    let block = |place, name: &str, version, provider, sealed: &[u8]| {
        Seen::Block(place, id(name), meta(version, provider, sealed), sealed.to_vec())
    };
    vec![
        Seen::Segment(segment(1), b"record 1".to_vec()),
        block(Place::Buffer, "a", 9, Provider::Buffer(segment(1)), &[0x11; 100]),
        Seen::Segment(segment(2), b"record 2".to_vec()),
        block(Place::Buffer, "b", 8, Provider::Buffer(segment(2)), &[0x22; 92]),
        block(Place::Buffer, "c", 7, Provider::Service, &[0x33; 93]),
        block(Place::Store, "a", 1, Provider::Customer, &[0x44; 120]),
        block(Place::Store, "\u{ff}", 2, Provider::Service, &[0x55; 92]),
    ]
}

async fn written(contents: &[Seen]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut archive = ArchiveWriter::start(&mut out, ACCOUNT).await.unwrap();
    for record in contents {
        match record {
            Seen::Segment(id, record) => archive.segment(*id, &record.clone().into()).await.unwrap(),
            Seen::Block(place, id, meta, sealed) => {
                archive.block(*place, id, meta, &sealed.clone().into()).await.unwrap()
            }
        }
    }
    let (customer, service) = (customer(), service());
    archive
        .finish(&[
            Signatory { scope: scope(Provider::Service), key: &service },
            Signatory { scope: scope(Provider::Customer), key: &customer },
        ])
        .await
        .unwrap();
    out
}

async fn checked<R: AsyncRead + AsyncSeek + Unpin>(input: R) -> Result<Checked<R>, ArchiveError> {
    UncheckedArchive::open(input, MAX_SEALED).await?.check().await
}

async fn load<R: AsyncRead + AsyncSeek + Unpin>(
    input: R,
    key: &RecordKey,
) -> Result<Vec<Seen>, ArchiveError> {
    let mut loading = checked(input).await?.load(&scope(Provider::Customer), key).await?;
    let mut seen = Vec::new();
    while let Some(record) = loading.next().await? {
        seen.push(match record {
            ArchiveRecord::Segment { id, record } => Seen::Segment(id, record.to_vec()),
            ArchiveRecord::Block { place, id, meta, sealed } => Seen::Block(place, id, meta, sealed.to_vec()),
        });
    }
    assert!(loading.next().await?.is_none());
    Ok(seen)
}

/// Under both keys: the tag of one is not under the other's.
async fn read(bytes: &[u8]) -> Result<Vec<Seen>, ArchiveError> {
    checked(Cursor::new(bytes)).await?.verify(&scope(Provider::Service), &service())?;
    load(Cursor::new(bytes), &customer()).await
}

/// The records of an archive, each whole.
fn split(archive: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut records) = (START_LEN, Vec::new());
    while at < archive.len() {
        let len = u64::from_be_bytes(archive[at + 9..at + HEAD_LEN].try_into().unwrap()) as usize;
        let end = at + HEAD_LEN + len + CHECKSUM_LEN;
        records.push(archive[at..end].to_vec());
        at = end;
    }
    records
}

/// An archive of these records as they are.
fn join(archive: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    [&archive[..START_LEN], &records.concat()].concat()
}

/// The same with numbers and checksums that fit, as somebody makes them who knows the format and no key.
fn forge(archive: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    let fit = |(number, record): (usize, &Vec<u8>)| {
        let mut record = record.clone();
        record[1..9].copy_from_slice(&(number as u64).to_be_bytes());
        let at = record.len() - CHECKSUM_LEN;
        let sum = xxh3_64(&record[..at]).to_be_bytes();
        record[at..].copy_from_slice(&sum);
        record
    };
    join(archive, &records.iter().enumerate().map(fit).collect::<Vec<_>>())
}

#[tokio::test]
async fn an_archive_reads_as_it_was_written_under_either_of_its_keys() {
    let bytes = written(&contents()).await;
    assert_eq!(read(&bytes).await.unwrap(), contents());

    let archive = UncheckedArchive::open(Cursor::new(&bytes), MAX_SEALED).await.unwrap();
    assert_eq!(archive.account(), ACCOUNT);
    let archive = archive.check().await.unwrap();
    assert_eq!(archive.counts(), ArchiveCounts { stored: 2, buffered: 3, segments: 2, bytes: 497 });
    let epoch = Epoch::new(3);
    let under = [(ProviderKind::Customer, 1), (ProviderKind::Service, 2), (ProviderKind::Buffer, 2)];
    assert_eq!(*archive.sealed_under(), BTreeMap::from(under.map(|(kind, blocks)| ((kind, epoch), blocks))));
    archive.verify(&scope(Provider::Customer), &customer()).unwrap();
    archive.verify(&scope(Provider::Service), &service()).unwrap();
}

#[tokio::test]
async fn an_archive_of_nothing_is_one() {
    let bytes = written(&[]).await;
    assert_eq!(read(&bytes).await.unwrap(), []);
}

#[tokio::test]
async fn an_archive_is_believed_under_no_other_key() {
    let bytes = written(&contents()).await;
    let archive = checked(Cursor::new(&bytes)).await.unwrap();
    let refusal = |of: KeyScope, key: &RecordKey| archive.verify(&of, key).unwrap_err();
    let forged = refusal(scope(Provider::Customer), &key_of(9, Provider::Customer));
    assert!(matches!(forged, ArchiveError::Forged { provider: ProviderKind::Customer, .. }), "{forged}");
    let forged = refusal(scope(Provider::Service), &customer());
    assert!(matches!(forged, ArchiveError::Forged { provider: ProviderKind::Service, .. }), "{forged}");
    let later = KeyScope { epoch: Epoch::new(4), ..scope(Provider::Customer) };
    let none = refusal(later, &RecordKey::derive(&Aek::try_from_fn(|_| Ok::<_, ()>(())).unwrap(), &later));
    assert!(matches!(none, ArchiveError::NoTag { .. }), "{none}");
}

#[tokio::test]
async fn no_flipped_bit_is_believed() {
    let bytes = written(&contents()).await;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let error = read(&flipped).await.expect_err(&format!("bit {bit} of byte {at}"));
            match at {
                0..8 => assert!(matches!(error, ArchiveError::NotAnArchive), "byte {at}: {error}"),
                8 => assert!(
                    matches!(error, ArchiveError::Newer { .. } | ArchiveError::NotAnArchive),
                    "byte {at}: {error}"
                ),
                _ => assert!(
                    matches!(
                        error,
                        ArchiveError::Damaged { .. }
                            | ArchiveError::TooLarge { .. }
                            | ArchiveError::Truncated { .. }
                    ),
                    "byte {at}: {error}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn an_archive_that_was_cut_off_anywhere_is_said_to_be_that() {
    let bytes = written(&contents()).await;
    assert!(matches!(read(b"").await, Err(ArchiveError::NotAnArchive)));
    for len in 1..bytes.len() {
        let error = read(&bytes[..len]).await.expect_err(&format!("{len} bytes"));
        assert!(matches!(error, ArchiveError::Truncated { at, .. } if at == len as u64), "{len}: {error}");
    }
}

#[tokio::test]
async fn what_was_added_is_said_to_be_that() {
    let bytes = written(&contents()).await;
    for more in [&b"\0"[..], b"more", &bytes] {
        let error = read(&[&bytes, more].concat()).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Trailing { at } if at == bytes.len() as u64), "{error}");
    }
}

#[tokio::test]
async fn a_later_format_is_said_to_be_that() {
    let mut bytes = written(&contents()).await;
    bytes[8] = 2;
    let error = read(&bytes).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Newer { found: 2, supported: 1 }), "{error}");
}

#[tokio::test]
async fn records_that_were_dropped_repeated_or_moved_are_missed() {
    let bytes = written(&contents()).await;
    let records = split(&bytes);
    assert_eq!(join(&bytes, &records), bytes);
    assert_eq!(forge(&bytes, &records), bytes);
    for n in 0..records.len() {
        let without = || [&records[..n], &records[n + 1..]].concat();
        let mut dropped = without();
        read(&join(&bytes, &dropped)).await.expect_err(&format!("without record {n}"));
        read(&forge(&bytes, &dropped)).await.expect_err(&format!("without record {n}, forged"));
        for to in 0..records.len() {
            let mut twice = records.clone();
            twice.insert(to, records[n].clone());
            read(&join(&bytes, &twice)).await.expect_err(&format!("record {n} again at {to}"));
            read(&forge(&bytes, &twice)).await.expect_err(&format!("record {n} again at {to}, forged"));
            if to != n {
                dropped = without();
                dropped.insert(to, records[n].clone());
                read(&join(&bytes, &dropped)).await.expect_err(&format!("record {n} moved to {to}"));
                read(&forge(&bytes, &dropped)).await.expect_err(&format!("record {n} moved to {to}, forged"));
            }
        }
    }
    let mut dropped = records.clone();
    dropped.remove(6);
    let error = read(&join(&bytes, &dropped)).await.unwrap_err();
    assert!(matches!(error, ArchiveError::OutOfOrder { expected: 6, found: 7, .. }), "{error}");
    let error = read(&forge(&bytes, &dropped)).await.unwrap_err();
    assert!(matches!(error, ArchiveError::WrongHash), "{error}");
}

#[tokio::test]
async fn who_knows_the_format_and_no_key_makes_no_archive() {
    let bytes = written(&contents()).await;
    let mut others = contents();
    let Seen::Block(.., sealed) = &mut others[5] else { panic!("a block") };
    sealed[60] ^= 1;
    // The right hash and counts, and the tags of another archive.
    let (records, mut changed) = (split(&bytes), split(&written(&others).await));
    let tags = 2 * 37 + CHECKSUM_LEN;
    let (end, forged) = (records.last().unwrap(), changed.last_mut().unwrap());
    let at = forged.len() - tags;
    forged[at..].copy_from_slice(&end[at..]);
    let forged = forge(&bytes, &changed);
    checked(Cursor::new(&forged)).await.unwrap();
    let error = read(&forged).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Forged { .. }), "{error}");
}

#[tokio::test]
async fn lengths_that_no_record_has_cost_nothing() {
    let bytes = written(&contents()).await;
    for (record, kind) in [(0, b'A'), (1, b'S'), (2, b'B'), (8, b'E')] {
        let at = START_LEN + split(&bytes)[..record].concat().len();
        assert_eq!(bytes[at], kind);
        for len in [u64::MAX, u64::MAX - 7, 1 << 62, 1 << 40, 1 << 21, 1 << 16, 5000] {
            let mut lied = bytes.clone();
            lied[at + 9..at + HEAD_LEN].copy_from_slice(&len.to_be_bytes());
            let error = read(&lied).await.unwrap_err();
            let is_told = matches!(error, ArchiveError::TooLarge { .. } | ArchiveError::Truncated { .. });
            assert!(is_told, "record {record} of {len} bytes: {error}");
        }
    }
}

#[tokio::test]
async fn a_block_above_the_readers_bound_is_refused_by_name() {
    let sealed = vec![0x44; 2000];
    let large = Seen::Block(Place::Store, id("a"), meta(1, Provider::Customer, &sealed), sealed);
    let bytes = written(&[large]).await;
    let error = UncheckedArchive::open(Cursor::new(&bytes), 500).await.unwrap().check().await.err().unwrap();
    assert!(matches!(error, ArchiveError::TooLarge { what: "a block", .. }), "{error}");
}

#[tokio::test]
async fn nothing_is_written_that_no_reader_takes() {
    let customer = customer();
    let signed = || [Signatory { scope: scope(Provider::Customer), key: &customer }];
    let unfit = |e: ArchiveError| assert!(matches!(e, ArchiveError::Unfit { .. }), "{e}");
    unfit(ArchiveWriter::start(Vec::new(), &vec![0; (4 << 20) + 1]).await.err().unwrap());
    let mut archive = ArchiveWriter::start(Vec::new(), ACCOUNT).await.unwrap();
    unfit(archive.segment(segment(1), &vec![0; 64 << 10].into()).await.unwrap_err());
    let sealed = Bytes::from_static(&[0; 92]);
    let of_customer = meta(1, Provider::Customer, &sealed);
    unfit(archive.block(Place::Store, &id("a"), &of_customer, &sealed.slice(1..)).await.unwrap_err());
    let of_segment = meta(1, Provider::Buffer(segment(1)), &sealed);
    unfit(archive.block(Place::Buffer, &id("a"), &of_segment, &sealed).await.unwrap_err());
    archive.block(Place::Store, &id("a"), &of_customer, &sealed).await.unwrap();
    unfit(archive.block(Place::Store, &id("a"), &of_customer, &sealed).await.unwrap_err());
    archive.finish(&signed()).await.unwrap();

    unfit(ArchiveWriter::start(Vec::new(), b"").await.unwrap().finish(&[]).await.unwrap_err());
    let twice = [signed(), signed()].into_iter().flatten().collect::<Vec<_>>();
    unfit(ArchiveWriter::start(Vec::new(), b"").await.unwrap().finish(&twice).await.unwrap_err());
    let of_segment = [Signatory { scope: scope(Provider::Buffer(segment(1))), key: &customer }];
    unfit(ArchiveWriter::start(Vec::new(), b"").await.unwrap().finish(&of_segment).await.unwrap_err());
}

#[cfg(cofferdam_planted)]
#[tokio::test]
async fn a_tag_that_nobody_checks_shows() {
    use cofferdam_crypto::planted::{Bug, plant};
    let bytes = written(&contents()).await;
    plant(Some(Bug::ArchiveUncheckedMac));
    let believed = load(Cursor::new(&bytes), &key_of(9, Provider::Customer)).await;
    plant(None);
    assert_eq!(believed.unwrap(), contents());
}

/// A file that somebody may change while it is read.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Cursor<Vec<u8>>>>);

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_read(cx, to)
    }
}

impl AsyncSeek for Shared {
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        Pin::new(&mut *self.0.lock().unwrap()).start_seek(to)
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_complete(cx)
    }
}

/// Where the file is changed once it was checked.
async fn loaded_from_another(bytes: &[u8], other: Vec<u8>) -> Result<u32, ArchiveError> {
    let file = Shared(Arc::new(Mutex::new(Cursor::new(bytes.to_vec()))));
    let archive = checked(file.clone()).await.unwrap();
    *file.0.lock().unwrap().get_mut() = other;
    let mut loading = archive.load(&scope(Provider::Customer), &customer()).await?;
    let mut records = 0;
    while loading.next().await?.is_some() {
        records += 1;
    }
    Ok(records)
}

#[tokio::test]
async fn an_archive_that_is_changed_between_check_and_load_does_not_end_well() {
    let bytes = written(&contents()).await;
    assert_eq!(loaded_from_another(&bytes, bytes.clone()).await.unwrap(), 7);
    let mut others = contents();
    let Seen::Block(.., sealed) = &mut others[5] else { panic!("a block") };
    sealed[60] ^= 1;
    let (mut flipped, cut) = (bytes.clone(), bytes[..bytes.len() - 1].to_vec());
    flipped[200] ^= 1;
    for other in [written(&others).await, written(&[]).await, flipped, cut, Vec::new()] {
        let error = loaded_from_another(&bytes, other).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Changed), "{error}");
    }
}

/// The bytes of an archive, published, so never changed.
#[tokio::test]
async fn an_archive_is_what_it_always_was() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/archive.json");
    let vector: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let frozen = data_encoding::HEXLOWER.decode(vector["archive"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(read(&frozen).await.unwrap(), contents());
    assert_eq!(written(&contents()).await, frozen);
}

fn any_contents() -> impl Strategy<Value = Vec<Seen>> {
    let segments =
        prop::collection::btree_map(any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..40), 0..4);
    let block = (prop::collection::vec(any::<u8>(), 1..20), any::<u64>(), any::<u8>(), 0..5000usize);
    (segments, prop::collection::vec((any::<bool>(), block), 0..12)).prop_map(|(segments, blocks)| {
        let ids: Vec<_> = segments.keys().map(|id| SegmentId::from_bytes(*id)).collect();
        let mut sorted = BTreeMap::new();
        for (is_stored, (name, version, kind, len)) in blocks {
            let provider = match (usize::from(kind), is_stored) {
                (n, false) if n < ids.len() => Provider::Buffer(ids[n]),
                (n, _) if n % 2 == 0 => Provider::Customer,
                _ => Provider::Service,
            };
            sorted.insert((is_stored, name), (version, provider, vec![kind; len]));
        }
        let segments =
            segments.into_iter().map(|(id, record)| Seen::Segment(SegmentId::from_bytes(id), record));
        let blocks = sorted.into_iter().map(|((is_stored, name), (version, provider, sealed))| {
            let place = if is_stored { Place::Store } else { Place::Buffer };
            Seen::Block(place, BlockId::new(name).unwrap(), meta(version, provider, &sealed), sealed)
        });
        segments.chain(blocks).collect()
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

proptest! {
    #[test]
    fn anything_reads_as_it_was_written(contents in any_contents()) {
        block_on(async {
            let bytes = written(&contents).await;
            prop_assert_eq!(read(&bytes).await.unwrap(), contents);
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_are_an_error_and_no_more(
        noise in prop::collection::vec(any::<u8>(), 0..600), from in 0..1400usize, keep in 0..1400usize, how in 0..4,
    ) {
        block_on(async {
            let mut bytes = written(&contents()).await;
            let (from, keep) = (from.min(bytes.len()), keep.min(bytes.len()));
            match how {
                0 => bytes = noise.clone(),
                1 => bytes.truncate(from),
                2 => bytes[from..].iter_mut().zip(&noise).for_each(|(b, n)| *b = *n),
                _ => { bytes.splice(from.min(keep)..from.max(keep), noise.clone()); }
            }
            let whole = written(&contents()).await;
            let forged = forge(&whole, &split_as_far(&bytes));
            for bytes in [bytes, forged] {
                prop_assert!(bytes == whole || read(&bytes).await.is_err());
            }
            Ok(())
        })?;
    }
}

/// What of it looks like records, so that checksums can be made to fit.
fn split_as_far(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut records) = (bytes.get(START_LEN..).unwrap_or_default(), Vec::new());
    while let Some(head) = rest.first_chunk::<HEAD_LEN>() {
        let len = u64::from_be_bytes(head[9..].try_into().unwrap());
        let end = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(HEAD_LEN + CHECKSUM_LEN);
        let Some((record, more)) = rest.split_at_checked(end) else { break };
        records.push(record.to_vec());
        rest = more;
    }
    records
}
