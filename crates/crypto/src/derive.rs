//! HKDF-SHA-256 (RFC 5869) with the extracted key kept as two HMAC states.
//!
//! Guarantees: an Expand of up to 54 bytes of info costs two SHA-256 compressions and allocates nothing; states are wiped
//! on drop. Every Extract is labelled and bound to the AEK's account, epoch and provider.

use std::fmt;

use hkdf::HkdfExtract;
use sha2::{Sha256, block_api::compress256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Aek, KeyScope};

/// The most bytes of info that fit into one compression.
pub(crate) const MAX_INFO: usize = 54;

/// SHA-256's initial state (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// What a derivation or a tag is for: the first part of Extract's salt, or of what is tagged.
pub(crate) mod label {
    /// Sealed blocks, format 1.
    pub(crate) const BLOCK: &[u8] = b"cofferdam block 1";
    /// Check values and record tags.
    pub(crate) const AEK: &[u8] = b"cofferdam aek 1";
    /// The records of a buffer's segments, before what is tagged.
    pub(crate) const SEGMENT: &[u8] = b"cofferdam segment 1";
    /// What an operation on an account is told to do.
    pub(crate) const OPERATION: &[u8] = b"cofferdam operation 1";
    /// What an epoch follows, before what is tagged.
    pub(crate) const EPOCH: &[u8] = b"cofferdam epoch 1";
    /// Archives, before their hash.
    pub(crate) const ARCHIVE: &[u8] = b"cofferdam archive 1";
}

/// An extracted pseudorandom key, kept as the inner and outer HMAC states that it starts.
pub(crate) struct Prk {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl Prk {
    /// HKDF-Extract with salt = label, account, epoch (big-endian), provider, then `suffix`, then the segment if
    /// there is one. At most 64 bytes: HMAC hashes longer keys, and pads shorter ones with zeros; salts of one label
    /// that differ in length differ in the provider.
    pub(crate) fn extract(label: &[u8], scope: &KeyScope, suffix: &[u8], aek: &Aek) -> Box<Self> {
        let segment = scope.provider.segment();
        let salt = [
            label,
            scope.account.as_bytes(),
            &scope.epoch.number().to_be_bytes(),
            &[scope.provider.code()],
            suffix,
            segment.as_ref().map_or(&[], |segment| &segment.as_bytes()[..]),
        ]
        .concat();
        debug_assert!(salt.len() <= 64);
        Self::extract_raw(&salt, aek.expose())
    }

    /// HKDF-Extract.
    pub(crate) fn extract_raw(salt: &[u8], ikm: &[u8]) -> Box<Self> {
        let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
        extract.input_ikm(ikm);
        let (mut prk, _) = extract.finalize();
        let mut this = Box::new(Self { inner: INITIAL, outer: INITIAL });
        this.absorb(&prk);
        prk.as_mut_slice().zeroize();
        this
    }

    /// Starts both states from the key; written where they stay, so no copy is left on the stack.
    fn absorb(&mut self, prk: &[u8]) {
        for (state, pad) in [(&mut self.inner, 0x36), (&mut self.outer, 0x5c)] {
            let mut block = Zeroizing::new([pad; 64]);
            block.iter_mut().zip(prk).for_each(|(b, k)| *b ^= k);
            compress256(state, core::slice::from_ref(&block));
        }
    }

    /// HKDF-Expand to 32 bytes: T(1) = HMAC(PRK, info, 0x01).
    pub(crate) fn expand(&self, info: &Info, okm: &mut [u8; 32]) {
        let mut state = self.inner;
        compress256(&mut state, core::slice::from_ref(&info.block));

        let mut block = OUTER;
        write_state(&state, &mut block);
        state = self.outer;
        compress256(&mut state, core::slice::from_ref(&block));
        write_state(&state, okm);
        // As slices: an array is wiped byte by byte.
        block.as_mut_slice().zeroize();
        state.as_mut_slice().zeroize();
    }
}

/// What HMAC's outer hash compresses after its key: 32 bytes of the inner hash, then this padding.
const OUTER: [u8; 64] = {
    let mut block = [0; 64];
    block[32] = 0x80;
    [block[62], block[63]] = ((64 + 32) * 8u16).to_be_bytes();
    block
};

/// Expand's info, as HMAC's inner hash compresses it after its key.
#[derive(Clone)]
pub(crate) struct Info {
    block: [u8; 64],
}

impl Info {
    /// Of at most [`MAX_INFO`] bytes.
    pub(crate) fn new(info: &[u8]) -> Self {
        debug_assert!(info.len() <= MAX_INFO);
        let mut block = [0; 64];
        block[..info.len()].copy_from_slice(info);
        block[info.len()] = 1;
        block[info.len() + 1] = 0x80;
        block[56..].copy_from_slice(&((64 + info.len() as u64 + 1) * 8).to_be_bytes());
        Self { block }
    }

    /// The same with another first byte; not for an empty info.
    pub(crate) fn starting_with(&mut self, first: u8) -> &Self {
        self.block[0] = first;
        self
    }
}

/// The longest message that SHA-256 pads to one block.
pub(crate) const MAX_ONE_BLOCK: usize = 55;

/// SHA-256 of the first `len` bytes of `message`, at most [`MAX_ONE_BLOCK`]; the rest of it is zeros.
pub(crate) fn sha256_of_one_block(mut message: [u8; 64], len: usize) -> [u8; 32] {
    debug_assert!(len <= MAX_ONE_BLOCK);
    message[len] = 0x80;
    message[56..].copy_from_slice(&(len as u64 * 8).to_be_bytes());
    let mut state = INITIAL;
    compress256(&mut state, core::slice::from_ref(&message));
    let mut hash = [0; 32];
    write_state(&state, &mut hash);
    hash
}

fn write_state(state: &[u32; 8], out: &mut [u8]) {
    for (chunk, word) in out.chunks_exact_mut(4).zip(state) {
        chunk.copy_from_slice(&word.to_be_bytes());
    }
}

impl Drop for Prk {
    fn drop(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

impl ZeroizeOnDrop for Prk {}

/// A key that authenticates records kept beside an account's blocks, derived from one of its AEKs.
///
/// The catalog holds nothing secret, but who may write to it must not be able to hand an account another
/// key: its records carry a tag under this key.
pub struct RecordKey(Box<Zeroizing<[u8; 32]>>);

/// A record's tag: HMAC-SHA-256.
pub type RecordTag = [u8; 32];

impl RecordKey {
    /// The record key of this AEK.
    pub fn derive(aek: &Aek, scope: &KeyScope) -> Self {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        Prk::extract(label::AEK, scope, &[], aek).expand(&Info::new(b"M"), &mut key);
        Self(key)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The tag of a record.
    pub fn tag(&self, record: &[u8]) -> RecordTag {
        hmac(self.0.as_slice(), &[record])
    }

    /// Whether this is the record's tag, in constant time.
    pub fn verify(&self, record: &[u8], tag: &RecordTag) -> bool {
        self.tag(record).ct_eq(tag).into()
    }

    /// The tag of the record of a buffer's segment.
    ///
    /// Never that of another record: those are JSON objects, and what is tagged here begins with no brace.
    pub fn segment_tag(&self, record: &[u8]) -> RecordTag {
        hmac(self.0.as_slice(), &[label::SEGMENT, record])
    }

    /// The tag of what an operation on the account is told to do: begins with no brace, as a segment's.
    pub fn operation_tag(&self, told: &[u8]) -> RecordTag {
        hmac(self.0.as_slice(), &[label::OPERATION, told])
    }

    /// Whether this is the tag of what an operation is told to do, in constant time.
    pub fn verify_operation(&self, told: &[u8], tag: &RecordTag) -> bool {
        self.operation_tag(told).ct_eq(tag).into()
    }

    /// The tag of the epoch after this key's: of its scope and check value.
    ///
    /// Never that of a record, which begins with a brace, nor of a segment's, which has another label.
    pub(crate) fn epoch_tag(&self, scope: &KeyScope, check: &[u8]) -> RecordTag {
        let (epoch, provider) = (scope.epoch.number().to_be_bytes(), [scope.provider.code()]);
        hmac(self.0.as_slice(), &[label::EPOCH, scope.account.as_bytes(), &epoch, &provider, check])
    }

    /// Whether this is the tag of the record of a buffer's segment, in constant time.
    pub fn verify_segment(&self, record: &[u8], tag: &RecordTag) -> bool {
        self.segment_tag(record).ct_eq(tag).into()
    }
}

/// HMAC-SHA-256 (RFC 2104). It and HKDF-Extract are one function (RFC 5869, 2.2): HMAC-Hash(salt, IKM).
pub(crate) fn hmac(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    let mut extract = HkdfExtract::<Sha256>::new(Some(key));
    message.iter().for_each(|part| extract.input_ikm(part));
    extract.finalize().0.into()
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use hkdf::Hkdf;

    use super::*;
    use crate::{AccountId, Epoch, Provider};

    #[test]
    fn expand_from_kept_states_equals_hkdf() {
        for len in 0..=MAX_INFO {
            let prk: [u8; 32] = core::array::from_fn(|i| (i * 7 + len) as u8);
            let info: Vec<u8> = (0..len as u8).collect();
            let (mut ours, mut theirs) = ([0; 32], [0; 32]);
            let mut kept = Prk { inner: INITIAL, outer: INITIAL };
            kept.absorb(&prk);
            kept.expand(&Info::new(&info), &mut ours);
            Hkdf::<Sha256>::from_prk(&prk).unwrap().expand(&info, &mut theirs).unwrap();
            assert_eq!(ours, theirs, "info of {len} bytes");
        }
    }

    fn key(byte: u8) -> Aek {
        Aek::try_from_fn(|k| {
            k.fill(byte);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    fn scope() -> KeyScope {
        KeyScope {
            account: AccountId::from_bytes([0xa1; 16]),
            epoch: Epoch::FIRST,
            provider: Provider::Customer,
        }
    }

    #[test]
    fn a_records_tag_is_right_for_that_record_key_and_scope_alone() {
        let tag = RecordKey::derive(&key(7), &scope()).tag(b"record");
        assert!(RecordKey::derive(&key(7), &scope()).verify(b"record", &tag));
        assert!(!RecordKey::derive(&key(7), &scope()).verify(b"recorD", &tag));
        assert!(!RecordKey::derive(&key(8), &scope()).verify(b"record", &tag));
        for moved in [
            KeyScope { account: AccountId::from_bytes([0xa2; 16]), ..scope() },
            KeyScope { epoch: Epoch::new(2), ..scope() },
            KeyScope { provider: Provider::Service, ..scope() },
        ] {
            assert!(!RecordKey::derive(&key(7), &moved).verify(b"record", &tag), "{moved}");
        }
        for bit in 0..256 {
            let mut bad = tag;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!RecordKey::derive(&key(7), &scope()).verify(b"record", &bad), "bit {bit}");
        }
        assert_eq!(format!("{:?}", RecordKey::derive(&key(7), &scope())), "RecordKey(..)");
    }
}
