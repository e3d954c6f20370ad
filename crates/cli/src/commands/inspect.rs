//! `inspect`: what a sealed block says of itself.

use std::{fmt, fs::File, io::Read, path::Path};

use cofferdam_crypto::{HEADER_LEN, Header, plaintext_len};
use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::{error::CliError, output::Output};

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

pub(super) fn run(path: &Path, output: &mut Output) -> Result<(), CliError> {
    let file = File::open(path).map_err(|e| CliError::reading(path, e))?;
    let sealed_len = file.metadata().map_err(|e| CliError::reading(path, e))?.len();
    let mut start = Vec::new();
    file.take(READ).read_to_end(&mut start).map_err(|e| CliError::reading(path, e))?;
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
