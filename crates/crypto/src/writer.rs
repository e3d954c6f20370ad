//! Sealing a block piece by piece, before its length is known.
//!
//! Guarantees: the bytes are those that [`Sealer::seal_to`] gives for the same salt; a page is sealed once, with its number, and
//! marked as the last only by [`Sealer::finish`]; a call that fails has taken nothing and leaves zeros. Between calls no key is
//! held: a writer that rests for an hour, or past a revocation, keeps less than a page of plaintext, and wipes that when it is
//! dropped. Nothing is allocated but that page, once.
//!
//! Not its job: to say whether a key may still be used (who calls asks the keyring), or to give out less than whole pages.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Aead, BlockRef, HEADER_LEN, Header, KeyScope, LengthError, MAX_PLAINTEXT_LEN, PageSize, SALT_LEN,
    SaltSource, SealError, Sealer, TAG_LEN,
    block::{Place, nonce},
    header::COMMITMENT_LEN,
    sealer::{BlockKey, SUITE},
};

/// A block that is being sealed. [`Sealer::begin`] starts it, [`Sealer::write`] goes on with it, [`Sealer::finish`] ends it.
///
/// ```
/// # use cofferdam_crypto::{AccountId, Aek, BlockId, EntropyError, Epoch, KeyScope, PageSize, Provider, Salt, SaltSource, Sealer, Version};
/// # #[derive(Debug)]
/// # struct Counting;
/// # impl SaltSource for Counting {
/// #     fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> { salts.fill([7; 32]); Ok(()) }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let aek = Aek::try_from_fn(|aek| { aek.fill(1); Ok::<_, EntropyError>(()) })?;
/// # let scope = KeyScope { account: AccountId::from_bytes([7; 16]), epoch: Epoch::FIRST, provider: Provider::Customer };
/// # let (sealer, id) = (Sealer::new(&aek, scope), BlockId::new("logs/1")?);
/// let at = id.at(Version::new(1));
/// let mut writer = sealer.begin(at, PageSize::DEFAULT, &Counting)?;
/// let mut sealed = Vec::new();
/// for piece in [&b"what "[..], b"the customer", b" wrote"] {
///     let from = sealed.len();
///     sealed.resize(from + writer.write_len(piece.len()), 0);
///     sealer.write(&mut writer, piece, &mut sealed[from..])?;
/// }
/// let from = sealed.len();
/// sealed.resize(from + writer.finish_len(), 0);
/// sealer.finish(writer, &mut sealed[from..])?;
/// assert_eq!(sealer.open(at, &sealed)?, b"what the customer wrote");
/// # Ok(()) }
/// ```
pub struct BlockWriter {
    scope: KeyScope,
    place: Place,
    page: PageSize,
    header: [u8; HEADER_LEN],
    header_is_out: bool,
    /// How many pages were given out.
    pages: u32,
    /// What waits for its page to be full and for more to follow: at most a page.
    held: Zeroizing<Vec<u8>>,
    /// All plaintext that was taken, in bytes.
    len: u64,
}

impl BlockWriter {
    /// How many bytes [`Sealer::write`] gives out for this much plaintext, as things are.
    pub fn write_len(&self, plaintext: usize) -> usize {
        let waiting = self.held.len().saturating_add(plaintext);
        let pages = waiting.saturating_sub(1) / self.page.bytes();
        self.header_len().saturating_add(pages.saturating_mul(self.page.bytes() + TAG_LEN))
    }

    /// How many bytes [`Sealer::finish`] gives out, as things are.
    pub fn finish_len(&self) -> usize {
        self.header_len() + self.held.len() + TAG_LEN
    }

    /// How much plaintext it has taken, in bytes.
    pub fn plaintext_len(&self) -> u64 {
        self.len
    }

    /// Which AEK the block is sealed under.
    pub fn scope(&self) -> &KeyScope {
        &self.scope
    }

    /// The block's first bytes, as they are given out first.
    pub fn header(&self) -> &[u8; HEADER_LEN] {
        &self.header
    }

    fn header_len(&self) -> usize {
        if self.header_is_out { 0 } else { HEADER_LEN }
    }

    /// The length that the block has with this much more, if it may have that.
    fn len_with(&self, more: usize) -> Result<u64, LengthError> {
        let len = self.len.saturating_add(more as u64);
        if len > MAX_PLAINTEXT_LEN { Err(LengthError::PlaintextTooLong { len }) } else { Ok(len) }
    }

    /// Writes the header if it is not out yet; what is left for pages.
    fn put_header<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
        let (header, pages) = out.split_at_mut(self.header_len());
        header.copy_from_slice(&self.header[..header.len()]);
        pages
    }
}

impl fmt::Debug for BlockWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockWriter({}, {} bytes in pages of {})", self.scope, self.len, self.page)
    }
}

impl<A: Aead> Sealer<A> {
    /// Begins to seal a block whose plaintext comes in pieces.
    ///
    /// # Errors
    /// [`SealError::Entropy`].
    pub fn begin(
        &self,
        block: BlockRef<'_>,
        page: PageSize,
        salts: &dyn SaltSource,
    ) -> Result<BlockWriter, SealError> {
        let mut drawn = [[0; SALT_LEN]];
        salts.fill_salts(&mut drawn)?;
        let [salt] = drawn;
        let mut place = Place::new(block, page, &salt);
        let commitment = place.commitment(&self.prk);
        let (scope, mut header) = (*self.scope(), [0; HEADER_LEN]);
        let (provider, epoch) = (scope.provider.kind(), scope.epoch);
        Header { suite: SUITE, provider, page_size: page, epoch, salt, commitment }.write(&mut header);
        let held = Zeroizing::new(Vec::new());
        Ok(BlockWriter { scope, place, page, header, header_is_out: false, pages: 0, held, len: 0 })
    }

    /// Takes more of the block's plaintext and seals the pages that are full into the start of `out`, after the header
    /// where that is not out yet; answers how many bytes that is: [`BlockWriter::write_len`]. A full page is kept while
    /// nothing follows, since it may be the last.
    ///
    /// # Errors
    /// [`SealError`]; nothing was taken then, and `out` is all zeros.
    pub fn write(
        &self,
        writer: &mut BlockWriter,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let written = self.try_write(writer, plaintext, out);
        A::wipe_stack();
        if written.is_err() {
            out.fill(0);
        }
        written
    }

    #[inline(never)]
    fn try_write(
        &self,
        writer: &mut BlockWriter,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        self.is_its_key(writer)?;
        let (len, page) = (writer.len_with(plaintext.len())?, writer.page.bytes());
        let out = part(out, writer.write_len(plaintext.len()))?;
        let written = out.len();
        let waited = writer.held.len();
        let mut pages = writer.pages;
        let mut room = writer.put_header(out);
        let mut rest = plaintext;
        if !room.is_empty() {
            let key = BlockKey::<A>::set_up_at(&self.prk, &mut writer.place)?;
            let aad = *writer.place.aad();
            if waited > 0 {
                let (fill, following) = rest.split_at(page - waited);
                writer.held.extend_from_slice(fill);
                let sealed = seal_page(&key, &aad, pages, false, &writer.held, room);
                match sealed {
                    Ok(left) => (rest, room, pages) = (following, left, pages + 1),
                    Err(e) => {
                        truncate(&mut writer.held, waited);
                        return Err(e);
                    }
                }
            }
            while rest.len() > page {
                let (text, following) = rest.split_at(page);
                match seal_page(&key, &aad, pages, false, text, room) {
                    Ok(left) => (rest, room, pages) = (following, left, pages + 1),
                    Err(e) => {
                        truncate(&mut writer.held, waited);
                        return Err(e);
                    }
                }
            }
            truncate(&mut writer.held, 0);
        }
        hold(&mut writer.held, rest, page);
        (writer.len, writer.pages, writer.header_is_out) = (len, pages, true);
        Ok(written)
    }

    /// Seals the last page into the start of `out` and answers how many bytes that is: [`BlockWriter::finish_len`].
    ///
    /// # Errors
    /// [`SealError`]; the block is not whole then and never will be, and `out` is all zeros.
    pub fn finish(&self, mut writer: BlockWriter, out: &mut [u8]) -> Result<usize, SealError> {
        let written = self.try_finish(&mut writer, out);
        A::wipe_stack();
        if written.is_err() {
            out.fill(0);
        }
        written
    }

    #[inline(never)]
    fn try_finish(&self, writer: &mut BlockWriter, out: &mut [u8]) -> Result<usize, SealError> {
        self.is_its_key(writer)?;
        let out = part(out, writer.finish_len())?;
        let written = out.len();
        let key = BlockKey::<A>::set_up_at(&self.prk, &mut writer.place)?;
        let aad = *writer.place.aad();
        seal_page(&key, &aad, writer.pages, true, &writer.held, writer.put_header(out))?;
        Ok(written)
    }

    /// Refuses a block that was begun under another key: its pages would open under neither.
    fn is_its_key(&self, writer: &mut BlockWriter) -> Result<(), SealError> {
        let commitment = writer.place.commitment(&self.prk);
        let begun_with = &writer.header[HEADER_LEN - COMMITMENT_LEN..];
        let same = writer.scope == *self.scope() && bool::from(commitment.as_slice().ct_eq(begun_with));
        if same { Ok(()) } else { Err(SealError::OtherKey) }
    }
}

/// The part of `out` that is written.
fn part(out: &mut [u8], needed: usize) -> Result<&mut [u8], SealError> {
    let len = out.len() as u64;
    out.get_mut(..needed).ok_or(SealError::OutputTooSmall { needed: needed as u64, len })
}

/// Seals a page into the start of `room`; what is left of that.
fn seal_page<'a, A: Aead>(
    key: &A,
    aad: &[u8],
    page: u32,
    last: bool,
    text: &[u8],
    room: &'a mut [u8],
) -> Result<&'a mut [u8], SealError> {
    let len = room.len() as u64;
    let short = || SealError::OutputTooSmall { needed: (text.len() + TAG_LEN) as u64, len };
    let (ciphertext, rest) = room.split_at_mut_checked(text.len()).ok_or_else(short)?;
    let (tag, rest) = rest.split_first_chunk_mut().ok_or_else(short)?;
    key.seal(&nonce(page, last), aad, text, ciphertext, tag)?;
    Ok(rest)
}

/// Keeps what does not fill a page with more to follow. Its memory is had at once: growing it would leave copies behind.
fn hold(held: &mut Vec<u8>, rest: &[u8], page: usize) {
    if !rest.is_empty() {
        held.reserve_exact(page - held.len());
        held.extend_from_slice(rest);
    }
}

fn truncate(held: &mut Vec<u8>, len: usize) {
    if let Some(gone) = held.get_mut(len..) {
        gone.zeroize();
    }
    held.truncate(len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Aek, BlockId, EntropyError, Epoch, Provider, Salt, Version};

    #[derive(Debug)]
    struct Fixed;

    impl SaltSource for Fixed {
        fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
            salts.fill([7; SALT_LEN]);
            Ok(())
        }
    }

    #[test]
    fn a_block_may_become_as_long_as_any_and_no_longer() {
        let account = crate::AccountId::from_bytes([1; 16]);
        let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer };
        let aek = Aek::try_from_fn(|aek| {
            aek.fill(3);
            Ok::<_, std::convert::Infallible>(())
        });
        let (sealer, id) = (Sealer::new(&aek.unwrap(), scope), BlockId::new("b").unwrap());
        let mut writer = sealer.begin(id.at(Version::new(1)), PageSize::MIN, &Fixed).unwrap();
        writer.len = MAX_PLAINTEXT_LEN - 1;
        let mut out = [0xee; 200];
        let refused = sealer.write(&mut writer, b"ab", &mut out).unwrap_err();
        let too_long = LengthError::PlaintextTooLong { len: MAX_PLAINTEXT_LEN + 1 };
        assert!(matches!(refused, SealError::Length(e) if e == too_long), "{refused}");
        assert_eq!(out, [0; 200]);
        assert_eq!(sealer.write(&mut writer, b"a", &mut out).unwrap(), HEADER_LEN);
        assert_eq!(writer.plaintext_len(), MAX_PLAINTEXT_LEN);
        assert!(!format!("{writer:?}").contains("97"), "{writer:?}");
    }
}
