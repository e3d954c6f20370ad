//! How a key in a token is named: `pkcs11:token=LABEL;object=NAME;id=%XX..;type=secret-key` (RFC 7512).
//!
//! Guarantees: one key has one spelling: attributes in that order and no others, characters that RFC 3986 calls
//! unreserved as they are, all others and all of `id` as `%XX` with upper-case digits. Not its job: where the library is,
//! and the PIN, which RFC 7512 would have in a query: settings, never part of a name.

use std::fmt::Write;

use cofferdam_crypto::KeyId;

use super::error::{KeyFault, Pkcs11Error};

const SCHEME: &str = "pkcs11:";
const SHAPE: &str = "one looks like pkcs11:token=LABEL;object=NAME;id=%01%02;type=secret-key (or private), in this \
                     order, id left out for the latest";
const SPELLING: &str = "write letters, digits, - . _ and ~ as they are, everything else and all of id as %XX with \
                        upper-case digits";
/// What a token's information has room for, in bytes.
const MAX_TOKEN: usize = 32;
/// Longer than anybody's names; percent-encoded, both still fit a key id.
const MAX_OBJECT: usize = 255;
const MAX_ID: usize = 64;

/// Which objects a key id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A secret key: AES.
    Secret,
    /// A private key: RSA.
    Private,
}

impl Class {
    pub(super) const ALL: [Self; 2] = [Self::Secret, Self::Private];

    const fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret-key",
            Self::Private => "private",
        }
    }
}

/// The parts of a key id of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyUri {
    pub(super) object: String,
    /// CKA_ID, the version; None names the latest.
    pub(super) id: Option<Vec<u8>>,
    pub(super) class: Class,
}

impl KeyUri {
    pub(super) fn parse(key_id: &KeyId, token: &str) -> Result<Self, Pkcs11Error> {
        Self::read(key_id.as_str(), token)
            .map_err(|why| Pkcs11Error::key(key_id, KeyFault::BadId { token: token.into(), why }))
    }

    fn read(uri: &str, token: &str) -> Result<Self, &'static str> {
        let mut parts = uri.strip_prefix(SCHEME).ok_or(SHAPE)?.split(';').peekable();
        let mut value = |name: &str| {
            let part = parts.next_if(|part| part.split_once('=').is_some_and(|(n, _)| n == name));
            part.and_then(|part| part.split_once('=')).map(|(_, value)| value)
        };
        let (of, object) = (value("token").ok_or(SHAPE)?, value("object").ok_or(SHAPE)?);
        let (id, class) = (value("id"), value("type").ok_or(SHAPE)?);
        if parts.next().is_some() {
            return Err(SHAPE);
        }
        if text(of)? != token {
            return Err("it names another token; use the vault of that one");
        }
        let object = text(object)?;
        if !is_name(&object) {
            return Err("a key's label has 1 to 255 bytes");
        }
        let class =
            Class::ALL.into_iter().find(|c| c.name() == class).ok_or("the type is secret-key or private")?;
        let id = id.map(|id| decode(id, |_| false)).transpose()?;
        if id.as_ref().is_some_and(|id| !(1..=MAX_ID).contains(&id.len())) {
            return Err("an id has 1 to 64 bytes; leave it out for the latest");
        }
        Ok(Self { object, id, class })
    }

    pub(super) fn key_id(&self, token: &str) -> Result<KeyId, Pkcs11Error> {
        let mut uri =
            format!("{SCHEME}token={};object={}", encode(token.as_bytes()), encode(self.object.as_bytes()));
        if let Some(id) = &self.id {
            uri.push_str(";id=");
            id.iter().for_each(|b| push_hex(&mut uri, *b));
        }
        uri.push_str(";type=");
        uri.push_str(self.class.name());
        KeyId::new(uri).map_err(|_| Pkcs11Error::BadLabel { what: "key", label: self.object.clone() })
    }
}

pub(super) fn is_name(object: &str) -> bool {
    (1..=MAX_OBJECT).contains(&object.len())
}

/// Tokens pad their labels with blanks, so one at the end can't be told from none.
pub(super) fn is_token(label: &str) -> bool {
    (1..=MAX_TOKEN).contains(&label.len()) && !label.ends_with(' ')
}

/// Unreserved by RFC 3986, 2.3.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn push_hex(out: &mut String, byte: u8) {
    // Writing to a string can't fail.
    let _ = write!(out, "%{byte:02X}");
}

fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &byte in bytes {
        if is_plain(byte) { out.push(byte.into()) } else { push_hex(&mut out, byte) }
    }
    out
}

/// The bytes of the one spelling, where `plain` characters stand for themselves.
fn decode(value: &str, plain: fn(u8) -> bool) -> Result<Vec<u8>, &'static str> {
    let (mut bytes, mut out) = (value.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        if plain(byte) {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next(), bytes.next()].map(|digit| match digit {
            Some(b @ b'0'..=b'9') => Some(b - b'0'),
            Some(b @ b'A'..=b'F') => Some(b - b'A' + 10),
            _ => None,
        });
        match (byte, digits) {
            (b'%', [Some(high), Some(low)]) if !plain(high << 4 | low) => out.push(high << 4 | low),
            _ => return Err(SPELLING),
        }
    }
    Ok(out)
}

fn text(value: &str) -> Result<String, &'static str> {
    String::from_utf8(decode(value, is_plain)?).map_err(|_| "a label is UTF-8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "HSM 1/\u{e9}";

    fn parse(uri: &str) -> Result<KeyUri, Pkcs11Error> {
        KeyUri::parse(&KeyId::new(uri).unwrap(), TOKEN)
    }

    #[test]
    fn ids_have_the_spelling_that_is_documented() {
        let uri = KeyUri { object: "pay roll".into(), id: Some(vec![0, 0x61, 0xff]), class: Class::Private };
        let text = "pkcs11:token=HSM%201%2F%C3%A9;object=pay%20roll;id=%00%61%FF;type=private";
        assert_eq!(uri.key_id(TOKEN).unwrap().as_str(), text);
        assert_eq!(parse(text).unwrap(), uri);
        let latest = parse("pkcs11:token=HSM%201%2F%C3%A9;object=k;type=secret-key").unwrap();
        assert_eq!(latest, KeyUri { object: "k".into(), id: None, class: Class::Secret });
    }

    #[test]
    fn ids_of_other_tokens_shapes_and_spellings_are_refused() {
        let token = "pkcs11:token=HSM%201%2F%C3%A9";
        for bad in [
            "https://acme.vault.azure.net/keys/k",
            "pkcs11:",
            "PKCS11:token=HSM%201%2F%C3%A9;object=k;type=private",
            "pkcs11:token=other;object=k;type=private",
            "pkcs11:token=HSM%201%2f%C3%A9;object=k;type=private",
            "pkcs11:token=HSM+1%2F%C3%A9;object=k;type=private",
            "pkcs11:token=HSM%201/%C3%A9;object=k;type=private",
            "pkcs11:token=%48SM%201%2F%C3%A9;object=k;type=private",
            "pkcs11:object=k;type=private",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            ";object=k",
            ";type=private;object=k",
            ";object=k;type=public",
            ";object=k;type=private;",
            ";object=k;type=private?pin-value=1234",
            ";object=k;type=private;serial=1",
            ";object=k;object=k;type=private",
            ";object=;type=private",
            ";object=%FF;type=private",
            ";object=k;id=;type=private",
            ";object=k;id=01;type=private",
            ";object=k;id=%0;type=private",
            ";object=k;id=%0g;type=private",
            ";object=k;id=%0a;type=private",
            ";object=%6B;type=private",
            ";object=a=b;type=private",
            ";object=k;type=Private",
        ] {
            let error = parse(&format!("{token}{bad}")).unwrap_err();
            assert!(
                matches!(error, Pkcs11Error::Key { fault: KeyFault::BadId { .. }, .. }),
                "{bad}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn ids_survive_the_way_to_text_and_back(
            object in "\\PC{1,40}",
            id in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=MAX_ID)),
            private: bool,
        ) {
            let class = if private { Class::Private } else { Class::Secret };
            let uri = KeyUri { object, id, class };
            let key_id = uri.key_id(TOKEN).unwrap();
            prop_assert_eq!(KeyUri::parse(&key_id, TOKEN).unwrap(), uri);
        }

        #[test]
        fn what_is_taken_is_the_one_spelling(tail in "[;=a-z%0-9A-F ~]{0,30}") {
            let text = format!("pkcs11:token=HSM%201%2F%C3%A9;object=k{}", tail.replace(' ', ""));
            if let Ok(uri) = parse(&text) {
                let spelt = uri.key_id(TOKEN).unwrap();
                prop_assert_eq!(spelt.as_str(), text);
            }
        }
    }
}
