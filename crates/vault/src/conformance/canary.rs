//! A key that is recognised wherever it is printed.

use cofferdam_crypto::{Aek, EntropyError};
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

use crate::Entropy;

/// An AEK of printable characters, so that it is found also where its bytes were taken for text.
pub(super) struct Canary {
    aek: Aek,
    /// How it may be written, and what to look for.
    spellings: Vec<(&'static str, Zeroizing<Vec<u8>>)>,
}

impl Canary {
    /// A random one.
    pub(super) fn draw(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let aek = Aek::try_from_fn(|bytes| {
            entropy.fill(bytes)?;
            bytes.iter_mut().for_each(|byte| *byte = LETTERS[usize::from(*byte % 32)]);
            Ok::<_, EntropyError>(())
        })?;
        let bytes = aek.expose();
        // A part is enough: what is printed may be cut short. Base64 of a part in the middle depends on where it begins.
        let part = &bytes[..12];
        let decimal: Vec<String> = part.iter().map(u8::to_string).collect();
        let spellings = [
            ("as text", part.to_vec()),
            ("in hex", HEXLOWER.encode(part).into_bytes()),
            ("in hex", HEXUPPER.encode(part).into_bytes()),
            ("in base64", BASE64_NOPAD.encode(part).into_bytes()),
            ("in base64", BASE64URL_NOPAD.encode(part).into_bytes()),
            ("as numbers", decimal.join(", ").into_bytes()),
            ("as numbers", decimal.join(",").into_bytes()),
        ];
        let spellings = spellings.map(|(how, spelling)| (how, Zeroizing::new(spelling))).into();
        Ok(Self { aek, spellings })
    }

    pub(super) fn aek(&self) -> &Aek {
        &self.aek
    }

    /// How it is written in there, if it is.
    pub(super) fn found_in(&self, text: &[u8]) -> Option<&'static str> {
        let is_in = |spelling: &[u8]| text.windows(spelling.len()).any(|window| window == spelling);
        self.spellings.iter().find(|(_, spelling)| is_in(spelling)).map(|(how, _)| *how)
    }
}
