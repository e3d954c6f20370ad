//! The account encryption key.
//!
//! 32 bytes on the heap, wiped on drop; no Clone, no Debug of bytes, compared nowhere: two AEKs are told
//! apart by their [`KeyCheckValue`](crate::KeyCheckValue).

use std::fmt;

use zeroize::Zeroizing;

/// An account encryption key (AEK): 256 random bits.
pub struct Aek(Box<Zeroizing<[u8; Self::LEN]>>);

impl Aek {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// A key that `fill` writes: a vault's answer, or random bytes for a new account.
    ///
    /// The bytes are written where they stay, so no copy is left on the stack.
    ///
    /// # Errors
    /// What `fill` returns.
    pub fn try_from_fn<E>(fill: impl FnOnce(&mut [u8; Self::LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Box::new(Zeroizing::new([0; Self::LEN]));
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key, for a vault that is to wrap it and for derivation; never for anything that is written.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Aek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aek(..)")
    }
}
