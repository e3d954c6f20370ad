//! Values of the command line: block ids, ranges, sizes, durations, names.
//!
//! Guarantees: what is malformed is refused here, with exit code 2, before a home is opened.

use std::{ffi::OsString, fmt, ops::Range, str::FromStr, time::Duration};

use cofferdam_crypto::{BlockId, IdError, KeyId};
use cofferdam_store::{AccountName, ArchiveId, EngineError, OperationId, ReceiptError, ReceiptPublicKey};
use cofferdam_vault::Principal;

/// A block id of the bytes of an argument.
pub(crate) fn block_id(argument: OsString) -> Result<BlockId, IdError> {
    BlockId::new(argument.as_encoded_bytes())
}

/// A key id.
pub(crate) fn key_id(argument: &str) -> Result<KeyId, IdError> {
    KeyId::new(argument)
}

/// A host name, or an address as a URL has it.
#[cfg(feature = "serve")]
pub(crate) fn host(argument: &str) -> Result<String, &'static str> {
    let address = argument.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let good = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let label = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
            (1..=253).contains(&argument.len()) && argument.bytes().all(label)
        }
    };
    if good {
        Ok(argument.into())
    } else {
        Err("give a name like vault.test, or an address like 127.0.0.1 or [::1]")
    }
}

/// A principal, by its name.
pub(crate) fn principal(argument: &str) -> Result<Principal, String> {
    const MAX_LEN: usize = 256;
    let is_name = (1..=MAX_LEN).contains(&argument.len()) && !argument.chars().any(char::is_control);
    if is_name { Ok(Principal::new(argument)) } else { Err("give 1 to 256 bytes of text".into()) }
}

/// An account's name.
pub(crate) fn account_name(argument: &str) -> Result<AccountName, EngineError> {
    AccountName::new(argument)
}

/// An operation's id.
pub(crate) fn operation_id(argument: &str) -> Result<OperationId, String> {
    argument.parse().map_err(|_: EngineError| "give the 32 hex digits that were printed".into())
}

/// An archive's id.
pub(crate) fn archive_id(argument: &str) -> Result<ArchiveId, String> {
    argument.parse().map_err(|_: EngineError| "give the 32 hex digits that were printed".into())
}

/// The public key that a receipt is checked with.
pub(crate) fn receipt_public_key(argument: &str) -> Result<ReceiptPublicKey, ReceiptError> {
    argument.parse()
}

/// `START..END`, END exclusive; whether a block has it is found out later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ByteRange(pub(crate) Range<u64>);

impl FromStr for ByteRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        text.split_once("..")
            .and_then(|(start, end)| Some(Self(number(start)?..number(end)?)))
            .ok_or_else(|| "give START..END in bytes, the end exclusive, as 0..4096".into())
    }
}

/// A number of bytes, with KiB, MiB or GiB or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = split_unit(text);
        let factor = match unit {
            "" | "B" => 1,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            _ => 0,
        };
        match digits.parse::<usize>().ok().and_then(|n| n.checked_mul(factor)) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err("give a number of bytes above 0, as 65536, 64KiB or 1MiB".into()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 && n.is_multiple_of(1 << 30) => write!(f, "{}GiB", n >> 30),
            n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

/// A length of time: a whole number of `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let number = digits.parse::<u64>().ok();
    let millis = number.and_then(|n| match unit {
        "ms" => Some(n),
        "s" => n.checked_mul(1000),
        "m" => n.checked_mul(60_000),
        "h" => n.checked_mul(3_600_000),
        "d" => n.checked_mul(86_400_000),
        _ => None,
    });
    millis.map(Duration::from_millis).ok_or_else(|| "give a time as 500ms, 30s, 10m, 6h or 14d".into())
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_two_numbers() {
        assert_eq!("0..10".parse(), Ok(ByteRange(0..10)));
        assert_eq!("10..0".parse(), Ok(ByteRange(Range { start: 10, end: 0 })));
        for bad in ["", "..", "1..", "..1", "1", "1...2", "a..b", "-1..2", "+1..2", "1..18446744073709551616"]
        {
            assert!(bad.parse::<ByteRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!("1MiB".parse(), Ok(Size(1 << 20)));
        assert_eq!("4096".parse::<Size>().unwrap().to_string(), "4KiB");
        assert_eq!("1GiB".parse::<Size>().unwrap().to_string(), "1GiB");
        for bad in ["", "0", "1GB", "MiB", "-1", "99999999999999999999"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert_eq!(duration("6s"), Ok(Duration::from_secs(6)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("6h"), Ok(Duration::from_secs(21_600)));
        assert_eq!(duration("14d"), Ok(Duration::from_secs(1_209_600)));
        for bad in ["", "6", "s", "1w", "1.5s", "18446744073709551615m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
