//! What is known of a block, and its encoding.
//!
//! Guarantees: what was encoded decodes to the same; other bytes are refused.

use std::time::Duration;

use cofferdam_crypto::{Epoch, PageSize, Provider, ProviderKind, SegmentId, Version};

use crate::error::{StoreError, StoreErrorKind};

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// Its version.
    pub version: Version,
    /// The length of its sealed bytes.
    pub sealed_len: u64,
    /// The size of its plaintext pages.
    pub page_size: PageSize,
    /// When it was written, since the Unix epoch.
    pub stored_at: Duration,
    /// The epoch of the AEK it is sealed under.
    pub epoch: Epoch,
    /// Whose KEK wraps that AEK, and which segment's it is if it is one's.
    pub provider: Provider,
}

impl BlockMeta {
    /// The format of a block that is of no segment, and of one that is.
    const FORMATS: [u8; 2] = [1, 2];
    pub(crate) const LEN: usize = 38;
    pub(crate) const LEN_IN_SEGMENT: usize = Self::LEN + SegmentId::LEN;

    /// Its encoding: format byte, version, sealed length, page size, seconds, nanoseconds, epoch, provider;
    /// integers are big-endian. That of a segment's block has another format byte and the segment's id at its end.
    pub fn encode(&self) -> Vec<u8> {
        let segment = self.provider.segment();
        let mut out = Vec::with_capacity(Self::LEN_IN_SEGMENT);
        out.push(Self::FORMATS[usize::from(segment.is_some())]);
        out.extend_from_slice(&self.version.number().to_be_bytes());
        out.extend_from_slice(&self.sealed_len.to_be_bytes());
        out.extend_from_slice(&(self.page_size.bytes() as u32).to_be_bytes());
        out.extend_from_slice(&self.stored_at.as_secs().to_be_bytes());
        out.extend_from_slice(&self.stored_at.subsec_nanos().to_be_bytes());
        out.extend_from_slice(&self.epoch.number().to_be_bytes());
        out.push(self.provider.code());
        if let Some(segment) = segment {
            out.extend_from_slice(segment.as_bytes());
        }
        out
    }

    /// The meta of this encoding.
    ///
    /// # Errors
    /// `NewerFormat` for a format byte above ours; `Corrupt` for anything else that [`Self::encode`] does not
    /// write.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt =
            || StoreError::new(StoreErrorKind::Corrupt).with_detail("a block's meta does not decode");
        let [plain, in_segment] = Self::FORMATS;
        let (bytes, segment) = match bytes.first() {
            Some(&format) if format == plain => (bytes, None),
            Some(&format) if format == in_segment => {
                let (bytes, segment) = bytes.split_last_chunk().ok_or_else(corrupt)?;
                (bytes, Some(SegmentId::from_bytes(*segment)))
            }
            Some(&found) if found > in_segment => {
                return Err(StoreError::new(StoreErrorKind::NewerFormat {
                    found: found.into(),
                    supported: in_segment.into(),
                }));
            }
            _ => return Err(corrupt()),
        };
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| corrupt())?;
        let nanos = u32::from_be_bytes(array(bytes, 29));
        if nanos >= 1_000_000_000 {
            return Err(corrupt());
        }
        let provider = match (ProviderKind::from_code(bytes[37]), segment) {
            (Some(ProviderKind::Customer), None) => Provider::Customer,
            (Some(ProviderKind::Service), None) => Provider::Service,
            (Some(ProviderKind::Buffer), Some(segment)) => Provider::Buffer(segment),
            _ => return Err(corrupt()),
        };
        Ok(Self {
            version: Version::new(u64::from_be_bytes(array(bytes, 1))),
            sealed_len: u64::from_be_bytes(array(bytes, 9)),
            page_size: PageSize::new(u32::from_be_bytes(array(bytes, 17)).into()).map_err(|_| corrupt())?,
            stored_at: Duration::new(u64::from_be_bytes(array(bytes, 21)), nanos),
            epoch: Epoch::new(u32::from_be_bytes(array(bytes, 33))),
            provider,
        })
    }
}

/// The `N` bytes at `from`, which the caller knows to be there.
fn array<const N: usize>(bytes: &[u8; BlockMeta::LEN], from: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[from + i])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn meta_decodes_to_what_was_encoded(
            version: u64, sealed_len: u64, log2 in 12u32..=24, secs: u64,
            nanos in 0u32..1_000_000_000, epoch: u32, kind in 0..3, segment: [u8; 16],
        ) {
            let provider = match kind {
                0 => Provider::Customer,
                1 => Provider::Service,
                _ => Provider::Buffer(SegmentId::from_bytes(segment)),
            };
            let meta = BlockMeta {
                version: Version::new(version), sealed_len, page_size: PageSize::new(1 << log2).unwrap(),
                stored_at: Duration::new(secs, nanos), epoch: Epoch::new(epoch), provider,
            };
            prop_assert_eq!(BlockMeta::decode(&meta.encode()).unwrap(), meta);
        }

        #[test]
        fn meta_of_other_bytes_is_refused_or_encodes_to_them(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(meta) = BlockMeta::decode(&bytes) {
                prop_assert_eq!(&meta.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn meta_of_a_newer_format_is_said_to_be_that() {
        let error = BlockMeta::decode(&[3; 60]).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NewerFormat { found: 3, supported: 2 });
    }
}
