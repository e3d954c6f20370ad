//! What a run tells.

use std::{fmt, time::Duration};

use crate::record::OperationState;

/// A run, told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// What it was started from: the same scenario and seed give the same run.
    pub seed: u64,
    /// How many events its trace has.
    pub events: u64,
    /// How long it took by its own clock.
    pub virtual_time: Duration,
    /// What happened, counted.
    pub counts: Counts,
    /// The hash of all events with their times.
    pub trace_hash: u64,
    /// The events, if [`Scenario::keep_trace`](crate::Scenario::keep_trace) asked for them.
    pub trace: Vec<String>,
    /// The first promise that was broken, if one was. The run ended there.
    pub violation: Option<Violation>,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// By what.
    pub what: String,
    /// When, in the run's own time.
    pub at: Duration,
    /// The events up to there, the oldest first.
    pub last_events: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} at {:.3} s: {}", self.check, self.at.as_secs_f64(), self.what)?;
        self.last_events.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

macro_rules! checks {
    ($($(#[doc = $doc:literal])* $check:ident = $name:literal,)*) => {
        /// What a run is checked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Check { $($(#[doc = $doc])* $check,)* }

        impl Check {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$check),*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$check => $name),* }
            }
        }
    };
}

checks! {
    /// A read gives what the last acknowledged write left, or what a write of unknown end may have left.
    Content = "content",
    /// A key serves only within its bounds, counted from when its last verified unwrap was sent.
    Bounds = "bounds",
    /// Past its freshness, a key serves only while its vault is known to fail.
    Freshness = "freshness",
    /// Until its grace ends, a key that was verified and not denied serves, whatever fails.
    Grace = "grace",
    /// After a denial nothing succeeds until a verified unwrap that began after it.
    Denial = "denial",
    /// Only a confirmed denial is a revocation.
    FalseRevocation = "false-revocation",
    /// Nothing is buffered under a revoked key.
    BufferedUnderRevocation = "buffered-under-revocation",
    /// What is buffered is not read while the account's own key can't be used.
    BufferRead = "buffer-read",
    /// A buffer holds no more than it may.
    BufferBounds = "buffer-bounds",
    /// A buffered version is drained once.
    DrainedTwice = "drained-twice",
    /// Nothing of a customer's stays under the service's key once its drain is done.
    UnderServiceKey = "under-service-key",
    /// Once the vault is back, so is the account, and its buffer is drained.
    Recovery = "recovery",
    /// No operation waits longer than its vaults may take.
    Waiting = "waiting",
    /// A vault is asked once at a time for each account and key.
    SingleFlight = "single-flight",
    /// No process asks a vault more often than its budget allows.
    Budget = "budget",
    /// A vault that has said how long to wait is left alone for that long.
    RetryAfter = "retry-after",
    /// A segment of a write-only buffer is one process's, and written to for its time alone.
    Segment = "segment",
    /// What nobody made that has the service's key is neither drained nor read, nor brought before a vault.
    Forged = "forged",
    /// What a write-only buffer holds does not open under the service's keys.
    WriteOnly = "write-only",
    /// Nothing of an account whose key is revoked stays in a hot cache.
    HotCache = "hot-cache",
    /// No salt is used twice.
    Salt = "salt",
    /// What is stored is sealed as the format says, under the key it names.
    Format = "format",
    /// A sealed block opens in its own place alone.
    Moved = "moved",
    /// An operation ends as it should, or leaves the account as it was; and an account has one at a time.
    Operation = "operation",
    /// A KEK that does not answer is bridged by others for so long at the most.
    Bridge = "bridge",
    /// Every wrap in a record unwraps to the AEK that it is of.
    Wraps = "wraps",
    /// No key is destroyed that something is sealed under, and nothing is sealed under one that is.
    Retired = "retired",
    /// A deleted account is neither read nor written, and of a purged one nothing is left.
    Deleted = "deleted",
    /// What is said to be safe to disable is needed by nobody.
    SafeToDisable = "safe-to-disable",
    /// An error is one that what happened explains.
    Unexplained = "unexplained",
    /// Nothing panics.
    Panic = "panic",
    /// The run goes on.
    Hang = "hang",
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $count:ident,)*) => {
        /// What happened in a run, or in many, counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[doc = $doc])* pub $count: u64,)*
            /// The oldest AEK that served, since its unwrap was sent.
            pub oldest_used: Duration,
            /// The oldest AEK that served after its KEK was really taken away.
            pub oldest_used_after_revocation: Duration,
            /// The latest begin of an operation that succeeded, after its node had seen a denial.
            pub latest_after_denial: Duration,
        }

        impl Counts {
            /// Adds another run's; of the times, the longer stays.
            pub fn add(&mut self, other: &Self) {
                $(self.$count += other.$count;)*
                self.oldest_used = self.oldest_used.max(other.oldest_used);
                self.oldest_used_after_revocation =
                    self.oldest_used_after_revocation.max(other.oldest_used_after_revocation);
                self.latest_after_denial = self.latest_after_denial.max(other.latest_after_denial);
            }
        }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{:<28} {:>12}", stringify!($count).replace('_', " "), self.$count)?;)*
                writeln!(f, "{:<28} {:>12?}", "oldest AEK used", self.oldest_used)?;
                writeln!(f, "{:<28} {:>12?}", "  after a revocation", self.oldest_used_after_revocation)?;
                write!(f, "{:<28} {:>12?}", "latest begin after a denial", self.latest_after_denial)
            }
        }
    };
}

counts! {
    /// Operations of clients that were begun.
    operations,
    /// Blocks whose write or delete was acknowledged.
    acknowledged,
    /// Of them, those that went into the fallback buffer.
    buffered,
    /// Of them, those that only their customer's vault can open.
    buffered_write_only,
    /// Blocks that were forged with a KEK's public half and put into a buffer.
    forged,
    /// Sealed blocks of write-only buffers that were tried under the service's keys.
    tried_by_service,
    /// Blocks drained out of it.
    drained,
    /// Blocks read, in whole or in part.
    reads,
    /// Keys asked for on behalf of a crowd of accounts, and had.
    keys_asked_for,
    /// Reads that a hot cache answered.
    hot_reads,
    /// Operations refused because the key is revoked.
    refused_revoked,
    /// Operations refused because the key is unavailable.
    refused_unavailable,
    /// Operations refused because the buffer takes no more.
    refused_full,
    /// Operations that failed by the store.
    failed_by_store,
    /// Operations dropped before their end.
    dropped,
    /// Crashes of one node.
    crashes,
    /// Power failures, which crash every node.
    power_failures,
    /// Times that the store had to be opened again after a fault of the disk.
    reopened,
    /// Faults of the disk.
    disk_faults,
    /// Calls to vaults.
    vault_calls,
    /// Calls that failed as an outage.
    vault_outages,
    /// Of them, those that the vault refused because of its limit.
    throttled,
    /// Denials that a node saw.
    denials,
    /// KEKs that were really taken away.
    revocations,
    /// Suspends and jumps of clocks.
    clock_jumps,
    /// Sealed blocks opened by the reference implementation.
    reference_opens,
    /// Changes of a key's state that were told.
    state_changes,
    /// Operations on accounts that were begun.
    begun,
    /// Of them, those that failed and left the account as it was.
    failed,
    /// Requests for an operation that were refused because another went on.
    conflicts,
    /// Requests for an operation that were refused for another reason.
    refused_operations,
    /// KEKs rotated.
    kek_rotations,
    /// KEKs added to accounts, or removed from them.
    kek_sets,
    /// Epochs begun.
    aek_rotations,
    /// Accounts linked to a customer's key.
    links,
    /// Accounts moved to the service's key.
    unlinks,
    /// Accounts deleted.
    deletes,
    /// Deleted accounts recovered.
    recoveries,
    /// Accounts destroyed.
    purges,
    /// Blocks sealed anew.
    reencrypted,
    /// Operations of clients refused because the account is deleted.
    refused_deleted,
    /// KEK versions disabled or deleted for good.
    versions_retired,
    /// Of them, those that were said to be safe to disable.
    said_to_be_safe,
}

impl Counts {
    /// An operation on an account was begun, or stands so.
    pub(crate) fn operated(&mut self, operation: &OperationState, is_new: bool) {
        self.begun += u64::from(is_new);
        if !operation.has_ended() {
            return;
        }
        let count = match operation.kind.as_str() {
            _ if !operation.succeeded() => &mut self.failed,
            "rotate-kek" => &mut self.kek_rotations,
            "add-kek" | "remove-kek" => &mut self.kek_sets,
            "rotate-aek" => &mut self.aek_rotations,
            "link" => &mut self.links,
            "unlink" => &mut self.unlinks,
            "delete" => &mut self.deletes,
            "recover" => &mut self.recoveries,
            "purge" => &mut self.purges,
            _ => return,
        };
        *count += 1;
    }
}
