//! Searches files for the lines of other files.
//!
//! Guarantees: a line of the input that lies in the target anywhere, at any offset, is found; what is counted
//! as found was compared in full. Memory is bounded whatever the sizes: more lines take more passes.
//!
//! How: each line's first 16 bytes are hashed to 64 bits; the target is hashed at every offset, and a Bloom
//! filter and a sorted table tell which offsets may start a line. Only those are compared.

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

use super::lines::{LONGEST, Needles, WINDOW};

/// How many lines that start differently one pass looks for, 8 bytes each.
const PER_PASS: usize = 6 << 20;
/// How many offsets that may start a line are kept.
const MOST_HITS: usize = 1 << 20;
const SEGMENT: u64 = 1 << 20;
/// The Bloom filter: about 16 bits a line, up to 32 MiB.
const BLOOM_MIN_LOG2: u32 = 16;
const BLOOM_MAX_LOG2: u32 = 28;

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
    /// Offsets of the target that start as some line does.
    pub(super) starts: u64,
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
            findings.starts += hits.len() as u64;
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
        if let Some(window) = needle.first_chunk() {
            table.push(hash(window));
        }
        if table.len() >= per_pass {
            table.sort_unstable();
            table.dedup();
            // Lines often start alike: go on as long as that makes much room.
            if table.len() > per_pass / 4 * 3 {
                return Ok(true);
            }
        }
    }
    table.sort_unstable();
    table.dedup();
    Ok(false)
}

/// 64 bits of a window. Speed matters, and that windows spread; nobody attacks it.
fn hash(window: &[u8; WINDOW]) -> u64 {
    let whole = u128::from_le_bytes(*window);
    let (low, high) = (whole as u64, (whole >> 64) as u64);
    let mixed = (low ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd6e8_feb8_6659_fd93)
        ^ high.wrapping_mul(0xa076_1d64_78bd_642f).rotate_left(32);
    mixed ^ (mixed >> 29).wrapping_mul(0x9fb2_1c65_1e98_df25)
}

struct Index<'a> {
    /// Sorted.
    table: &'a [u64],
    bloom: Vec<u64>,
    log2: u32,
}

impl<'a> Index<'a> {
    fn new(table: &'a [u64]) -> Self {
        let log2 = (table.len() * 16).next_power_of_two().trailing_zeros();
        let log2 = log2.clamp(BLOOM_MIN_LOG2, BLOOM_MAX_LOG2);
        let mut index = Self { table, bloom: vec![0; 1 << (log2 - 6)], log2 };
        for &hash in table {
            for bit in index.bits(hash) {
                index.bloom[(bit >> 6) as usize] |= 1 << (bit & 63);
            }
        }
        index
    }

    /// From both ends of the hash, which do not overlap by much.
    fn bits(&self, hash: u64) -> [u64; 2] {
        [hash >> (64 - self.log2), hash & ((1 << self.log2) - 1)]
    }

    fn may_hold(&self, hash: u64) -> bool {
        let [a, b] = self.bits(hash);
        let set = |bit: u64| self.bloom[(bit >> 6) as usize] & (1 << (bit & 63)) != 0;
        set(a) && set(b)
    }

    fn holds(&self, hash: u64) -> bool {
        self.may_hold(hash) && self.table.binary_search(&hash).is_ok()
    }
}

/// An offset that starts as a line does: hash, offset.
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

fn find(segment: &[u8], start: u64, index: &Index<'_>, hits: &mut Vec<Hit>) {
    for (at, window) in segment.windows(WINDOW).enumerate() {
        let Some(window) = window.first_chunk() else { continue };
        let hash = hash(window);
        if index.holds(hash) && hits.len() < MOST_HITS {
            hits.push((hash, start + at as u64));
        }
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
        let Some(first) = needle.first_chunk().filter(|_| wanted) else { continue };
        let hash = hash(first);
        let from = hits.partition_point(|hit| hit.0 < hash);
        for &(_, offset) in hits[from..].iter().take_while(|hit| hit.0 == hash) {
            if window.at(offset, needle.len())? == Some(needle) {
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
    fn a_line_cut_short_starts_but_is_not_found() {
        let lines = lines(50);
        let files = Files::new(&lines);
        let mut target = noise(100_000, 9);
        target[5000..5030].copy_from_slice(&lines[33].as_bytes()[..30]);
        let found = files.search(&target, PER_PASS);
        assert_eq!((found.starts, found.found), (1, 0));
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
        assert_eq!((found.lines, found.starts, found.found), (5000, 0, 0));
    }
}
