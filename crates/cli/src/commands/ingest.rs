//! `ingest`: a long-running writer.
//!
//! Guarantees: a line is printed, and flushed, only for a block that is durable; an interrupt loses nothing
//! that was read. Beside it `status` reads what it writes each second.

use std::{io, path::Path, sync::Arc};

use cofferdam_crypto::{AccountId, Provider};
use cofferdam_keyring::{KeyEvent, KeyState, What};
use cofferdam_vault::{Clock, SystemClock};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use super::blocks::BlockLine;
use crate::{
    cli::Ingest,
    error::CliError,
    feed::{Feed, Input},
    files::{LeaveOut, Walk},
    home::{AccountReport, Home, Keys, MAX_BLOCK_LEN, StatusFile},
    output::{Output, escape, note, rate, size},
    signals::Interrupt,
    writer::{Ending, Stored, Watcher, check_name, write_all},
};

pub(super) async fn run(home: Home, args: Ingest, output: &mut Output) -> Result<(), CliError> {
    if args.block_size.0 as u64 > MAX_BLOCK_LEN {
        return Err(CliError::Usage(format!("--block-size is at most {MAX_BLOCK_LEN} bytes")));
    }
    let interrupt = Interrupt::listen()?;
    let from_stdin = args.path == Path::new("-");
    let sources = sources(&args)?;
    let open = home.open(Keys::Needed).await?;
    let events = open.engine.events();
    let account = open.engine.account(&args.account).await?;
    // Before anything is read that could then not be stored.
    account.check_key().await?;

    let (inputs, names): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
    let paths: Vec<String> = inputs.iter().map(describe).collect();
    let feed = Feed::start(inputs, args.block_size.0, |_, _| ())?;
    let mut progress = Progress {
        output,
        paths,
        home: &open.home,
        key: KeyWatch { account: account.id(), events, customer: None, service: None },
        account: args.account.to_string(),
        blocks: 0,
        bytes: 0,
        unread: 0,
    };
    progress.tick();
    let began = SystemClock.now();
    let names: Arc<[Vec<u8>]> = names.into();
    let ended =
        write_all(&account, &feed, &names, args.writers.into(), &mut progress, interrupt.wait()).await;
    let took = SystemClock.now().since(&began);
    let (blocks, bytes, unread) = (progress.blocks, progress.bytes, progress.unread);
    StatusFile::remove(open.home.path());
    let closed = open.close().await;

    let interrupted = if matches!(ended, Ok(Ending::Stopped)) { "Interrupted: " } else { "" };
    note(format_args!(
        "{interrupted}stored {blocks} blocks, {} in {:.1} s, {}",
        size(bytes),
        took.as_secs_f64(),
        rate(bytes, took)
    ));
    match ended? {
        Ending::Stopped if !from_stdin => return Err(CliError::Interrupted),
        _ if unread > 0 => return Err(CliError::SomeUnread { failed: unread }),
        _ => {}
    }
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
    home: &'a Home,
    key: KeyWatch,
    account: String,
    blocks: u64,
    bytes: u64,
    unread: u64,
}

impl Watcher for Progress<'_> {
    fn stored(&mut self, block: &Stored) -> Result<(), CliError> {
        self.blocks += 1;
        self.bytes += block.len;
        self.output.emit(&BlockLine::stored(block))?;
        self.output.flush()
    }

    fn unreadable(&mut self, source: usize, error: &io::Error) {
        self.unread += 1;
        let path = self.paths.get(source).map_or("", String::as_str);
        note(format_args!("can't read {path}: {error}"));
    }

    fn tick(&mut self) {
        self.key.look(&self.account);
        let (provider, state) = self.key.state();
        let report = AccountReport {
            account: self.account.clone(),
            provider: provider.to_string(),
            key_state: state.to_string(),
            key_id: None,
            last_failure: None,
            blocks: self.blocks,
            bytes: self.bytes,
        };
        // It informs only: a writer must not fail for it.
        let _ = StatusFile::new("ingest", vec![report]).write(self.home.path());
    }
}

/// The state of an account's key, from the engine's events.
struct KeyWatch {
    account: AccountId,
    events: Receiver<KeyEvent>,
    customer: Option<KeyState>,
    service: Option<KeyState>,
}

impl KeyWatch {
    /// Takes in what has happened, and tells it on standard error.
    fn look(&mut self, name: &str) {
        loop {
            let event = match self.events.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Lagged(_)) => continue,
                Err(_) => return,
            };
            if event.account != self.account {
                continue;
            }
            let state = match event.provider {
                Provider::Customer => &mut self.customer,
                Provider::Service => &mut self.service,
            };
            match event.what {
                What::Changed { from, to, .. } => {
                    *state = Some(to);
                    if from != KeyState::Cold {
                        note(format_args!("the {} key of {name} is {to}", event.provider));
                    }
                }
                What::Refreshed => *state = Some(KeyState::Active),
                _ => {}
            }
        }
    }

    /// The key that blocks are under: a customer's account asks for the service's too.
    fn state(&self) -> (Provider, KeyState) {
        match self.customer {
            Some(state) => (Provider::Customer, state),
            None => (Provider::Service, self.service.unwrap_or(KeyState::Cold)),
        }
    }
}
