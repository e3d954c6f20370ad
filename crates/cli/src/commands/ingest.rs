//! `ingest`: a long-running writer.
//!
//! Guarantees: a line is printed, and flushed, only for a block that is durable; an interrupt loses nothing
//! that was read; an outage of the account's vault stops it only where the buffer takes no more. Beside it `status`
//! reads what it writes each second.

use std::{io, path::Path, sync::Arc};

use cofferdam_store::{EngineError, Outcome};
use cofferdam_vault::{Clock, SystemClock};

use super::blocks::BlockLine;
use crate::{
    beside::{Beside, Counters},
    cli::Ingest,
    error::CliError,
    feed::{Feed, Input},
    files::{LeaveOut, Walk},
    home::{Home, Keys, MAX_BLOCK_LEN},
    output::{Output, escape, note, rate, size},
    signals::Interrupt,
    writer::{Ending, Watcher, Written, check_name, write_all},
};

pub(super) async fn run(home: Home, args: Ingest, output: &mut Output) -> Result<(), CliError> {
    if args.block_size.0 as u64 > MAX_BLOCK_LEN {
        return Err(CliError::Usage(format!("--block-size is at most {MAX_BLOCK_LEN} bytes")));
    }
    let interrupt = Interrupt::listen()?;
    let from_stdin = args.path == Path::new("-");
    let sources = sources(&args)?;
    let mut open = home.open(Keys::Needed).await?;
    let account = open.engine.account(&args.account).await?;
    // Before anything is read that could then be neither stored nor buffered.
    match account.check_key().await {
        Err(EngineError::KeyUnavailable { source, .. })
            if source.is_outage() && open.home.buffer_bounds().is_on() => {}
        checked => checked?,
    }

    let (inputs, names): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
    let paths: Vec<String> = inputs.iter().map(describe).collect();
    let feed = Feed::start(inputs, args.block_size.0, |_, _| ())?;
    let counters = Arc::<Counters>::default();
    let beside = Beside::start(&open, &account, "ingest", counters.clone());
    let mut progress = Progress { output, paths, counters, unread: 0 };
    let began = SystemClock.now();
    let names: Arc<[Vec<u8>]> = names.into();
    let ended =
        write_all(&account, &feed, &names, args.writers.into(), &mut progress, interrupt.wait()).await;
    let took = SystemClock.now().since(&began);
    let Progress { counters, unread, .. } = progress;
    let interrupted = matches!(ended, Ok(Ending::Stopped));
    let drained = match ended {
        Ok(Ending::Complete) => open.settle().await,
        // Who interrupts it does not want to wait for a drain either.
        Ok(Ending::Stopped) | Err(_) => Ok(()),
    };
    beside.stop().await;
    let closed = open.close_now().await;

    let (blocks, bytes, buffered) = (counters.blocks(), counters.bytes(), counters.buffered());
    let first = if interrupted { "Interrupted: " } else { "" };
    let of_those = if buffered > 0 { format!(" ({buffered} buffered)") } else { String::new() };
    note(format_args!(
        "{first}stored {blocks} blocks{of_those}, {} in {:.1} s, {}",
        size(bytes),
        took.as_secs_f64(),
        rate(bytes, took)
    ));
    match ended? {
        Ending::Stopped if !from_stdin => return Err(CliError::Interrupted),
        _ if unread > 0 => return Err(CliError::SomeUnread { failed: unread }),
        _ => {}
    }
    drained?;
    closed.map(drop)
}

/// What to read, and the name of each input's blocks.
fn sources(args: &Ingest) -> Result<Vec<(Input, Vec<u8>)>, CliError> {
    let given = args.name.as_ref().map(|name| name.as_encoded_bytes().to_vec());
    let sources = if args.path == Path::new("-") {
        vec![(Input::Stdin, given.unwrap_or_else(|| b"stdin".to_vec()))]
    } else if args.path.is_dir() {
        let mut walk = Walk::default();
        walk.add(&args.path, LeaveOut::Nothing)?;
        if walk.skipped > 0 {
            note(format_args!("left out {} links, pipes or devices", walk.skipped));
        }
        if let Some(first) = walk.unreadable.first() {
            let what =
                format!("{} folders can't be read, the first: {}", walk.unreadable.len(), escape(first));
            return Err(CliError::NoFiles { path: args.path.clone(), why: format!(": {what}") });
        }
        let name = |found: &Path| match &given {
            Some(given) => [given, &b"/"[..], found.as_os_str().as_encoded_bytes()].concat(),
            None => found.as_os_str().as_encoded_bytes().to_vec(),
        };
        walk.files.into_iter().map(|f| (Input::File(f.path), name(&f.name))).collect()
    } else {
        // Anything that can be read: a file, a pipe, a device.
        args.path.metadata().map_err(|e| CliError::reading(&args.path, e))?;
        let own = args.path.file_name().unwrap_or(args.path.as_os_str()).as_encoded_bytes().to_vec();
        vec![(Input::File(args.path.clone()), given.unwrap_or(own))]
    };
    if sources.is_empty() {
        return Err(CliError::NoFiles { path: args.path.clone(), why: String::new() });
    }
    for (input, name) in &sources {
        check_name(name).map_err(|source| {
            let path = match input {
                Input::File(path) => path.clone(),
                Input::Stdin => args.path.clone(),
            };
            CliError::BlockName { path, source }
        })?;
    }
    Ok(sources)
}

fn describe(input: &Input) -> String {
    match input {
        Input::File(path) => escape(&path.display().to_string()),
        Input::Stdin => "standard input".into(),
    }
}

struct Progress<'a> {
    output: &'a mut Output,
    paths: Vec<String>,
    counters: Arc<Counters>,
    unread: u64,
}

impl Watcher for Progress<'_> {
    fn written(&mut self, block: &Written) -> Result<(), CliError> {
        self.counters.add(block.len, block.outcome == Outcome::Buffered);
        self.output.emit(&BlockLine::written(block))?;
        self.output.flush()
    }

    fn unreadable(&mut self, source: usize, error: &io::Error) {
        self.unread += 1;
        let path = self.paths.get(source).map_or("", String::as_str);
        note(format_args!("can't read {path}: {error}"));
    }
}
