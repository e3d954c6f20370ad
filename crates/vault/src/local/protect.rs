//! What a passphrase protects a local vault's file with.
//!
//! Guarantees: Argon2id turns the passphrase into keys once; a KEK is sealed bound to its vault, name and
//! version; the file's bytes are authenticated. Passphrase, keys and Argon2's memory are wiped. A file can't
//! ask for more than [`PassphraseCost`] allows. Not its job: the file's layout.

use std::fmt;

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use argon2::{Algorithm, Argon2, Block, Params};
use cofferdam_crypto::kw::Kek;
use hkdf::hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::LocalVaultError;
use crate::Entropy;

pub(super) const SALT_LEN: usize = 16;
pub(super) const CHECK_LEN: usize = 16;
pub(super) const NONCE_LEN: usize = 12;
const GCM_TAG_LEN: usize = 16;
pub(super) const SEALED_LEN: usize = Kek::LEN + GCM_TAG_LEN;
pub(super) const TAG_LEN: usize = 32;

/// What a sealed key is: the first part of its AAD.
const AES_KEK: &str = "cofferdam local vault 1 kek";
const RSA_KEK: &str = "cofferdam local vault 2 rsa kek";

/// What a vault is protected with. Wiped on drop; compared as the bytes that were given, without normalising.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// The passphrase of this text, which is wiped with it.
    ///
    /// # Errors
    /// [`LocalVaultError::EmptyPassphrase`] when it has no characters.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Result<Self, LocalVaultError> {
        let text = text.into();
        if text.is_empty() { Err(LocalVaultError::EmptyPassphrase) } else { Ok(Self(text)) }
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// What one guess at a passphrase costs: Argon2id's parameters (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassphraseCost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl PassphraseCost {
    /// RFC 9106, section 4, second recommended option: 64 MiB, 3 passes, 4 lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    const MAX_MEMORY_KIB: u32 = 1024 * 1024;
    const MAX_PASSES: u32 = 16;
    const MAX_LANES: u32 = 16;
    /// 4 GiB written in all: some seconds.
    const MAX_WORK_KIB: u64 = 4 * 1024 * 1024;

    /// A cost of so much memory in KiB, so many passes over it, in so many lanes.
    ///
    /// Less than [`Self::RECOMMENDED`] is for tests: it makes guessing cheap.
    ///
    /// # Errors
    /// [`LocalVaultError::BadCost`] below 8 KiB a lane, above 1 GiB, 16 passes or 16 lanes, or when memory
    /// times passes is above 4 GiB.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, LocalVaultError> {
        let cost = Self { memory_kib, passes, lanes };
        cost.check().map_err(|what| LocalVaultError::BadCost { what })?;
        Ok(cost)
    }

    /// A cost from a file may have any numbers.
    pub(super) fn check(self) -> Result<(), &'static str> {
        let Self { memory_kib, passes, lanes } = self;
        if !(1..=Self::MAX_LANES).contains(&lanes) {
            Err("lanes must be 1 to 16")
        } else if !(1..=Self::MAX_PASSES).contains(&passes) {
            Err("passes must be 1 to 16")
        } else if !(8 * lanes..=Self::MAX_MEMORY_KIB).contains(&memory_kib) {
            Err("memory must be 8 KiB a lane to 1 GiB")
        } else if u64::from(memory_kib) * u64::from(passes) > Self::MAX_WORK_KIB {
            Err("memory times passes must be at most 4 GiB")
        } else {
            Ok(())
        }
    }
}

impl Default for PassphraseCost {
    fn default() -> Self {
        Self::RECOMMENDED
    }
}

/// The keys that a passphrase gives, with what they were derived from.
pub(super) struct FileKeys {
    cost: PassphraseCost,
    salt: [u8; SALT_LEN],
    seal: Box<Zeroizing<[u8; 32]>>,
    mac: Box<Zeroizing<[u8; 32]>>,
    check: [u8; CHECK_LEN],
}

impl FileKeys {
    /// Runs Argon2id. `cost` must have been checked.
    pub(super) fn derive(
        passphrase: &Passphrase,
        cost: PassphraseCost,
        salt: [u8; SALT_LEN],
    ) -> Result<Self, LocalVaultError> {
        let bad = |_| LocalVaultError::BadCost { what: "Argon2id does not take it" };
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(bad)?;
        let mut memory = Memory::allocate(params.block_count())?;
        let mut prk = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into_with_memory(passphrase.0.as_bytes(), &salt, &mut *prk, &mut memory.0)
            .map_err(bad)?;

        let mut keys = Self {
            cost,
            salt,
            seal: Box::new(Zeroizing::new([0; 32])),
            mac: Box::new(Zeroizing::new([0; 32])),
            check: [0; CHECK_LEN],
        };
        expand(&prk, b"cofferdam local vault 1 seal", &mut **keys.seal);
        expand(&prk, b"cofferdam local vault 1 mac", &mut **keys.mac);
        expand(&prk, b"cofferdam local vault 1 check", &mut keys.check);
        Ok(keys)
    }

    pub(super) fn cost(&self) -> PassphraseCost {
        self.cost
    }

    pub(super) fn salt(&self) -> &[u8; SALT_LEN] {
        &self.salt
    }

    /// Tells a wrong passphrase from a changed file. Not a secret: it helps a guesser no more than the tag.
    pub(super) fn check(&self) -> &[u8; CHECK_LEN] {
        &self.check
    }

    /// HMAC-SHA-256.
    pub(super) fn tag(&self, bytes: &[u8]) -> [u8; TAG_LEN] {
        hmac(&self.mac, &[bytes]).finalize().into_bytes().into()
    }

    /// In constant time.
    pub(super) fn verify(&self, bytes: &[u8], tag: &[u8; TAG_LEN]) -> bool {
        hmac(&self.mac, &[bytes]).verify_slice(tag).is_ok()
    }

    /// AES-256-GCM under a random nonce: some keys a vault, each sealed once, far from any bound.
    pub(super) fn seal(
        &self,
        kek: &Kek,
        place: &Place<'_>,
        entropy: &dyn Entropy,
    ) -> Result<([u8; NONCE_LEN], [u8; SEALED_LEN]), LocalVaultError> {
        let mut sealed = Zeroizing::new([0; SEALED_LEN]);
        let (text, tag) = sealed.split_at_mut(Kek::LEN);
        text.copy_from_slice(kek.expose());
        let nonce = self.seal_in_place(text, tag, &place.aad(AES_KEK), entropy)?;
        Ok((nonce, *sealed))
    }

    /// The same of an RSA KEK in PKCS#8: as long, and a tag.
    pub(super) fn seal_rsa(
        &self,
        pkcs8: &[u8],
        place: &Place<'_>,
        entropy: &dyn Entropy,
    ) -> Result<([u8; NONCE_LEN], Vec<u8>), LocalVaultError> {
        let mut sealed = Zeroizing::new(vec![0; pkcs8.len() + GCM_TAG_LEN]);
        let (text, tag) = sealed.split_at_mut(pkcs8.len());
        text.copy_from_slice(pkcs8);
        let nonce = self.seal_in_place(text, tag, &place.aad(RSA_KEK), entropy)?;
        Ok((nonce, std::mem::take(&mut *sealed)))
    }

    fn seal_in_place(
        &self,
        text: &mut [u8],
        tag: &mut [u8],
        aad: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<[u8; NONCE_LEN], LocalVaultError> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce)?;
        let computed = self
            .cipher()
            .encrypt_inout_detached(&nonce.into(), aad, text.into())
            .map_err(|_| LocalVaultError::Defect { what: "AES-GCM refused a key's few bytes" })?;
        tag.copy_from_slice(&computed);
        Ok(nonce)
    }

    /// None when it was sealed under another key or for another place.
    pub(super) fn unseal(
        &self,
        nonce: &[u8; NONCE_LEN],
        sealed: &[u8; SEALED_LEN],
        place: &Place<'_>,
    ) -> Option<Kek> {
        let (text, tag) = sealed.split_at(Kek::LEN);
        Kek::try_from_fn(|key| {
            key.copy_from_slice(text);
            self.unseal_in_place(nonce, key, tag, &place.aad(AES_KEK)).ok_or(())
        })
        .ok()
    }

    /// The same of an RSA KEK: its PKCS#8.
    pub(super) fn unseal_rsa(
        &self,
        nonce: &[u8; NONCE_LEN],
        sealed: &[u8],
        place: &Place<'_>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let (text, tag) = sealed.split_at_checked(sealed.len().checked_sub(GCM_TAG_LEN)?)?;
        let mut pkcs8 = Zeroizing::new(text.to_vec());
        self.unseal_in_place(nonce, &mut pkcs8, tag, &place.aad(RSA_KEK))?;
        Some(pkcs8)
    }

    fn unseal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        text: &mut [u8],
        tag: &[u8],
        aad: &[u8],
    ) -> Option<()> {
        let tag: [u8; GCM_TAG_LEN] = tag.try_into().ok()?;
        self.cipher().decrypt_inout_detached(&(*nonce).into(), aad, text.into(), &tag.into()).ok()
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&**self.seal).into())
    }
}

/// HKDF-Expand (RFC 5869) to at most 32 bytes: the one block T(1).
fn expand(prk: &[u8; 32], info: &[u8], okm: &mut [u8]) {
    let block = Zeroizing::new(<[u8; 32]>::from(hmac(prk, &[info, &[1]]).finalize().into_bytes()));
    okm.copy_from_slice(&block[..okm.len()]);
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Hmac<Sha256> {
    // HMAC pads a key to its hash's block with zeros: done here, so that no length can be wrong.
    let mut block = Zeroizing::new([0; 64]);
    block[..key.len()].copy_from_slice(key);
    let mut hmac = Hmac::<Sha256>::new((&*block).into());
    parts.iter().for_each(|part| hmac.update(part));
    hmac
}

/// Where a KEK belongs.
pub(super) struct Place<'a> {
    pub(super) vault: &'a str,
    pub(super) name: &'a str,
    pub(super) version: &'a str,
}

impl Place<'_> {
    /// No part can hold a NUL, so none can run into another.
    fn aad(&self, of: &str) -> Vec<u8> {
        [of, self.vault, self.name, self.version].join("\0").into_bytes()
    }
}

/// Argon2's memory, wiped on drop.
struct Memory(Vec<Block>);

impl Memory {
    fn allocate(blocks: usize) -> Result<Self, LocalVaultError> {
        let mut memory = Vec::new();
        memory
            .try_reserve_exact(blocks)
            .map_err(|_| LocalVaultError::BadCost { what: "there is not so much memory here" })?;
        memory.resize(blocks, Block::default());
        Ok(Self(memory))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Zeroize::zeroize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(passphrase: &str) -> FileKeys {
        let cost = PassphraseCost::new(8, 1, 1).unwrap();
        let passphrase = Passphrase::new(passphrase.to_owned()).unwrap();
        FileKeys::derive(&passphrase, cost, [7; SALT_LEN]).unwrap()
    }

    const PLACE: Place<'_> = Place { vault: "v", name: "k", version: "1" };

    #[derive(Debug)]
    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) -> Result<(), cofferdam_crypto::EntropyError> {
            out.fill(9);
            Ok(())
        }
    }

    #[test]
    fn a_kek_unseals_in_its_place_under_its_passphrase_alone() {
        let kek = Kek::try_from_fn(|k| -> Result<(), std::convert::Infallible> {
            k.fill(5);
            Ok(())
        })
        .unwrap();
        let (nonce, sealed) = keys("a").seal(&kek, &PLACE, &Fixed).unwrap();
        assert_eq!(keys("a").unseal(&nonce, &sealed, &PLACE).unwrap().expose(), kek.expose());
        assert!(keys("b").unseal(&nonce, &sealed, &PLACE).is_none());
        for place in
            [Place { vault: "w", ..PLACE }, Place { name: "l", ..PLACE }, Place { version: "2", ..PLACE }]
        {
            assert!(keys("a").unseal(&nonce, &sealed, &place).is_none());
        }
        for bit in 0..SEALED_LEN * 8 {
            let mut bad = sealed;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(keys("a").unseal(&nonce, &bad, &PLACE).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn costs_out_of_bounds_are_refused_before_any_memory_is_taken() {
        for (memory, passes, lanes) in [
            (7, 1, 1),
            (8, 0, 1),
            (8, 17, 1),
            (8, 1, 0),
            (8, 1, 2),
            (1 << 20, 1, 17),
            ((1 << 20) + 1, 1, 1),
            (u32::MAX, 1, 1),
            (1 << 20, 5, 1),
            (u32::MAX, u32::MAX, u32::MAX),
        ] {
            assert!(
                matches!(PassphraseCost::new(memory, passes, lanes), Err(LocalVaultError::BadCost { .. })),
                "{memory} KiB, {passes} passes, {lanes} lanes"
            );
        }
        assert!(PassphraseCost::RECOMMENDED.check().is_ok());
    }

    #[test]
    fn derivation_is_what_another_implementation_computes() {
        // Python's cryptography 48 (OpenSSL): Argon2id(salt=b"somesaltsomesalt", length=32, iterations=2, lanes=2,
        // memory_cost=64).derive(b"password"), then HMAC-SHA-256 of b"cofferdam local vault 1 check\x01" under it.
        let cost = PassphraseCost::new(64, 2, 2).unwrap();
        let passphrase = Passphrase::new("password".to_owned()).unwrap();
        let keys = FileKeys::derive(&passphrase, cost, *b"somesaltsomesalt").unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(keys.check()), "76d290d44b2427f800aa3a8ff488fa67");
    }

    #[test]
    fn passphrases_print_nothing() {
        assert_eq!(format!("{:?}", Passphrase::new("hunter2".to_owned()).unwrap()), "Passphrase(..)");
        assert!(matches!(Passphrase::new(String::new()), Err(LocalVaultError::EmptyPassphrase)));
    }
}
