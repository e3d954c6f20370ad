//! The geometry of a sealed block: how many bytes, which page lies where.
//!
//! Guarantees: every length is checked arithmetic on numbers alone, so a length that nobody has
//! authenticated can be judged before anything is allocated or read; sealed length and plaintext length
//! determine each other. Not its job: to authenticate any of it.

use std::{fmt, ops::Range};

use thiserror::Error;

use crate::HEADER_LEN;

/// The length of a page's authentication tag, in bytes.
pub const TAG_LEN: usize = 16;

/// The most plaintext that one block may hold, in bytes: 64 GiB.
pub const MAX_PLAINTEXT_LEN: u64 = 1 << 36;

/// How much plaintext a page holds: a power of two from 4 KiB to 16 MiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    log2: u8,
}

impl PageSize {
    /// 4 KiB.
    pub const MIN: Self = Self { log2: 12 };
    /// 64 KiB.
    pub const DEFAULT: Self = Self { log2: 16 };
    /// 16 MiB.
    pub const MAX: Self = Self { log2: 24 };

    /// Pages of this many bytes.
    ///
    /// # Errors
    /// [`PageSizeError`] when it is not a power of two from 4 KiB to 16 MiB.
    pub const fn new(bytes: u64) -> Result<Self, PageSizeError> {
        if bytes.is_power_of_two()
            && let Some(page) = Self::from_log2(bytes.trailing_zeros() as u8)
        {
            Ok(page)
        } else {
            Err(PageSizeError { bytes })
        }
    }

    /// Pages of 2 to this power bytes, as a header says it.
    pub(crate) const fn from_log2(log2: u8) -> Option<Self> {
        if log2 >= Self::MIN.log2 && log2 <= Self::MAX.log2 { Some(Self { log2 }) } else { None }
    }

    /// Its bytes.
    pub const fn bytes(self) -> usize {
        1 << self.log2
    }

    /// Its bytes as a power of two, as the header holds it.
    pub const fn log2(self) -> u8 {
        self.log2
    }

    /// The bytes of a full page and its tag.
    const fn stride(self) -> u64 {
        (1 << self.log2) + TAG_LEN as u64
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.log2 {
            log2 @ ..20 => write!(f, "{} KiB", 1 << (log2 - 10)),
            log2 => write!(f, "{} MiB", 1 << (log2 - 20)),
        }
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({self})")
    }
}

/// A page size that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("pages of {bytes} bytes are not allowed: take a power of two from 4096 to 16777216")]
pub struct PageSizeError {
    /// What was asked for, in bytes.
    pub bytes: u64,
}

/// How long a block of this much plaintext is when sealed, in bytes.
///
/// # Errors
/// [`LengthError::PlaintextTooLong`] past [`MAX_PLAINTEXT_LEN`].
pub const fn sealed_len(plaintext_len: u64, page: PageSize) -> Result<u64, LengthError> {
    match Layout::of_plaintext(plaintext_len, page) {
        Ok(layout) => Ok(layout.sealed_len()),
        Err(e) => Err(e),
    }
}

/// How much plaintext a sealed block of this length holds, in bytes: the inverse of [`sealed_len`].
///
/// # Errors
/// [`LengthError::NotASealedLength`] when [`sealed_len`] never answers this length.
pub const fn plaintext_len(sealed_len: u64, page: PageSize) -> Result<u64, LengthError> {
    match Layout::of_sealed(sealed_len, page) {
        Ok(layout) => Ok(layout.plaintext_len),
        Err(e) => Err(e),
    }
}

/// A length that no block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LengthError {
    /// More plaintext than one block may hold.
    #[error("a block of {len} bytes is too long: the most is {MAX_PLAINTEXT_LEN}; split it")]
    PlaintextTooLong {
        /// The plaintext's length.
        len: u64,
    },
    /// No plaintext seals to this length.
    #[error("no block with pages of {page} is {len} bytes long when sealed")]
    NotASealedLength {
        /// The sealed length.
        len: u64,
        /// The page size.
        page: PageSize,
    },
}

/// The lengths of one block, known to fit together and to be within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    page: PageSize,
    plaintext_len: u64,
}

impl Layout {
    pub(crate) const fn of_plaintext(len: u64, page: PageSize) -> Result<Self, LengthError> {
        if len > MAX_PLAINTEXT_LEN {
            return Err(LengthError::PlaintextTooLong { len });
        }
        Ok(Self { page, plaintext_len: len })
    }

    pub(crate) const fn of_sealed(len: u64, page: PageSize) -> Result<Self, LengthError> {
        let refused = Err(LengthError::NotASealedLength { len, page });
        let Some(body) = len.checked_sub(HEADER_LEN as u64) else { return refused };
        let (full, rest) = (body / page.stride(), body % page.stride());
        let rest = match rest {
            0 if full > 0 => 0,
            // An empty page stands only alone: a full last page has no empty one behind it.
            16 if full == 0 => 0,
            17.. => rest - TAG_LEN as u64,
            _ => return refused,
        };
        // At most len, so neither overflows.
        let plaintext_len = (full << page.log2) + rest;
        if plaintext_len > MAX_PLAINTEXT_LEN {
            return refused;
        }
        Ok(Self { page, plaintext_len })
    }

    pub(crate) const fn page(&self) -> PageSize {
        self.page
    }

    pub(crate) const fn plaintext_len(&self) -> u64 {
        self.plaintext_len
    }

    /// 1 to 2^24: an empty block has one empty page.
    pub(crate) const fn pages(&self) -> u32 {
        let pages = self.plaintext_len.div_ceil(1 << self.page.log2);
        if pages == 0 { 1 } else { pages as u32 }
    }

    pub(crate) const fn sealed_len(&self) -> u64 {
        HEADER_LEN as u64 + self.plaintext_len + self.pages() as u64 * TAG_LEN as u64
    }

    pub(crate) const fn is_last(&self, page: u32) -> bool {
        page + 1 == self.pages()
    }

    /// Where this page's plaintext lies within the block's.
    pub(crate) const fn plaintext_of(&self, page: u32) -> Range<u64> {
        let start = (page as u64) << self.page.log2;
        let end = if self.is_last(page) { self.plaintext_len } else { start + (1 << self.page.log2) };
        start..end
    }

    /// How much plaintext this page holds: at most 16 MiB, so a usize everywhere.
    pub(crate) const fn page_len(&self, page: u32) -> usize {
        let Range { start, end } = self.plaintext_of(page);
        (end - start) as usize
    }
}

/// The pages that a range of plaintext lies in: what a store has to read, beside the header, to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSpan {
    layout: Layout,
    range: Range<u64>,
    pages: Range<u32>,
}

impl PageSpan {
    /// The pages of a block of this sealed length that hold `range` of its plaintext.
    ///
    /// Computes only: nothing here is authentic before [`Sealer::open_span`](crate::Sealer::open_span) has
    /// said so. An empty range needs no page.
    ///
    /// # Errors
    /// [`LocateError`] when no block has this sealed length, or the range is reversed or ends beyond the
    /// block's end.
    pub fn locate(sealed_len: u64, page: PageSize, range: Range<u64>) -> Result<Self, LocateError> {
        Ok(Self::within(Layout::of_sealed(sealed_len, page)?, range)?)
    }

    pub(crate) fn within(layout: Layout, range: Range<u64>) -> Result<Self, RangeError> {
        let Range { start, end } = range;
        if start > end {
            return Err(RangeError::Reversed { start, end });
        }
        if end > layout.plaintext_len {
            return Err(RangeError::BeyondEnd { start, end, len: layout.plaintext_len });
        }
        let log2 = layout.page.log2;
        let pages = if start == end { 0..0 } else { (start >> log2) as u32..((end - 1) >> log2) as u32 + 1 };
        Ok(Self { layout, range, pages })
    }

    /// Every page of a block of this sealed length, the empty page of an empty block too.
    ///
    /// # Errors
    /// [`LengthError::NotASealedLength`] when no block has it.
    pub fn whole(sealed_len: u64, page: PageSize) -> Result<Self, LengthError> {
        Ok(Self::of(Layout::of_sealed(sealed_len, page)?))
    }

    pub(crate) fn of(layout: Layout) -> Self {
        Self { layout, range: 0..layout.plaintext_len, pages: 0..layout.pages() }
    }

    /// Which bytes of the sealed block to read: whole pages with their tags.
    pub fn bytes(&self) -> Range<u64> {
        let at = |page: u32| {
            let start = HEADER_LEN as u64 + u64::from(page) * self.layout.page.stride();
            start.min(self.layout.sealed_len())
        };
        at(self.pages.start)..at(self.pages.end)
    }

    /// Which bytes of the plaintext they are read for.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// How many bytes of plaintext [`Sealer::open_span`](crate::Sealer::open_span) writes.
    pub fn plaintext_len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The page size that was located with.
    pub fn page_size(&self) -> PageSize {
        self.layout.page
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn pages(&self) -> Range<u32> {
        self.pages.clone()
    }
}

/// A range that a block does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    /// It ends before it starts.
    #[error("the range {start}..{end} is reversed: it ends before it starts")]
    Reversed {
        /// Its start.
        start: u64,
        /// Its end, exclusive.
        end: u64,
    },
    /// It ends beyond the block's end.
    #[error("the range {start}..{end} ends beyond the block, which has {len} bytes")]
    BeyondEnd {
        /// Its start.
        start: u64,
        /// Its end, exclusive.
        end: u64,
        /// The plaintext's length.
        len: u64,
    },
}

/// Why pages could not be located.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LocateError {
    /// No block has this sealed length.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// The block has no such range.
    #[error(transparent)]
    Range(#[from] RangeError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bytes: u64) -> PageSize {
        PageSize::new(bytes).unwrap()
    }

    #[test]
    fn page_sizes_are_powers_of_two_within_bounds() {
        for log2 in 0..64 {
            let bytes = 1u64 << log2;
            match PageSize::new(bytes) {
                Ok(page) => {
                    assert!((12..=24).contains(&log2), "{bytes}");
                    assert_eq!((page.bytes() as u64, u32::from(page.log2())), (bytes, log2));
                }
                Err(e) => {
                    assert!(!(12..=24).contains(&log2), "{bytes}");
                    assert_eq!(e, PageSizeError { bytes });
                }
            }
        }
        for bytes in [0, 1, 4095, 4097, 65_535, 3 << 12, u64::MAX] {
            assert_eq!(PageSize::new(bytes), Err(PageSizeError { bytes }));
        }
        assert_eq!(PageSize::DEFAULT.to_string(), "64 KiB");
        assert_eq!(PageSize::MAX.to_string(), "16 MiB");
    }

    #[test]
    fn sealed_lengths_of_small_blocks_are_known() {
        let p = PageSize::MIN;
        for (plain, sealed) in [(0, 92), (1, 93), (4095, 4187), (4096, 4188), (4097, 4205), (12_288, 12_412)]
        {
            assert_eq!(sealed_len(plain, p), Ok(sealed), "{plain}");
            assert_eq!(plaintext_len(sealed, p), Ok(plain), "{sealed}");
        }
    }

    #[test]
    fn the_inverse_accepts_exactly_the_lengths_that_sealing_gives() {
        let p = PageSize::MIN;
        let mut plain = 0;
        for len in 0..20_000 {
            if sealed_len(plain, p) == Ok(len) {
                assert_eq!(plaintext_len(len, p), Ok(plain));
                plain += 1;
            } else {
                assert_eq!(plaintext_len(len, p), Err(LengthError::NotASealedLength { len, page: p }));
            }
        }
        assert!(plain > 15_000);
    }

    #[test]
    fn the_largest_block_has_a_length_and_one_byte_more_has_none() {
        for bytes in (12..=24).map(|l| 1u64 << l) {
            let p = page(bytes);
            let longest = sealed_len(MAX_PLAINTEXT_LEN, p).unwrap();
            assert_eq!(longest, 76 + MAX_PLAINTEXT_LEN + MAX_PLAINTEXT_LEN / bytes * 16);
            assert_eq!(plaintext_len(longest, p), Ok(MAX_PLAINTEXT_LEN));
            let len = MAX_PLAINTEXT_LEN + 1;
            assert_eq!(sealed_len(len, p), Err(LengthError::PlaintextTooLong { len }));
            for sealed in [longest + 1, longest + 17, 1 << 63, u64::MAX - 1, u64::MAX] {
                assert!(plaintext_len(sealed, p).is_err(), "{sealed}");
            }
        }
    }

    #[test]
    fn spans_cover_whole_pages_and_nothing_else() {
        let sealed = sealed_len(10_000, PageSize::MIN).unwrap();
        let locate = |range| PageSpan::locate(sealed, PageSize::MIN, range);
        assert_eq!(locate(0..1).unwrap().bytes(), 76..4188);
        assert_eq!(locate(4095..4097).unwrap().bytes(), 76..8300);
        assert_eq!(locate(4096..8192).unwrap().bytes(), 4188..8300);
        assert_eq!(locate(9_999..10_000).unwrap().bytes(), 8300..sealed);
        assert_eq!(locate(0..10_000).unwrap().bytes(), 76..sealed);
        assert!(locate(10_000..10_000).unwrap().bytes().is_empty());
        assert_eq!(locate(4000..5000).unwrap().plaintext_len(), 1000);
    }

    #[test]
    fn ranges_reversed_or_beyond_the_end_are_named() {
        let sealed = sealed_len(10, PageSize::MIN).unwrap();
        let range = Range { start: 3, end: 2 };
        assert_eq!(
            PageSpan::locate(sealed, PageSize::MIN, range).unwrap_err(),
            LocateError::Range(RangeError::Reversed { start: 3, end: 2 })
        );
        assert_eq!(
            PageSpan::locate(sealed, PageSize::MIN, 0..u64::MAX).unwrap_err(),
            LocateError::Range(RangeError::BeyondEnd { start: 0, end: u64::MAX, len: 10 })
        );
        assert_eq!(
            PageSpan::locate(1 << 63, PageSize::MIN, 0..1).unwrap_err(),
            LocateError::Length(LengthError::NotASealedLength { len: 1 << 63, page: PageSize::MIN })
        );
    }
}
