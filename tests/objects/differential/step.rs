//! One request, and what is seen of its answer.

use std::{cmp::Ordering, ops::Range};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, Error, GetOptions, ListResult, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, RenameOptions, RenameTargetMode,
    UpdateVersion, path::Path,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Draw, HOUR, PAGE,
    pair::{Pair, Tags},
};

/// Names under each other, beside each other, and such as stores encode.
const PATHS: [&str; 12] =
    ["a", "a/b", "a/b/c", "a/b.c", "a b/c", "ab", "b/%2F/x", "b/ü", "b/x", "c/d/e/f", "z", "🙀/😀"];
const PREFIXES: [&str; 10] = ["", "a", "a/b", "a/b/c", "b", "c/d", "z", "none", ".cofferdam", "🙀"];

/// What is asked.
#[derive(Debug)]
pub(super) enum Step {
    Put { path: Path, data: Summed, cuts: Vec<u64>, mode: Mode, attributes: Attributes },
    Upload(Upload),
    Get { path: Path, options: Box<GetOptions>, tags: [Option<Tag>; 2], since: [Option<Ordering>; 2] },
    GetRanges(Path, Vec<Range<u64>>),
    Copy { from: Path, to: Path, mode: CopyMode },
    Rename { from: Path, to: Path, mode: RenameTargetMode },
    Delete(Vec<Path>),
    List(Option<Path>),
    ListAfter(Option<Path>, Path),
    ListWithDelimiter(Option<Path>),
}

/// How a put meets what is there.
#[derive(Debug)]
pub(super) enum Mode {
    Overwrite,
    Create,
    Update(Option<Tag>),
}

/// An etag that a condition names: a side's own of a state, or the same on both sides.
#[derive(Clone, Debug)]
pub(super) enum Tag {
    Of(Tags),
    /// One of several, with one that nothing has.
    Among(Tags),
    Literal(&'static str),
}

/// An upload in parts.
#[derive(Debug)]
pub(super) struct Upload {
    path: Path,
    parts: Vec<Summed>,
    attributes: Attributes,
    end: End,
    /// Whether parts are waited for one by one.
    in_turn: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Complete,
    Abort,
    Drop,
}

/// Bytes that show as their length and hash.
#[derive(Clone, PartialEq)]
pub(super) struct Summed(Bytes);

/// What is seen of an answer, without what a store makes up.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Done,
    Got { data: Summed, meta: (Path, u64), range: Range<u64>, attributes: Attributes, has_tag: bool },
    GotRanges(Vec<Summed>),
    Deleted(Vec<Result<Path, &'static str>>),
    Listed { objects: Vec<(Path, u64)>, prefixes: Vec<Path> },
    Refused(&'static str),
}

impl Step {
    pub(super) fn put(path: &Path, data: Bytes) -> Self {
        let data = Summed(data);
        Self::Put {
            path: path.clone(),
            data,
            cuts: vec![],
            mode: Mode::Overwrite,
            attributes: Attributes::new(),
        }
    }

    pub(super) fn get(path: &Path, options: GetOptions) -> Self {
        Self::Get { path: path.clone(), options: Box::new(options), tags: [None, None], since: [None, None] }
    }

    pub(super) fn rename(from: &Path, to: &Path) -> Self {
        Self::Rename { from: from.clone(), to: to.clone(), mode: RenameTargetMode::Overwrite }
    }

    /// Any request, to stores that have been in these states.
    pub(super) fn any(draw: &Draw, pair: &Pair) -> Self {
        let path = || Path::parse(draw.pick(&PATHS)).unwrap();
        let prefix = || (!draw.one_in(4)).then(|| Path::parse(draw.pick(&PREFIXES)).unwrap());
        match draw.below(20) {
            0..5 => Self::any_put(draw, pair, path()),
            5..7 => Self::Upload(Upload::of(&path(), draw.bytes(draw.len(4 * PAGE)), draw).ended(draw)),
            7..13 => Self::any_get(draw, pair, path()),
            13 => {
                let ranges = (0..draw.below(4)).map(|_| {
                    let start = draw.len(4 * PAGE);
                    start..start + draw.len(PAGE)
                });
                Self::GetRanges(path(), ranges.collect())
            }
            14 => {
                let mode = if draw.one_in(2) { CopyMode::Create } else { CopyMode::Overwrite };
                Self::Copy { from: path(), to: path(), mode }
            }
            15 => {
                let mode =
                    if draw.one_in(2) { RenameTargetMode::Create } else { RenameTargetMode::Overwrite };
                let (from, to) = (path(), path());
                // The plain store deletes what is renamed to its own name, after a copy; files keep it, and so do we.
                if from == to { Self::Delete(vec![from]) } else { Self::Rename { from, to, mode } }
            }
            16 => Self::Delete((0..1 + draw.below(3)).map(|_| path()).collect()),
            17 => Self::List(prefix()),
            18 => {
                let offset = if draw.one_in(3) { draw.pick(&PREFIXES) } else { draw.pick(&PATHS) };
                Self::ListAfter(prefix(), Path::parse(offset).unwrap())
            }
            _ => Self::ListWithDelimiter(prefix()),
        }
    }

    fn any_put(draw: &Draw, pair: &Pair, path: Path) -> Self {
        let mode = match draw.below(4) {
            0 => Mode::Overwrite,
            1 => Mode::Create,
            _ => Mode::Update((!draw.one_in(10)).then(|| Tag::any(draw, pair, &path))),
        };
        let data = draw.bytes(draw.len(3 * PAGE));
        let cuts = (0..draw.below(4)).map(|_| draw.below(data.len() as u64 + 1)).collect();
        Self::Put { path, data: Summed(data), cuts, mode, attributes: attributes(draw) }
    }

    fn any_get(draw: &Draw, pair: &Pair, path: Path) -> Self {
        let mut options = GetOptions::new().with_head(draw.one_in(4));
        if draw.one_in(2) {
            options = options.with_range(Some(draw.range(draw.len(3 * PAGE))));
        }
        let tags = [3, 3].map(|of| draw.one_in(of).then(|| Tag::any(draw, pair, &path)));
        let since = [5, 5].map(|of| {
            draw.one_in(of).then(|| *draw.pick(&[Ordering::Less, Ordering::Equal, Ordering::Greater]))
        });
        Self::Get { path, options: Box::new(options), tags, since }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::Upload(_) => "upload",
            Self::Get { .. } => "get",
            Self::GetRanges(..) => "get ranges",
            Self::Copy { .. } => "copy",
            Self::Rename { .. } => "rename",
            Self::Delete(_) => "delete",
            Self::List(_) => "list",
            Self::ListAfter(..) => "list after",
            Self::ListWithDelimiter(_) => "list with delimiter",
        }
    }

    /// The objects that it may change.
    pub(super) fn changes(&self) -> Vec<&Path> {
        match self {
            Self::Put { path, .. } | Self::Upload(Upload { path, .. }) => vec![path],
            Self::Copy { to, .. } => vec![to],
            Self::Rename { from, to, .. } => vec![from, to],
            Self::Delete(paths) => paths.iter().collect(),
            _ => vec![],
        }
    }

    /// Asks the store of this side.
    pub(super) async fn ask(&self, store: &dyn ObjectStore, side: usize) -> Seen {
        self.answer(store, side).await.unwrap_or_else(|error| Seen::Refused(kind(&error)))
    }

    async fn answer(&self, store: &dyn ObjectStore, side: usize) -> object_store::Result<Seen> {
        match self {
            Self::Put { path, data, cuts, mode, attributes } => {
                let mode = match mode {
                    Mode::Overwrite => PutMode::Overwrite,
                    Mode::Create => PutMode::Create,
                    Mode::Update(tag) => {
                        let e_tag = tag.as_ref().map(|tag| tag.of(side));
                        PutMode::Update(UpdateVersion { e_tag, version: None })
                    }
                };
                let options = PutOptions { mode, attributes: attributes.clone(), ..PutOptions::default() };
                let put = store.put_opts(path, data.cut(cuts), options).await?;
                assert!(put.e_tag.is_some(), "a put without an etag");
                Ok(Seen::Done)
            }
            Self::Upload(upload) => upload.to(store).await,
            Self::Get { path, options, tags, since } => {
                let options = conditioned(store, (path, options), tags, since, side).await;
                let head = options.head;
                let got = store.get_opts(path, options).await?;
                let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
                // A body that comes in spite of `head` is nobody's business.
                let data = if head { Bytes::new() } else { got.bytes().await? };
                let has_tag = meta.e_tag.is_some();
                Ok(Seen::Got {
                    data: Summed(data),
                    meta: (meta.location, meta.size),
                    range,
                    attributes,
                    has_tag,
                })
            }
            Self::GetRanges(path, ranges) => {
                let got = store.get_ranges(path, ranges).await?;
                Ok(Seen::GotRanges(got.into_iter().map(Summed).collect()))
            }
            Self::Copy { from, to, mode } => {
                store.copy_opts(from, to, CopyOptions::new().with_mode(*mode)).await.map(|()| Seen::Done)
            }
            Self::Rename { from, to, mode } => {
                let options = RenameOptions::new().with_target_mode(*mode);
                store.rename_opts(from, to, options).await.map(|()| Seen::Done)
            }
            Self::Delete(paths) => {
                let paths = stream::iter(paths.clone().into_iter().map(Ok)).boxed();
                let deleted = store.delete_stream(paths).map(|path| path.map_err(|error| kind(&error)));
                Ok(Seen::Deleted(deleted.collect().await))
            }
            Self::List(prefix) => {
                let objects = store.list(prefix.as_ref()).try_collect().await?;
                Ok(Seen::listed(objects, vec![]))
            }
            Self::ListAfter(prefix, offset) => {
                let objects = store.list_with_offset(prefix.as_ref(), offset).try_collect().await?;
                Ok(Seen::listed(objects, vec![]))
            }
            Self::ListWithDelimiter(prefix) => {
                let ListResult { common_prefixes, objects, .. } =
                    store.list_with_delimiter(prefix.as_ref()).await?;
                Ok(Seen::listed(objects, common_prefixes))
            }
        }
    }
}

/// With these conditions, as this side names its states and times.
async fn conditioned(
    store: &dyn ObjectStore,
    (path, options): (&Path, &GetOptions),
    [is, is_not]: &[Option<Tag>; 2],
    [modified, unmodified]: &[Option<Ordering>; 2],
    side: usize,
) -> GetOptions {
    let of = |tag: &Option<Tag>| tag.as_ref().map(|tag| tag.of(side));
    let options = options.clone().with_if_match(of(is)).with_if_none_match(of(is_not));
    if modified.is_none() && unmodified.is_none() {
        return options;
    }
    let Ok(meta) = store.head(path).await else { return options };
    let at = |when: &Option<Ordering>| {
        when.map(|when| match when {
            Ordering::Less => meta.last_modified - HOUR,
            Ordering::Equal => meta.last_modified,
            Ordering::Greater => meta.last_modified + HOUR,
        })
    };
    options.with_if_modified_since(at(modified)).with_if_unmodified_since(at(unmodified))
}

impl Tag {
    /// An etag of a state that the object is in, has been in, or that no object has.
    fn any(draw: &Draw, pair: &Pair, path: &Path) -> Self {
        let states = pair.states(path);
        match (draw.below(8), states) {
            (0, _) | (_, []) => {
                Self::Literal(draw.pick::<&str>(&["*", "\"none\"", "none", "", "\"none\", \"none too\""]))
            }
            (1 | 2, states) => Self::Of(draw.pick(states).clone()),
            (3, [.., last]) => Self::Among(last.clone()),
            (_, [.., last]) => Self::Of(last.clone()),
        }
    }

    fn of(&self, side: usize) -> String {
        match self {
            Self::Of(tags) => tags[side].clone(),
            Self::Among(tags) => format!("\"none\", {}", tags[side]),
            Self::Literal(text) => (*text).to_owned(),
        }
    }
}

fn attributes(draw: &Draw) -> Attributes {
    let all = [
        (Attribute::ContentType, "text/plain"),
        (Attribute::CacheControl, "no-store"),
        (Attribute::Metadata("owner".into()), "contoso"),
    ];
    Attributes::from_iter(all.into_iter().filter(|_| draw.one_in(3)))
}

impl Upload {
    /// In parts of any size: none, empty ones, pages and what is beside them.
    pub(super) fn of(path: &Path, data: Bytes, draw: &Draw) -> Self {
        let (mut rest, mut parts) = (data, Vec::new());
        while !rest.is_empty() {
            let len = draw.len(2 * PAGE).min(rest.len() as u64);
            parts.push(Summed(rest.split_to(len as usize)));
        }
        Self {
            path: path.clone(),
            parts,
            attributes: attributes(draw),
            end: End::Complete,
            in_turn: draw.one_in(2),
        }
    }

    /// Ends it in any way, at times with so much more that parts are sent before the end.
    fn ended(mut self, draw: &Draw) -> Self {
        if draw.one_in(40) {
            self.parts.extend([5 << 20, 1, 6 << 20].map(|len| Summed(draw.bytes(len))));
        }
        self.end = *draw.pick(&[End::Complete, End::Complete, End::Complete, End::Abort, End::Drop]);
        self
    }

    async fn to(&self, store: &dyn ObjectStore) -> object_store::Result<Seen> {
        let options =
            PutMultipartOptions { attributes: self.attributes.clone(), ..PutMultipartOptions::default() };
        let mut upload = store.put_multipart_opts(&self.path, options).await?;
        let mut sent = Vec::new();
        for part in &self.parts {
            let part = upload.put_part(part.0.clone().into());
            if self.in_turn {
                part.await?;
            } else {
                sent.push(part);
            }
        }
        for part in join_all(sent).await {
            part?;
        }
        match self.end {
            End::Complete => {
                assert!(upload.complete().await?.e_tag.is_some(), "an upload without an etag");
            }
            End::Abort => upload.abort().await?,
            End::Drop => drop(upload),
        }
        Ok(Seen::Done)
    }
}

impl Seen {
    fn listed(objects: Vec<ObjectMeta>, prefixes: Vec<Path>) -> Self {
        assert!(objects.iter().all(|object| object.e_tag.is_some()), "a listed object has no etag");
        Self::Listed {
            objects: objects.into_iter().map(|meta| (meta.location, meta.size)).collect(),
            prefixes,
        }
    }

    /// How many bytes were read.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Got { data, .. } => data.0.len(),
            Self::GotRanges(all) => all.iter().map(|data| data.0.len()).sum(),
            _ => 0,
        }
    }

    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Got { .. } | Self::GotRanges(_) => "got",
            Self::Deleted(_) => "deleted",
            Self::Listed { .. } => "listed",
            Self::Refused(kind) => kind,
        }
    }
}

impl Summed {
    /// As a payload of several pieces.
    fn cut(&self, at: &[u64]) -> PutPayload {
        let mut at: Vec<usize> = at.iter().map(|at| *at as usize).collect();
        at.sort_unstable();
        let (mut rest, mut taken, mut pieces) = (self.0.clone(), 0, Vec::new());
        for at in at {
            pieces.push(rest.split_to(at - taken));
            taken = at;
        }
        pieces.push(rest);
        pieces.into_iter().collect()
    }
}

impl std::fmt::Debug for Summed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, hash {:x}", self.0.len(), xxh3_64(&self.0))
    }
}

/// What an error says that a caller acts on.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Generic { .. } => "Generic",
        Error::NotFound { .. } => "NotFound",
        Error::InvalidPath { .. } => "InvalidPath",
        Error::JoinError { .. } => "JoinError",
        Error::NotSupported { .. } => "NotSupported",
        Error::AlreadyExists { .. } => "AlreadyExists",
        Error::Precondition { .. } => "Precondition",
        Error::NotModified { .. } => "NotModified",
        Error::NotImplemented { .. } => "NotImplemented",
        Error::PermissionDenied { .. } => "PermissionDenied",
        Error::Unauthenticated { .. } => "Unauthenticated",
        Error::UnknownConfigurationKey { .. } => "UnknownConfigurationKey",
        _ => "another",
    }
}
