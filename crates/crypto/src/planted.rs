//! Defects planted on purpose, so that the simulator and the tests of schedules can show that they would find them.
//!
//! Guarantees: without `--cfg cofferdam_planted` there is none: [`is_planted`] is `false` when it is compiled, and
//! what it guards is not in the program. With it, one defect at a time is active, on the thread that planted it.
//!
//! Not its job: to be used by anything but those. A site is one line: `if is_planted(Bug::X) { .. }`.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $bug:ident = $name:literal,)*) => {
        /// A defect that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug { $($(#[doc = $doc])* $bug,)* }

        impl Bug {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$bug),*];

            /// What it is called on a command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name),* }
            }
        }
    };
}

impl Bug {
    /// Whether it is in the hot cache, which has tests of its own that find it.
    pub const fn is_in_hot_cache(self) -> bool {
        matches!(self, Self::HotCacheStale | Self::HotCachePurgeForgotten | Self::HotCacheAgeIgnored)
    }
}

bugs! {
    /// A page is sealed and opened without its block's identity as AAD.
    MissingAad = "missing-aad",
    /// A block's identity is left out of its key's derivation and of its AAD.
    MissingBinding = "missing-binding",
    /// Every block is sealed with the same salt.
    RepeatedSalt = "repeated-salt",
    /// What a vault unwraps is used whatever its check value says.
    CheckValueIgnored = "check-value-ignored",
    /// A denial is taken for an outage.
    DenialAsOutage = "denial-as-outage",
    /// Grace counts from the first failure, not from the last verified unwrap.
    GraceFromFailure = "grace-from-failure",
    /// A key's age counts from when the vault's answer came, not from when it was asked.
    VerifiedAtAnswer = "verified-at-answer",
    /// A key's age is told by a clock that stops while the machine is suspended.
    MonotonicClock = "monotonic-clock",
    /// A success that was asked for before a denial lifts the revocation.
    StaleSuccess = "stale-success",
    /// One "not found" is a revocation.
    NotFoundAtOnce = "not-found-at-once",
    /// A revoked key goes on being served until its bound.
    EvictForgotten = "evict-forgotten",
    /// A restart forgets that a key is revoked.
    RevokedForgotten = "revoked-forgotten",
    /// A lock of the keyring is held while a vault is asked.
    LockAcrossCall = "lock-across-call",
    /// Every caller asks the vault by itself.
    NoSingleFlight = "no-single-flight",
    /// A write is acknowledged before it is synced.
    AckBeforeSync = "ack-before-sync",
    /// A sync that failed counts as one that did not.
    SyncFailureIgnored = "sync-failure-ignored",
    /// A drain takes a block out of the buffer in one commit and stores it in a later one.
    DrainDeletesFirst = "drain-deletes-first",
    /// A drain writes whatever has happened to the block since it was read.
    DrainIgnoresVersion = "drain-ignores-version",
    /// A drain leaves in the buffer what it has stored.
    DrainKeepsCopy = "drain-keeps-copy",
    /// Nothing drains what an earlier process buffered.
    DrainForgottenAtOpen = "drain-forgotten-at-open",
    /// A drained block stays sealed under the service's key.
    DrainUnderServiceKey = "drain-under-service-key",
    /// A read prefers what is stored to a newer version that is buffered.
    BufferReadLast = "buffer-read-last",
    /// A delete leaves what is buffered.
    DeleteMissesBuffer = "delete-misses-buffer",
    /// A write under a revoked key is buffered.
    BufferedWhileRevoked = "buffered-while-revoked",
    /// The bounds of the buffer are not looked at.
    BufferUnbounded = "buffer-unbounded",
    /// A vault is called as often as anybody likes.
    BudgetIgnored = "budget-ignored",
    /// A vault that asked to be called later is called at once.
    RetryAfterIgnored = "retry-after-ignored",
    /// A refresh that has to wait for its turn counts as one that failed.
    BudgetOpensGrace = "budget-opens-grace",
    /// The refresh is stretched past its ceiling.
    StretchUnbounded = "stretch-unbounded",
    /// A buffered block is read although the account's own key is unavailable.
    BufferReadWithoutKey = "buffer-read-without-key",
    /// AEKs are wrapped under RSA KEKs by OAEP with SHA-1.
    OaepSha1 = "oaep-sha1",
    /// What lies before the last bytes of a wrap under an RSA KEK is ignored.
    RsaLengthIgnored = "rsa-length-ignored",
    /// An account's record does not hold the public half of its RSA KEK.
    PublicKeyNotPinned = "public-key-not-pinned",
    /// A public half is pinned whichever version of the KEK it is of.
    PublicKeyOfAnotherVersion = "public-key-of-another-version",
    /// An operation does not wait until other engines have seen what it changed.
    NoAnnounce = "no-announce",
    /// Who changes an account's key does not wait for writes that began under the former one.
    GateForgotten = "gate-forgotten",
    /// A version that was said to be safe to disable is wrapped under.
    FenceForgotten = "fence-forgotten",
    /// A purge leaves the account's record, and its wraps, where they are.
    PurgeKeepsWraps = "purge-keeps-wraps",
    /// An epoch's wraps are destroyed while blocks are sealed under it.
    RetireBeforeReencrypted = "retire-before-reencrypted",
    /// What a linked account has under the service's key is read without its customer's.
    LinkedReadWithoutKey = "linked-read-without-key",
    /// The hot cache answers without asking which version is the newest.
    HotCacheStale = "hot-cache-stale",
    /// The hot cache keeps the blocks of an account whose key is revoked.
    HotCachePurgeForgotten = "hot-cache-purge-forgotten",
    /// The hot cache keeps blocks of any age.
    HotCacheAgeIgnored = "hot-cache-age-ignored",
    /// A segment of a write-only buffer is believed whatever its tag says.
    SegmentTagUnchecked = "segment-tag-unchecked",
    /// What a vault unwraps for a segment is used whatever its check value says.
    SegmentCheckIgnored = "segment-check-ignored",
    /// A write-only buffer seals under one AEK for as long as the process runs.
    SegmentNeverRenewed = "segment-never-renewed",
    /// The key of a segment stays in memory after its time.
    SegmentKeyKept = "segment-key-kept",
    /// A segment's record leaves the buffer with the first of its blocks.
    SegmentRemovedEarly = "segment-removed-early",
    /// A key is evicted after the lock under which that was decided is released.
    EvictedUnlocked = "evicted-unlocked",
    /// Who waits for the end of a round begins to listen after the lock under which it looked is released.
    ListensLate = "listens-late",
    /// Seats are counted under one lock and taken under another.
    SeatsCountedEarly = "seats-counted-early",
    /// An entry that was put out of use is used by who found it just before.
    RetiredUsed = "retired-used",
    /// Events are told by whoever they happened to, in whatever order they come to it.
    ToldOutOfOrder = "told-out-of-order",
    /// A key that reaches its bound just as its refresh succeeds is published without a seat.
    PublishedWithoutSeat = "published-without-seat",
    /// That a revocation is persisted is not taken note of if its account was forgotten meanwhile.
    WriteEndForgotten = "write-end-forgotten",
    /// Who waits for a flag begins to listen after it has looked.
    FlagLookedAtFirst = "flag-looked-at-first",
    /// A block is sealed anew whatever version of it is stored by then.
    ResealIgnoresVersion = "reseal-ignores-version",
    /// A compaction leaves in the file what was removed.
    CompactKeepsFreedPages = "compact-keeps-freed-pages",
    /// A compaction puts the new file in place before it is synced.
    CompactRenamesBeforeSync = "compact-renames-before-sync",
    /// A KEK that does not answer is bridged for as long as another does.
    BridgeUnbounded = "bridge-unbounded",
    /// That a KEK is bridged is not persisted, so that a restart begins to count anew.
    BridgeNotPersisted = "bridge-not-persisted",
    /// A denial by one KEK is bridged by another.
    DenialBridged = "denial-bridged",
    /// An epoch is used whether or not it follows the one before it.
    ChainUnchecked = "chain-unchecked",
    /// A key whose record changed goes on sealing under the epoch that was the newest before.
    ReloadKeepsOldEpoch = "reload-keeps-old-epoch",
    /// A receipt is believed whatever its signature says.
    ReceiptUnchecked = "receipt-unchecked",
    /// An archive is imported whatever its MAC says.
    ArchiveUncheckedMac = "archive-unchecked-mac",
    /// An import asks any vault that the archive names.
    ImportCallsAnyVault = "import-calls-any-vault",
}

impl Bug {
    /// Those that tests of their own find, and not the simulator: its RSA KEKs have one version, what wraps is what
    /// unwraps, an hour is longer than a run, a bridge's day too, nothing is archived, and two steps meet too seldom.
    pub const NOT_SIMULATED: &[Self] = &[
        Self::OaepSha1,
        Self::RsaLengthIgnored,
        Self::PublicKeyNotPinned,
        Self::PublicKeyOfAnotherVersion,
        Self::HotCacheAgeIgnored,
        Self::SegmentKeyKept,
        Self::ResealIgnoresVersion,
        Self::CompactKeepsFreedPages,
        Self::CompactRenamesBeforeSync,
        Self::BridgeUnbounded,
        Self::BridgeNotPersisted,
        Self::DenialBridged,
        Self::ChainUnchecked,
        Self::ReloadKeepsOldEpoch,
        Self::ReceiptUnchecked,
        Self::ArchiveUncheckedMac,
        Self::ImportCallsAnyVault,
        Self::GateForgotten,
        Self::FenceForgotten,
    ];

    /// Those of operations on accounts: the simulator finds them where there are such.
    pub const OF_OPERATIONS: &[Self] =
        &[Self::NoAnnounce, Self::PurgeKeepsWraps, Self::RetireBeforeReencrypted, Self::LinkedReadWithoutKey];

    /// Those of accounts with several KEKs or epochs: the keyring's tests find them.
    pub const OF_SEVERAL_KEKS: &[Self] = &[
        Self::BridgeUnbounded,
        Self::BridgeNotPersisted,
        Self::DenialBridged,
        Self::ChainUnchecked,
        Self::ReloadKeepsOldEpoch,
    ];

    /// Those of a vault's rations: the keyring's tests find them.
    pub const OF_BUDGETS: &[Self] =
        &[Self::BudgetIgnored, Self::RetryAfterIgnored, Self::BudgetOpensGrace, Self::StretchUnbounded];

    /// Those that show only where tasks meet in a certain order: the keyring's tests of schedules find them.
    pub const INTERLEAVED: &[Self] = &[
        Self::EvictedUnlocked,
        Self::ListensLate,
        Self::SeatsCountedEarly,
        Self::RetiredUsed,
        Self::FlagLookedAtFirst,
        Self::ToldOutOfOrder,
        Self::PublishedWithoutSeat,
        Self::WriteEndForgotten,
    ];
}

#[cfg(cofferdam_planted)]
mod active {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a defect on this thread, in place of an earlier one; `None` takes it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this defect is planted on this thread.
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(cofferdam_planted)]
pub use active::{is_planted, plant};

/// Whether this defect is planted on this thread.
#[cfg(not(cofferdam_planted))]
#[inline(always)]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}
