//! Searches files for the lines of other files.
//!
//! Guarantees: a line of the input that lies in the target anywhere, at any offset, is found; what is counted
//! as found was compared in full. Memory is bounded whatever the sizes: more lines take more passes.
//!
//! How: 16 bytes of each line are hashed to 64 bits; the target is hashed at every offset, and a Bloom filter
//! and a sorted table tell which offsets may lie in a line. Only there the line is compared.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use super::lines::{LONGEST, Needles, WINDOW, hash};

/// How many different windows one pass looks for, 8 bytes each.
const PER_PASS: usize = 10 << 20;
/// How many offsets that may lie in a line are kept.
const MOST_HITS: usize = 1 << 20;
const SEGMENT: u64 = 1 << 20;
/// The Bloom filter: about 16 bits a line, up to 32 MiB.
const BLOOM_MIN_LOG2: u32 = 16;
const BLOOM_MAX_LOG2: u32 = 28;
const BUCKET_BITS: u32 = 16;
/// How many offsets are looked at together.
const BATCH: usize = 512;

/// What to search in: a file, or the start of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) path: &'a Path,
    pub(super) limit: u64,
}

/// What a search found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Lines that were looked for.
    pub(super) lines: u64,
    /// Lines too short or too uniform to look for.
    pub(super) left_out: u64,
    /// Lines that are in the target, in full.
    pub(super) found: u64,
    /// Offsets of the target that hold the 16 bytes that some line is looked up by.
    pub(super) hits: u64,
    /// How often the target was read.
    pub(super) passes: u64,
}

/// Looks for the lines of the inputs, of each up to `limit` bytes, in the target. `progress` is told of bytes.
pub(super) fn search(
    inputs: &[PathBuf],
    limit: u64,
    target: Target<'_>,
    progress: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> io::Result<Findings> {
    search_in_passes(inputs, limit, target, PER_PASS, progress, stop)
}

fn search_in_passes(
    inputs: &[PathBuf],
    limit: u64,
    target: Target<'_>,
    per_pass: usize,
    progress: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> io::Result<Findings> {
    let mut findings = Findings::default();
    let mut needles = Needles::new(inputs, limit);
    let mut table = Vec::new();
    loop {
        let first = findings.lines;
        let more = collect(&mut needles, &mut table, per_pass, &mut findings.lines)?;
        if !table.is_empty() {
            let index = Index::new(&table);
            let mut hits = scan(target, &index, progress, stop)?;
            findings.passes += 1;
            findings.hits += hits.len() as u64;
            if !hits.is_empty() {
                hits.sort_unstable();
                findings.found += confirm(inputs, limit, target, &hits, first..findings.lines)?;
            }
        }
        if !more || stop.load(Ordering::Relaxed) {
            findings.left_out = needles.left_out;
            return Ok(findings);
        }
    }
}

/// Hashes lines into the table until it is full. False when there are no more.
fn collect(
    needles: &mut Needles<'_>,
    table: &mut Vec<u64>,
    per_pass: usize,
    lines: &mut u64,
) -> io::Result<bool> {
    table.clear();
    while let Some(needle) = needles.next()? {
        *lines += 1;
        table.push(needle.hash);
        if table.len() >= per_pass {
            table.sort_unstable();
            table.dedup();
            // Lines often share what they are looked up by: go on as long as that makes much room.
            if table.len() > per_pass / 4 * 3 {
                return Ok(true);
            }
        }
    }
    table.sort_unstable();
    table.dedup();
    Ok(false)
}

struct Index<'a> {
    /// Sorted.
    table: &'a [u64],
    /// Where in the table the hashes with each value of the first [`BUCKET_BITS`] bits begin.
    buckets: Vec<usize>,
    bloom: Vec<u64>,
    log2: u32,
}

impl<'a> Index<'a> {
    fn new(table: &'a [u64]) -> Self {
        let log2 = (table.len() * 16).next_power_of_two().trailing_zeros();
        let log2 = log2.clamp(BLOOM_MIN_LOG2, BLOOM_MAX_LOG2);
        let mut buckets = Vec::with_capacity((1 << BUCKET_BITS) + 1);
        let mut at = 0;
        for bucket in 0..1 << BUCKET_BITS {
            at += table[at..].iter().take_while(|&&hash| hash >> (64 - BUCKET_BITS) < bucket).count();
            buckets.push(at);
        }
        buckets.push(table.len());
        let mut index = Self { table, buckets, bloom: vec![0; 1 << (log2 - 6)], log2 };
        for &hash in table {
            for bit in [index.first_bit(hash), index.second_bit(hash)] {
                index.bloom[(bit >> 6) as usize] |= 1 << (bit & 63);
            }
        }
        index
    }

    fn first_bit(&self, hash: u64) -> u64 {
        hash >> (64 - self.log2)
    }

    fn second_bit(&self, hash: u64) -> u64 {
        hash & ((1 << self.log2) - 1)
    }

    fn has(&self, bit: u64) -> bool {
        self.bloom[(bit >> 6) as usize] >> (bit & 63) & 1 != 0
    }

    fn holds(&self, hash: u64) -> bool {
        let bucket = (hash >> (64 - BUCKET_BITS)) as usize;
        self.has(self.second_bit(hash))
            && self.table[self.buckets[bucket]..self.buckets[bucket + 1]].binary_search(&hash).is_ok()
    }
}

/// An offset that holds what some line is looked up by: hash, offset.
type Hit = (u64, u64);

fn scan(
    target: Target<'_>,
    index: &Index<'_>,
    progress: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> io::Result<Vec<Hit>> {
    let len = target.path.metadata()?.len().min(target.limit);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let next = AtomicU64::new(0);
    let hits = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || -> io::Result<()> {
            let mut file = File::open(target.path)?;
            let mut segment = Vec::with_capacity(SEGMENT as usize + WINDOW);
            let mut mine = Vec::new();
            loop {
                let start = next.fetch_add(1, Ordering::Relaxed) * SEGMENT;
                if start >= len || stop.load(Ordering::Relaxed) {
                    break;
                }
                // Windows that begin in this segment may end in the next.
                let wanted = (SEGMENT + WINDOW as u64 - 1).min(len - start);
                segment.clear();
                file.seek(SeekFrom::Start(start))?;
                (&mut file).take(wanted).read_to_end(&mut segment)?;
                find(&segment, start, index, &mut mine);
                progress(SEGMENT.min(len - start));
                if mine.len() >= MOST_HITS {
                    break;
                }
            }
            let mut all = hits.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MOST_HITS.saturating_sub(Vec::len(&all));
            all.extend(mine.into_iter().take(room));
            Ok(())
        };
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for worker in workers {
            done =
                done.and(worker.join().unwrap_or_else(|_| Err(io::Error::other("a searching thread ended"))));
        }
        done
    })?;
    Ok(hits.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// In batches, the filter first and without a branch: its loads miss the cache and must overlap.
fn find(segment: &[u8], start: u64, index: &Index<'_>, hits: &mut Vec<Hit>) {
    let mut hashes = [0; BATCH];
    let mut maybe = [0; BATCH];
    let mut base = 0;
    while base + WINDOW <= segment.len() {
        let batch = &segment[base..segment.len().min(base + BATCH + WINDOW - 1)];
        let mut count = 0;
        for (at, window) in batch.windows(WINDOW).enumerate() {
            let Some(window) = window.first_chunk() else { continue };
            let hash = hash(window);
            hashes[at] = hash;
            maybe[count] = at;
            count += usize::from(index.has(index.first_bit(hash)));
        }
        for &at in &maybe[..count] {
            if index.holds(hashes[at]) && hits.len() < MOST_HITS {
                hits.push((hashes[at], start + (base + at) as u64));
            }
        }
        base += BATCH;
    }
}

/// How many of the lines with these numbers are in the target at one of the hits, in full.
fn confirm(
    inputs: &[PathBuf],
    limit: u64,
    target: Target<'_>,
    hits: &[Hit],
    lines: std::ops::Range<u64>,
) -> io::Result<u64> {
    let mut needles = Needles::new(inputs, limit);
    let mut window = Window::open(target)?;
    let (mut number, mut found) = (0, 0);
    while let Some(needle) = needles.next()? {
        if number >= lines.end {
            break;
        }
        let wanted = lines.contains(&number);
        number += 1;
        if !wanted {
            continue;
        }
        let from = hits.partition_point(|hit| hit.0 < needle.hash);
        for &(_, offset) in hits[from..].iter().take_while(|hit| hit.0 == needle.hash) {
            let Some(start) = offset.checked_sub(needle.at as u64) else { continue };
            if window.at(start, needle.bytes.len())? == Some(needle.bytes) {
                found += 1;
                break;
            }
        }
    }
    Ok(found)
}

/// The target, read where it is looked at.
struct Window {
    file: File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn open(target: Target<'_>) -> io::Result<Self> {
        let file = File::open(target.path)?;
        let len = file.metadata()?.len().min(target.limit);
        Ok(Self { file, len, start: 0, bytes: Vec::new() })
    }

    /// Some bytes at an offset; none where the target ends before.
    fn at(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let end = offset + len as u64;
        if end > self.len {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            self.start = offset / SEGMENT * SEGMENT;
            self.bytes.clear();
            self.file.seek(SeekFrom::Start(self.start))?;
            let wanted = (SEGMENT + LONGEST as u64).min(self.len - self.start);
            (&mut self.file).take(wanted).read_to_end(&mut self.bytes)?;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    struct Files {
        folder: tempfile::TempDir,
        inputs: Vec<PathBuf>,
    }

    impl Files {
        fn new(lines: &[String]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("input");
            std::fs::write(&path, lines.join("\n")).unwrap();
            Self { folder, inputs: vec![path] }
        }

        fn search(&self, target: &[u8], per_pass: usize) -> Findings {
            let path = self.folder.path().join("target");
            std::fs::write(&path, target).unwrap();
            let target = Target { path: &path, limit: u64::MAX };
            search_in_passes(&self.inputs, u64::MAX, target, per_pass, &|_| (), &GO).unwrap()
        }
    }

    fn lines(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("2026-11-24 16:{:02} event {i:08x} of many", i / 60 % 60)).collect()
    }

    /// Bytes that look random, from a seed.
    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn lines_are_found_at_any_offset_also_across_segments() {
        let lines = lines(50);
        let files = Files::new(&lines);
        for at in [0, 1, 7, SEGMENT as usize - 1, SEGMENT as usize - 20, SEGMENT as usize, 2_500_000 - 39] {
            let mut target = noise(2_500_000, 7);
            let line = lines[33].as_bytes();
            target[at..at + line.len()].copy_from_slice(line);
            let found = files.search(&target, PER_PASS);
            assert_eq!((found.lines, found.found, found.passes), (50, 1, 1), "at {at}");
        }
    }

    #[test]
    fn a_line_cut_short_at_either_end_is_not_found() {
        let lines = lines(50);
        let files = Files::new(&lines);
        let line = lines[33].as_bytes();
        let mut target = noise(100_000, 9);
        target[5000..5000 + line.len() - 1].copy_from_slice(&line[1..]);
        target[9000..9000 + line.len() - 1].copy_from_slice(&line[..line.len() - 1]);
        let found = files.search(&target, PER_PASS);
        assert!(found.hits >= 1, "{found:?}");
        assert_eq!(found.found, 0);
    }

    #[test]
    fn every_line_of_a_file_is_found_in_itself_in_any_number_of_passes() {
        let all = lines(5000);
        let files = Files::new(&all);
        for (per_pass, passes) in [(PER_PASS, 1), (16, 2)] {
            let found = files.search(all.join("\n").as_bytes(), per_pass);
            assert_eq!((found.lines, found.found), (5000, 5000), "{per_pass}");
            assert!(found.passes >= passes, "{found:?}");
        }
    }

    #[test]
    fn nothing_is_found_in_noise() {
        let files = Files::new(&lines(5000));
        let found = files.search(&noise(3_000_000, 11), PER_PASS);
        assert_eq!((found.lines, found.hits, found.found), (5000, 0, 0));
    }
}
