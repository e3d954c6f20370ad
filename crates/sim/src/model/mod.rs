//! What is known to be true, and what may follow from it.
//!
//! Guarantees: plain maps, no code of the house in the judgement but its settings; it errs on the side of what it
//! watches: what it calls a violation is one. Not its job: to see (links, shelves and clients tell it).

mod accounts;
mod blocks;
mod budgets;
mod keys;
mod segments;
mod uses;

pub(crate) use accounts::{Accounts, End, Views, Written};
pub(crate) use blocks::{Blocks, Seen, WriteEnd, WriteId, bytes_of, write_of};
pub(crate) use budgets::Budgets;
pub(crate) use keys::{Call, Keys, Verdict};
pub(crate) use segments::Segments;
pub(crate) use uses::Use;

/// A verdict on something that was seen.
pub(crate) type Judged = Result<(), (crate::Check, String)>;
