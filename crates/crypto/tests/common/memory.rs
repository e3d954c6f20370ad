//! Searches the memory of a process for keys that it should no longer have.
//!
//! A key is known here only under a mask, so that the search does not find itself.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part of it")]

use std::{borrow::Borrow, fmt::Display, fs::File, os::unix::fs::FileExt};

use zeroize::Zeroize;

const MASK: u8 = 0x5a;

/// Half a key, masked.
pub struct Needle {
    pub name: String,
    masked: [u8; Self::LEN],
}

impl Needle {
    const LEN: usize = 16;

    /// The last of these bytes first, as big numbers lie in memory.
    pub fn reversed(&self) -> Self {
        let mut masked = self.masked;
        masked.reverse();
        Self { name: format!("{}, reversed", self.name), masked }
    }
}

/// The halves of a key in hex, byte by byte, so that the key is never whole anywhere.
pub fn needles(name: &str, hex: &str) -> Vec<Needle> {
    let masked: Vec<u8> =
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap() ^ MASK).collect();
    let halves = masked.chunks_exact(Needle::LEN).enumerate();
    halves
        .map(|(i, half)| Needle { name: format!("{name}, half {i}"), masked: half.try_into().unwrap() })
        .collect()
}

/// How often each needle lies in what this process may write.
pub fn hits(needles: &[Needle]) -> Vec<usize> {
    hits_of("self", "rw", needles).0
}

/// How often each needle lies in what that process may use so, and how many bytes that is.
pub fn hits_of(process: impl Display, mode: &str, needles: &[impl Borrow<Needle>]) -> (Vec<usize>, u64) {
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let search = Search::new(needles);
    let (mut hits, mut searched) = (vec![0; needles.len()], 0);
    let mut chunk = vec![0u8; 1 << 20];
    for line in std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, allowed) = (fields.next().unwrap(), fields.next().unwrap());
        // The kernel's own pages can't be read so.
        if !allowed.starts_with(mode) || line.contains("[v") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let len = (end - at).min(chunk.len() as u64) as usize;
            let Ok(read) = memory.read_at(&mut chunk[..len], at) else { break };
            if read == 0 {
                break;
            }
            search.count(&chunk[..read], &mut hits);
            searched += read as u64;
            // Overlap, so that a needle on the seam is found.
            at += if read as u64 == end - at { read } else { read.saturating_sub(Needle::LEN - 1).max(1) }
                as u64;
        }
    }
    // What it found, it holds.
    chunk.zeroize();
    (hits, searched)
}

fn start(masked: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([masked[0], masked[1]]))
}

/// All needles in one pass: by their first two bytes, then whole.
struct Search<'a, N> {
    needles: &'a [N],
    starts: Vec<bool>,
}

impl<'a, N: Borrow<Needle>> Search<'a, N> {
    fn new(needles: &'a [N]) -> Self {
        let mut starts = vec![false; 1 << 16];
        needles.iter().for_each(|needle| starts[start(&needle.borrow().masked)] = true);
        Self { needles, starts }
    }

    /// Compares under the mask, so that no key is made whole by searching for it.
    fn count(&self, memory: &[u8], hits: &mut [usize]) {
        for window in memory.windows(Needle::LEN) {
            if !self.starts[start(&[window[0] ^ MASK, window[1] ^ MASK])] {
                continue;
            }
            for (needle, hits) in self.needles.iter().zip(&mut *hits) {
                let here =
                    window.iter().zip(&needle.borrow().masked).all(|(byte, masked)| byte ^ MASK == *masked);
                *hits += usize::from(here);
            }
        }
    }
}

pub fn key_of(needles: &[Needle], fill: &mut [u8]) {
    for (byte, masked) in fill.iter_mut().zip(needles.iter().flat_map(|needle| &needle.masked)) {
        *byte = masked ^ MASK;
    }
}
