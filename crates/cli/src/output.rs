//! Standard output: text for people, JSON lines for programs.
//!
//! Guarantees: a closed or full output is an error, never a panic; text that came from a file name or a
//! block id can't move the cursor. Not its job: errors, which go to standard error (`main`).

use std::{
    fmt::{self, Write as _},
    io::{self, BufWriter, Stdout, Write as _},
    time::Duration,
};

use cofferdam_crypto::BlockId;
use data_encoding::HEXLOWER;
use serde::{Serialize, Serializer};

use crate::error::CliError;

/// Where results go.
pub(crate) struct Output {
    json: bool,
    stdout: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, stdout: BufWriter::new(io::stdout()) }
    }

    /// Whether a program reads it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One result: a line of text, or a JSON object on a line.
    pub(crate) fn emit(&mut self, result: &(impl Serialize + fmt::Display)) -> Result<(), CliError> {
        if self.json {
            serde_json::to_writer(&mut self.stdout, result).map_err(|e| CliError::Output(e.into()))?;
            self.stdout.write_all(b"\n").map_err(CliError::Output)
        } else {
            writeln!(self.stdout, "{result}").map_err(CliError::Output)
        }
    }

    /// A line for people only.
    pub(crate) fn text(&mut self, line: fmt::Arguments<'_>) -> Result<(), CliError> {
        if self.json { Ok(()) } else { writeln!(self.stdout, "{line}").map_err(CliError::Output) }
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout.write_all(bytes).map_err(CliError::Output)
    }

    /// Hands over what was written; without it the last of it may be lost.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(CliError::Output)
    }
}

/// A line on standard error. If that is closed, nobody is there to be told.
pub(crate) fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The text with its control characters escaped.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            // Writing to a String can't fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A block id in JSON: as text, and in hex where the text is escaped.
#[derive(Serialize)]
pub(crate) struct JsonBlock {
    block: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_hex: Option<String>,
}

impl From<&BlockId> for JsonBlock {
    fn from(id: &BlockId) -> Self {
        let block = id.to_string();
        let block_hex = (block.as_bytes() != id.as_bytes()).then(|| HEXLOWER.encode(id.as_bytes()));
        Self { block, block_hex }
    }
}

/// A point in time, as time since the Unix epoch, printed by RFC 3339 in UTC to the millisecond.
#[derive(Clone, Copy)]
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            i64::try_from(self.0.as_millis()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        match time {
            Some(time) => write!(f, "{time:.3}"),
            None => write!(f, "{} s after 1970", self.0.as_secs()),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A rate for people: bytes a second.
pub(crate) fn rate(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(1e-9);
    format!("{}/s", size((bytes as f64 / seconds) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_by_rfc_3339() {
        assert_eq!(Time(Duration::from_millis(1_795_535_175_123)).to_string(), "2026-11-24T15:46:15.123Z");
        assert_eq!(Time(Duration::ZERO).to_string(), "1970-01-01T00:00:00.000Z");
        assert!(Time(Duration::MAX).to_string().ends_with("after 1970"));
    }

    #[test]
    fn block_ids_keep_their_bytes_in_json() {
        let json = |id: &[u8]| serde_json::to_string(&JsonBlock::from(&BlockId::new(id).unwrap())).unwrap();
        assert_eq!(json(b"a/b"), r#"{"block":"a/b"}"#);
        assert_eq!(json(b"a\n\xff"), r#"{"block":"a\\n\\xff","block_hex":"610aff"}"#);
    }
}
