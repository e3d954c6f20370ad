//! What the object of a record says: the record, and who wrote it of late.
//!
//! Guarantees: every writing has a random commit id of its own, so no two bodies are equal and an entity tag that is made
//! from a body never comes back. A body keeps the last writing of each of the last [`WRITERS`] writers, so a writer who
//! finds another's writing there knows whether its own was there before ([`History::tells`]). A removal is a body too,
//! of an odd length where a record's is even, so that a list tells them apart.
//!
//! Why that decides it: a writer replaces exactly the body that it names, and copies that one's history. So a writing that
//! was done is in every later body, until its writer writes again, which it does not while it waits to know, or until
//! [`WRITERS`] others have written, which the body says (`forgotten`).
//!
//! Not its job: asking the store.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use object_store::UpdateVersion;

use crate::catalog::Revision;

/// How many writers' last writings a body keeps.
pub(super) const WRITERS: usize = 32;
const FORMAT: u8 = 1;
const RECORD: u8 = 1;
const REMOVED: u8 = 2;
const ENTRY: usize = 8 + 8 + 16;

/// Who writes: one handle of a catalog.
pub(super) type Writer = [u8; 8];
/// Which writing: 128 random bits.
pub(super) type Commit = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Writing {
    writer: Writer,
    /// How many writings of the record came before, since its object was made.
    number: u64,
    commit: Commit,
}

/// Who wrote a record of late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    /// The writing that made the object.
    first: Commit,
    /// One more than the number of the latest writing that was left out; 0: none was.
    forgotten: u64,
    /// The last one of each writer, the latest first; never empty.
    last: Vec<Writing>,
}

/// What a record's history says of one writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is the one that is there.
    Current,
    /// It was there, and others came after it.
    Overwritten,
    /// It was never there, and never will be.
    Never,
    /// It could still come: what it replaces is there.
    NotYet,
    /// So many others have written since that it is not known.
    Forgotten,
}

impl History {
    /// That of a writing that makes the object.
    pub(super) fn of_first(writer: Writer, commit: Commit) -> Self {
        Self { first: commit, forgotten: 0, last: vec![Writing { writer, number: 0, commit }] }
    }

    /// That of a writing that replaces the one with this history.
    pub(super) fn next(&self, writer: Writer, commit: Commit) -> Self {
        let mut last = vec![Writing { writer, number: self.number() + 1, commit }];
        last.extend(self.last.iter().filter(|earlier| earlier.writer != writer));
        let left_out = last.drain(WRITERS.min(last.len())..).map(|writing| writing.number + 1).max();
        Self { first: self.first, forgotten: self.forgotten.max(left_out.unwrap_or(0)), last }
    }

    /// How many writings came before the latest.
    pub(super) fn number(&self) -> u64 {
        self.last.first().map_or(0, |latest| latest.number)
    }

    /// The latest writing.
    pub(super) fn commit(&self) -> Option<Commit> {
        self.last.first().map(|latest| latest.commit)
    }

    /// What this history, which is stored, says of the writing whose history was to be `sent`. Its writer has sent no later
    /// one.
    pub(super) fn tells(&self, sent: &Self) -> Told {
        let Some(sought) = sent.last.first() else { return Told::Never };
        if self.commit() == Some(sought.commit) {
            return Told::Current;
        }
        let is_there = self.last.iter().any(|writing| writing.commit == sought.commit);
        if is_there || self.first == sought.commit {
            return Told::Overwritten;
        }
        if sought.number == 0 {
            return Told::Never;
        }
        if self.number() < sought.number {
            return Told::NotYet;
        }
        if self.forgotten > sought.number { Told::Forgotten } else { Told::Never }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first);
        out.extend_from_slice(&self.forgotten.to_be_bytes());
        out.push(self.last.len() as u8);
        for writing in &self.last {
            out.extend_from_slice(&writing.writer);
            out.extend_from_slice(&writing.number.to_be_bytes());
            out.extend_from_slice(&writing.commit);
        }
    }

    /// The history that these bytes begin with, and what comes after it.
    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, bytes) = bytes.split_first_chunk()?;
        let (forgotten, bytes) = bytes.split_first_chunk()?;
        let (&count, bytes) = bytes.split_first()?;
        let (entries, rest) = bytes.split_at_checked(usize::from(count) * ENTRY)?;
        let last = entries
            .chunks_exact(ENTRY)
            .map(|entry| {
                let (writer, entry) = entry.split_first_chunk()?;
                let (number, commit) = entry.split_first_chunk()?;
                let commit = commit.try_into().ok()?;
                Some(Writing { writer: *writer, number: u64::from_be_bytes(*number), commit })
            })
            .collect::<Option<Vec<_>>>()?;
        let history = Self { first: *first, forgotten: u64::from_be_bytes(*forgotten), last };
        (1..=WRITERS).contains(&history.last.len()).then_some((history, rest))
    }
}

/// What an object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) history: History,
    /// The record; `None`: it was removed.
    pub(super) record: Option<Bytes>,
}

/// Why a body can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Newer { found: u8, supported: u8 },
    Damaged,
}

impl Body {
    /// Its bytes: format, kind, how many bytes of filling, filling, history, record.
    pub(super) fn encode(history: &History, record: Option<&Bytes>) -> Bytes {
        let record_len = record.map_or(0, Bytes::len);
        let mut out = Vec::with_capacity(32 + WRITERS * ENTRY + record_len);
        let history_len = 16 + 8 + 1 + history.last.len() * ENTRY;
        let odd = usize::from(record.is_none());
        let filling = (3 + history_len + record_len + odd) % 2;
        out.extend_from_slice(&[FORMAT, if record.is_some() { RECORD } else { REMOVED }, filling as u8]);
        out.resize(out.len() + filling, 0);
        history.encode(&mut out);
        out.extend_from_slice(record.map_or(&[], |record| record));
        out.into()
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<Self, Unreadable> {
        let (kind, filling) = match bytes[..] {
            [FORMAT, kind @ (RECORD | REMOVED), filling @ (0 | 1), ..] => (kind, usize::from(filling)),
            [found, ..] if found > FORMAT => return Err(Unreadable::Newer { found, supported: FORMAT }),
            _ => return Err(Unreadable::Damaged),
        };
        let body = bytes.get(3 + filling..).ok_or(Unreadable::Damaged)?;
        let (history, record) = History::decode(body).ok_or(Unreadable::Damaged)?;
        let is_removed = kind == REMOVED;
        if is_removed != is_removal(bytes.len() as u64) || is_removed && !record.is_empty() {
            return Err(Unreadable::Damaged);
        }
        Ok(Self { history, record: (!is_removed).then(|| bytes.slice_ref(record)) })
    }
}

/// Whether an object of this length says that a record was removed.
pub(super) fn is_removal(len: u64) -> bool {
    len % 2 == 1
}

/// A revision, taken apart: the history, and what the store calls the object if it may still be there.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) history: History,
    pub(super) version: Option<UpdateVersion>,
}

impl Known {
    pub(super) fn revision(&self) -> Revision {
        let mut history = Vec::new();
        self.history.encode(&mut history);
        let version = self.version.as_ref().map(|version| (&version.e_tag, &version.version));
        // Strings and options of them: this can't fail.
        let text = serde_json::to_string(&(BASE64URL_NOPAD.encode(&history), version));
        Revision::new(text.unwrap_or_default())
    }

    /// `None` for the revision of another catalog.
    pub(super) fn parse(revision: &Revision) -> Option<Self> {
        type Text = (String, Option<(Option<String>, Option<String>)>);
        let (history, version): Text = serde_json::from_str(revision.as_str()).ok()?;
        let history = BASE64URL_NOPAD.decode(history.as_bytes()).ok()?;
        let (history, rest) = History::decode(&history)?;
        let version = version.map(|(e_tag, version)| UpdateVersion { e_tag, version });
        rest.is_empty().then_some(Self { history, version })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn writer(number: u64) -> Writer {
        number.to_be_bytes()
    }

    fn commit(number: u64) -> Commit {
        u128::from(number).to_be_bytes()
    }

    #[test]
    fn an_overwritten_writing_is_told_however_often_the_same_writers_overwrote_it() {
        let before = History::of_first(writer(0), commit(100));
        let ours = before.next(writer(1), commit(101));
        let other = before.next(writer(2), commit(102));
        let mut with_ours = ours.clone();
        let mut without = other;
        for number in 0..1000 {
            let by = writer(2 + number % 30);
            with_ours = with_ours.next(by, commit(1000 + number));
            without = without.next(by, commit(1000 + number));
            assert_eq!(with_ours.tells(&ours), Told::Overwritten, "{number}");
            assert_eq!(without.tells(&ours), Told::Never, "{number}");
        }
        assert_eq!(ours.tells(&ours), Told::Current);
        assert_eq!(before.tells(&ours), Told::NotYet);
    }

    #[test]
    fn what_too_many_writers_overwrote_is_said_to_be_forgotten_and_never_guessed() {
        let before = History::of_first(writer(0), commit(100));
        let ours = before.next(writer(1), commit(101));
        let (mut with, mut without) = (ours.clone(), before.next(writer(2), commit(102)));
        for number in 0..WRITERS as u64 {
            with = with.next(writer(10 + number), commit(200 + number));
            without = without.next(writer(10 + number), commit(200 + number));
        }
        assert_eq!(with.tells(&ours), Told::Forgotten);
        assert_eq!(without.tells(&ours), Told::Forgotten);
    }

    #[test]
    fn the_writing_that_made_an_object_is_told_for_ever() {
        let ours = History::of_first(writer(1), commit(1));
        let other = History::of_first(writer(2), commit(2));
        let (mut with, mut without) = (ours.clone(), other);
        for number in 0..200 {
            with = with.next(writer(10 + number), commit(200 + number));
            without = without.next(writer(10 + number), commit(200 + number));
        }
        assert_eq!(with.tells(&ours), Told::Overwritten);
        assert_eq!(without.tells(&ours), Told::Never);
    }

    proptest! {
        #[test]
        fn a_body_decodes_to_what_was_encoded_and_its_length_tells_removals(
            writers in prop::collection::vec(0u64..50, 0..80), record in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
        ) {
            let mut history = History::of_first(writer(7), commit(7));
            for (number, by) in writers.into_iter().enumerate() {
                history = history.next(writer(by), commit(1000 + number as u64));
            }
            let record = record.map(Bytes::from);
            let bytes = Body::encode(&history, record.as_ref());
            prop_assert_eq!(is_removal(bytes.len() as u64), record.is_none());
            prop_assert_eq!(Body::decode(&bytes), Ok(Body { history: history.clone(), record }));
            let known = Known { history, version: Some(UpdateVersion { e_tag: Some("\"a b\"".into()), version: None }) };
            let parsed = Known::parse(&known.revision()).unwrap();
            prop_assert_eq!((parsed.history, parsed.version), (known.history, known.version));
        }

        #[test]
        fn other_bytes_are_refused_or_are_what_they_encode_to(bytes in prop::collection::vec(0u8..3, 0..120)) {
            let bytes = Bytes::from(bytes);
            if let Ok(body) = Body::decode(&bytes) {
                prop_assert_eq!(Body::encode(&body.history, body.record.as_ref()).len(), bytes.len());
            }
        }
    }

    #[test]
    fn a_body_of_a_newer_format_is_said_to_be_that() {
        let newer = Bytes::from_static(&[2, 1, 0]);
        assert_eq!(Body::decode(&newer), Err(Unreadable::Newer { found: 2, supported: 1 }));
    }
}
