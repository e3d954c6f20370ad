//! A key that blocks are sealed or opened with, whichever kind it is.
//!
//! Not its job: to say which kind is to be used (`account`, `drain`).

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;
use cofferdam_crypto::Sealer;
use cofferdam_keyring::{LiveKey, LiveSegment};

use super::segments::Segment;

/// A key of an account, while it may be used.
#[derive(Clone)]
pub(super) enum WorkKey {
    /// The customer's or the service's.
    Live(LiveKey),
    /// That of the segment which is written now.
    Written(Arc<Segment>),
    /// That of a segment which the customer's vault has unwrapped.
    Unwrapped(LiveSegment),
}

impl WorkKey {
    pub(super) fn still_usable(&self) -> bool {
        match self {
            Self::Live(key) => key.still_usable(),
            Self::Written(segment) => segment.still_usable(),
            Self::Unwrapped(key) => key.still_usable(),
        }
    }

    /// The record that blocks sealed with it are stored with.
    pub(super) fn segment_record(&self) -> Option<&Bytes> {
        match self {
            Self::Written(segment) => Some(segment.record()),
            Self::Live(_) | Self::Unwrapped(_) => None,
        }
    }
}

impl Deref for WorkKey {
    type Target = Sealer;

    fn deref(&self) -> &Sealer {
        match self {
            Self::Live(key) => key,
            Self::Written(segment) => segment.sealer(),
            Self::Unwrapped(key) => key,
        }
    }
}
