//! A receipt: what an engine found when it was asked whether a KEK version may be disabled, signed.
//!
//! Guarantees: a receipt that verifies was signed by whoever has the seed behind that public key, and not a byte of it was
//! changed; one statement has one spelling. Who checks it needs the public key, and neither the store nor a vault.
//!
//! Three lines of text: the label, the statement as canonical JSON (RFC 8785), the signature in hex. What is signed is the
//! first two with their ends (Ed25519, RFC 8032), so that no signature over anything else is one of a receipt.
//!
//! Not its job: whether the statement is true (the engine's), to keep the seed (the service's).

use std::{fmt, str::FromStr, time::Duration};

use cofferdam_crypto::KeyId;
use cofferdam_crypto::planted::{Bug, is_planted};
use data_encoding::HEXLOWER;
use ed25519_dalek::{SECRET_KEY_LENGTH, Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// The first line, and the label that keeps the signature of a receipt apart from every other.
const LABEL: &str = "cofferdam receipt 1\n";
/// What the label of every format begins with.
const ANY_LABEL: &str = "cofferdam receipt ";
/// What the statement says; another claim would be another word here.
const CLAIM: &str = "safe-to-disable";
/// The longest statement: a key id of which each byte is escaped, and the rest.
const MAX_STATEMENT: usize = 2 * KeyId::MAX_LEN + 1024;
/// The label, the statement, and the signature with its end.
const MAX_LEN: usize = LABEL.len() + MAX_STATEMENT + 1 + 2 * Signature::BYTE_SIZE + 1;
/// Above it JSON's numbers are not exact everywhere.
const MAX_NUMBER: u64 = 1 << 53;

/// What was looked at before it was said that nothing needs a key version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
// In the order of their names, as canonical JSON has them.
pub struct Examined {
    /// Accounts that are live.
    pub accounts: u64,
    /// Archives that were recorded.
    pub archives: u64,
    /// Accounts that were deleted and may still be recovered.
    pub deleted_accounts: u64,
    /// Nodes with a lease.
    pub nodes: u64,
    /// Operations that had not ended.
    pub operations: u64,
    /// Segments of write-only buffers.
    pub segments: u64,
    /// Wraps of AEKs, of all epochs.
    pub wraps: u64,
}

/// What a receipt states, before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The version that nothing needed, and that no wrap is made under any more.
    pub key_id: KeyId,
    /// When, as time since the Unix epoch; whole milliseconds are kept.
    pub issued_at: Duration,
    /// What was looked at.
    pub examined: Examined,
    /// Random bytes, which tell this receipt from every other.
    pub id: [u8; 16],
}

/// A statement as it is spelled. In the order of their names.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spelled {
    claim: String,
    examined: Examined,
    id: String,
    issued_at_ms: u64,
    issuer: String,
    key_id: KeyId,
}

/// The key that receipts are signed with: 32 random bytes of the service's, wiped on drop.
pub struct ReceiptKey {
    seed: Box<Zeroizing<[u8; SECRET_KEY_LENGTH]>>,
    public: ReceiptPublicKey,
}

impl ReceiptKey {
    /// The length of its seed in bytes.
    pub const SEED_LEN: usize = SECRET_KEY_LENGTH;

    /// The key of the seed that `fill` writes: random bytes, or what was kept of them.
    ///
    /// The bytes are written where they stay, so no copy is left on the stack.
    ///
    /// # Errors
    /// What `fill` returns.
    pub fn try_from_fn<E>(fill: impl FnOnce(&mut [u8; Self::SEED_LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut seed = Box::new(Zeroizing::new([0; Self::SEED_LEN]));
        fill(&mut seed)?;
        let public = ReceiptPublicKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        Ok(Self { seed, public })
    }

    /// What checks its receipts.
    pub fn public(&self) -> ReceiptPublicKey {
        self.public
    }

    /// The receipt of a statement.
    ///
    /// # Errors
    /// [`ReceiptError::OutOfRange`] for a number above 2^53, which not every reader of JSON reads exactly.
    pub fn sign(&self, statement: Statement) -> Result<Receipt, ReceiptError> {
        let issued_at_ms =
            u64::try_from(statement.issued_at.as_millis()).map_err(|_| ReceiptError::OutOfRange)?;
        let statement = Statement { issued_at: Duration::from_millis(issued_at_ms), ..statement };
        let signed = spell(&statement, &self.public)?;
        // Made for each: the copy that dalek expands is wiped when it goes.
        let signature = SigningKey::from_bytes(&self.seed).sign(signed.as_bytes());
        Ok(Receipt::new(statement, self.public, signed, signature))
    }
}

impl fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiptKey(..)")
    }
}

/// What receipts are checked with. Printed and read as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReceiptPublicKey([u8; 32]);

impl ReceiptPublicKey {
    /// The public key of these bytes.
    ///
    /// # Errors
    /// [`ReceiptError::NotAPublicKey`] where they are not a point of the curve, or one of so small an order that anybody
    /// could sign under it.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, ReceiptError> {
        match VerifyingKey::from_bytes(bytes) {
            // Another spelling of the same point would be another issuer to who compares text.
            Ok(key) if !key.is_weak() && key.to_bytes() == *bytes => Ok(Self(*bytes)),
            _ => Err(ReceiptError::NotAPublicKey),
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ReceiptPublicKey {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        let bytes: [u8; 32] = hex(text).ok_or(ReceiptError::NotAPublicKey)?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for ReceiptPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ReceiptPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiptPublicKey({self})")
    }
}

/// A signed statement that nothing needs a KEK version any more. What was read from bytes is to be believed once it was
/// found right by [`Self::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt {
    statement: Statement,
    issuer: ReceiptPublicKey,
    signature: Signature,
    /// All three lines; the first `signed` bytes are what the signature is over.
    text: Box<str>,
    signed: usize,
}

impl Receipt {
    fn new(statement: Statement, issuer: ReceiptPublicKey, signed: String, signature: Signature) -> Self {
        let text = format!("{signed}{}\n", HEXLOWER.encode(&signature.to_bytes())).into();
        Self { statement, issuer, signature, text, signed: signed.len() }
    }

    /// What it states.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Who it says has signed it.
    pub fn issuer(&self) -> &ReceiptPublicKey {
        &self.issuer
    }

    /// Its bytes: three lines of ASCII, each with its end.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The receipt of these bytes: read, not yet found right.
    ///
    /// # Errors
    /// [`ReceiptError::Newer`] for a later format, [`ReceiptError::Malformed`] for what no receipt is spelled like.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > MAX_LEN {
            return Err(malformed(format!("it has {} bytes, the most are {MAX_LEN}", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not text"))?;
        let Some(rest) = text.strip_prefix(LABEL) else { return Err(not_this_format(text)) };
        let mut lines = rest.split('\n');
        let (Some(body), Some(signature), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(malformed("it does not have three whole lines"));
        };
        let (statement, issuer) = parse(body)?;
        let signature: [u8; Signature::BYTE_SIZE] =
            hex(signature).ok_or_else(|| malformed("its last line is not 128 lower-case hex digits"))?;
        let signed = spell(&statement, &issuer)?;
        let receipt = Self::new(statement, issuer, signed, Signature::from_bytes(&signature));
        if *receipt.text != *text {
            return Err(malformed("its statement is not spelled as canonical JSON"));
        }
        Ok(receipt)
    }

    /// Whether it was signed with the key behind this public one, and is as it was then.
    ///
    /// # Errors
    /// [`ReceiptError::OtherIssuer`] when it names another issuer, [`ReceiptError::Forged`] when its signature is not right.
    pub fn verify(&self, public: &ReceiptPublicKey) -> Result<(), ReceiptError> {
        if self.issuer != *public {
            return Err(ReceiptError::OtherIssuer { found: self.issuer, expected: *public });
        }
        let key = VerifyingKey::from_bytes(&public.0).map_err(|_| ReceiptError::NotAPublicKey)?;
        match key.verify_strict(&self.as_bytes()[..self.signed], &self.signature) {
            Err(_) if !is_planted(Bug::ReceiptUnchecked) => Err(ReceiptError::Forged),
            _ => Ok(()),
        }
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Receipt {
    /// As it is written to a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({:?}, by {})", self.statement, self.issuer)
    }
}

/// What is wrong with a receipt, or with what it is to be checked with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// It is not spelled like a receipt: another thing, cut off, or added to.
    #[error("this is not a receipt as it was issued: {reason}; ask for it again")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// It is of a later format.
    #[error("this receipt has format {found:?}, this version reads format 1: use a newer one")]
    Newer {
        /// What it says of its format.
        found: String,
    },
    /// Its signature is not that of what it says: it was changed, or forged.
    #[error("the receipt's signature is wrong: it was changed or forged, do not rely on it")]
    Forged,
    /// It names another issuer.
    #[error("the receipt is by {found}, not by {expected}: check it with its issuer's public key")]
    OtherIssuer {
        /// Who it names.
        found: ReceiptPublicKey,
        /// Whose public key it was checked with.
        expected: ReceiptPublicKey,
    },
    /// What should be a public key is none.
    #[error("this is not the public key of an issuer of receipts: give its 64 lower-case hex digits")]
    NotAPublicKey,
    /// A number is too large to be stated exactly.
    #[error("a receipt can't state a number above 2^53 exactly")]
    OutOfRange,
}

fn malformed(reason: impl Into<String>) -> ReceiptError {
    ReceiptError::Malformed { reason: reason.into() }
}

fn not_this_format(text: &str) -> ReceiptError {
    let first = text.lines().next().unwrap_or_default();
    match first.strip_prefix(ANY_LABEL) {
        Some(found) if found.len() <= 20 && found.bytes().all(|b| b.is_ascii_digit()) && found > "1" => {
            ReceiptError::Newer { found: found.into() }
        }
        _ => malformed("it does not begin as one"),
    }
}

/// The label and the statement, as they are signed.
fn spell(statement: &Statement, issuer: &ReceiptPublicKey) -> Result<String, ReceiptError> {
    let Examined { accounts, archives, deleted_accounts, nodes, operations, segments, wraps } =
        statement.examined;
    let issued_at_ms =
        u64::try_from(statement.issued_at.as_millis()).map_err(|_| ReceiptError::OutOfRange)?;
    let numbers = [accounts, archives, deleted_accounts, nodes, operations, segments, wraps, issued_at_ms];
    if numbers.iter().any(|&n| n > MAX_NUMBER) {
        return Err(ReceiptError::OutOfRange);
    }
    let spelled = Spelled {
        claim: CLAIM.into(),
        examined: statement.examined,
        id: HEXLOWER.encode(&statement.id),
        issued_at_ms,
        issuer: issuer.to_string(),
        key_id: statement.key_id.clone(),
    };
    let body = serde_json::to_string(&spelled).map_err(|e| malformed(e.to_string()))?;
    Ok(format!("{LABEL}{body}\n"))
}

fn parse(body: &str) -> Result<(Statement, ReceiptPublicKey), ReceiptError> {
    let spelled: Spelled = serde_json::from_str(body).map_err(|e| malformed(e.to_string()))?;
    if spelled.claim != CLAIM {
        return Err(malformed("it states something else than that a key version is safe to disable"));
    }
    let statement = Statement {
        key_id: spelled.key_id,
        issued_at: Duration::from_millis(spelled.issued_at_ms),
        examined: spelled.examined,
        id: hex(&spelled.id).ok_or_else(|| malformed("its id is not 32 lower-case hex digits"))?,
    };
    Ok((statement, spelled.issuer.parse()?))
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
