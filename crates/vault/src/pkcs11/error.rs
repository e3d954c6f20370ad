//! What can go wrong with a token, and what its answers mean.
//!
//! Guarantees: every answer (a CKR code, and the function that gave it) has one kind, in one table that `docs/vault-pkcs11.md`
//! repeats. Only two things are the customer's word: a key that may not be used for this, and a key that is not there on a
//! token that is. An answer that a broken wrap and a broken token share is no denial either way.

use std::{fmt, path::PathBuf};

use cofferdam_crypto::{EntropyError, KeyId, rsa::RsaError};
use cryptoki::{
    context::Function,
    error::{Error as CryptokiError, RvError},
};
use thiserror::Error;

use super::pin::PinError;
use crate::{KeyKind, VaultError, VaultErrorKind as Kind, WorkLost};

/// Why something with a token did not work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Pkcs11Error {
    /// The library can't be loaded.
    #[error(
        "can't load the PKCS #11 library {path} ({why}): give the path of the one that came with the HSM"
    )]
    Library {
        /// The library's file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A label can't be one.
    #[error(
        "{label:?} can't name a {what}: a token's label has 1 to 32 bytes and no blank at its end, a key's 1 to 255 bytes"
    )]
    BadLabel {
        /// What was to be named.
        what: &'static str,
        /// The label.
        label: String,
    },
    /// No slot holds the token.
    #[error("the token {token} is not there: connect it, and see that its library finds it")]
    TokenMissing {
        /// The token's label.
        token: String,
    },
    /// Two slots hold a token of that label.
    #[error("two tokens are labelled {token}: give each a label of its own")]
    TokenTwice {
        /// The label of both.
        token: String,
    },
    /// Another token of that label has taken the place of the one that was first seen.
    #[error(
        "the token {token} has serial number {found}, but was {expected} before: open the vault again if it was replaced"
    )]
    TokenReplaced {
        /// The token's label.
        token: String,
        /// Its serial number before.
        expected: String,
        /// Its serial number now.
        found: String,
    },
    /// The token refused the PIN, now or before; it is not asked again with the same one.
    #[error(
        "the token {token} refused this PIN, which is not tried again since tokens lock: give another one, or forget the \
         refusal if the token's PIN was changed"
    )]
    PinRefused {
        /// The token's label.
        token: String,
    },
    /// The token is locked after too many wrong PINs.
    #[error("the token {token} has locked its PIN: its security officer must set a new one")]
    PinLocked {
        /// The token's label.
        token: String,
    },
    /// There is no PIN to be had.
    #[error("no PIN for the token {token}: {source}")]
    Pin {
        /// The token's label.
        token: String,
        /// Why not.
        source: PinError,
    },
    /// The token can't wrap by RSA-OAEP with SHA-256.
    #[error(
        "the token {token} can't do RSA-OAEP with SHA-256 (SoftHSM2 can't): use an AES-256 key in it, or another token"
    )]
    NoOaepSha256 {
        /// The token's label.
        token: String,
    },
    /// A key of a kind that other vaults have was asked for.
    #[error("a token makes no key of kind {kind}: use aes-256, rsa-2048, rsa-3072 or rsa-4096")]
    KindOfOthers {
        /// The kind.
        kind: KeyKind,
    },
    /// Something is with the key.
    #[error("{fault} (key {key_id})")]
    Key {
        /// The key.
        key_id: KeyId,
        /// What it is.
        fault: KeyFault,
    },
    /// The token or its library refused.
    #[error("the token answered {0}")]
    Answered(Answer),
    /// The library said something that PKCS #11 has not.
    #[error("the token's library said what PKCS #11 does not allow ({why}): look for a newer one")]
    Malformed {
        /// What.
        why: String,
    },
    /// There were no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// An RSA key could not be used.
    #[error(transparent)]
    Rsa(#[from] RsaError),
    /// The work could not be run.
    #[error(transparent)]
    Lost(#[from] WorkLost),
}

/// What is with a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// The key id is none of this token's.
    #[error("not a key of the token {token}: {why}")]
    BadId {
        /// The token's label.
        token: String,
        /// What is wrong with it, and what one looks like.
        why: &'static str,
    },
    /// There is none.
    #[error("the token has no such key: list its objects when logged in")]
    NotFound,
    /// There is one.
    #[error("the token has a key of that label: make a new version of it, or choose another label")]
    Exists,
    /// It may not be used for this.
    #[error(
        "the key is disabled, its attributes do not permit this: enable it (CKA_WRAP and CKA_UNWRAP; CKA_DECRYPT)"
    )]
    Disabled,
    /// Its end date is over.
    #[error("the key has expired: set a later CKA_END_DATE")]
    Expired,
    /// Its start date has not come.
    #[error("the key is not active yet: wait, or set an earlier CKA_START_DATE")]
    NotYetActive,
    /// Several keys have that label, and their ids do not tell which is the latest.
    #[error(
        "several keys have that label, with ids that were not made here: name the id of the one that is meant"
    )]
    Ambiguous,
    /// Two keys have that label and id.
    #[error("two keys have that label and id: give each an id of its own")]
    Twice,
    /// It has no id, so nothing would tell its version.
    #[error("the key has no CKA_ID: give it one")]
    NoId,
    /// It can leave the token.
    #[error(
        "the key can leave its token ({why}), so it is no KEK: make one that is sensitive and not extractable"
    )]
    Exposed {
        /// Which attribute permits it.
        why: &'static str,
    },
    /// It is of a kind that is not used here.
    #[error("the key is {found}: use AES with 256 bits, or RSA with 2048, 3072 or 4096")]
    WrongKind {
        /// What it is.
        found: String,
    },
    /// What was to be unwrapped is no wrap of this key's.
    #[error("{why}: restore the account's record")]
    Corrupt {
        /// What was wrong.
        why: String,
    },
    /// It has no public half.
    #[error("this is no RSA key, so it has no public half: ask for its properties first")]
    NotRsa,
    /// The token does not let its attributes be changed.
    #[error("the token does not let this key be changed ({answer}): do it with the HSM's own tools")]
    Fixed {
        /// What the token answered.
        answer: Answer,
    },
}

/// What a token or its library answered: the code, and to which function. Without any secret.
#[derive(Clone, Copy)]
pub struct Answer {
    pub(super) function: Function,
    pub(super) code: RvError,
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Answer {}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to C_{:?}", self.code, self.function)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What must be made anew before it is worth asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing: it is an answer.
    Nothing,
    /// The session, or what is known of the key.
    Session,
    /// The token.
    Token,
}

impl Answer {
    /// The table.
    pub(super) fn meaning(self) -> (Kind, Loss) {
        use Function as F;
        use RvError as R;
        let unwraps = matches!(self.function, F::UnwrapKey | F::Decrypt);
        let connects = matches!(
            self.function,
            F::Initialize
                | F::GetSlotList
                | F::GetTokenInfo
                | F::OpenSession
                | F::GetSessionInfo
                | F::Login
                | F::FindObjectsInit
                | F::FindObjects
        );
        match self.code {
            R::SessionHandleInvalid | R::SessionClosed | R::OperationActive => (Kind::Unavailable, Loss::Session),
            R::UserNotLoggedIn => (Kind::Unauthenticated, Loss::Session),
            // It was there a moment ago: look again.
            R::KeyHandleInvalid
            | R::ObjectHandleInvalid
            | R::UnwrappingKeyHandleInvalid
            | R::WrappingKeyHandleInvalid => (Kind::Unavailable, Loss::Session),
            R::DeviceRemoved
            | R::TokenNotPresent
            | R::TokenNotRecognized
            | R::SlotIdInvalid
            | R::CryptokiNotInitialized => (Kind::Unavailable, Loss::Token),
            R::EncryptedDataInvalid
            | R::EncryptedDataLenRange
            | R::WrappedKeyInvalid
            | R::WrappedKeyLenRange
            | R::DataInvalid
            | R::DataLenRange
            | R::KeySizeRange
            // What SoftHSM2 and Kryoptic say of a wrap that was tampered with.
            | R::GeneralError
            | R::DeviceError
            | R::FunctionFailed
                if unwraps =>
            {
                (Kind::Corrupt, Loss::Nothing)
            }
            // The last is how a vendor tells of a lost connection in its own words.
            R::GeneralError | R::DeviceError | R::VendorDefined(_) if connects => {
                (Kind::Unavailable, Loss::Token)
            }
            R::GeneralError | R::DeviceError | R::VendorDefined(_) => (Kind::Unavailable, Loss::Session),
            R::FunctionFailed | R::FunctionCanceled | R::Cancel | R::HostMemory | R::DeviceMemory => {
                (Kind::Unavailable, Loss::Nothing)
            }
            R::KeyFunctionNotPermitted
                if unwraps || matches!(self.function, F::WrapKey | F::DecryptInit) =>
            {
                (Kind::KeyDisabled, Loss::Nothing)
            }
            R::SessionCount => (Kind::Throttled { retry_after: None }, Loss::Nothing),
            R::PinIncorrect
            | R::PinInvalid
            | R::PinLenRange
            | R::PinExpired
            | R::PinLocked
            | R::UserPinNotInitialized
            | R::UserAnotherAlreadyLoggedIn
            | R::UserTooManyTypes => (Kind::Unauthenticated, Loss::Nothing),
            _ => (Kind::Other, Loss::Nothing),
        }
    }
}

impl From<CryptokiError> for Pkcs11Error {
    fn from(error: CryptokiError) -> Self {
        match error {
            CryptokiError::Pkcs11(code, function) => Self::Answered(Answer { function, code }),
            other => Self::Malformed { why: other.to_string() },
        }
    }
}

impl Pkcs11Error {
    pub(super) fn key(key_id: &KeyId, fault: KeyFault) -> Self {
        Self::Key { key_id: key_id.clone(), fault }
    }

    /// What it means when a vault that serves answers so.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Answered(answer) => answer.meaning().0,
            Self::Key { fault, .. } => match fault {
                KeyFault::NotFound => Kind::KeyNotFound,
                KeyFault::Disabled | KeyFault::Expired | KeyFault::NotYetActive => Kind::KeyDisabled,
                KeyFault::Corrupt { .. } => Kind::Corrupt,
                _ => Kind::Other,
            },
            Self::TokenMissing { .. } | Self::Entropy(_) | Self::Lost(_) => Kind::Unavailable,
            Self::PinRefused { .. } | Self::PinLocked { .. } | Self::Pin { .. } => Kind::Unauthenticated,
            _ => Kind::Other,
        }
    }

    pub(super) fn loss(&self) -> Loss {
        match self {
            Self::Answered(answer) => answer.meaning().1,
            Self::TokenMissing { .. } => Loss::Token,
            _ => Loss::Nothing,
        }
    }

    pub(super) fn into_vault_error(self, key_id: &KeyId) -> VaultError {
        // A vault's error names its key at the end.
        let message = match &self {
            Self::Key { fault, .. } => fault.to_string(),
            Self::Answered(answer) if answer.meaning().0 == Kind::KeyDisabled => {
                KeyFault::Disabled.to_string()
            }
            _ => self.to_string(),
        };
        VaultError::new(self.kind(), message).about(key_id).caused_by(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Meaning;

    /// Every code that the table names.
    const CODES: [RvError; 44] = {
        use RvError::*;
        [
            ActionProhibited,
            ArgumentsBad,
            AttributeReadOnly,
            AttributeValueInvalid,
            Cancel,
            CryptokiNotInitialized,
            DataInvalid,
            DataLenRange,
            DeviceError,
            DeviceMemory,
            DeviceRemoved,
            EncryptedDataInvalid,
            EncryptedDataLenRange,
            FunctionCanceled,
            FunctionFailed,
            FunctionNotSupported,
            GeneralError,
            HostMemory,
            KeyFunctionNotPermitted,
            KeyHandleInvalid,
            KeySizeRange,
            KeyUnextractable,
            MechanismInvalid,
            MechanismParamInvalid,
            ObjectHandleInvalid,
            OperationActive,
            PinExpired,
            PinIncorrect,
            PinInvalid,
            PinLenRange,
            PinLocked,
            SessionClosed,
            SessionCount,
            SessionHandleInvalid,
            SessionReadOnly,
            SlotIdInvalid,
            TokenNotPresent,
            TokenNotRecognized,
            TokenWriteProtected,
            UnwrappingKeyHandleInvalid,
            UserAnotherAlreadyLoggedIn,
            UserNotLoggedIn,
            UserPinNotInitialized,
            WrappedKeyLenRange,
        ]
    };
    const MORE: [RvError; 4] = [
        RvError::UserTooManyTypes,
        RvError::WrappedKeyInvalid,
        RvError::WrappingKeyHandleInvalid,
        RvError::VendorDefined(0x8000_0123),
    ];
    const FUNCTIONS: [Function; 15] = {
        use Function::*;
        [
            CreateObject,
            Decrypt,
            DecryptInit,
            DestroyObject,
            FindObjects,
            FindObjectsInit,
            GetAttributeValue,
            GetSessionInfo,
            GetSlotList,
            GetTokenInfo,
            Initialize,
            Login,
            OpenSession,
            UnwrapKey,
            WrapKey,
        ]
    };

    #[test]
    fn the_documented_table_is_the_one_that_is_obeyed() {
        let text = include_str!("../../../../docs/vault-pkcs11.md");
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("| `CKR_"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let ticked =
            |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(String::from).collect() };
        // PKCS #11 writes CKR_PIN_LOCKED what is PinLocked here.
        let plain = |name: &str| name.trim_start_matches("CKR_").replace('_', "").to_lowercase();
        let codes: Vec<RvError> = CODES.into_iter().chain(MORE).collect();
        let named = |name: &str| {
            let of = |code: &&RvError| plain(format!("{code:?}").split('(').next().unwrap()) == plain(name);
            *codes.iter().find(of).unwrap_or_else(|| panic!("the test does not know {name}"))
        };
        let mut seen = BTreeSet::new();
        for row in rows {
            let (kind, again) = (ticked(row[2]).join(""), row[3]);
            for code in ticked(row[0]) {
                let functions: Vec<_> = match row[1] {
                    "any other" => {
                        let new = |f: &Function| !seen.contains(&(plain(&code), format!("{f:?}")));
                        FUNCTIONS.into_iter().filter(new).collect()
                    }
                    named => {
                        let named = ticked(named);
                        let is_named = |f: &Function| named.contains(&format!("C_{f:?}"));
                        let functions: Vec<_> = FUNCTIONS.into_iter().filter(is_named).collect();
                        assert_eq!(functions.len(), named.len(), "the test does not know one of {named:?}");
                        functions
                    }
                };
                for function in functions {
                    let answer = Answer { function, code: named(&code) };
                    let (of, loss) = answer.meaning();
                    let loss = match loss {
                        Loss::Nothing => "no",
                        Loss::Session => "session",
                        Loss::Token => "token",
                    };
                    assert_eq!((of.to_string(), loss), (kind.clone(), again), "{answer}");
                    assert!(seen.insert((plain(&code), format!("{function:?}"))), "{answer} is there twice");
                }
            }
        }
        assert_eq!(seen.len(), codes.len() * FUNCTIONS.len(), "a code or a function is not in the table");
    }

    #[test]
    fn only_a_key_that_may_not_be_used_is_a_denial() {
        for code in CODES.into_iter().chain(MORE) {
            for function in FUNCTIONS {
                let (kind, _) = Answer { function, code }.meaning();
                let is_denial = kind.meaning() != Meaning::Outage;
                let is_forbidden = matches!(code, RvError::KeyFunctionNotPermitted);
                assert!(!is_denial || is_forbidden, "{code:?} to {function:?}");
            }
        }
    }
}
