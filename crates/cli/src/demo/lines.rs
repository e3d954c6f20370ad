//! The lines of files, as needles to search for.
//!
//! Guarantees: reads with bounded memory, whatever the files; a needle has at least [`WINDOW`] bytes and its
//! first [`WINDOW`] say something: a run of zeros or dashes is found everywhere and proves nothing.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

/// How many bytes a needle is looked up by.
pub(super) const WINDOW: usize = 16;
/// How many different values those bytes have at least.
const VARIETY: u32 = 6;
/// A longer line is cut into pieces of this length.
pub(super) const LONGEST: usize = 64 << 10;
const BUFFER: usize = 256 << 10;

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
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let Some((start, end)) = self.next_line()? else { return Ok(None) };
            if start == end {
                continue;
            }
            match needle(&self.buffer[start..end]) {
                Some((from, to)) => return Ok(Some(&self.buffer[start + from..start + to])),
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

/// Where the needle of a line lies in it: trimmed, from the first window that says something.
fn needle(line: &[u8]) -> Option<(usize, usize)> {
    let blank = |b: &u8| *b <= b' ';
    let from = line.iter().position(|b| !blank(b))?;
    let to = line.iter().rposition(|b| !blank(b))? + 1;
    let line = &line[from..to];
    let mut counts = [0u8; 256];
    let mut variety = 0;
    for (at, &byte) in line.iter().enumerate() {
        counts[byte as usize] += 1;
        variety += u32::from(counts[byte as usize] == 1);
        if at + 1 > WINDOW {
            let gone = line[at - WINDOW] as usize;
            counts[gone] -= 1;
            variety -= u32::from(counts[gone] == 0);
        }
        if at + 1 >= WINDOW && variety >= VARIETY {
            return Some((from + at + 1 - WINDOW, to));
        }
    }
    None
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
            all.push(needle.to_vec());
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
    fn a_needle_starts_where_the_line_says_something() {
        let (all, _) = needles(b"////////////////////// a heading of it", u64::MAX);
        assert_eq!(all.len(), 1);
        assert!(all[0].ends_with(b" a heading of it") && all[0].len() < 30);
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
