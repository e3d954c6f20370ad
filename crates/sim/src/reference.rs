//! A second implementation of `docs/format.md`, written from that page alone.
//!
//! Guarantees: it shares no code with `cofferdam-crypto`, so that what both get wrong in the same way is at least a
//! mistake of the page. Not its job: speed, constant time, wiping: the keys of a simulation are no secrets.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

/// What a reader must bring (section 1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) aek: &'a [u8; 32],
    pub(crate) account: &'a [u8; 16],
    pub(crate) epoch: u32,
    pub(crate) provider: u8,
    /// Of a block of a write-only buffer: which segment it is of.
    pub(crate) segment: Option<&'a [u8; 16]>,
    pub(crate) block_id: &'a [u8],
    pub(crate) version: u64,
}

/// Opens a sealed block (section 6), or says at which step it is refused.
pub(crate) fn open(place: &Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, &'static str> {
    let header: &[u8; 76] = sealed.first_chunk().ok_or("step 1: shorter than a header")?;
    if header[..6] != *b"CFDM\x01\x01" {
        return Err("step 1: magic, format or suite");
    }
    let (provider, log2) = (header[6], header[7]);
    if provider != place.provider || header[8..12] != place.epoch.to_be_bytes() {
        return Err("step 2: provider or epoch");
    }
    if !(12..=24).contains(&log2) {
        return Err("step 2: page size");
    }

    let mut extract_salt = b"cofferdam block 1".to_vec();
    extract_salt.extend_from_slice(place.account);
    extract_salt.extend_from_slice(&place.epoch.to_be_bytes());
    extract_salt.extend_from_slice(&[provider, 1]);
    extract_salt.extend_from_slice(place.segment.map_or(&[], |segment| &segment[..]));
    let prk = Hkdf::<Sha256>::new(Some(&extract_salt), place.aek);

    let mut hashed = b"block1".to_vec();
    hashed.push(log2);
    hashed.extend_from_slice(&place.version.to_be_bytes());
    hashed.extend_from_slice(place.block_id);
    let identity: [u8; 32] = Sha256::digest(&hashed).into();

    let expand = |purpose: u8| {
        let mut info = vec![purpose];
        info.extend_from_slice(&header[12..44]);
        info.extend_from_slice(&identity[..21]);
        let mut okm = [0; 32];
        prk.expand(&info, &mut okm).map(|()| okm).map_err(|_| "step 3: expand")
    };
    if expand(b'C')? != header[44..] {
        return Err("step 3: commitment");
    }

    let page = 1usize << log2;
    let body = &sealed[76..];
    let rest = body.len() % (page + 16);
    if body.len() < 16 || (body.len() > page + 16 && (1..=16).contains(&rest)) {
        return Err("step 4: length");
    }
    let cipher = Aes256Gcm::new(&expand(b'K')?.into());
    let pages: Vec<&[u8]> = body.chunks(page + 16).collect();
    let mut plaintext = Vec::new();
    for (number, sealed_page) in pages.iter().enumerate() {
        let mut nonce = [0; 12];
        nonce[7..11].copy_from_slice(&(number as u32).to_be_bytes());
        nonce[11] = u8::from(number + 1 == pages.len());
        let opened = cipher.decrypt(&nonce.into(), Payload { msg: sealed_page, aad: &identity });
        plaintext.extend(opened.map_err(|_| "step 5: a page's tag")?);
    }
    Ok(plaintext)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_the_worked_example_of_the_page_and_nothing_beside_it() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let sealed = hex(concat!(
            "4346444d0101010c00000001",
            "8deca32206317a3cc353859f4bae087fe3451c38fc9296dca522316294fa0bed",
            "6abcc94ff3cef1f4a7b98c27eea6fd1a9bb50838b8b31dc6d39f2635caa71a84",
            "d552711388813bd61d4acb87eaba233983",
            "73c3a3bfc643f0623b0153425ce96afa",
        ));
        let aek = hex("cf28496a611e5d64da4b951852679571f7855e36410e08fcbd5aae661843bf8f");
        let account = hex("aa7a5bce0f62408b970134e0c81be397");
        let place = Place {
            aek: aek.as_slice().try_into().unwrap(),
            account: account.as_slice().try_into().unwrap(),
            epoch: 1,
            provider: 1,
            segment: None,
            block_id: b"greeting",
            version: 1,
        };
        assert_eq!(open(&place, &sealed).unwrap(), b"Hello, cofferdam!");
        assert_eq!(open(&Place { version: 2, ..place }, &sealed), Err("step 3: commitment"));
        for byte in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[byte] ^= 1;
            assert!(open(&place, &bad).is_err(), "byte {byte}");
        }
        assert!(open(&place, &sealed[..sealed.len() - 1]).is_err());
    }
}
