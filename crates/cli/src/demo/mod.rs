//! `demo`: the whole life cycle on real files.
//!
//! Guarantees: what it says, it has checked, and it fails where a check does; memory is bounded by blocks and
//! writers, not by the input; the temporary home is removed, also on an interrupt.
//!
//! Its key times are short, within the bounds that hold for everybody, so that a revocation is felt and a grace ends
//! within seconds.

mod lines;
mod outage;
mod pack;
mod report;
mod revoke;
mod rotate;
mod search;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cofferdam_crypto::KeyId;
use cofferdam_store::{Account, AccountKey, AccountName, BufferMode};
use cofferdam_vault::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    cli::Demo,
    error::CliError,
    files::{LeaveOut, Walk},
    home::{Home, KeyTimes, Keys, OpenHome, PassphraseSource, Settings, principal},
    output::{Output, escape, rate, size},
    signals::Interrupt,
};
use pack::{Packed, Packing};
use report::Report;
use search::{Findings, Target};

/// How much of an input file the control searches.
const CONTROL: u64 = 1 << 20;
/// The name of the customer's key.
const KEY: &str = "demo";
/// How many unreadable files are named.
const NAMED: usize = 5;

pub(crate) async fn run(
    args: Demo,
    passphrase: PassphraseSource,
    output: &mut Output,
) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    let stop = Arc::new(AtomicBool::new(false));
    tokio::select! {
        done = show(args, passphrase, output, stop.clone()) => done,
        () = interrupt.wait() => {
            stop.store(true, Ordering::Relaxed);
            Err(CliError::Demo { what: "it was interrupted".into() })
        }
    }
}

async fn show(
    args: Demo,
    passphrase: PassphraseSource,
    output: &mut Output,
    stop: Arc<AtomicBool>,
) -> Result<(), CliError> {
    let began = SystemClock.now();
    let walk = gather(&args.paths)?;
    let (_removed_at_the_end, place) = place(args.keep)?;
    let home = Home::create(&place, settings(), passphrase).await?;
    output
        .text(format_args!("A home with a store, the service's vault and the customer's: {}", home.name()))?;
    let vault = home.customer_vault().await?;
    let kek = vault.create_key(KEY).await?;
    output.text(format_args!("The customer's key (KEK): {kek}"))?;

    let mut report = Report { skipped: walk.skipped, ..Report::default() };
    let open = home.open(Keys::Needed).await?;
    let account = create(&open, &kek).await?;
    let packing = store(&account, walk, output, &mut report).await?;
    drop(account);
    let home = open.close().await?;

    // Opened anew: nothing comes from memory.
    let open = home.open(Keys::Needed).await?;
    let account = open.engine.account(&name()?).await?;
    read(&account, &packing, output, &mut report).await?;
    drop(account);
    let home = open.close().await?;

    let open = home.open(Keys::Needed).await?;
    let account = open.engine.account(&name()?).await?;
    account.check_key().await?;
    let buffered = outage::begin(&account, &vault, &packing.files, output, &mut report).await?;
    // While blocks are stored, and while others are buffered.
    let paths: Vec<PathBuf> = packing.files.iter().map(|file| file.path.clone()).collect();
    look(paths, open.home.store_file(), output, &mut report, stop).await?;
    outage::end(&account, &vault, buffered, output, &mut report).await?;
    take_away(&account, &vault, &kek, &packing.files, output, &mut report).await?;
    rotate::rotate(&open.engine, &account, &vault, (KEY, &kek), &packing, output, &mut report).await?;
    drop(account);
    let home = open.close().await?;

    report.seconds = SystemClock.now().since(&began).as_secs_f64();
    if !place.starts_with(std::env::temp_dir()) {
        output.text(format_args!("The home is kept in {}", home.name()))?;
    }
    output.emit(&report)
}

/// The files to use.
fn gather(paths: &[PathBuf]) -> Result<Walk, CliError> {
    let here = [PathBuf::from(".")];
    let paths = if paths.is_empty() { &here } else { paths };
    let mut walk = Walk::default();
    for path in paths {
        walk.add(path, LeaveOut::BuildOutput)?;
    }
    if !walk.files.is_empty() {
        return Ok(walk);
    }
    let why = match (walk.skipped, walk.unreadable.first()) {
        (_, Some(first)) => format!(" ({})", escape(first)),
        (0, None) => " (hidden and ignored files and folders named target are left out)".into(),
        (links, None) => format!(" ({links} links, pipes or devices are left out)"),
    };
    let path = paths.first().cloned().unwrap_or_default();
    Err(CliError::NoFiles { path, why })
}

fn place(keep: Option<PathBuf>) -> Result<(Option<tempfile::TempDir>, PathBuf), CliError> {
    if let Some(keep) = keep {
        return Ok((None, keep));
    }
    let folder = tempfile::Builder::new()
        .prefix("cofferdam-demo-")
        .tempdir()
        .map_err(|e| CliError::writing("make a folder in", &std::env::temp_dir(), e))?;
    let path = folder.path().to_path_buf();
    Ok((Some(folder), path))
}

/// The shortest times that are allowed, but for the grace, which could be none.
fn times() -> KeyTimes {
    KeyTimes {
        refresh_ms: 6000,
        ceiling_ms: 6000,
        grace_ms: 10_000,
        retry_max_ms: 1000,
        revoked_poll_ms: 1000,
        call_timeout_ms: 1000,
        ..KeyTimes::default()
    }
}

fn settings() -> Settings {
    Settings { key_times: times(), ..Settings::default() }
}

fn name() -> Result<AccountName, CliError> {
    Ok(AccountName::new("demo")?)
}

async fn create(open: &OpenHome, kek: &KeyId) -> Result<Account, CliError> {
    let key =
        AccountKey::Customer { principal: principal(), kek: kek.clone(), buffer: BufferMode::default() };
    Ok(open.engine.create_account(&name()?, key).await?)
}

async fn store(
    account: &Account,
    walk: Walk,
    output: &mut Output,
    report: &mut Report,
) -> Result<Packing, CliError> {
    let paths: Vec<PathBuf> = walk.files.into_iter().map(|file| file.path).collect();
    let total = paths.iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum();
    let bar = bar("storing", total);
    let packing = pack::pack(account, paths, &bar).await;
    bar.finish_and_clear();
    let packing = packing?;
    let unreadable = walk.unreadable.iter().chain(&packing.unreadable);
    for why in unreadable.clone().take(NAMED) {
        output.text(format_args!("Left out, for it can't be read: {}", escape(why)))?;
    }
    report.files = packing.files.len() as u64;
    report.empty_files = packing.empty;
    report.unreadable_files = unreadable.count() as u64;
    report.bytes = packing.bytes;
    report.blocks = packing.blocks;
    report.seal_and_store_seconds = packing.took.as_secs_f64();
    if packing.files.is_empty() {
        let why = format!(" ({} can't be read)", report.unreadable_files);
        return Err(CliError::NoFiles { path: PathBuf::from("."), why });
    }
    output.text(format_args!(
        "Stored {} files ({} empty; {} unreadable, {} links or devices left out), {} in {} blocks, at {}",
        report.files,
        report.empty_files,
        report.unreadable_files,
        report.skipped,
        size(report.bytes),
        report.blocks,
        rate(report.bytes, packing.took)
    ))?;
    Ok(packing)
}

async fn read(
    account: &Account,
    packing: &Packing,
    output: &mut Output,
    report: &mut Report,
) -> Result<(), CliError> {
    let bar = bar("reading back", packing.bytes);
    let took = pack::read_back(account, &packing.files, &bar).await;
    bar.finish_and_clear();
    let took = took?;
    report.read_and_open_seconds = took.as_secs_f64();
    report.digests_equal = packing.files.len() as u64;
    output.text(format_args!(
        "Opened the store anew and read all back at {}: all {} SHA-256 digests are equal",
        rate(packing.bytes, took),
        report.digests_equal
    ))
}

/// Searches the store's file for the input's lines, and an input file as the control.
async fn look(
    paths: Vec<PathBuf>,
    store: PathBuf,
    output: &mut Output,
    report: &mut Report,
    stop: Arc<AtomicBool>,
) -> Result<(), CliError> {
    let len = |path: &Path| path.metadata().map(|found| found.len()).map_err(|e| CliError::reading(path, e));
    report.store_bytes = len(&store)?;
    let bar = bar("searching", report.store_bytes);
    let shown = bar.clone();
    let began = SystemClock.now();
    let searching = move || -> io::Result<(Findings, Findings)> {
        let in_store = Target { path: &store, limit: u64::MAX };
        let found = search::search(&paths, u64::MAX, in_store, &|bytes| shown.inc(bytes), &stop)?;
        let mut control = Findings::default();
        for path in &paths {
            let in_itself = Target { path, limit: CONTROL };
            let input = std::slice::from_ref(path);
            control = search::search(input, CONTROL, in_itself, &|_| (), &stop)?;
            if control.lines > 0 {
                break;
            }
        }
        Ok((found, control))
    };
    let done = tokio::task::spawn_blocking(searching).await.map_err(|e| CliError::Task(e.to_string()));
    bar.finish_and_clear();
    let (found, control) = done?.map_err(|e| CliError::File {
        doing: "search",
        path: PathBuf::from("the store and its input"),
        source: e,
    })?;
    let took = SystemClock.now().since(&began);
    report.lines_searched = found.lines;
    report.lines_found = found.found;
    report.lines_left_out = found.left_out;
    report.search_passes = found.passes;
    report.search_seconds = took.as_secs_f64();
    report.control_searched = control.lines;
    report.control_found = control.found;
    output.text(format_args!(
        "Searched all {} of the store for {} lines of 16 bytes or more ({} shorter or uniform ones left out) in \
         {:.1} s: {} found",
        size(report.store_bytes),
        found.lines,
        found.left_out,
        took.as_secs_f64(),
        found.found,
    ))?;
    output.text(format_args!(
        "Control: the same search finds {} of the {} lines of an input file in that file",
        control.found, control.lines
    ))?;
    if found.found > 0 {
        return Err(CliError::Demo {
            what: format!("{} lines of the input are in the store's file", found.found),
        });
    }
    if control.found < control.lines {
        let what = "the control did not find every line: did the file change meanwhile?".into();
        return Err(CliError::Demo { what });
    }
    Ok(())
}

async fn take_away(
    account: &Account,
    vault: &cofferdam_vault::LocalVault,
    kek: &KeyId,
    files: &[Packed],
    output: &mut Output,
    report: &mut Report,
) -> Result<(), CliError> {
    output.text(format_args!(
        "Disabling the key in the vault; it is felt at the next renewal, here within {:?}...",
        Duration::from_millis(times().refresh_ms)
    ))?;
    output.flush()?;
    let mut found = revoke::revoke(account, vault, kek, files).await?;
    output.text(format_args!(
        "Felt after {:.1} s: {} reads and {} writes refused (key revoked); the list still works: {} blocks",
        found.noticed_after.as_secs_f64(),
        found.reads_refused,
        found.writes_refused,
        found.listed
    ))?;
    output.text(format_args!("Enabling the key again..."))?;
    output.flush()?;
    revoke::restore(account, vault, kek, files, &mut found).await?;
    output.text(format_args!(
        "Felt after {:.1} s: reads and writes work again",
        found.restored_after.as_secs_f64()
    ))?;
    report.revoked_after_seconds = found.noticed_after.as_secs_f64();
    report.reads_refused = found.reads_refused;
    report.writes_refused = found.writes_refused;
    report.listed_while_revoked = found.listed;
    report.restored_after_seconds = found.restored_after.as_secs_f64();
    Ok(())
}

/// A bar on a terminal, nothing in a pipe.
fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(what);
    let style = "{msg:12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
