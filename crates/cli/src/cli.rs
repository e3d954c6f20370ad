//! The command line: what there is, and what each thing means.

mod keys;

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser},
};
use cofferdam_crypto::{BlockId, KeyId};
use cofferdam_store::AccountName;
use cofferdam_vault::{KeyKind, Principal};

use crate::{
    home::{self, AccountTimes, BufferBounds, KeyTimes, Settings},
    values::{ByteRange, Size, account_name, block_id, duration, key_id, principal},
};

pub(crate) use keys::{
    AddKek, Archives, Export, Import, Link, Operations, OperationsCommand, RemoveKek, RotateAek, RotateKek,
    SafeToDisable, Switch, Unlink, VerifyReceipt,
};

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 anything else, 2 usage, 3 key revoked, 4 key unavailable, 5 corrupt or tampered, 6 not found, 7 not yet.
The passphrase of a home's vaults comes from COFFERDAM_PASSPHRASE or --passphrase-file, never from an argument; other vaults and their
secrets are named by --vault-config, see docs/vaults.md.
Try `cofferdam demo` first.";

/// Keeps data encrypted under keys that its owner holds and can take away.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// The home to work on: a folder made by `init`
    #[arg(long, global = true, value_name = "DIR", env = "COFFERDAM_HOME")]
    pub(crate) home: Option<PathBuf>,
    /// Prints JSON, one object a line; errors too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Reads the passphrase of the home's vaults from this file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Reads which vaults there are, and who may use which, from this file; else there is the home's own alone
    #[arg(long, global = true, value_name = "FILE", env = "COFFERDAM_VAULT_CONFIG")]
    pub(crate) vault_config: Option<PathBuf>,
    /// Leaves drains and operations to the next command, instead of waiting for them
    #[arg(long, global = true)]
    pub(crate) no_wait: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the whole life cycle on real files, in a home of its own
    Demo(Demo),
    /// Makes a home: a store, the service's vault and the customer's
    Init(Init),
    /// Works on the customer's vault, also while a writer has the home open
    #[command(subcommand)]
    Vault(Vault),
    /// Makes, lists, deletes and recovers accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Stores one block; prints Stored or Buffered, its id, version, length and SHA-256
    Put(Put),
    /// Prints one block, or some of it
    Get(Get),
    /// Stores files or standard input cut into blocks; prints a line for each block that is durable
    #[command(after_help = INGEST_HELP)]
    Ingest(Ingest),
    /// Lists an account's blocks; needs no key
    Ls(Ls),
    /// Removes a block; needs no key
    Rm(BlockArgs),
    /// Tells how the accounts and their keys are; beside a writer, what the writer last said
    #[command(after_help = STATUS_HELP)]
    Status(Status),
    /// Reads and verifies the whole store, and opens every block
    Verify(Verify),
    /// Prints the header of a sealed block or of an archive, which needs no key and proves nothing
    Inspect(Inspect),
    /// Wraps an account's keys under another KEK, or another version of it; touches no block
    RotateKek(RotateKek),
    /// Starts a new key of an account's own (AEK) for what is written from now on
    RotateAek(RotateAek),
    /// Wraps an account's keys under one KEK more: an outage of one is bridged by another, a denial by any revokes
    AddKek(AddKek),
    /// Takes one of an account's KEKs away, also one that has revoked it; another must unwrap
    RemoveKek(RemoveKek),
    /// Moves an account from the service's key to the customer's
    Link(Link),
    /// Moves an account from the customer's key to the service's
    Unlink(Unlink),
    /// Lists operations: how each stands, how far it came, what it waits for, why it failed
    Operations(Operations),
    /// Says whether nothing needs a version of a KEK any longer, so that it may be disabled: exit code 7 for not yet
    SafeToDisable(SafeToDisable),
    /// Checks what safe-to-disable wrote, with a public key alone
    VerifyReceipt(VerifyReceipt),
    /// Writes an account's blocks, sealed as they are, and its record to one file
    Export(Export),
    /// Lists the archives that were exported of an account, which keep its KEKs needed
    Archives(Archives),
    /// Makes an account of what export wrote, under a new epoch
    Import(Import),
}

const INGEST_HELP: &str = "\
A file's blocks are NAME/000000000000, NAME/000000000001 and so on, NAME the file's name, or its path within a folder that
is given, or `stdin`. Blocks of that name that are there already are replaced one by one.
Each line is: Stored ID VERSION LENGTH SHA256, or Buffered and the same. The last three never hold a space.
Buffered: the account's key is unavailable, so the block waits, durable and sealed under the service's key for the account
(or, in a write-only buffer, under one that only the customer's vault can give back), until the key is back; it is moved by itself then.
SIGINT or SIGTERM: reads no more, stores what it has read, and says so; the exit code is then 0 for standard input, all of
which was stored as far as it was read, and 1 for a PATH that was left unfinished. A second one ends it at once.";

const STATUS_HELP: &str = "\
Each line says whose key an account is under, its state, since when if that was seen, until when it is active and usable
without another success of its vault, how much is stored, and what waits in the buffer.
With --watch: on a terminal it redraws; into a pipe it prints a line, or with --json an object, for each change.";

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Files and folders to use [default: .]; hidden and ignored files and folders named target are left out
    pub(crate) paths: Vec<PathBuf>,
    /// Makes the home here and keeps it; else it is a temporary folder that is removed
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    times: TimeArgs,
    #[command(flatten)]
    buffer: BufferArgs,
    #[command(flatten)]
    accounts: AccountArgs,
}

impl Init {
    /// What the home is made with; bounds are the library's to check.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            key_times: self.times.times(),
            buffer: self.buffer.bounds(),
            accounts: self.accounts.times(),
        }
    }
}

/// When keys are renewed and how long they outlive their vault.
#[derive(Debug, Args)]
#[command(next_help_heading = "Key times")]
struct TimeArgs {
    /// How old a key may grow before its vault is asked again: 6s to 60s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    refresh: Option<Duration>,
    /// How far that may be stretched: up to 60s [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ceiling: Option<Duration>,
    /// How long a key is used while its vault can't be asked: up to 60m [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    grace: Option<Duration>,
    /// The longest wait between two tries while the vault fails: 1s to 60s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    retry_max: Option<Duration>,
    /// How often a revoked key is asked for again: 1s to 60s [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    revoked_poll: Option<Duration>,
    /// How long one call to a vault may take: 100ms to 10s [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    call_timeout: Option<Duration>,
    /// How long a KEK that does not answer is bridged by the account's others: up to 24h [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_bridge: Option<Duration>,
}

impl TimeArgs {
    fn times(&self) -> KeyTimes {
        let mut times = KeyTimes::default();
        for (given, setting) in [
            (self.refresh, &mut times.refresh_ms),
            (self.ceiling, &mut times.ceiling_ms),
            (self.grace, &mut times.grace_ms),
            (self.retry_max, &mut times.retry_max_ms),
            (self.revoked_poll, &mut times.revoked_poll_ms),
            (self.call_timeout, &mut times.call_timeout_ms),
            (self.max_bridge, &mut times.max_bridge_ms),
        ] {
            if let Some(given) = given {
                *setting = millis(given);
            }
        }
        times
    }
}

/// What may wait while a key is unavailable.
#[derive(Debug, Args)]
#[command(next_help_heading = "Buffer")]
struct BufferArgs {
    /// How long an account's buffer takes writes while the key is unavailable: up to 48h, 0s for never [default: 6h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    buffer_time: Option<Duration>,
    /// How many bytes an account's buffer holds: at least 4KiB [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    buffer_bytes: Option<Size>,
    /// How long a key must be seen revoked before what is buffered for it is discarded: 1m to 3650d [default: 14d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    revoked_retention: Option<Duration>,
    /// How long one key of a write-only buffer is used: 10s to 1h [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    segment_time: Option<Duration>,
}

impl BufferArgs {
    fn bounds(&self) -> BufferBounds {
        let default = BufferBounds::default();
        BufferBounds {
            max_time_ms: self.buffer_time.map_or(default.max_time_ms, millis),
            max_bytes: self.buffer_bytes.map_or(default.max_bytes, |size| size.0 as u64),
            revoked_retention_ms: self.revoked_retention.map_or(default.revoked_retention_ms, millis),
            segment_time_ms: self.segment_time.map_or(default.segment_time_ms, millis),
        }
    }
}

/// What happens to accounts by themselves.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accounts")]
struct AccountArgs {
    /// How long a deleted account can be recovered before it is destroyed: up to 3650d [default: 14d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deleted_retention: Option<Duration>,
    /// How long new blocks are sealed under one key of the account's own: at least 1h [default: 365d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    cryptoperiod: Option<Duration>,
}

impl AccountArgs {
    fn times(&self) -> AccountTimes {
        let default = AccountTimes::default();
        AccountTimes {
            deleted_retention_ms: self.deleted_retention.map_or(default.deleted_retention_ms, millis),
            cryptoperiod_ms: self.cryptoperiod.map_or(default.cryptoperiod_ms, millis),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The kinds by their names, so that help lists them.
fn key_kind() -> impl TypedValueParser<Value = KeyKind> {
    // Those that a local vault makes.
    let names = ["aes-256", "rsa-2048", "rsa-3072", "rsa-4096"];
    PossibleValuesParser::new(names).try_map(|name| name.parse::<KeyKind>())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vault {
    /// Makes a key; prints its id
    CreateKey {
        /// Letters, digits and hyphens
        name: String,
        /// RSA: anybody can wrap by the public half, only the vault unwraps
        #[arg(long, value_name = "KIND", value_parser = key_kind(), default_value_t)]
        kind: KeyKind,
        /// A deleted key is gone at once: no account can be made under it
        #[arg(long)]
        not_recoverable: bool,
    },
    /// Makes a new version of a key; prints its id
    NewVersion {
        /// The key's name
        name: String,
    },
    /// Disables a version of a key, or all: what is sealed under it is revoked
    Disable(KeyArg),
    /// Enables a version of a key, or all: access is restored
    Enable(KeyArg),
    /// Deletes a version of a key, or all
    Delete(KeyArg),
    /// Recovers a deleted version of a key, or all
    Recover(KeyArg),
    /// Lists keys and versions
    List,
    /// Makes the vault answer as one that can't be reached
    Offline,
    /// Makes the vault answer again
    Online,
    /// Serves the vault's keys by Azure Key Vault's REST API, over TLS, until it is interrupted: for development
    #[cfg(feature = "serve")]
    Serve(Serve),
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where it listens; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    pub(crate) listen: std::net::SocketAddr,
    /// The host name or address in its URL and its certificate [default: that of --listen]
    #[arg(long, value_name = "HOST", value_parser = crate::values::host)]
    pub(crate) host: Option<String>,
    /// Serves this vault of the file of vaults, a token of kind pkcs11, in place of the home's own
    #[cfg(feature = "pkcs11")]
    #[arg(long, value_name = "NAME")]
    pub(crate) vault: Option<String>,
    /// Lets deleted keys be purged at once, where they are made by this server: no account should be under such
    #[arg(long)]
    pub(crate) no_purge_protection: bool,
    /// How long a token is good for
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1h")]
    pub(crate) token_time: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArg {
    /// A key's id as it was printed; without its version it means every version
    #[arg(value_name = "KEYID", value_parser = key_id)]
    pub(crate) key_id: KeyId,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Makes an account under a key of the customer's vault, or under the service's
    Create {
        /// Letters, digits, dots, underscores and hyphens
        #[arg(value_parser = account_name)]
        name: AccountName,
        /// The customer's key; without it the service's is used
        #[arg(long, value_name = "KEYID", value_parser = key_id)]
        kek: Option<KeyId>,
        #[command(flatten)]
        whose: Whose,
        /// While the key is unavailable, seals writes so that only the customer's vault can open them: needs an RSA key
        #[arg(long, requires = "kek")]
        write_only_buffer: bool,
    },
    /// Lists accounts
    List {
        /// Those too that are deleted and can be recovered
        #[arg(long)]
        deleted: bool,
    },
    /// Deletes an account: nothing is read or written, and it can be recovered for 14 days
    Delete {
        /// The account
        #[arg(value_parser = account_name)]
        name: AccountName,
    },
    /// Brings a deleted account back, with its blocks
    Recover {
        /// The account
        #[arg(value_parser = account_name)]
        name: AccountName,
    },
    /// Destroys the keys of a deleted account before its time, then its blocks; nothing brings it back
    Purge {
        /// The account
        #[arg(value_parser = account_name)]
        name: AccountName,
        /// Says that this is meant
        #[arg(long)]
        yes: bool,
    },
    /// Keeps an account from being purged before its time, once it is deleted; that can't be taken back
    Protect {
        /// The account
        #[arg(value_parser = account_name)]
        name: AccountName,
    },
    /// Has an account go to the latest versions of its KEKs by itself: of those that were set without a version
    FollowLatest {
        /// The account
        #[arg(value_parser = account_name)]
        name: AccountName,
        /// Whether it does
        #[arg(value_enum)]
        switch: Switch,
    },
}

/// Whose vaults a key is in.
#[derive(Clone, Debug, Args)]
pub(crate) struct Whose {
    /// The principal whose vaults have the key, as --vault-config names it
    #[arg(long, value_name = "NAME", default_value = home::PRINCIPAL, value_parser = principal)]
    pub(crate) principal: Principal,
}

#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// The block's id: 1 to 1,024 bytes of any value
    #[arg(value_parser = OsStringValueParser::new().try_map(block_id))]
    pub(crate) block: BlockId,
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    #[command(flatten)]
    pub(crate) at: BlockArgs,
    /// The file to store; `-` or none is standard input
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) at: BlockArgs,
    /// Writes to this file, which appears whole or not at all and is readable by its owner alone
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Bytes START to END of the block, END exclusive
    #[arg(long, value_name = "START..END")]
    pub(crate) range: Option<ByteRange>,
}

#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// A file, a folder, or `-` for standard input
    pub(crate) path: PathBuf,
    /// Names the blocks of a file or of standard input; in front of the paths of a folder
    #[arg(long)]
    pub(crate) name: Option<std::ffi::OsString>,
    /// How many bytes a block has at most
    #[arg(long, value_name = "SIZE", default_value_t = Size(1 << 20))]
    pub(crate) block_size: Size,
    /// How many writes are under way at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) writers: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// The account
    #[arg(value_parser = account_name)]
    pub(crate) account: AccountName,
    /// Prints version, length, time, whose key, its epoch, and stored or buffered before each id
    #[arg(long, short)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OneAccount {
    /// The account; else all
    #[arg(value_parser = account_name)]
    pub(crate) account: Option<AccountName>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) of: OneAccount,
    /// Goes on, and tells of each change until it is interrupted
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) of: OneAccount,
    /// Prints a line for each block: Opened, and the fields that ingest and put print
    #[arg(long)]
    pub(crate) digests: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The file
    pub(crate) file: PathBuf,
}
