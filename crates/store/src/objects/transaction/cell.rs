//! What a row holds: its value, and what a transaction has under way in it.
//!
//! Guarantees: every cell decodes to what was encoded; other bytes are refused.

use bytes::{BufMut, Bytes};

use crate::error::{StoreError, StoreErrorKind};

const FORMAT: u8 = 1;
const PLAIN: u8 = 0;
const PENDING: u8 = 1;
const DECIDED: u8 = 2;

/// A transaction's id: 128 random bits.
pub(super) type Txn = [u8; 16];

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) value: Option<Bytes>,
    pub(super) state: State,
}

/// What is under way in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Plain,
    Pending(Pending),
    /// The row is the primary of a transaction that was decided; its other rows may still be pending.
    Decided {
        txn: Txn,
        others: Vec<String>,
    },
}

/// A transaction that is not decided, as far as this row knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) txn: Txn,
    /// The row that decides; `None`: this one.
    pub(super) primary: Option<String>,
    /// What the value will be.
    pub(super) new: Option<Bytes>,
}

impl Cell {
    pub(super) fn plain(value: Option<Bytes>) -> Self {
        Self { value, state: State::Plain }
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending(_))
    }

    pub(super) fn is_pending_of(&self, txn: Txn) -> bool {
        matches!(&self.state, State::Pending(pending) if pending.txn == txn)
    }

    pub(super) fn is_decided_of(&self, txn: Txn) -> bool {
        matches!(&self.state, State::Decided { txn: decided, .. } if *decided == txn)
    }

    /// Its bytes: format, state, value, and what the state has. Lengths are big-endian, of four bytes; what may be absent
    /// has a byte before it that says whether it is there.
    pub(super) fn encode(&self, key: &str) -> Result<Bytes, StoreError> {
        let mut out = Writer { bytes: Vec::new(), is_too_large: false };
        out.bytes.put_u8(FORMAT);
        match &self.state {
            State::Plain => {
                out.bytes.put_u8(PLAIN);
                out.optional(self.value.as_deref());
            }
            State::Pending(pending) => {
                out.bytes.put_u8(PENDING);
                out.optional(self.value.as_deref());
                out.bytes.put_slice(&pending.txn);
                out.optional(pending.primary.as_ref().map(String::as_bytes));
                out.optional(pending.new.as_deref());
            }
            State::Decided { txn, others } => {
                out.bytes.put_u8(DECIDED);
                out.optional(self.value.as_deref());
                out.bytes.put_slice(txn);
                out.length(others.len());
                others.iter().for_each(|other| out.text(other.as_bytes()));
            }
        }
        if out.is_too_large {
            let detail = format!("the row {key:?} has a part of more than 4 GiB");
            return Err(StoreError::new(StoreErrorKind::TooLarge).with_detail(detail));
        }
        Ok(out.bytes.into())
    }

    /// The cell of these bytes.
    ///
    /// # Errors
    /// `NewerFormat`; `Corrupt` for anything that [`Self::encode`] does not write.
    pub(super) fn decode(key: &str, bytes: &Bytes) -> Result<Self, StoreError> {
        if let Some(&found) = bytes.first()
            && found > FORMAT
        {
            let kind = StoreErrorKind::NewerFormat { found: found.into(), supported: FORMAT.into() };
            return Err(StoreError::new(kind).with_detail(format!("the row {key:?}")));
        }
        read(&mut Reader(bytes.clone())).ok_or_else(|| {
            StoreError::new(StoreErrorKind::Corrupt).with_detail(format!("the row {key:?} does not decode"))
        })
    }
}

fn read(from: &mut Reader) -> Option<Cell> {
    if from.byte()? != FORMAT {
        return None;
    }
    let state = from.byte()?;
    let value = from.optional()?;
    let state = match state {
        PLAIN => State::Plain,
        PENDING => {
            let txn = from.txn()?;
            let primary = match from.optional()? {
                Some(primary) => Some(text(primary)?),
                None => None,
            };
            State::Pending(Pending { txn, primary, new: from.optional()? })
        }
        DECIDED => {
            let txn = from.txn()?;
            let others = (0..from.length()?).map(|_| from.text().and_then(text)).collect::<Option<_>>()?;
            State::Decided { txn, others }
        }
        _ => return None,
    };
    from.0.is_empty().then_some(Cell { value, state })
}

fn text(bytes: Bytes) -> Option<String> {
    String::from_utf8(bytes.into()).ok()
}

struct Writer {
    bytes: Vec<u8>,
    is_too_large: bool,
}

impl Writer {
    fn length(&mut self, len: usize) {
        match u32::try_from(len) {
            Ok(len) => self.bytes.put_u32(len),
            Err(_) => self.is_too_large = true,
        }
    }

    fn text(&mut self, text: &[u8]) {
        self.length(text.len());
        self.bytes.put_slice(text);
    }

    fn optional(&mut self, part: Option<&[u8]>) {
        self.bytes.put_u8(part.is_some().into());
        if let Some(part) = part {
            self.text(part);
        }
    }
}

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, len: usize) -> Option<Bytes> {
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn length(&mut self) -> Option<usize> {
        let len: [u8; 4] = self.take(4)?[..].try_into().ok()?;
        usize::try_from(u32::from_be_bytes(len)).ok()
    }

    fn text(&mut self) -> Option<Bytes> {
        let len = self.length()?;
        self.take(len)
    }

    fn txn(&mut self) -> Option<Txn> {
        self.take(16)?[..].try_into().ok()
    }

    fn optional(&mut self) -> Option<Option<Bytes>> {
        match self.byte()? {
            0 => Some(None),
            1 => self.text().map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from))
    }

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![
            Just(State::Plain),
            (any::<Txn>(), prop::option::of("[a-z/]{0,5}"), bytes())
                .prop_map(|(txn, primary, new)| State::Pending(Pending { txn, primary, new })),
            (any::<Txn>(), prop::collection::vec("[a-z/]{0,5}", 0..4))
                .prop_map(|(txn, others)| State::Decided { txn, others }),
        ]
    }

    proptest! {
        #[test]
        fn a_cell_decodes_to_what_was_encoded(value in bytes(), state in state()) {
            let cell = Cell { value, state };
            prop_assert_eq!(Cell::decode("a", &cell.encode("a").unwrap()).unwrap(), cell);
        }

        #[test]
        fn other_bytes_are_refused_or_encode_to_themselves(mut bytes in prop::collection::vec(0u8..4, 2..60)) {
            bytes[0] = 1;
            let bytes = Bytes::from(bytes);
            if let Ok(cell) = Cell::decode("a", &bytes) {
                prop_assert_eq!(cell.encode("a").unwrap(), bytes);
            }
        }
    }

    #[test]
    fn a_cell_of_a_newer_format_is_said_to_be_that() {
        let error = Cell::decode("a", &Bytes::from_static(&[2, 0])).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NewerFormat { found: 2, supported: 1 });
    }
}
