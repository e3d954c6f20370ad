//! What data objects and rows are called.
//!
//! Guarantees: a row's key sorts as its account and its block's id do, byte by byte; no two things have one name; a data
//! object's name leads back to what it was written for, so that it can be looked up whether anything still points to it.
//!
//! A block id is written in base32hex (RFC 4648), lower-case and without padding, which keeps the order of bytes; cut into
//! pieces of [`PIECE`] characters, since file systems take no longer names; with a dot at its end, which sorts before
//! every character that could go on and before the cut.

use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};
use data_encoding::{BASE32_DNSSEC, HEXLOWER};
use object_store::path::Path;

use crate::{StoreError, StoreErrorKind, plan::corrupt};

/// The longest block id that has a name: stores take names of 1,024 bytes.
pub(super) const MAX_ID: usize = 512;
/// How many characters of a block id stand between two slashes.
const PIECE: usize = 200;

/// Rows of blocks.
pub(super) const BLOCKS: &str = "b/";
/// Rows of what is buffered of blocks.
const BUFFERED: &str = "f/";
/// Rows of what accounts' buffers hold.
pub(super) const USAGES: &str = "u/";
/// Rows of segments of buffers.
const SEGMENTS: &str = "s/";
/// Rows of versions that are given out.
pub(super) const VERSIONS: &str = "versions/";
/// Data objects.
const DATA: &str = "d";
/// Among data objects, those that are written to learn the store's time.
const TIME: &str = "now";

/// What tells apart the objects that were written for one version of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Tail(pub(super) u64);

pub(super) fn block_key(account: AccountId, id: &BlockId) -> String {
    format!("{}{}", blocks_of(account), id_name(id))
}

pub(super) fn buffered_key(account: AccountId, id: &BlockId) -> String {
    format!("{}{}", buffered_of(account), id_name(id))
}

pub(super) fn usage_key(account: AccountId) -> String {
    format!("{USAGES}{}", hex(account))
}

pub(super) fn segment_key(account: AccountId, segment: SegmentId) -> String {
    format!("{}{}", segments_of(account), HEXLOWER.encode(segment.as_bytes()))
}

pub(super) fn slot_key(slot: u64) -> String {
    format!("{VERSIONS}{slot:02x}")
}

/// How the keys of an account's blocks begin.
pub(super) fn blocks_of(account: AccountId) -> String {
    format!("{BLOCKS}{}/", hex(account))
}

pub(super) fn buffered_of(account: AccountId) -> String {
    format!("{BUFFERED}{}/", hex(account))
}

pub(super) fn segments_of(account: AccountId) -> String {
    format!("{SEGMENTS}{}/", hex(account))
}

/// The block that a key of this account's blocks, or of what is buffered of them, is of.
pub(super) fn block_of(prefix: &str, key: &str) -> Result<BlockId, StoreError> {
    key.strip_prefix(prefix).and_then(id_of).ok_or_else(|| unreadable(key))
}

pub(super) fn segment_of(prefix: &str, key: &str) -> Result<SegmentId, StoreError> {
    let bytes = key.strip_prefix(prefix).and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
    let bytes = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    bytes.map(SegmentId::from_bytes).ok_or_else(|| unreadable(key))
}

pub(super) fn account_of(key: &str) -> Result<AccountId, StoreError> {
    key.strip_prefix(USAGES).and_then(account_in).ok_or_else(|| unreadable(key))
}

/// Refuses a block whose id has no name.
pub(super) fn check_id(id: &BlockId) -> Result<(), StoreError> {
    let len = id.as_bytes().len();
    if len <= MAX_ID {
        return Ok(());
    }
    let detail = format!("a block id of {len} bytes, of at most {MAX_ID} that an object store has names for");
    Err(StoreError::new(StoreErrorKind::TooLarge).with_detail(detail))
}

/// Where the data objects of one deployment are.
#[derive(Clone, Debug)]
pub(super) struct Places {
    data: Path,
}

/// What a data object was written for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Block { account: AccountId, id: BlockId, version: Version, tail: Tail },
    Time,
}

impl Places {
    pub(super) fn under(prefix: &Path) -> Self {
        Self { data: prefix.clone().join(DATA) }
    }

    /// All data objects.
    pub(super) fn all(&self) -> &Path {
        &self.data
    }

    pub(super) fn of_account(&self, account: AccountId) -> Path {
        self.data.clone().join(hex(account))
    }

    pub(super) fn of_block(&self, account: AccountId, id: &BlockId, version: Version, tail: Tail) -> Path {
        let mut path = self.of_account(account);
        for piece in id_name(id).split('/') {
            path = path.join(piece);
        }
        path.join(format!("{:016x}-{:016x}", version.number(), tail.0))
    }

    pub(super) fn of_time(&self, tail: Tail) -> Path {
        self.data.clone().join(TIME).join(format!("{:016x}", tail.0))
    }

    /// What this object was written for; `None` for one that is not ours.
    pub(super) fn purpose(&self, object: &Path) -> Option<Purpose> {
        let (first, rest) =
            object.as_ref().strip_prefix(self.data.as_ref())?.strip_prefix('/')?.split_once('/')?;
        if first == TIME {
            return Some(Purpose::Time);
        }
        let (id, last) = rest.rsplit_once('/')?;
        let (version, tail) = last.split_once('-')?;
        let number = |hex: &str| u64::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 16);
        Some(Purpose::Block {
            account: account_in(first)?,
            id: id_of(id)?,
            version: Version::new(number(version)?),
            tail: Tail(number(tail)?),
        })
    }
}

fn hex(account: AccountId) -> String {
    HEXLOWER.encode(account.as_bytes())
}

fn account_in(hex: &str) -> Option<AccountId> {
    let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
    Some(AccountId::from_bytes(bytes.try_into().ok()?))
}

fn id_name(id: &BlockId) -> String {
    let letters = BASE32_DNSSEC.encode(id.as_bytes());
    let mut name = String::with_capacity(letters.len() + letters.len() / PIECE + 1);
    for (at, letter) in letters.chars().enumerate() {
        if at > 0 && at % PIECE == 0 {
            name.push('/');
        }
        name.push(letter);
    }
    name.push('.');
    name
}

fn id_of(name: &str) -> Option<BlockId> {
    let letters: String = name.strip_suffix('.')?.split('/').collect();
    BlockId::new(BASE32_DNSSEC.decode(letters.as_bytes()).ok()?).ok()
}

fn unreadable(key: &str) -> StoreError {
    corrupt(format!("there is a row {key:?}, which is no name of any"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account() -> AccountId {
        AccountId::from_bytes([0xab; 16])
    }

    /// Ids that differ late, or in their length alone.
    fn id() -> impl Strategy<Value = BlockId> {
        let short = prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255), any::<u8>()], 1..6);
        let long = (prop_oneof![Just(124usize), Just(125), Just(126), Just(250), Just(506)], short.clone());
        prop_oneof![
            short,
            long.prop_map(|(len, end)| [vec![7; len], end].concat()),
            prop::collection::vec(any::<u8>(), 1..=MAX_ID),
        ]
        .prop_map(|bytes| BlockId::new(bytes).unwrap())
    }

    proptest! {
        #[test]
        fn keys_sort_as_ids_do_and_lead_back_to_them(one in id(), two in id()) {
            let (first, second) = (block_key(account(), &one), block_key(account(), &two));
            prop_assert_eq!(one.cmp(&two), first.cmp(&second), "{} {}", first, second);
            prop_assert_eq!(block_of(&blocks_of(account()), &first).unwrap(), one);
        }

        #[test]
        fn a_data_objects_name_leads_back_and_is_one_that_stores_take(id in id(), version: u64, tail: u64) {
            let places = Places::under(&Path::from("a deployment/of ours"));
            let (version, tail) = (Version::new(version), Tail(tail));
            let object = places.of_block(account(), &id, version, tail);
            prop_assert!(object.as_ref().len() < 1024);
            prop_assert!(object.parts().all(|part| part.as_ref().len() <= 201));
            prop_assert_eq!(Path::parse(object.as_ref()).unwrap(), object.clone());
            prop_assert!(object.prefix_matches(&places.of_account(account())));
            let purpose = Purpose::Block { account: account(), id, version, tail };
            prop_assert_eq!(places.purpose(&object), Some(purpose));
        }
    }

    #[test]
    fn what_is_not_ours_is_nobodys() {
        let places = Places::under(&Path::from("p"));
        for name in [
            "p/d",
            "p/d/x",
            "q/d/now/1",
            "p/d/abababababababababababababababab/c4.",
            "p/d/abababababababababababababababab/c4./1-2",
            "p/d/abababababababababababababababab/c4/0000000000000001-0000000000000002",
            "p/d/ab/c4./0000000000000001-0000000000000002",
        ] {
            assert_eq!(places.purpose(&Path::from(name)), None, "{name}");
        }
        assert_eq!(places.purpose(&places.of_time(Tail(1))), Some(Purpose::Time));
        let object = places.of_block(account(), &BlockId::new("a").unwrap(), Version::new(1), Tail(2));
        assert_eq!(
            object.as_ref(),
            "p/d/abababababababababababababababab/c4./0000000000000001-0000000000000002"
        );
    }

    #[test]
    fn an_id_that_is_too_long_for_a_name_is_refused() {
        let of = |len: usize| check_id(&BlockId::new(vec![1; len]).unwrap());
        assert!(of(MAX_ID).is_ok());
        assert_eq!(of(MAX_ID + 1).unwrap_err().kind(), StoreErrorKind::TooLarge);
    }
}
