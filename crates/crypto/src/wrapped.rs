//! AEKs as they are stored: wrapped by KEKs, with a key check value.
//!
//! Guarantees: what a vault unwraps is used only after [`WrappedAek::verify`] has found it to be the AEK of
//! that account, epoch and provider; an epoch that follows another says so under that one's key. Not its job: to wrap
//! (a vault's), to authenticate the record (the catalog's, by a [`RecordKey`]).

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    Aek, KeyId, KeyScope, RecordKey, RecordTag,
    derive::{Info, Prk, label},
};

/// How a KEK wrapped a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WrapAlgorithm {
    /// AES key wrap with a 256-bit KEK (RFC 3394): 40 bytes for an AEK.
    #[serde(rename = "A256KW")]
    Aes256Kw,
    /// RSA-OAEP with SHA-256, MGF1 with SHA-256 and no label (RFC 8017, 7.1): as many bytes as the modulus has.
    #[serde(rename = "RSA-OAEP-256")]
    RsaOaep256,
    /// AWS KMS, SYMMETRIC_DEFAULT: AES-256-GCM in a format of its own, with an encryption context; at most 6 KiB.
    #[serde(rename = "AWS-KMS")]
    AwsKms,
    /// HashiCorp Vault's and OpenBao's Transit: AES-256-GCM in a text of its own (`vault:v1:...`), with AAD; at most
    /// 6 KiB.
    #[serde(rename = "TRANSIT")]
    Transit,
}

/// The longest wrap of a vault that has a format of its own, in bytes: what AWS KMS answers at most.
const MAX_FOREIGN_LEN: usize = 6 << 10;

impl WrapAlgorithm {
    /// Whether a wrapped AEK can have this length, in bytes.
    pub const fn accepts_len(self, len: usize) -> bool {
        match self {
            Self::Aes256Kw => len == Aek::LEN + 8,
            Self::RsaOaep256 => matches!(len, 256 | 384 | 512),
            // Neither format is shorter than the key and a GCM tag.
            Self::AwsKms | Self::Transit => Aek::LEN + 16 <= len && len <= MAX_FOREIGN_LEN,
        }
    }
}

/// A wrapped key as its vault answered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// The KEK, with its version.
    pub key_id: KeyId,
    /// How it was wrapped.
    pub algorithm: WrapAlgorithm,
    /// The wrapped key.
    #[serde(with = "hex")]
    pub bytes: Vec<u8>,
}

/// The length of a key check value, in bytes.
pub const CHECK_LEN: usize = 16;

/// Tells whether a key is the expected one, without telling anything of the key.
///
/// HKDF of the AEK, bound to account, epoch and provider. Not a secret.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyCheckValue(#[serde(with = "hex")] [u8; CHECK_LEN]);

impl KeyCheckValue {
    /// The check value of this AEK.
    pub fn derive(aek: &Aek, scope: &KeyScope) -> Self {
        let mut okm = Zeroizing::new([0; 32]);
        Prk::extract(label::AEK, scope, &[], aek).expand(&Info::new(b"V"), &mut okm);
        let mut check = [0; CHECK_LEN];
        check.copy_from_slice(&okm[..CHECK_LEN]);
        Self(check)
    }
}

impl PartialEq for KeyCheckValue {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyCheckValue {}

impl fmt::Debug for KeyCheckValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyCheckValue({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Tells that an epoch was made by who held the one directly before it.
///
/// Who has a KEK's public half can wrap an AEK of their own and make its check value; this they can't make. Not a secret.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpochTag(#[serde(with = "hex")] RecordTag);

impl PartialEq for EpochTag {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for EpochTag {}

impl fmt::Debug for EpochTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochTag({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// An AEK as it is stored: its scope, its check value and its wraps, one for each KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedAek {
    /// Which AEK it is.
    pub scope: KeyScope,
    /// What the unwrapped key must answer to.
    pub check: KeyCheckValue,
    /// The key under each KEK.
    pub wraps: Vec<WrappedKey>,
    /// The tag of this epoch under the record key of the one directly before it; `None` where none was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<EpochTag>,
}

impl WrappedAek {
    /// The record of this AEK under these wraps, of an account's first epoch.
    pub fn new(aek: &Aek, scope: KeyScope, wraps: Vec<WrappedKey>) -> Self {
        Self { scope, check: KeyCheckValue::derive(aek, &scope), wraps, follows: None }
    }

    /// The same, as the epoch that follows the one of this record key.
    #[must_use]
    pub fn following(self, previous: &RecordKey) -> Self {
        let follows = Some(EpochTag(previous.epoch_tag(&self.scope, &self.check.0)));
        Self { follows, ..self }
    }

    /// Whether it was made to follow the epoch of this record key, and nothing of it but its wraps was changed since.
    pub fn follows(&self, previous: &RecordKey) -> bool {
        self.follows == Some(EpochTag(previous.epoch_tag(&self.scope, &self.check.0)))
    }

    /// Whether an unwrapped key is this AEK.
    ///
    /// # Errors
    /// [`KeyMismatch`] when it isn't: a vault that answers with another key must not be obeyed.
    pub fn verify(&self, aek: &Aek) -> Result<(), KeyMismatch> {
        if KeyCheckValue::derive(aek, &self.scope) == self.check {
            Ok(())
        } else {
            Err(KeyMismatch { scope: self.scope })
        }
    }
}

/// A vault unwrapped something that is not the AEK it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the unwrapped key is not the AEK of {scope}: its check value differs")]
pub struct KeyMismatch {
    /// Which AEK was expected.
    pub scope: KeyScope,
}

/// Bytes as lower-case hex in a record.
pub(crate) mod hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(bytes.as_ref()))
    }

    pub(crate) fn deserialize<'de, D, T>(d: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<Vec<u8>>,
    {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        let len = bytes.len();
        T::try_from(bytes).map_err(|_| D::Error::custom(format!("hex of {len} bytes has the wrong length")))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::{AccountId, Epoch, Provider, kw::Kek};

    fn aek(byte: u8) -> Aek {
        Aek::try_from_fn(|k| {
            k.fill(byte);
            Ok::<_, Infallible>(())
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

    fn record() -> WrappedAek {
        let kek = Kek::try_from_fn(|k| {
            k.fill(9);
            Ok::<_, Infallible>(())
        })
        .unwrap();
        let wrap = WrappedKey {
            key_id: KeyId::new("local://customer/keys/payroll/1").unwrap(),
            algorithm: WrapAlgorithm::Aes256Kw,
            bytes: kek.wrap(&aek(7)).to_vec(),
        };
        WrappedAek::new(&aek(7), scope(), vec![wrap])
    }

    #[test]
    fn an_unwrapped_key_is_taken_only_for_the_aek_of_its_own_account_epoch_and_provider() {
        assert_eq!(record().verify(&aek(7)), Ok(()));
        assert_eq!(record().verify(&aek(8)), Err(KeyMismatch { scope: scope() }), "another key");
        let elsewhere = [
            KeyScope { account: AccountId::from_bytes([0xa2; 16]), ..scope() },
            KeyScope { epoch: Epoch::new(2), ..scope() },
            KeyScope { provider: Provider::Service, ..scope() },
        ];
        for scope in elsewhere {
            let moved = WrappedAek { scope, ..record() };
            assert_eq!(moved.verify(&aek(7)), Err(KeyMismatch { scope }), "the record moved to {scope}");
        }
    }

    #[test]
    fn a_record_reads_back_from_json_as_it_was_written() {
        let json = serde_json::to_string(&record()).unwrap();
        assert_eq!(serde_json::from_str::<WrappedAek>(&json).unwrap(), record());
        assert_eq!(serde_json::from_slice::<WrappedAek>(json.as_bytes()).unwrap(), record());
        assert_eq!(serde_json::from_reader::<_, WrappedAek>(json.as_bytes()).unwrap(), record());
        assert!(json.contains(r#""algorithm":"A256KW""#), "{json}");
        assert!(json.contains(r#""epoch":1,"provider":"customer""#), "{json}");
    }

    #[test]
    fn a_record_with_a_check_value_of_another_length_is_not_read() {
        let json = serde_json::to_value(record()).unwrap();
        for check in ["", "00", &"0".repeat(30), &"0".repeat(34), &"g".repeat(32), &"0".repeat(31)] {
            let mut bad = json.clone();
            bad["check"] = check.into();
            assert!(serde_json::from_value::<WrappedAek>(bad).is_err(), "{check:?}");
        }
    }

    fn second() -> KeyScope {
        KeyScope { epoch: Epoch::new(2), ..scope() }
    }

    #[test]
    fn an_epoch_follows_the_key_that_it_was_made_under_and_no_other() {
        let first = RecordKey::derive(&aek(7), &scope());
        let of = WrappedAek::new(&aek(8), second(), record().wraps).following(&first);
        assert!(of.follows(&first));
        assert!(WrappedAek { wraps: Vec::new(), ..of.clone() }.follows(&first), "wraps may change");
        assert!(!of.follows(&RecordKey::derive(&aek(9), &scope())), "another key before it");
        assert!(!of.follows(&RecordKey::derive(&aek(7), &second())), "the same key, as another epoch");
        let elsewhere = [
            KeyScope { account: AccountId::from_bytes([0xa2; 16]), ..second() },
            KeyScope { epoch: Epoch::new(3), ..second() },
            KeyScope { provider: Provider::Service, ..second() },
        ];
        for scope in elsewhere {
            assert!(!WrappedAek { scope, ..of.clone() }.follows(&first), "moved to {scope}");
        }
        let forged = WrappedAek::new(&aek(9), second(), record().wraps);
        assert!(!forged.follows(&first), "no tag");
        assert!(!WrappedAek { follows: of.follows, ..forged }.follows(&first), "the tag of another AEK");
        for bit in 0..256 {
            let mut bad = of.clone();
            bad.follows.as_mut().unwrap().0[bit / 8] ^= 1 << (bit % 8);
            assert!(!bad.follows(&first), "bit {bit}");
        }
    }

    #[test]
    fn an_epochs_tag_is_no_records_tag() {
        let first = RecordKey::derive(&aek(7), &scope());
        let of = WrappedAek::new(&aek(8), second(), Vec::new()).following(&first);
        let EpochTag(tag) = of.follows.unwrap();
        let scope = second();
        let said = [scope.account.as_bytes(), &scope.epoch.number().to_be_bytes()[..]].concat();
        let said = [&said[..], &[scope.provider.code()], &of.check.0].concat();
        assert!(!first.verify(&said, &tag) && !first.verify_segment(&said, &tag));
    }

    #[test]
    fn what_an_epoch_follows_reads_back_and_is_not_written_where_there_is_nothing() {
        assert!(!serde_json::to_string(&record()).unwrap().contains("follows"));
        let of = WrappedAek::new(&aek(8), second(), record().wraps)
            .following(&RecordKey::derive(&aek(7), &scope()));
        let json = serde_json::to_string(&of).unwrap();
        assert_eq!(serde_json::from_str::<WrappedAek>(&json).unwrap(), of);
        let mut bad = serde_json::to_value(&of).unwrap();
        bad["follows"] = "00".into();
        assert!(serde_json::from_value::<WrappedAek>(bad).is_err());
    }

    #[test]
    fn only_a_wrapped_aeks_length_is_accepted() {
        let accepted: Vec<_> = (0..10_000).filter(|&len| WrapAlgorithm::Aes256Kw.accepts_len(len)).collect();
        assert_eq!(accepted, [crate::kw::WRAPPED_LEN]);
        for foreign in [WrapAlgorithm::AwsKms, WrapAlgorithm::Transit] {
            assert!(foreign.accepts_len(48) && foreign.accepts_len(6144));
            assert!(!foreign.accepts_len(0) && !foreign.accepts_len(47) && !foreign.accepts_len(6145));
        }
    }

    #[test]
    fn check_values_tell_keys_and_scopes_apart() {
        let value = KeyCheckValue::derive(&aek(7), &scope());
        assert_eq!(value, KeyCheckValue::derive(&aek(7), &scope()));
        assert_ne!(value, KeyCheckValue::derive(&aek(8), &scope()));
        assert_ne!(value, KeyCheckValue::derive(&aek(7), &KeyScope { epoch: Epoch::new(2), ..scope() }));
    }
}
