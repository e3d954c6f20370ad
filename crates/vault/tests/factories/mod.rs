//! Factories of the vaults that need no server.

#![allow(dead_code, unused_imports, reason = "each file of tests uses a part")]

mod around;
mod local;
mod scripted;

pub(crate) use around::Around;
pub(crate) use local::LocalFactory;
pub(crate) use scripted::ScriptedFactory;

use cofferdam_vault::conformance::{Outcome, Report};

/// The names of the checks that were not made.
pub(crate) fn not_applicable(report: &Report) -> Vec<&'static str> {
    let is_out = |outcome: &Outcome| matches!(outcome, Outcome::NotApplicable { .. });
    report.checks().iter().filter(|check| is_out(&check.outcome)).map(|check| check.name).collect()
}
