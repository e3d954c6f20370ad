//! The engine of Cofferdam: accounts and encrypted blocks over a store.

mod archive;
mod block_store;
mod catalog;
mod embedded;
#[cfg(feature = "object-store")]
pub mod encrypted;
mod engine;
mod error;
#[cfg(any(test, feature = "testing"))]
mod forwarding;
#[cfg(feature = "hot-cache")]
mod hot;
#[cfg(feature = "object-store")]
pub mod objects;
mod plan;
mod receipt;

pub use archive::{ArchiveCounts, ArchiveError};
pub use block_store::{
    Applied, BlockMeta, BlockOp, BlockStore, BufferLimit, BufferUsage, Located, Place, SegmentRow,
    VersionRange,
};
pub use catalog::{Catalog, Revision, Stored};
pub use embedded::{Activity, EmbeddedOptions, EmbeddedStore, FileLayer, VerifyReport};
pub use engine::{
    Account, AccountKey, AccountKeyStatus, AccountName, AccountStatus, ArchiveEntry, ArchiveId,
    ArchiveOverview, ArchiveReport, BlockInfo, BlockPage, BufferChange, BufferEvent, BufferMode,
    BufferStatus, DeletedAccount, DrainBlocked, DrainReport, Engine, EngineBuilder, EngineError,
    EngineErrorKind, ImportOptions, ImportReport, KekStatus, LinkTo, Moved, Needed, NodeId, Operation,
    OperationFailure, OperationHandle, OperationId, OperationKind, OperationStatus, Outcome, Progress,
    PutReceipt, Reencrypt, Refusal, RefusedKek, SafeToDisable, Step, Trouble, TroubleKind,
};
pub use error::{StoreError, StoreErrorKind};
#[cfg(feature = "hot-cache")]
pub use hot::{CacheUsage, HotCacheSettings, HotCacheStatus, HotCached, TierStatus};
pub use receipt::{Examined, Receipt, ReceiptError, ReceiptKey, ReceiptPublicKey, Statement};

#[cfg(any(test, feature = "testing"))]
pub use embedded::{FaultyFile, FileFault, FileOp};
#[cfg(any(test, feature = "testing"))]
pub use forwarding::Forwarding;
#[cfg(all(feature = "hot-cache", any(test, feature = "testing")))]
pub use hot::HotCacheFaults;
