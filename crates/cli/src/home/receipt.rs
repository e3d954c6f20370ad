//! The key that a home signs receipts with: 32 random bytes in a file of its own.
//!
//! Guarantees: readable by its owner alone; made once, and never written over. Not its job: what is signed.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use cofferdam_store::ReceiptKey;
use cofferdam_vault::{Entropy, SystemEntropy};
use zeroize::Zeroizing;

use crate::{error::CliError, files::replace};

/// The key in this file; a new one where there is no file yet.
pub(super) fn open_receipt_key(path: &Path) -> Result<ReceiptKey, CliError> {
    match fs::File::open(path) {
        Ok(file) => read(path, file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(path),
        Err(e) => Err(CliError::reading(path, e)),
    }
}

fn read(path: &Path, file: fs::File) -> Result<ReceiptKey, CliError> {
    let mut seed = Zeroizing::new([0; ReceiptKey::SEED_LEN + 1]);
    let mut file = file.take(seed.len() as u64);
    let mut len = 0;
    loop {
        match file.read(&mut seed[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(CliError::reading(path, e)),
        }
    }
    if len != ReceiptKey::SEED_LEN {
        let what = format!("it should have {} bytes", ReceiptKey::SEED_LEN);
        return Err(CliError::DamagedReceiptKey { path: path.into(), what });
    }
    ReceiptKey::try_from_fn(|of| {
        of.copy_from_slice(&seed[..ReceiptKey::SEED_LEN]);
        Ok(())
    })
}

fn make(path: &Path) -> Result<ReceiptKey, CliError> {
    let mut seed = Zeroizing::new([0; ReceiptKey::SEED_LEN]);
    SystemEntropy.fill(&mut *seed).map_err(cofferdam_store::EngineError::from)?;
    // Under the home's lock, so nobody else makes one meanwhile.
    replace(path, &*seed)?;
    ReceiptKey::try_from_fn(|of| {
        of.copy_from_slice(&*seed);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_a_damaged_one_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipt.key");
        let made = open_receipt_key(&path).unwrap().public();
        assert_eq!(open_receipt_key(&path).unwrap().public(), made);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        for len in [0, 31, 33, 1000] {
            fs::write(&path, vec![7; len]).unwrap();
            let refused = open_receipt_key(&path).unwrap_err();
            assert!(matches!(refused, CliError::DamagedReceiptKey { .. }), "{len}: {refused}");
            assert_eq!(fs::read(&path).unwrap().len(), len);
        }
    }
}
