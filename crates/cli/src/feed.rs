//! Reads files and standard input on a thread of its own and cuts them into blocks.
//!
//! Guarantees: holds a bounded number of blocks; small files travel together; when it is told to stop, all
//! that it has read is handed over, a block cut short too, also while the thread waits for more input.
//!
//! Not its job: to store anything (`writer`).

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::CliError;

/// How many parcels may wait to be taken.
const QUEUE: usize = 2;
/// The most blocks that travel together.
const TOGETHER: usize = 256;
/// How much of a stream is read at a time.
const SCRATCH: usize = 64 << 10;

/// Where blocks come from.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    File(PathBuf),
    Stdin,
}

/// A block to be.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Which of the inputs it is of.
    pub(crate) source: usize,
    /// Which block of that input, from 0.
    pub(crate) number: u64,
    pub(crate) data: Bytes,
}

/// What the reader has to hand over.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// About as many blocks as make up one full one.
    Blocks(Vec<Piece>),
    /// An input that can't be read, or not to its end.
    Unreadable { source: usize, error: io::Error },
}

/// The reader, as who takes from it sees it.
pub(crate) struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is room in the queue, or no more is wanted.
    room: Condvar,
    /// There is something in the queue, or it has ended.
    news: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Parcel>,
    /// What was read of a stream and is not a whole block yet.
    partial: Option<(usize, u64, Vec<u8>)>,
    ended: bool,
    stopped: bool,
}

impl Feed {
    /// Starts to read. `observe` sees each input's bytes in order, with the input's number.
    pub(crate) fn start(
        inputs: Vec<Input>,
        block_size: usize,
        observe: impl FnMut(usize, &[u8]) + Send + 'static,
    ) -> Result<Self, CliError> {
        let shared = Arc::new(Shared { state: Mutex::default(), room: Condvar::new(), news: Notify::new() });
        let reader = Reader { shared: shared.clone(), block_size, observe, parcel: Vec::new(), bytes: 0 };
        // Not a thread of the runtime, whose end would wait for a read that never returns.
        thread::Builder::new()
            .name("reader".into())
            .spawn(move || reader.run(inputs))
            .map_err(|source| CliError::System { doing: "start a thread", source })?;
        Ok(Self { shared })
    }

    /// The next parcel; none after the last. A dropped future takes nothing.
    pub(crate) async fn next(&self) -> Option<Parcel> {
        loop {
            let news = self.shared.news.notified();
            {
                let mut state = self.shared.state();
                if let Some(parcel) = state.queue.pop_front() {
                    self.shared.room.notify_one();
                    return Some(parcel);
                }
                if state.ended {
                    return None;
                }
            }
            news.await;
        }
    }

    /// Reads no more; what was read is still handed over. Tells whether something may be left unread.
    pub(crate) fn stop(&self) -> bool {
        let mut state = self.shared.state();
        let left = !state.ended;
        if let Some((source, number, data)) = state.partial.take()
            && !data.is_empty()
        {
            state.queue.push_back(Parcel::Blocks(vec![Piece { source, number, data: data.into() }]));
        }
        state.end();
        self.shared.room.notify_all();
        self.shared.news.notify_one();
        left
    }

    /// Reads no more and forgets what was read.
    pub(crate) fn abandon(&self) {
        self.stop();
        self.shared.state().queue.clear();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a parcel over and waits for room. False when no more is wanted.
    fn send(&self, mut state: MutexGuard<'_, State>, parcel: Parcel) -> bool {
        if state.stopped {
            return false;
        }
        state.queue.push_back(parcel);
        self.news.notify_one();
        while state.queue.len() >= QUEUE && !state.stopped {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }
}

impl State {
    fn end(&mut self) {
        self.ended = true;
        self.stopped = true;
    }
}

struct Reader<F> {
    shared: Arc<Shared>,
    block_size: usize,
    observe: F,
    /// Blocks of files that are not handed over yet, and their bytes.
    parcel: Vec<Piece>,
    bytes: usize,
}

/// No more is wanted.
struct Stopped;

impl<F: FnMut(usize, &[u8])> Reader<F> {
    fn run(mut self, inputs: Vec<Input>) {
        let read = self.read_all(inputs).and_then(|()| self.hand_over());
        if read.is_ok() {
            let mut state = self.shared.state();
            state.end();
            self.shared.news.notify_one();
        }
    }

    fn read_all(&mut self, inputs: Vec<Input>) -> Result<(), Stopped> {
        for (source, input) in inputs.into_iter().enumerate() {
            let read = match input {
                Input::File(path) => match File::open(path) {
                    Ok(file) => self.read_file(source, file),
                    Err(e) => Ok(Err(e)),
                },
                Input::Stdin => {
                    self.hand_over()?;
                    self.read_stream(source, io::stdin().lock())
                }
            }?;
            if let Err(error) = read {
                self.hand_over()?;
                self.send(Parcel::Unreadable { source, error })?;
            }
        }
        Ok(())
    }

    fn read_file(&mut self, source: usize, mut file: File) -> Result<io::Result<()>, Stopped> {
        let mut left = match file.metadata() {
            Ok(found) if found.is_dir() => return Ok(Err(io::ErrorKind::IsADirectory.into())),
            Ok(found) => found.len(),
            Err(e) => return Ok(Err(e)),
        };
        for number in 0.. {
            // One byte more than is left, so that the end is met without growing.
            let wanted = (self.block_size as u64).min(left.saturating_add(1));
            let mut data = Vec::with_capacity(wanted as usize);
            if let Err(e) = (&mut file).take(self.block_size as u64).read_to_end(&mut data) {
                return Ok(Err(e));
            }
            let len = data.len();
            left = left.saturating_sub(len as u64);
            (self.observe)(source, &data);
            // An empty file is one empty block.
            if len > 0 || number == 0 {
                self.add(Piece { source, number, data: data.into() })?;
            }
            if len < self.block_size {
                break;
            }
        }
        Ok(Ok(()))
    }

    /// Adds a block to the parcel, which goes when it is full.
    fn add(&mut self, piece: Piece) -> Result<(), Stopped> {
        if self.bytes + piece.data.len() > self.block_size || self.parcel.len() >= TOGETHER {
            self.hand_over()?;
        }
        self.bytes += piece.data.len();
        self.parcel.push(piece);
        if self.bytes >= self.block_size { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        self.bytes = 0;
        match std::mem::take(&mut self.parcel) {
            pieces if pieces.is_empty() => Ok(()),
            pieces => self.send(Parcel::Blocks(pieces)),
        }
    }

    fn send(&self, parcel: Parcel) -> Result<(), Stopped> {
        if self.shared.send(self.shared.state(), parcel) { Ok(()) } else { Err(Stopped) }
    }

    /// A stream may pause for long: what was read of a block lies where [`Feed::stop`] finds it.
    fn read_stream(&mut self, source: usize, mut stream: impl Read) -> Result<io::Result<()>, Stopped> {
        let mut scratch = vec![0; SCRATCH.min(self.block_size)];
        let mut number = 0;
        loop {
            let read = match stream.read(&mut scratch) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    self.end_stream(source, number, false)?;
                    return Ok(Err(e));
                }
            };
            if read == 0 {
                self.end_stream(source, number, number == 0)?;
                return Ok(Ok(()));
            }
            let mut new = &scratch[..read];
            (self.observe)(source, new);
            while !new.is_empty() {
                let mut state = self.shared.state();
                if state.stopped {
                    return Err(Stopped);
                }
                let (_, _, data) = state
                    .partial
                    .get_or_insert_with(|| (source, number, Vec::with_capacity(self.block_size)));
                let (now, later) = new.split_at(new.len().min(self.block_size - data.len()));
                data.extend_from_slice(now);
                new = later;
                if data.len() == self.block_size
                    && let Some((_, _, data)) = state.partial.take()
                {
                    let piece = Piece { source, number, data: data.into() };
                    number += 1;
                    if !self.shared.send(state, Parcel::Blocks(vec![piece])) {
                        return Err(Stopped);
                    }
                }
            }
        }
    }

    /// Hands over the last of a stream: a part of a block, or an empty one where there was nothing at all.
    fn end_stream(&mut self, source: usize, number: u64, or_empty: bool) -> Result<(), Stopped> {
        let mut state = self.shared.state();
        let data = match state.partial.take() {
            Some((_, _, data)) => data,
            None if or_empty => Vec::new(),
            None => return Ok(()),
        };
        let piece = Piece { source, number, data: data.into() };
        if self.shared.send(state, Parcel::Blocks(vec![piece])) { Ok(()) } else { Err(Stopped) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn pieces(feed: &Feed) -> Vec<(usize, u64, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(parcel) = feed.next().await {
            let Parcel::Blocks(pieces) = parcel else { panic!("unreadable") };
            all.extend(pieces.into_iter().map(|p| (p.source, p.number, p.data.to_vec())));
        }
        all
    }

    #[tokio::test]
    async fn files_are_cut_into_blocks_and_empty_ones_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, len: usize| {
            let path = folder.path().join(name);
            std::fs::write(&path, vec![b'x'; len]).unwrap();
            Input::File(path)
        };
        let inputs = vec![file("a", 10), file("b", 0), file("c", 8), file("d", 1)];
        let feed = Feed::start(inputs, 4, |_, _| ()).unwrap();
        let lens: Vec<_> = pieces(&feed).await.into_iter().map(|(s, n, d)| (s, n, d.len())).collect();
        assert_eq!(lens, [(0, 0, 4), (0, 1, 4), (0, 2, 2), (1, 0, 0), (2, 0, 4), (2, 1, 4), (3, 0, 1)]);
    }

    #[tokio::test]
    async fn an_input_that_is_gone_is_named_and_the_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("a");
        std::fs::write(&there, "x").unwrap();
        let inputs = vec![Input::File(folder.path().join("gone")), Input::File(there)];
        let feed = Feed::start(inputs, 4, |_, _| ()).unwrap();
        let first = feed.next().await;
        assert!(matches!(first, Some(Parcel::Unreadable { source: 0, .. })), "{first:?}");
        assert_eq!(pieces(&feed).await, [(1, 0, b"x".to_vec())]);
    }

    fn stream(block_size: usize) -> (Feed, io::PipeWriter, thread::JoinHandle<()>) {
        let (reading, writing) = io::pipe().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), room: Condvar::new(), news: Notify::new() });
        let mut reader = Reader {
            shared: shared.clone(),
            block_size,
            observe: |_, _: &[u8]| (),
            parcel: vec![],
            bytes: 0,
        };
        let thread = thread::spawn(move || {
            if reader.read_stream(0, reading).is_ok_and(|read| read.is_ok()) {
                reader.run(Vec::new());
            }
        });
        (Feed { shared }, writing, thread)
    }

    #[tokio::test]
    async fn a_stream_is_cut_into_blocks_to_its_end() {
        let (feed, mut writing, thread) = stream(4);
        writing.write_all(b"abcdefghij").unwrap();
        drop(writing);
        let expected = [(0, 0, b"abcd".to_vec()), (0, 1, b"efgh".to_vec()), (0, 2, b"ij".to_vec())];
        assert_eq!(pieces(&feed).await, expected);
        thread.join().unwrap();
        let (feed, writing, _thread) = stream(4);
        drop(writing);
        assert_eq!(pieces(&feed).await, [(0, 0, Vec::new())]);
    }

    #[tokio::test]
    async fn what_was_read_of_a_paused_stream_is_handed_over_at_a_stop() {
        let (feed, mut writing, _thread) = stream(4);
        writing.write_all(b"abcdef").unwrap();
        let Some(Parcel::Blocks(first)) = feed.next().await else { panic!("no block") };
        assert_eq!(first[0].data, "abcd");
        while feed.shared.state().partial.as_ref().is_none_or(|(_, _, data)| data != b"ef") {
            tokio::task::yield_now().await;
        }
        assert!(feed.stop());
        assert_eq!(pieces(&feed).await, [(0, 1, b"ef".to_vec())]);
    }
}
