//! `inspect`: what a sealed block or an archive says of itself.

use std::{fmt, fs::File, io::Read, path::Path};

use cofferdam_crypto::{HEADER_LEN, Header, KeyId, plaintext_len};
use data_encoding::HEXLOWER;
use serde::Serialize;

use cofferdam_store::ArchiveOverview;

use crate::{
    error::CliError,
    output::{Output, Time},
};

/// The most bytes that are read: a header and one more.
const READ: u64 = HEADER_LEN as u64;

#[derive(Serialize)]
struct Inspected {
    format: u8,
    suite: String,
    provider: String,
    epoch: u32,
    page_size: u64,
    salt: String,
    commitment: String,
    sealed_len: u64,
    /// None when no block has this length: it was cut or extended.
    plaintext_len: Option<u64>,
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "format      {}", self.format)?;
        writeln!(f, "suite       {}", self.suite)?;
        writeln!(f, "key         the {}'s, epoch {}", self.provider, self.epoch)?;
        writeln!(f, "page size   {} bytes", self.page_size)?;
        writeln!(f, "salt        {}", self.salt)?;
        writeln!(f, "commitment  {}", self.commitment)?;
        writeln!(f, "sealed      {} bytes", self.sealed_len)?;
        match self.plaintext_len {
            Some(len) => write!(f, "plaintext   {len} bytes"),
            None => {
                f.write_str("plaintext   unknown: no sealed block has this length, it was cut or extended")
            }
        }
    }
}

/// The beginning of an archive.
#[derive(Serialize)]
struct InspectedArchive {
    archive: String,
    account: String,
    account_id: String,
    exported: Time,
    linked: bool,
    keys: Vec<KeyId>,
    len: u64,
}

impl fmt::Display for InspectedArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "archive     {}", self.archive)?;
        writeln!(f, "account     {}, {}", self.account, self.account_id)?;
        writeln!(f, "exported    {}", self.exported)?;
        writeln!(f, "linked      {}", if self.linked { "to a customer's key" } else { "no" })?;
        for key_id in &self.keys {
            writeln!(f, "wrapped by  {key_id}")?;
        }
        write!(f, "length      {} bytes", self.len)
    }
}

pub(super) async fn run(path: &Path, output: &mut Output) -> Result<(), CliError> {
    let file = File::open(path).map_err(|e| CliError::reading(path, e))?;
    let sealed_len = file.metadata().map_err(|e| CliError::reading(path, e))?.len();
    let mut start = Vec::new();
    file.take(READ).read_to_end(&mut start).map_err(|e| CliError::reading(path, e))?;
    if ArchiveOverview::is_archive(&start) {
        let file = tokio::fs::File::open(path).await.map_err(|e| CliError::reading(path, e))?;
        let of = ArchiveOverview::read(file).await.map_err(|e| CliError::of_archive(path, e))?;
        return output.emit(&InspectedArchive {
            archive: of.archive.to_string(),
            account: of.account.to_string(),
            account_id: of.account_id.to_string(),
            exported: Time(of.exported_at),
            linked: of.linked,
            keys: of.keys,
            len: sealed_len,
        });
    }
    let header = Header::parse(&start).map_err(|source| CliError::Header { path: path.into(), source })?;
    output.emit(&Inspected {
        format: 1,
        suite: header.suite().to_string(),
        provider: header.provider().to_string(),
        epoch: header.epoch().number(),
        page_size: header.page_size().bytes() as u64,
        salt: HEXLOWER.encode(header.salt()),
        commitment: HEXLOWER.encode(header.commitment()),
        sealed_len,
        plaintext_len: plaintext_len(sealed_len, header.page_size()).ok(),
    })
}
