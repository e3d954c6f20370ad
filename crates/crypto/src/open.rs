//! Opening blocks, whole or in part.
//!
//! Guarantees: the commitment is compared, in constant time, before anything is decrypted; what fails leaves
//! the whole output zeroed, pages that had opened before it too; why it failed is not told. Only misuse by
//! the caller is: an output too small, a range that the block does not have, both said with numbers that
//! anyone who sees the block can work out.
//!
//! Not its job: to know the newest version of a block (the catalog's), or to prove a block's length from a
//! part of it: only opening the last page does that.

use std::ops::Range;

use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Aead, BlockBuf, BlockRef, HEADER_LEN, Header, PageSpan, RangeError, SealedBuf, Sealer, TAG_LEN,
    aead::cipher::Refused,
    block::{Place, nonce},
    layout::Layout,
    sealer::BlockKey,
};

impl<A: Aead> Sealer<A> {
    /// Opens a block into the start of `out`, and answers how long the plaintext is. The rest of `out` is
    /// left as it is.
    ///
    /// # Errors
    /// [`OpenError`]; `out` is then all zeros.
    pub fn open_to(&self, block: BlockRef<'_>, sealed: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let opened = self.commit(block, sealed).and_then(|(header, place)| {
            let layout = layout_of(&header, sealed)?;
            self.open_pages(place, &PageSpan::of(layout), &sealed[HEADER_LEN..], out)
        });
        zeroed_unless_ok(opened, out)
    }

    /// Opens a block into a new vector.
    ///
    /// # Errors
    /// [`OpenError::Refused`].
    pub fn open(&self, block: BlockRef<'_>, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (header, place) = self.commit(block, sealed)?;
        let layout = layout_of(&header, sealed)?;
        // Less than `sealed` has: the length is worked out from it, not read from it.
        let mut out = vec![0; usize_of(layout.plaintext_len())?];
        match self.open_pages(place, &PageSpan::of(layout), &sealed[HEADER_LEN..], &mut out) {
            Ok(_) => Ok(out),
            Err(e) => {
                out.zeroize();
                Err(e)
            }
        }
    }

    /// Opens a range of a block's plaintext into the start of `out`, touching only the pages it lies in,
    /// and answers its length. An empty range touches none: only the header is checked.
    ///
    /// # Errors
    /// [`OpenError`]; `out` is then all zeros. [`OpenError::Range`] goes by the length of `sealed`.
    pub fn open_range(
        &self,
        block: BlockRef<'_>,
        sealed: &[u8],
        range: Range<u64>,
        out: &mut [u8],
    ) -> Result<usize, OpenError> {
        let opened = self.commit(block, sealed).and_then(|(header, place)| {
            let span = PageSpan::within(layout_of(&header, sealed)?, range)?;
            let bytes = span.bytes();
            let pages = sealed.get(usize_of(bytes.start)?..usize_of(bytes.end)?).ok_or(OpenError::Refused)?;
            self.open_pages(place, &span, pages, out)
        });
        zeroed_unless_ok(opened, out)
    }

    /// Opens a range of a block that was read in part: `header` is its first [`HEADER_LEN`] bytes, `pages`
    /// what [`PageSpan::bytes`] asked for.
    ///
    /// # Errors
    /// [`OpenError`]; `out` is then all zeros.
    pub fn open_span(
        &self,
        block: BlockRef<'_>,
        header: &[u8],
        span: &PageSpan,
        pages: &[u8],
        out: &mut [u8],
    ) -> Result<usize, OpenError> {
        let opened = self.commit(block, header).and_then(|(header, place)| {
            if header.page_size() != span.page_size() {
                return Err(OpenError::Refused);
            }
            let bytes = span.bytes();
            let (needed, len) = (bytes.end - bytes.start, pages.len() as u64);
            if len != needed {
                return Err(OpenError::Pages { needed, len });
            }
            self.open_pages(place, span, pages, out)
        });
        zeroed_unless_ok(opened, out)
    }

    /// Opens a block where it lies.
    ///
    /// # Errors
    /// [`OpenError::Refused`]; the buffer is gone then, zeroed.
    pub fn open_in_place(&self, block: BlockRef<'_>, sealed: SealedBuf) -> Result<BlockBuf, OpenError> {
        let mut bytes = sealed.into_vec();
        let opened = self.open_where_it_lies(block, &mut bytes);
        A::wipe_stack();
        match opened {
            Ok(layout) => Ok(BlockBuf::from_parts(layout, bytes)),
            Err(e) => {
                bytes.zeroize();
                Err(e)
            }
        }
    }

    #[inline(never)]
    fn open_where_it_lies(&self, block: BlockRef<'_>, sealed: &mut [u8]) -> Result<Layout, OpenError> {
        let (header, place) = self.commit(block, sealed)?;
        let layout = layout_of(&header, sealed)?;
        let key = BlockKey::<A>::set_up(&self.prk, place)?;
        let mut rest = &mut sealed[HEADER_LEN..];
        for page in 0..layout.pages() {
            let (text, tag, following) = split_page_mut(rest, layout.page_len(page))?;
            key.key.open_in_place(&nonce(page, layout.is_last(page)), key.place.aad(), text, tag)?;
            rest = following;
        }
        Ok(layout)
    }

    /// Reads the header and compares the commitment: from here on, scope, place, salt and page size are what
    /// the block was sealed with.
    pub(crate) fn commit(&self, block: BlockRef<'_>, sealed: &[u8]) -> Result<(Header, Place), OpenError> {
        let header = Header::parse(sealed).map_err(|_| OpenError::Refused)?;
        if header.epoch() != self.scope().epoch || header.provider() != self.scope().provider.kind() {
            return Err(OpenError::Refused);
        }
        let mut place = Place::new(block, header.page_size(), header.salt());
        let expected = place.commitment(&self.prk);
        if bool::from(expected.ct_eq(header.commitment())) {
            Ok((header, place))
        } else {
            Err(OpenError::Refused)
        }
    }

    /// Opens the pages of a span; `pages` holds exactly them, tags included.
    fn open_pages(
        &self,
        place: Place,
        span: &PageSpan,
        pages: &[u8],
        out: &mut [u8],
    ) -> Result<usize, OpenError> {
        let opened = self.open_each_page(place, span, pages, out);
        A::wipe_stack();
        opened
    }

    #[inline(never)]
    fn open_each_page(
        &self,
        place: Place,
        span: &PageSpan,
        mut pages: &[u8],
        out: &mut [u8],
    ) -> Result<usize, OpenError> {
        let (needed, len) = (span.plaintext_len(), out.len() as u64);
        let written = usize_of(needed)?;
        let mut out = out.get_mut(..written).ok_or(OpenError::OutputTooSmall { needed, len })?;
        if span.pages().is_empty() {
            return Ok(0);
        }
        let key = BlockKey::<A>::set_up(&self.prk, place)?;
        let (layout, wanted) = (span.layout(), span.range());
        // Only pages that are wanted in part need it: the first, the last.
        let mut scratch = Zeroizing::new(Vec::new());
        for page in span.pages() {
            let held = layout.plaintext_of(page);
            let (ciphertext, tag, rest) = split_page(pages, layout.page_len(page))?;
            let nonce = nonce(page, layout.is_last(page));
            let part = held.start.max(wanted.start)..held.end.min(wanted.end);
            let (text, following) =
                out.split_at_mut_checked(usize_of(part.end - part.start)?).ok_or(OpenError::Refused)?;
            if part == held {
                key.key.open(&nonce, key.place.aad(), ciphertext, tag, text)?;
            } else {
                scratch.resize(ciphertext.len(), 0);
                key.key.open(&nonce, key.place.aad(), ciphertext, tag, &mut scratch)?;
                let from = usize_of(part.start - held.start)?;
                text.copy_from_slice(&scratch[from..from + text.len()]);
            }
            (pages, out) = (rest, following);
        }
        Ok(written)
    }
}

/// Why a block was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not what was sealed for this place under this key. Which of the two, or what else, is not told.
    #[error("the block does not open: it is damaged, or was sealed for another place or under another key")]
    Refused,
    /// The output is too small for the plaintext.
    #[error("the plaintext needs {needed} bytes: the output has {len}")]
    OutputTooSmall {
        /// How many bytes are needed.
        needed: u64,
        /// How many the output has.
        len: u64,
    },
    /// The block has no such range.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The bytes given are not as many as the span asked for.
    #[error("the span needs {needed} bytes of the sealed block: {len} were given")]
    Pages {
        /// How many bytes were asked for.
        needed: u64,
        /// How many were given.
        len: u64,
    },
}

impl From<Refused> for OpenError {
    fn from(_: Refused) -> Self {
        Self::Refused
    }
}

fn zeroed_unless_ok(opened: Result<usize, OpenError>, out: &mut [u8]) -> Result<usize, OpenError> {
    if opened.is_err() {
        out.fill(0);
    }
    opened
}

fn layout_of(header: &Header, sealed: &[u8]) -> Result<Layout, OpenError> {
    Layout::of_sealed(sealed.len() as u64, header.page_size()).map_err(|_| OpenError::Refused)
}

fn usize_of(len: u64) -> Result<usize, OpenError> {
    usize::try_from(len).map_err(|_| OpenError::Refused)
}

type Page<'a> = (&'a [u8], &'a [u8; TAG_LEN], &'a [u8]);
type PageMut<'a> = (&'a mut [u8], &'a [u8; TAG_LEN], &'a mut [u8]);

/// A page's ciphertext, its tag, and what follows them.
fn split_page(pages: &[u8], text: usize) -> Result<Page<'_>, OpenError> {
    let (text, rest) = pages.split_at_checked(text).ok_or(OpenError::Refused)?;
    let (tag, rest) = rest.split_first_chunk().ok_or(OpenError::Refused)?;
    Ok((text, tag, rest))
}

fn split_page_mut(pages: &mut [u8], text: usize) -> Result<PageMut<'_>, OpenError> {
    let (text, rest) = pages.split_at_mut_checked(text).ok_or(OpenError::Refused)?;
    let (tag, rest) = rest.split_first_chunk_mut().ok_or(OpenError::Refused)?;
    Ok((text, tag, rest))
}
