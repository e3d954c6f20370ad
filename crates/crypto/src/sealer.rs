//! Sealing blocks.
//!
//! Guarantees: every block sealed draws its own salt, and with it has its own DEK, so no caller ever chooses
//! a nonce; lengths are checked before anything is derived, written or allocated; nothing is allocated
//! beyond what the AEAD's key set-up does. A failed seal leaves zeros, never half a block.

use std::{fmt, marker::PhantomData};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    Aead, Aek, BlockBuf, BlockRef, DefaultAead, EntropyError, HEADER_LEN, Header, KeyScope, LengthError,
    PageSize, SALT_LEN, Salt, SaltSource, SealedBuf, Suite, TAG_LEN,
    aead::cipher::Refused,
    block::{Place, nonce},
    derive::{Prk, label},
    layout::Layout,
    planted::{Bug, is_planted},
};

/// The suite that is written.
pub(crate) const SUITE: Suite = Suite::Aes256GcmHkdfSha256;

/// Salts of a batch that are drawn at once.
const BATCH: usize = 32;

/// Seals and opens the blocks of one account and epoch.
pub struct Sealer<A: Aead = DefaultAead> {
    scope: KeyScope,
    // Boxed, so that moving a sealer leaves no copy of it behind.
    pub(crate) prk: Box<Prk>,
    aead: PhantomData<fn() -> A>,
}

impl Sealer {
    /// The sealer of this AEK, with the fastest AEAD.
    pub fn new(aek: &Aek, scope: KeyScope) -> Self {
        Self::with_aead(aek, scope)
    }
}

impl<A: Aead> Sealer<A> {
    /// The sealer of this AEK, with an AEAD of one's choice: `Sealer::<RustCrypto>::with_aead(..)`.
    pub fn with_aead(aek: &Aek, scope: KeyScope) -> Self {
        let prk = Prk::extract(label::BLOCK, &scope, &[SUITE.code()], aek);
        Self { scope, prk, aead: PhantomData }
    }

    /// Which AEK it works under.
    pub fn scope(&self) -> &KeyScope {
        &self.scope
    }

    /// Seals a block into the start of `out`, and answers how many bytes that took:
    /// [`sealed_len`](crate::sealed_len). The rest of `out` is left as it is.
    ///
    /// # Errors
    /// [`SealError`]; `out` is then all zeros.
    pub fn seal_to(
        &self,
        block: BlockRef<'_>,
        page: PageSize,
        plaintext: &[u8],
        out: &mut [u8],
        salts: &dyn SaltSource,
    ) -> Result<usize, SealError> {
        let sealed =
            Layout::of_plaintext(plaintext.len() as u64, page).map_err(SealError::from).and_then(|layout| {
                let sealed = sealed_part(&layout, out)?;
                let len = sealed.len();
                let [salt] = draw::<1>(salts)?;
                self.seal_block(block, &layout, plaintext, sealed, salt)?;
                Ok(len)
            });
        if sealed.is_err() {
            out.fill(0);
        }
        sealed
    }

    /// Seals a block into a new vector of [`sealed_len`](crate::sealed_len) bytes.
    ///
    /// A convenience: a new buffer for each block can cost more than the cryptography.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(
        &self,
        block: BlockRef<'_>,
        page: PageSize,
        plaintext: &[u8],
        salts: &dyn SaltSource,
    ) -> Result<Vec<u8>, SealError> {
        let layout = Layout::of_plaintext(plaintext.len() as u64, page)?;
        let mut out = vec![0; usize_of(layout.sealed_len())?];
        self.seal_to(block, page, plaintext, &mut out, salts)?;
        Ok(out)
    }

    /// Seals many blocks, each as [`Self::seal_to`] would, and draws their salts together.
    ///
    /// # Errors
    /// [`BatchError`], which says which item it was; no item is sealed then, and every `out` is all zeros.
    pub fn seal_batch(
        &self,
        items: &mut [SealItem<'_>],
        page: PageSize,
        salts: &dyn SaltSource,
    ) -> Result<(), BatchError> {
        let sealed = self.try_seal_batch(items, page, salts);
        if sealed.is_err() {
            items.iter_mut().for_each(|item| item.out.fill(0));
        }
        sealed
    }

    fn try_seal_batch(
        &self,
        items: &mut [SealItem<'_>],
        page: PageSize,
        salts: &dyn SaltSource,
    ) -> Result<(), BatchError> {
        let at = |index: usize| move |error: SealError| BatchError { index, error };
        for (index, item) in items.iter_mut().enumerate() {
            let layout = Layout::of_plaintext(item.plaintext.len() as u64, page);
            let layout = layout.map_err(SealError::from).map_err(at(index))?;
            sealed_part(&layout, item.out).map_err(at(index))?;
        }
        for (chunk, items) in items.chunks_mut(BATCH).enumerate() {
            let first = chunk * BATCH;
            let mut drawn = [[0; SALT_LEN]; BATCH];
            let drawn = &mut drawn[..items.len()];
            salts.fill_salts(drawn).map_err(SealError::from).map_err(at(first))?;
            for (i, (item, salt)) in items.iter_mut().zip(drawn).enumerate() {
                self.seal_item(item, page, *salt).map_err(at(first + i))?;
            }
        }
        Ok(())
    }

    fn seal_item(&self, item: &mut SealItem<'_>, page: PageSize, salt: Salt) -> Result<(), SealError> {
        let layout = Layout::of_plaintext(item.plaintext.len() as u64, page)?;
        let out = sealed_part(&layout, item.out)?;
        self.seal_block(item.block, &layout, item.plaintext, out, salt)
    }

    /// Seals the plaintext in a buffer where it lies.
    ///
    /// # Errors
    /// [`SealError`]; the buffer is gone then, and its plaintext with it.
    pub fn seal_in_place(
        &self,
        block: BlockRef<'_>,
        buf: BlockBuf,
        salts: &dyn SaltSource,
    ) -> Result<SealedBuf, SealError> {
        let (layout, mut bytes) = buf.into_parts();
        let [salt] = draw::<1>(salts)?;
        let sealed = self.seal_where_it_lies(block, &layout, &mut bytes, salt);
        A::wipe_stack();
        sealed.map(|()| SealedBuf::from_vec(bytes))
    }

    #[inline(never)]
    fn seal_where_it_lies(
        &self,
        block: BlockRef<'_>,
        layout: &Layout,
        bytes: &mut [u8],
        salt: Salt,
    ) -> Result<(), SealError> {
        let (header, mut pages) = split_header(bytes)?;
        let aead = self.start(block, layout, salt, header)?;
        for page in 0..layout.pages() {
            let last = layout.is_last(page);
            let (text, tag, rest) = split_page(pages, layout.page_len(page))?;
            aead.key.seal_in_place(&nonce(page, last), aead.place.aad(), text, tag)?;
            pages = rest;
        }
        Ok(())
    }

    fn seal_block(
        &self,
        block: BlockRef<'_>,
        layout: &Layout,
        plaintext: &[u8],
        out: &mut [u8],
        salt: Salt,
    ) -> Result<(), SealError> {
        let sealed = self.seal_pages(block, layout, plaintext, out, salt);
        A::wipe_stack();
        sealed
    }

    #[inline(never)]
    fn seal_pages(
        &self,
        block: BlockRef<'_>,
        layout: &Layout,
        mut plaintext: &[u8],
        out: &mut [u8],
        salt: Salt,
    ) -> Result<(), SealError> {
        let (header, mut pages) = split_header(out)?;
        let aead = self.start(block, layout, salt, header)?;
        for page in 0..layout.pages() {
            let last = layout.is_last(page);
            let (text, following) = plaintext.split_at(layout.page_len(page));
            let (ciphertext, tag, rest) = split_page(pages, text.len())?;
            aead.key.seal(&nonce(page, last), aead.place.aad(), text, ciphertext, tag)?;
            (plaintext, pages) = (following, rest);
        }
        Ok(())
    }

    /// Writes the header and sets up the key.
    fn start(
        &self,
        block: BlockRef<'_>,
        layout: &Layout,
        salt: Salt,
        header: &mut [u8; HEADER_LEN],
    ) -> Result<BlockKey<A>, SealError> {
        let salt = if is_planted(Bug::RepeatedSalt) { [7; SALT_LEN] } else { salt };
        let mut place = Place::new(block, layout.page(), &salt);
        let commitment = place.commitment(&self.prk);
        Header {
            suite: SUITE,
            provider: self.scope.provider.kind(),
            page_size: layout.page(),
            epoch: self.scope.epoch,
            salt,
            commitment,
        }
        .write(header);
        Ok(BlockKey::set_up(&self.prk, place)?)
    }
}

impl<A: Aead> fmt::Debug for Sealer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}, {})", self.scope, A::NAME)
    }
}

/// A block's key, ready for its pages.
pub(crate) struct BlockKey<A> {
    pub(crate) key: A,
    pub(crate) place: Place,
}

impl<A: Aead> BlockKey<A> {
    pub(crate) fn set_up(prk: &Prk, mut place: Place) -> Result<Self, Refused> {
        Ok(Self { key: Self::set_up_at(prk, &mut place)?, place })
    }

    /// The key alone, of a place that outlives it.
    pub(crate) fn set_up_at(prk: &Prk, place: &mut Place) -> Result<A, Refused> {
        let mut dek = Zeroizing::new([0; 32]);
        place.dek(prk, &mut dek);
        A::new(&dek)
    }
}

/// One block of a batch.
pub struct SealItem<'a> {
    /// The place it is sealed for.
    pub block: BlockRef<'a>,
    /// What to seal.
    pub plaintext: &'a [u8],
    /// Where the sealed block goes: its first [`sealed_len`](crate::sealed_len) bytes.
    pub out: &'a mut [u8],
}

/// Never shows the plaintext.
impl fmt::Debug for SealItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealItem")
            .field("block", &self.block)
            .field("plaintext_len", &self.plaintext.len())
            .field("out_len", &self.out.len())
            .finish()
    }
}

/// Why a block was not sealed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// It is too long.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// The output is too small for it.
    #[error("the sealed block needs {needed} bytes: the output has {len}")]
    OutputTooSmall {
        /// How many bytes are needed.
        needed: u64,
        /// How many the output has.
        len: u64,
    },
    /// There was no salt to be had.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A block was begun under another key than it was to go on with.
    #[error("the block was begun under another key: begin it anew")]
    OtherKey,
    /// The AEAD failed: it had no memory for its key.
    #[error("the AEAD failed to seal: there is no memory for its key")]
    Cipher,
}

impl From<Refused> for SealError {
    fn from(_: Refused) -> Self {
        Self::Cipher
    }
}

/// Why a batch was not sealed.
#[derive(Debug, Error)]
#[error("block {index} of the batch was not sealed: {error}")]
pub struct BatchError {
    /// The first item that failed, counted from 0.
    pub index: usize,
    /// Why.
    #[source]
    pub error: SealError,
}

fn draw<const N: usize>(salts: &dyn SaltSource) -> Result<[Salt; N], EntropyError> {
    let mut drawn = [[0; SALT_LEN]; N];
    salts.fill_salts(&mut drawn)?;
    Ok(drawn)
}

/// The part of `out` that the sealed block takes.
fn sealed_part<'a>(layout: &Layout, out: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
    let (needed, len) = (layout.sealed_len(), out.len() as u64);
    usize::try_from(needed)
        .ok()
        .and_then(|needed| out.get_mut(..needed))
        .ok_or(SealError::OutputTooSmall { needed, len })
}

fn usize_of(len: u64) -> Result<usize, SealError> {
    usize::try_from(len).map_err(|_| SealError::OutputTooSmall { needed: len, len: usize::MAX as u64 })
}

fn split_header(sealed: &mut [u8]) -> Result<(&mut [u8; HEADER_LEN], &mut [u8]), SealError> {
    let len = sealed.len() as u64;
    sealed.split_first_chunk_mut().ok_or(SealError::OutputTooSmall { needed: HEADER_LEN as u64, len })
}

type Page<'a> = (&'a mut [u8], &'a mut [u8; TAG_LEN], &'a mut [u8]);

/// A page's text, its tag, and what follows them.
fn split_page(pages: &mut [u8], text: usize) -> Result<Page<'_>, SealError> {
    let short = SealError::OutputTooSmall { needed: (text + TAG_LEN) as u64, len: pages.len() as u64 };
    match pages.split_at_mut_checked(text) {
        Some((text, rest)) => match rest.split_first_chunk_mut() {
            Some((tag, rest)) => Ok((text, tag, rest)),
            None => Err(short),
        },
        None => Err(short),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BlockId, Version};

    #[test]
    fn a_debugged_item_shows_lengths_and_no_plaintext() {
        let id = BlockId::new("chunk").unwrap();
        let mut out = [0xCD; 40];
        let block = BlockRef { id: &id, version: Version::new(7) };
        let item = SealItem { block, plaintext: b"a secret", out: &mut out };
        let shown = format!("{item:?}");
        assert!(shown.contains("plaintext_len: 8, out_len: 40"), "{shown}");
        assert!(shown.contains("chunk"), "{shown}");
        // As bytes in decimal, as text, and what the output held.
        for leak in ["97, 32, 115", "secret", "205"] {
            assert!(!shown.contains(leak), "{shown}");
        }
    }
}
