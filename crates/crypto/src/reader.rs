//! Opening a block page by page, as its bytes come.
//!
//! Guarantees: the commitment is compared before anything is decrypted; a page is given out only once its tag was found right,
//! at its own place and marked as the last exactly if it is; so a block that was cut at a page's end does not open to its new
//! end. What fails leaves zeros and ends the reading. Between calls no key is held.
//!
//! Not its job: to say whether a key may still be used (who calls asks the keyring), to gather pages, or to prove a block's
//! length before its last page has opened.

use std::{fmt, ops::Range};

use crate::{
    Aead, BlockRef, KeyScope, OpenError, PageSpan, Sealer, TAG_LEN,
    block::{Place, nonce},
    sealer::BlockKey,
};

/// A block, or a range of one, that is being opened. [`Sealer::read`] opens its next page.
#[derive(Clone)]
pub struct BlockReader {
    scope: KeyScope,
    place: Place,
    span: PageSpan,
    /// The next page; none after the last, or after one that did not open.
    next: Option<u32>,
}

impl BlockReader {
    /// How many bytes of the sealed block the next page is, its tag among them; `None` after the last.
    pub fn sealed_len(&self) -> Option<usize> {
        self.plaintext_len().map(|len| len + TAG_LEN)
    }

    /// How many bytes of plaintext the next page is; `None` after the last.
    pub fn plaintext_len(&self) -> Option<usize> {
        self.next.map(|page| self.span.layout().page_len(page))
    }

    /// Which AEK the block is sealed under.
    pub fn scope(&self) -> &KeyScope {
        &self.scope
    }

    fn after(&self, page: u32) -> Option<u32> {
        (page + 1 < self.span.pages().end).then_some(page + 1)
    }
}

impl fmt::Debug for BlockReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockReader({}, {:?}, next page {:?})", self.scope, self.span, self.next)
    }
}

impl<A: Aead> Sealer<A> {
    /// Begins to open the pages of a span of a block, from its header: all of it, where that is [`PageSpan::whole`].
    ///
    /// # Errors
    /// [`OpenError::Refused`].
    pub fn begin_reading(
        &self,
        block: BlockRef<'_>,
        header: &[u8],
        span: PageSpan,
    ) -> Result<BlockReader, OpenError> {
        let (header, place) = self.commit(block, header)?;
        if header.page_size() != span.page_size() {
            return Err(OpenError::Refused);
        }
        let pages = span.pages();
        let next = (!pages.is_empty()).then_some(pages.start);
        Ok(BlockReader { scope: *self.scope(), place, span, next })
    }

    /// Opens the next page into the start of `out`: `sealed` is its [`BlockReader::sealed_len`] bytes. Answers which part
    /// of the page the span asked for.
    ///
    /// # Errors
    /// [`OpenError`]; `out` is then all zeros. Lengths that don't fit changed nothing; after [`OpenError::Refused`] the
    /// reader opens nothing more.
    pub fn read(
        &self,
        reader: &mut BlockReader,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<Range<usize>, OpenError> {
        let opened = self.try_read(reader, sealed, out);
        A::wipe_stack();
        if let Err(e) = &opened {
            out.fill(0);
            if *e == OpenError::Refused {
                reader.next = None;
            }
        }
        opened
    }

    #[inline(never)]
    fn try_read(
        &self,
        reader: &mut BlockReader,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<Range<usize>, OpenError> {
        let page = reader.next.ok_or(OpenError::Refused)?;
        let layout = reader.span.layout();
        let text = layout.page_len(page);
        let (needed, len) = ((text + TAG_LEN) as u64, sealed.len() as u64);
        let pages = OpenError::Pages { needed, len };
        let (ciphertext, tag) = sealed.split_at_checked(text).ok_or(pages)?;
        let tag: &[u8; TAG_LEN] = tag.try_into().map_err(|_| pages)?;
        let (needed, len) = (text as u64, out.len() as u64);
        let out = out.get_mut(..text).ok_or(OpenError::OutputTooSmall { needed, len })?;
        // Of another epoch or account: what it opens is decided by the tags, which are under the DEK of this place.
        if reader.scope != *self.scope() {
            return Err(OpenError::Refused);
        }
        let key = BlockKey::<A>::set_up_at(&self.prk, &mut reader.place)?;
        key.open(&nonce(page, layout.is_last(page)), reader.place.aad(), ciphertext, tag, out)?;
        let (held, wanted) = (layout.plaintext_of(page), reader.span.range());
        let within = |at: u64| (at.clamp(held.start, held.end) - held.start) as usize;
        let part = within(wanted.start)..within(wanted.end);
        reader.next = reader.after(page);
        Ok(part)
    }
}
