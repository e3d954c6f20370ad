//! Buffers that are sealed and opened where they lie.
//!
//! Guarantees: plaintext and sealed bytes are different types, so neither is taken for the other; the gaps
//! for header and tags are there from the start, so nothing is shifted. Not its job: to wipe plaintext that
//! opened (its owner's).

use std::fmt;

use crate::{HEADER_LEN, LengthError, PageSize, TAG_LEN, layout::Layout};

/// A block's plaintext, laid out with gaps for header and tags.
///
/// Fill it through [`Self::copy_from_slice`] or [`Self::pages_mut`], then
/// [`Sealer::seal_in_place`](crate::Sealer::seal_in_place).
pub struct BlockBuf {
    layout: Layout,
    /// As long as the sealed block.
    bytes: Vec<u8>,
}

impl BlockBuf {
    /// A buffer for this much plaintext, all zeros.
    ///
    /// # Errors
    /// [`LengthError`] when that is more than a block may hold.
    pub fn new(plaintext_len: u64, page: PageSize) -> Result<Self, LengthError> {
        Self::reuse(Vec::new(), plaintext_len, page)
    }

    /// The same in the memory of an earlier buffer; what the plaintext is before it is written is not said.
    ///
    /// # Errors
    /// [`LengthError`] when that is more than a block may hold.
    pub fn reuse(mut memory: Vec<u8>, plaintext_len: u64, page: PageSize) -> Result<Self, LengthError> {
        let layout = Layout::of_plaintext(plaintext_len, page)?;
        let too_long = LengthError::PlaintextTooLong { len: plaintext_len };
        memory.resize(usize::try_from(layout.sealed_len()).map_err(|_| too_long)?, 0);
        Ok(Self { layout, bytes: memory })
    }

    /// How much plaintext it holds, in bytes.
    pub fn plaintext_len(&self) -> u64 {
        self.layout.plaintext_len()
    }

    /// How much plaintext a page holds.
    pub fn page_size(&self) -> PageSize {
        self.layout.page()
    }

    /// The plaintext, page by page.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes[HEADER_LEN..]
            .chunks(self.page_size().bytes() + TAG_LEN)
            .map(|page| &page[..page.len().saturating_sub(TAG_LEN)])
    }

    /// The plaintext, page by page, to be written.
    pub fn pages_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let stride = self.page_size().bytes() + TAG_LEN;
        self.bytes[HEADER_LEN..].chunks_mut(stride).map(|page| {
            let text = page.len().saturating_sub(TAG_LEN);
            &mut page[..text]
        })
    }

    /// Copies the plaintext in; whether it has exactly [`Self::plaintext_len`] bytes. Nothing is copied
    /// when it has not.
    #[must_use = "nothing is copied when the length differs"]
    pub fn copy_from_slice(&mut self, mut plaintext: &[u8]) -> bool {
        if plaintext.len() as u64 != self.plaintext_len() {
            return false;
        }
        for page in self.pages_mut() {
            let (text, rest) = plaintext.split_at(page.len());
            page.copy_from_slice(text);
            plaintext = rest;
        }
        true
    }

    /// The plaintext in one piece, copied out.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut plaintext = Vec::with_capacity(self.bytes.len());
        self.pages().for_each(|page| plaintext.extend_from_slice(page));
        plaintext
    }

    /// Its memory, for [`Self::reuse`].
    pub fn into_memory(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn into_parts(self) -> (Layout, Vec<u8>) {
        (self.layout, self.bytes)
    }

    /// `bytes` is as long as the layout's sealed block.
    pub(crate) fn from_parts(layout: Layout, bytes: Vec<u8>) -> Self {
        Self { layout, bytes }
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} bytes in pages of {})", self.plaintext_len(), self.page_size())
    }
}

/// A sealed block in a buffer of its own, to be written out or opened where it lies.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedBuf(Vec<u8>);

impl SealedBuf {
    /// These bytes, taken for a sealed block; opening finds out whether they are one.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The sealed block's bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for SealedBuf {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SealedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedBuf({} bytes)", self.0.len())
    }
}
