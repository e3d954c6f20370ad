//! The part of the command line that changes accounts' keys, and that moves accounts.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use cofferdam_crypto::KeyId;
use cofferdam_store::{AccountName, ArchiveId, BufferMode, OperationId, ReceiptPublicKey};
use cofferdam_vault::Principal;

use super::Whose;
use crate::values::{account_name, archive_id, key_id, operation_id, principal, receipt_public_key};

const WAITS_HELP: &str = "\
It waits until that is done, with a progress bar on a terminal. An interrupt ends the waiting: what was begun goes on at the next
command. So it does after a crash.";

#[derive(Debug, Args)]
#[command(after_help = WAITS_HELP)]
pub(crate) struct RotateKek {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// The KEK to wrap under: with a version, or without for the latest
    #[arg(value_name = "KEYID", value_parser = key_id)]
    pub(crate) kek: KeyId,
    /// The version that it replaces, where the account has several KEKs
    #[arg(long, value_name = "KEYID", value_parser = key_id)]
    pub(crate) replacing: Option<KeyId>,
    /// The principal whose vaults have the key, as --vault-config names it; else that of the key that is replaced
    #[arg(long, value_name = "NAME", value_parser = principal)]
    pub(crate) principal: Option<Principal>,
}

#[derive(Debug, Args)]
#[command(after_help = WAITS_HELP)]
pub(crate) struct RotateAek {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// Seals older blocks anew too, then destroys the older keys
    #[arg(long)]
    pub(crate) reencrypt: bool,
}

#[derive(Debug, Args)]
#[command(after_help = WAITS_HELP)]
pub(crate) struct AddKek {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// The KEK: with a version, or without for the latest
    #[arg(value_name = "KEYID", value_parser = key_id)]
    pub(crate) kek: KeyId,
    #[command(flatten)]
    pub(crate) whose: Whose,
}

#[derive(Debug, Args)]
#[command(after_help = WAITS_HELP)]
pub(crate) struct RemoveKek {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// The KEK, as status prints it
    #[arg(value_name = "KEYID", value_parser = key_id)]
    pub(crate) kek: KeyId,
}

#[derive(Debug, Args)]
#[command(after_help = WAITS_HELP)]
pub(crate) struct Link {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// The KEK: with a version, or without for the latest
    #[arg(value_name = "KEYID", value_parser = key_id)]
    pub(crate) kek: KeyId,
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// What writes are sealed under while the key is unavailable; write-only needs an RSA key
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub(crate) buffer: Buffer,
    /// Seals anew what is sealed under the service's key
    #[arg(long)]
    pub(crate) reencrypt: bool,
}

/// A [`BufferMode`] by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Buffer {
    /// The service's key for the account
    #[default]
    ServiceManaged,
    /// Keys that only the customer's vault can give back
    WriteOnly,
}

impl From<Buffer> for BufferMode {
    fn from(buffer: Buffer) -> Self {
        match buffer {
            Buffer::ServiceManaged => Self::ServiceManaged,
            Buffer::WriteOnly => Self::WriteOnly,
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
#[command(after_help = WAITS_HELP)]
pub(crate) struct Unlink {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// Seals anew what is sealed under the customer's key, then gives that key up
    #[arg(long)]
    pub(crate) reencrypt: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Operations {
    /// The account; else all
    #[arg(value_parser = account_name)]
    pub(crate) account: Option<AccountName>,
    #[command(subcommand)]
    pub(crate) command: Option<OperationsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationsCommand {
    /// Ends an operation that has changed nothing yet
    Cancel {
        /// The operation, as it was printed
        #[arg(value_name = "ID", value_parser = operation_id)]
        id: OperationId,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Yes holds from then on: nothing is wrapped under that version again. The receipt is signed by the home; who has the public key that is \
printed with it can check it with verify-receipt.")]
pub(crate) struct SafeToDisable {
    /// The version of a KEK
    #[arg(value_name = "KEYID", value_parser = key_id)]
    pub(crate) kek: KeyId,
    /// Writes the signed receipt to this file; else it is printed
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyReceipt {
    /// The receipt
    pub(crate) file: PathBuf,
    /// The public key of who issued it: 64 hex digits
    #[arg(long, value_name = "HEX", value_parser = receipt_public_key)]
    pub(crate) public_key: ReceiptPublicKey,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// The file to write, which appears whole or not at all and is readable by its owner alone
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Archives {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// Takes this one off the list, once no copy of it is left
    #[arg(long, value_name = "ID", value_parser = archive_id)]
    pub(crate) forget: Option<ArchiveId>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The archive
    pub(crate) file: PathBuf,
    /// The account's name here; else the one that it had
    #[arg(long, value_name = "NAME", value_parser = account_name)]
    pub(crate) name: Option<AccountName>,
    /// The KEK that it goes under; else the one that unwrapped it
    #[arg(long, value_name = "KEYID", value_parser = key_id)]
    pub(crate) kek: Option<KeyId>,
    #[command(flatten)]
    pub(crate) whose: Whose,
}
