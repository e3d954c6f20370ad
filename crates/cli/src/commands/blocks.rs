//! `put`, `get`, `ls` and `rm`: one block, or the list of them.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use cofferdam_crypto::BlockId;
use cofferdam_store::{BlockInfo, Outcome, Place, PutReceipt};
use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    cli::{BlockArgs, Get, Ls, Put},
    error::CliError,
    files::replace,
    home::{Home, Keys, MAX_BLOCK_LEN},
    output::{JsonBlock, Output, Time, escape},
    writer::Written,
};

/// How many blocks are listed at a time.
const PAGE: usize = 1000;

/// A block's particulars: the acknowledgement of a write, or what a check of it found.
#[derive(Serialize)]
pub(super) struct BlockLine {
    outcome: &'static str,
    #[serde(flatten)]
    block: JsonBlock,
    version: u64,
    len: u64,
    sha256: String,
    #[serde(skip)]
    text: String,
}

impl BlockLine {
    /// It is durable.
    pub(super) fn written(block: &Written) -> Self {
        match block.outcome {
            Outcome::Buffered => Self::new("buffered", "Buffered", block),
            _ => Self::new("stored", "Stored", block),
        }
    }

    /// It was read and opened.
    pub(super) fn opened(block: &Written) -> Self {
        Self::new("opened", "Opened", block)
    }

    fn new(outcome: &'static str, word: &str, block: &Written) -> Self {
        let sha256 = HEXLOWER.encode(&block.sha256);
        let text = format!("{word} {} {} {} {sha256}", block.id, block.version, block.len);
        let (version, len) = (block.version.number(), block.len);
        Self { outcome, block: JsonBlock::from(&block.id), version, len, sha256, text }
    }
}

impl fmt::Display for BlockLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

pub(super) async fn put(home: Home, args: Put, output: &mut Output) -> Result<(), CliError> {
    let data = match args.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            read_block(path, File::open(path).map_err(|e| CliError::reading(path, e))?)?
        }
        _ => read_block(Path::new("standard input"), io::stdin().lock())?,
    };
    let open = home.open(Keys::Needed).await?;
    let BlockArgs { account, block } = args.at;
    let (len, sha256) = (data.len() as u64, Sha256::digest(&data).into());
    let put = async { open.engine.account(&account).await?.put(&block, data.into()).await }.await;
    let told = put.map_err(CliError::from).and_then(|PutReceipt { version, outcome, .. }| {
        output.emit(&BlockLine::written(&Written { id: block, version, len, sha256, outcome }))?;
        // What is durable is told before anything else is waited for.
        output.flush()
    });
    open.close().await?;
    told
}

/// All of the input, and no more than a block takes.
fn read_block(path: &Path, input: impl Read) -> Result<Vec<u8>, CliError> {
    let mut data = Vec::new();
    input.take(MAX_BLOCK_LEN + 1).read_to_end(&mut data).map_err(|e| CliError::reading(path, e))?;
    if data.len() as u64 > MAX_BLOCK_LEN {
        return Err(CliError::TooLarge { path: path.into(), max: MAX_BLOCK_LEN });
    }
    Ok(data)
}

/// A block that was read, in JSON: its bytes in base64, or the file that they are in.
#[derive(Serialize)]
struct Got {
    #[serde(flatten)]
    block: JsonBlock,
    len: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl fmt::Display for Got {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

pub(super) async fn get(home: Home, args: Get, output: &mut Output) -> Result<(), CliError> {
    let open = home.open(Keys::Needed).await?;
    let BlockArgs { account, block } = args.at;
    let read = async {
        let account = open.engine.account(&account).await?;
        match args.range {
            Some(range) => account.get_range(&block, range.0).await,
            None => account.get(&block).await,
        }
    }
    .await;
    let shown =
        read.map_err(CliError::from).and_then(|data| show(&block, &data, args.output.as_deref(), output));
    open.close().await?;
    shown
}

fn show(block: &BlockId, data: &[u8], file: Option<&Path>, output: &mut Output) -> Result<(), CliError> {
    if let Some(path) = file {
        write_file(path, data)?;
    }
    if output.is_json() {
        output.emit(&Got {
            block: JsonBlock::from(block),
            len: data.len() as u64,
            file: file.map(|path| escape(&path.display().to_string())),
            data_base64: file.is_none().then(|| BASE64.encode(data)),
        })?;
    } else if file.is_none() {
        output.bytes(data)?;
    }
    output.flush()
}

/// A file appears whole or not at all; a device or pipe that is there is written to.
fn write_file(path: &Path, data: &[u8]) -> Result<(), CliError> {
    match path.metadata() {
        Ok(found) if !found.is_file() => OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(data))
            .map_err(|e| CliError::writing("write", path, e)),
        // Through a link, to what it names.
        Ok(_) => replace(&fs::canonicalize(path).map_err(|e| CliError::writing("write", path, e))?, data),
        Err(_) => replace(path, data),
    }
}

/// A block in a list.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    block: JsonBlock,
    version: u64,
    len: u64,
    stored: Time,
    provider: String,
    epoch: u32,
    place: &'static str,
    #[serde(skip)]
    text: String,
}

impl Listed {
    fn new(info: &BlockInfo, long: bool) -> Self {
        let BlockInfo { id, version, len, stored_at, provider, epoch, place, .. } = info;
        let provider = provider.kind();
        let stored = Time(*stored_at);
        let place = match place {
            Place::Store => "stored",
            Place::Buffer => "buffered",
        };
        let text = match long {
            true => format!("{version} {len:>10} {stored} {provider} {epoch} {place} {id}"),
            false => id.to_string(),
        };
        Self {
            block: JsonBlock::from(id),
            version: version.number(),
            len: *len,
            stored,
            provider: provider.to_string(),
            epoch: epoch.number(),
            place,
            text,
        }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

pub(super) async fn list(home: Home, args: Ls, output: &mut Output) -> Result<(), CliError> {
    let open = home.open(Keys::Unused).await?;
    let account = open.engine.account(&args.account).await?;
    let mut after = None;
    loop {
        let page = account.list(after.as_ref(), PAGE).await?;
        page.blocks.iter().try_for_each(|info| output.emit(&Listed::new(info, args.long)))?;
        after = page.next;
        if after.is_none() {
            return open.close().await.map(drop);
        }
    }
}

#[derive(Serialize)]
struct Removed {
    outcome: &'static str,
    #[serde(flatten)]
    block: JsonBlock,
    #[serde(skip)]
    text: String,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

pub(super) async fn remove(home: Home, args: BlockArgs, output: &mut Output) -> Result<(), CliError> {
    let open = home.open(Keys::Unused).await?;
    let BlockArgs { account, block } = args;
    let removed = async { open.engine.account(&account).await?.delete(&block).await }.await;
    open.close().await?;
    if !removed? {
        return Err(cofferdam_store::EngineError::NoBlock { account, block }.into());
    }
    let text = format!("Removed {block}");
    output.emit(&Removed { outcome: "removed", block: JsonBlock::from(&block), text })
}
