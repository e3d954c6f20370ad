//! The lines of files, as needles to search for.
//!
//! Guarantees: reads with bounded memory, whatever the files; a needle has at least [`WINDOW`] bytes, and
//! those it is looked up by say something: a run of zeros or dashes is found everywhere and proves nothing.
//!
//! Which bytes a needle is looked up by: of its windows the one with the least hash. Lines that have much in
//! common then often share it, so that there are fewer windows to look for than lines.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

/// How many bytes a needle is looked up by.
pub(super) const WINDOW: usize = 16;
/// How many different values those bytes have at least.
const VARIETY: u32 = 6;
/// From how many windows the one to look up is taken.
const CHOICE: usize = 128;
/// A longer line is cut into pieces of this length.
pub(super) const LONGEST: usize = 64 << 10;
const BUFFER: usize = 256 << 10;

/// A line to look for.
#[derive(Debug)]
pub(super) struct Needle<'a> {
    /// The line, without what is blank around it.
    pub(super) bytes: &'a [u8],
    /// The hash of the window that it is looked up by.
    pub(super) hash: u64,
    /// Where in the line that window is.
    pub(super) at: usize,
}

/// Walks the needles of some files.
pub(super) struct Needles<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    file: Option<File>,
    /// How many bytes of each file are read.
    limit: u64,
    left: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Up to here there is no line end.
    seen: usize,
    /// Lines of less than [`WINDOW`] bytes, or that say nothing.
    pub(super) left_out: u64,
}

impl<'a> Needles<'a> {
    /// Of these files, of each up to `limit` bytes.
    pub(super) fn new(files: &'a [PathBuf], limit: u64) -> Self {
        Self {
            files: files.iter(),
            file: None,
            limit,
            left: 0,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            seen: 0,
            left_out: 0,
        }
    }

    /// The next one; none after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<Needle<'_>>> {
        loop {
            let Some((start, end)) = self.next_line()? else { return Ok(None) };
            if start == end {
                continue;
            }
            let (from, to) = trim(&self.buffer[start..end]);
            match choose(&self.buffer[start + from..start + to]) {
                Some((hash, at)) => {
                    let bytes = &self.buffer[start + from..start + to];
                    return Ok(Some(Needle { bytes, hash, at }));
                }
                None => self.left_out += 1,
            }
        }
    }

    /// Where the next line, or piece of one, lies in the buffer, without its end.
    fn next_line(&mut self) -> io::Result<Option<(usize, usize)>> {
        loop {
            let unseen = &self.buffer[self.seen..self.end];
            if let Some(at) = unseen.iter().position(|&b| b == b'\n') {
                let line = (self.start, self.seen + at);
                self.start = line.1 + 1;
                self.seen = self.start;
                return Ok(Some(line));
            }
            self.seen = self.end;
            if self.end - self.start >= LONGEST {
                let piece = (self.start, self.start + LONGEST);
                self.start = piece.1;
                self.seen = self.start;
                return Ok(Some(piece));
            }
            if self.file.is_none() && !self.open_next()? {
                return Ok(None);
            }
            if !self.fill()? {
                self.file = None;
                let rest = (self.start, self.end);
                (self.start, self.seen) = (self.end, self.end);
                if rest.0 < rest.1 {
                    return Ok(Some(rest));
                }
            }
        }
    }

    fn open_next(&mut self) -> io::Result<bool> {
        let Some(path) = self.files.next() else { return Ok(false) };
        self.file = Some(File::open(path)?);
        self.left = self.limit;
        Ok(true)
    }

    /// Reads on behind what is left in the buffer. False at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.seen -= self.start;
        self.start = 0;
        let room = self.buffer.len() - self.end;
        let wanted = usize::try_from(self.left).unwrap_or(room).min(room);
        let Some(file) = &mut self.file else { return Ok(false) };
        let read = loop {
            match file.read(&mut self.buffer[self.end..self.end + wanted]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.left -= read as u64;
        self.end += read;
        Ok(read > 0)
    }
}

/// Where a line lies without what is blank around it.
fn trim(line: &[u8]) -> (usize, usize) {
    let blank = |b: &u8| *b <= b' ';
    let from = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
    let to = line.iter().rposition(|b| !blank(b)).map_or(from, |last| last + 1);
    (from, to)
}

/// The hash and place of the window that a line is looked up by; none if none says anything.
fn choose(line: &[u8]) -> Option<(u64, usize)> {
    let mut best: Option<(u64, usize)> = None;
    let mut end = usize::MAX;
    for (at, window) in line.windows(WINDOW).enumerate() {
        if at >= end {
            break;
        }
        let Some(window) = window.first_chunk() else { continue };
        let hash = hash(window);
        if best.is_none_or(|(least, _)| hash < least) && says_something(window) {
            best = Some((hash, at));
            end = end.min(at + CHOICE);
        }
    }
    best
}

fn says_something(window: &[u8; WINDOW]) -> bool {
    let mut values = [0u64; 4];
    for byte in window {
        values[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    values.iter().map(|v| v.count_ones()).sum::<u32>() >= VARIETY
}

/// 64 bits of a window. Speed matters, and that windows spread; nobody attacks it.
pub(super) fn hash(window: &[u8; WINDOW]) -> u64 {
    let whole = u128::from_le_bytes(*window);
    let (low, high) = (whole as u64, (whole >> 64) as u64);
    let mixed = (low ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd6e8_feb8_6659_fd93)
        ^ high.wrapping_mul(0xa076_1d64_78bd_642f).rotate_left(32);
    mixed ^ (mixed >> 29).wrapping_mul(0x9fb2_1c65_1e98_df25)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles(content: &[u8], limit: u64) -> (Vec<Vec<u8>>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, content).unwrap();
        let files = [path.clone(), path];
        let mut needles = Needles::new(&files[..1], limit);
        let mut all = Vec::new();
        while let Some(needle) = needles.next().unwrap() {
            assert_eq!(needle.hash, hash(needle.bytes[needle.at..].first_chunk().unwrap()));
            all.push(needle.bytes.to_vec());
        }
        (all, needles.left_out)
    }

    #[test]
    fn lines_are_trimmed_and_short_or_empty_ones_left_out() {
        let content = b"  0123456789abcdef\r\n\nshort\n----------------------\n\tthe last line has no end";
        let (all, left_out) = needles(content, u64::MAX);
        assert_eq!(all, [&b"0123456789abcdef"[..], b"the last line has no end"]);
        assert_eq!(left_out, 2);
    }

    #[test]
    fn a_line_is_looked_up_by_bytes_that_say_something() {
        let line = [&[b'/'; 500][..], b" a heading of it"].concat();
        let (hash, at) = choose(&line).unwrap();
        assert!(at > 490 && says_something(line[at..].first_chunk().unwrap()), "{hash} {at}");
        assert_eq!(choose(&[b'-'; 500]), None);
        assert_eq!(choose(b"fifteen bytes.."), None);
    }

    #[test]
    fn lines_that_share_much_are_often_looked_up_by_the_same() {
        let lines: Vec<String> =
            (0..1000).map(|n| format!("{n} error: the connection was reset by its peer, {n}")).collect();
        let distinct: std::collections::BTreeSet<u64> =
            lines.iter().map(|line| choose(line.as_bytes()).unwrap().0).collect();
        assert!(distinct.len() < 500, "{}", distinct.len());
    }

    #[test]
    fn long_lines_are_cut_and_buffers_refilled_without_loss() {
        let line: Vec<u8> = (0..3 * LONGEST as u32 + 100).map(|i| b'a' + (i * 7 % 26) as u8).collect();
        let (all, _) = needles(&line, u64::MAX);
        assert_eq!(all.concat(), line);
        let many: Vec<u8> = (0..40_000).flat_map(|i| format!("line {i:032}\n").into_bytes()).collect();
        let (all, _) = needles(&many, u64::MAX);
        assert_eq!(all.len(), 40_000);
        assert!(all[39_999].ends_with(b"39999"));
        let (some, _) = needles(&many, 380);
        assert_eq!(some.len(), 10);
    }
}
