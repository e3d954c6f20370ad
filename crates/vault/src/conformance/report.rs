//! What the checks found.

use std::{borrow::Cow, fmt};

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The vault keeps the promise.
    Passed {
        /// How, where there is more than one way.
        note: Option<Cow<'static, str>>,
    },
    /// It does not.
    Failed {
        /// What was expected.
        expected: String,
        /// What came.
        came: String,
    },
    /// It was not asked.
    NotApplicable {
        /// Why not.
        reason: Cow<'static, str>,
    },
}

/// A check and what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Its name, which stays.
    pub name: &'static str,
    /// What a vault promises.
    pub promise: &'static str,
    /// What was found.
    pub outcome: Outcome,
}

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Promises kept.
    pub passed: usize,
    /// Promises broken.
    pub failed: usize,
    /// Promises that were not asked for.
    pub not_applicable: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, not_applicable } = self;
        write!(f, "{passed} passed, {failed} failed, {not_applicable} not applicable")
    }
}

/// What all checks found, in their order. Printed as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub(super) subject: Cow<'static, str>,
    pub(super) checks: Vec<Checked>,
}

impl Report {
    /// What was checked.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Every check, in order.
    pub fn checks(&self) -> &[Checked] {
        &self.checks
    }

    /// What this check found, if it was made.
    pub fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.checks.iter().find(|check| check.name == name).map(|check| &check.outcome)
    }

    /// Whether no check failed, and at least one passed.
    pub fn is_ok(&self) -> bool {
        let counts = self.counts();
        counts.failed == 0 && counts.passed > 0
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Checked> {
        self.checks.iter().filter(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }

    /// How many checks ended how.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for check in &self.checks {
            match check.outcome {
                Outcome::Passed { .. } => counts.passed += 1,
                Outcome::Failed { .. } => counts.failed += 1,
                Outcome::NotApplicable { .. } => counts.not_applicable += 1,
            }
        }
        counts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject)?;
        for Checked { name, promise, outcome } in &self.checks {
            match outcome {
                Outcome::Passed { note: None } => writeln!(f, "  passed  {name:<22}  {promise}")?,
                Outcome::Passed { note: Some(note) } => {
                    writeln!(f, "  passed  {name:<22}  {promise} ({note})")?;
                }
                Outcome::Failed { expected, came } => {
                    writeln!(f, "  FAILED  {name:<22}  {promise}")?;
                    writeln!(f, "          {:<22}  expected {expected}", "")?;
                    writeln!(f, "          {:<22}  came {came}", "")?;
                }
                Outcome::NotApplicable { reason } => {
                    writeln!(f, "  -       {name:<22}  not applicable: {reason}")?;
                }
            }
        }
        write!(f, "{}", self.counts())
    }
}
