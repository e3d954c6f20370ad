//! Where the passphrase of a home's vaults comes from: a file or the environment, never an argument, which
//! every process of the machine could read.

use std::{env, fmt, fs, path::PathBuf};

use cofferdam_vault::Passphrase;
use zeroize::Zeroizing;

use crate::error::CliError;

const VARIABLE: &str = "COFFERDAM_PASSPHRASE";

/// The most bytes that a passphrase's file may have.
const MAX_LEN: u64 = 4096;

/// Where to read the passphrase.
#[derive(Clone)]
pub(crate) struct PassphraseSource {
    file: Option<PathBuf>,
}

impl PassphraseSource {
    /// This file, or else the environment.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// The passphrase; none when none is given.
    pub(super) fn read(&self) -> Result<Option<Passphrase>, CliError> {
        let Some(path) = &self.file else {
            return match env::var_os(VARIABLE) {
                None => Ok(None),
                Some(text) => match text.into_string() {
                    Ok(text) => Ok(Some(Passphrase::new(text)?)),
                    Err(_) => Err(CliError::Usage(format!("{VARIABLE} is not UTF-8 text: set it to text"))),
                },
            };
        };
        let unfit = |why| CliError::PassphraseFile { path: path.clone(), why };
        let len = fs::metadata(path).map_err(|e| CliError::reading(path, e))?.len();
        if len > MAX_LEN {
            return Err(unfit("it has more than 4096 bytes"));
        }
        let bytes = Zeroizing::new(fs::read(path).map_err(|e| CliError::reading(path, e))?);
        let text = std::str::from_utf8(&bytes).map_err(|_| unfit("it is not UTF-8 text"))?;
        // What an editor or echo adds is not part of it.
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(unfit("it is empty"));
        }
        Ok(Some(Passphrase::new(text.to_owned())?))
    }
}

impl fmt::Debug for PassphraseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassphraseSource").field("file", &self.file).finish()
    }
}
