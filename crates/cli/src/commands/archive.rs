//! `export`, `import` and `archives`: an account in one file.
//!
//! Guarantees: an archive's file appears whole or not at all; an account that is imported is there whole or not at all. No
//! vault is asked but those of the home's service and of its principals. Not its job: what is in the file (`cofferdam-store`).

use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use cofferdam_crypto::KeyId;
use cofferdam_store::{Account, ArchiveCounts, ArchiveEntry, ArchiveReport, ImportOptions};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncSeek, AsyncWrite, AsyncWriteExt, ReadBuf},
};

use super::operations::finish_first;
use crate::{
    cli::{Archives, Export, Import},
    error::CliError,
    files::Replacement,
    home::{Home, Keys, OpenHome},
    output::{Output, Time, escape, size},
    signals::Interrupt,
};

/// What was written or read.
#[derive(Serialize)]
struct Done {
    #[serde(skip)]
    word: &'static str,
    account: String,
    archive: String,
    file: String,
    blocks: u64,
    buffered_blocks: u64,
    sealed_bytes: u64,
    /// The versions that can unwrap an archive that was written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<KeyId>,
    /// The version that unwrapped one that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unwrapped_by: Option<KeyId>,
    /// Whether the service's key vouches for one that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    vouched: Option<bool>,
}

impl Done {
    fn new(
        word: &'static str,
        account: String,
        archive: String,
        file: &Path,
        counts: &ArchiveCounts,
    ) -> Self {
        let &ArchiveCounts { stored, buffered, bytes, .. } = counts;
        Self {
            word,
            account,
            archive,
            file: escape(&file.display().to_string()),
            blocks: stored,
            buffered_blocks: buffered,
            sealed_bytes: bytes,
            keys: Vec::new(),
            unwrapped_by: None,
            vouched: None,
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { word, account, archive, file, blocks, buffered_blocks, sealed_bytes, .. } = self;
        let buffered = match buffered_blocks {
            0 => String::new(),
            more => format!(" and {more} buffered"),
        };
        write!(
            f,
            "{word} {account}: {blocks} blocks{buffered}, {} sealed, archive {archive}, ",
            size(*sealed_bytes)
        )?;
        match &self.unwrapped_by {
            Some(key_id) => write!(f, "unwrapped by {key_id}, from {file}"),
            None => f.write_str(file),
        }
    }
}

pub(super) async fn export(home: Home, args: Export, output: &mut Output) -> Result<(), CliError> {
    let Export { account: name, file } = args;
    let interrupt = Interrupt::listen()?;
    let open = home.open(Keys::Needed).await?;
    let exported = async {
        let account = open.engine.account(&name).await?;
        forget_unfinished(&account).await?;
        let stop = Stop::default();
        stop.on(interrupt, write(&account, &file, &stop), "no archive was written").await
    }
    .await;
    close(open, exported.is_err()).await?;
    let report = exported?;
    let done = Done::new("Exported", name.to_string(), report.id.to_string(), &file, &report.counts);
    output.emit(&Done { keys: report.keys, ..done })
}

/// What an export that was killed has recorded: nobody else has the home, so none of these goes on.
async fn forget_unfinished(account: &Account) -> Result<(), CliError> {
    for entry in account.archives().await?.into_iter().filter(|entry| !entry.finished) {
        account.forget_archive(entry.id).await?;
    }
    Ok(())
}

async fn write(account: &Account, file: &Path, stop: &Stop) -> Result<ArchiveReport, CliError> {
    let failed = |e| CliError::writing("write", file, e);
    let bytes = account.status().await?.bytes;
    let replacement = Replacement::begin(file)?;
    let out = File::from_std(replacement.file().map_err(failed)?);
    let mut out = Shown { inner: out, bar: bar("exporting", bytes), stop: stop.clone() };
    let report = account.export(&mut out).await;
    out.bar.finish_and_clear();
    let report = report.map_err(|e| CliError::of_archive(file, e))?;
    let flushed = out.inner.flush().await.map_err(failed);
    drop(out);
    if let Err(e) = flushed.and_then(|()| replacement.persist()) {
        // There is no such archive then.
        account.forget_archive(report.id).await?;
        return Err(e);
    }
    Ok(report)
}

pub(super) async fn import(home: Home, args: Import, output: &mut Output) -> Result<(), CliError> {
    let Import { file, name, kek, whose } = args;
    let interrupt = Interrupt::listen()?;
    let input = File::open(&file).await.map_err(|e| CliError::reading(&file, e))?;
    let len = input.metadata().await.map_err(|e| CliError::reading(&file, e))?.len();
    let open = home.open(Keys::Needed).await?;
    let mut options = ImportOptions::new().allow_own_service();
    for principal in &open.principals {
        options = options.allow(principal.clone(), principal.clone());
    }
    if let Some(name) = name {
        options = options.named(name);
    }
    if let Some(kek) = kek {
        options = options.under(whose.principal, kek);
    }
    let imported = async {
        // What was left may be the purge of the same account.
        finish_first(&open).await?;
        let stop = Stop::default();
        // It is read twice.
        let input = Shown { inner: input, bar: bar("importing", 2 * len), stop: stop.clone() };
        let shown = input.bar.clone();
        let work = async {
            let imported = open.engine.import(input, options).await;
            imported.map_err(|e| CliError::of_archive(&file, e))
        };
        let imported = stop.on(interrupt, work, "no account was made").await;
        shown.finish_and_clear();
        imported
    }
    .await;
    close(open, imported.is_err()).await?;
    let (account, report) = imported?;
    let (name, archive) = (account.name().to_string(), report.archive.to_string());
    let done = Done::new("Imported", name, archive, &file, &report.counts);
    output.emit(&Done { unwrapped_by: report.unwrapped_by, vouched: Some(report.vouched), ..done })
}

/// Who was interrupted, or failed, does not wait for what others left.
async fn close(open: OpenHome, now: bool) -> Result<(), CliError> {
    let closed = if now { open.close_now().await } else { open.close().await };
    closed.map(drop)
}

/// An archive that is recorded.
#[derive(Serialize)]
struct Recorded {
    archive: String,
    exported: Time,
    finished: bool,
    keys: Vec<KeyId>,
}

impl From<ArchiveEntry> for Recorded {
    fn from(of: ArchiveEntry) -> Self {
        let ArchiveEntry { id, exported_at, finished, keys, .. } = of;
        Self { archive: id.to_string(), exported: Time(exported_at), finished, keys }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.archive, self.exported)?;
        if !self.finished {
            f.write_str(" not finished")?;
        }
        self.keys.iter().try_for_each(|key_id| write!(f, " {key_id}"))
    }
}

#[derive(Serialize)]
struct Forgotten {
    forgotten: String,
}

impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Forgot {}", self.forgotten)
    }
}

pub(super) async fn list(home: Home, args: Archives, output: &mut Output) -> Result<(), CliError> {
    let open = home.open(Keys::Unused).await?;
    let account = open.engine.account(&args.account).await?;
    match args.forget {
        Some(id) => {
            account.forget_archive(id).await?;
            output.emit(&Forgotten { forgotten: id.to_string() })?;
        }
        None => {
            account.archives().await?.into_iter().try_for_each(|entry| output.emit(&Recorded::from(entry)))?
        }
    }
    drop(account);
    open.close().await.map(drop)
}

/// A bar on a terminal, nothing in a pipe.
fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(what);
    match ProgressStyle::with_template("{msg:12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Ends what goes through, so that the engine clears up behind it.
#[derive(Clone, Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Does the work, and ends it when it is interrupted; `what` is how things are then.
    async fn on<T>(
        &self,
        interrupt: Interrupt,
        work: impl Future<Output = Result<T, CliError>>,
        what: &'static str,
    ) -> Result<T, CliError> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => done,
            () = interrupt.wait() => {
                self.0.store(true, Ordering::Relaxed);
                // It may have been too late.
                work.await.map_err(|_| CliError::Stopped { what })
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(io::Error::other("interrupted")) } else { Ok(()) }
    }
}

/// Counts what goes through.
struct Shown<T> {
    inner: T,
    bar: ProgressBar,
    stop: Stop,
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Shown<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stop.check()?;
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(len)) = &written {
            self.bar.inc(*len as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Shown<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stop.check()?;
        let before = into.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, into);
        self.bar.inc((into.filled().len() - before) as u64);
        read
    }
}

impl<T: AsyncSeek + Unpin> AsyncSeek for Shown<T> {
    fn start_seek(mut self: Pin<&mut Self>, to: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.inner).start_seek(to)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.inner).poll_complete(context)
    }
}
