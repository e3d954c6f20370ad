//! What a catalog's rows say, as far as a model needs it.
//!
//! Guarantees: what is not understood is said to be so, and is not passed over. Not its job: whether a row is genuine
//! (it is read as it was written by an engine).

use std::time::Duration;

use cofferdam_crypto::{AccountId, Epoch, KeyId, Provider, WrappedAek, WrappedKey};
use serde::Deserialize;

/// The rows that a model follows, by the beginnings of their names.
pub(crate) const ACCOUNTS: &str = "account/";
/// One for each account that is revoked.
pub(crate) const REVOKED: &str = "revoked/";
/// An account's operations.
pub(crate) const OPERATIONS: &str = "operation/";

/// How long what comes before the body of an account's record is: a format and a tag.
const BODY: usize = 33;

/// An AEK of an account: whose, and which.
pub(crate) type Held = (Provider, Epoch);

/// What an account's record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountState {
    pub(crate) id: AccountId,
    /// The KEKs of its customer's key, each with whose vault it is in.
    pub(crate) keks: Vec<(String, KeyId)>,
    /// Its AEKs, each with its wraps.
    pub(crate) aeks: Vec<(Held, Vec<WrappedKey>)>,
    /// Whether new blocks are sealed under the customer's key.
    pub(crate) linked: bool,
    /// Whether what is buffered can be read by the customer's vault alone.
    pub(crate) writes_only: bool,
    /// When it is to be purged, once it is deleted.
    pub(crate) deleted_until: Option<Duration>,
    /// The operation that wrote it.
    pub(crate) written_by: Option<String>,
}

impl AccountState {
    /// Whose key new blocks are sealed under.
    pub(crate) fn provider(&self) -> Provider {
        if self.linked { Provider::Customer } else { Provider::Service }
    }

    /// Whether there is such an AEK.
    pub(crate) fn holds(&self, held: Held) -> bool {
        self.aeks.iter().any(|(of, _)| *of == held)
    }

    /// The epoch that new blocks are sealed under.
    pub(crate) fn newest(&self, provider: Provider) -> Option<Epoch> {
        self.aeks.iter().filter(|((of, _), _)| *of == provider).map(|((_, epoch), _)| *epoch).max()
    }

    /// Whether this KEK wraps its AEKs.
    pub(crate) fn is_under(&self, kek: &KeyId) -> bool {
        self.keks.iter().any(|(_, of)| of == kek)
    }

    /// Whether one of its AEKs is wrapped so.
    pub(crate) fn has_wrap(&self, bytes: &[u8]) -> bool {
        self.aeks.iter().flat_map(|(_, wraps)| wraps).any(|wrap| wrap.bytes == bytes)
    }

    /// In a few words, without what differs from run to run.
    pub(crate) fn brief(&self) -> String {
        let keks: Vec<&str> = self.keks.iter().map(|(_, kek)| kek.as_str()).collect();
        let epochs = |provider| {
            let of = self.aeks.iter().filter(|((of, _), _)| *of == provider);
            of.map(|((_, epoch), _)| epoch.number()).collect::<Vec<_>>()
        };
        format!(
            "linked {}, deleted {}, epochs {:?} of the customer's under {keks:?}, {:?} of the service's",
            self.linked,
            self.deleted_until.is_some(),
            epochs(Provider::Customer),
            epochs(Provider::Service)
        )
    }
}

#[derive(Deserialize)]
struct Record {
    id: AccountId,
    service: Vec<WrappedAek>,
    customer: Option<Customer>,
    #[serde(default)]
    linked: bool,
    #[serde(default)]
    stage: serde_json::Value,
    #[serde(default)]
    written_by: Option<String>,
}

#[derive(Deserialize)]
struct Customer {
    keks: Vec<Kek>,
    epochs: Vec<WrappedAek>,
    #[serde(default)]
    buffer: Option<String>,
}

#[derive(Deserialize)]
struct Kek {
    principal: String,
    key_id: KeyId,
}

/// What an account's record says, or why it can't be read.
pub(crate) fn account(bytes: &[u8]) -> Result<AccountState, String> {
    let body = bytes.get(BODY..).ok_or("it ends within its tag")?;
    let record: Record = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let customer = record.customer.as_ref();
    let epochs = record.service.iter().chain(customer.into_iter().flat_map(|customer| &customer.epochs));
    let deleted = record.stage.get("deleted").map(|deleted| {
        let until = deleted.get("until").cloned().unwrap_or_default();
        serde_json::from_value(until).unwrap_or_default()
    });
    Ok(AccountState {
        id: record.id,
        keks: customer
            .map(|of| of.keks.iter().map(|kek| (kek.principal.clone(), kek.key_id.clone())).collect())
            .unwrap_or_default(),
        aeks: epochs.map(|aek| ((aek.scope.provider, aek.scope.epoch), aek.wraps.clone())).collect(),
        linked: record.linked,
        writes_only: customer.and_then(|of| of.buffer.as_deref()) == Some("write-only"),
        deleted_until: deleted,
        written_by: record.written_by,
    })
}

/// How an operation stands, as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperationState {
    pub(crate) id: String,
    /// Its kind's name, and all that it says.
    pub(crate) kind: String,
    pub(crate) what: serde_json::Value,
    pub(crate) status: String,
    pub(crate) step: String,
    pub(crate) failure: Option<String>,
    pub(crate) waits_for: Option<String>,
}

impl OperationState {
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed")
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.status == "succeeded"
    }

    /// Whether every node that shares the catalog has taken note of the change.
    pub(crate) fn is_announced(&self) -> bool {
        self.succeeded() || !matches!(self.step.as_str(), "change" | "destroy" | "announce")
    }

    /// The same of the second change that it makes.
    pub(crate) fn is_announced_again(&self) -> bool {
        self.succeeded() || self.step == "compact"
    }
}

#[derive(Deserialize)]
struct Row {
    last: Last,
}

#[derive(Deserialize)]
struct Last {
    operation: Operation,
}

#[derive(Deserialize)]
struct Operation {
    id: String,
    kind: serde_json::Value,
    status: String,
    step: String,
    #[serde(default)]
    failure: Option<Failure>,
    #[serde(default)]
    waits_for: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    code: String,
}

/// The last operation of an account, as its row says.
pub(crate) fn operation(bytes: &[u8]) -> Result<OperationState, String> {
    let row: Row = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let Operation { id, kind, status, step, failure, waits_for } = row.last.operation;
    let name = kind.get("is").and_then(|name| name.as_str()).unwrap_or_default().to_owned();
    let failure = failure.map(|failure| failure.code);
    Ok(OperationState { id, kind: name, what: kind, status, step, failure, waits_for })
}
