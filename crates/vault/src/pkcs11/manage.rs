//! Making keys in a token and switching them on and off.
//!
//! Guarantees: a key is born in the token, sensitive and not extractable, for wrapping AEKs alone. A change of an id without
//! a version means every version. Not its job: to delete keys (no token undoes that), to make or back up tokens: the HSM's own
//! tools do.

use std::time::Duration;

use cofferdam_crypto::{KeyId, rsa::RsaSize};
use cryptoki::{context::Function, error::RvError, mechanism::Mechanism, object::Attribute};

use super::{
    Access, Connection, KeyFault, Pkcs11Error, Pkcs11Vault,
    keys::{self, ID_LEN},
    uri::{self, Class, KeyUri},
};
use crate::KeyKind;

/// Bytes of an id that tell the time, in milliseconds since the Unix epoch, big-endian: the latest is the greatest.
const TIME_LEN: usize = 8;
/// Of RSA keys: 65,537, as everybody's.
const EXPONENT: [u8; 3] = [1, 0, 1];

pub(super) fn class(kind: KeyKind) -> Result<Class, Pkcs11Error> {
    match kind {
        KeyKind::Aes256 => Ok(Class::Secret),
        KeyKind::Rsa(_) => Ok(Class::Private),
        KeyKind::AwsKms | KeyKind::Transit => Err(Pkcs11Error::KindOfOthers { kind }),
    }
}

pub(super) fn uri(label: &str, class: Class) -> Result<KeyUri, Pkcs11Error> {
    match uri::is_name(label) {
        true => Ok(KeyUri { object: label.into(), id: None, class }),
        false => Err(Pkcs11Error::BadLabel { what: "key", label: label.chars().take(256).collect() }),
    }
}

impl Pkcs11Vault {
    /// Makes a key with its first version. Answers with the version.
    ///
    /// # Errors
    /// [`KeyFault::Exists`] when the token has any key of that label; [`Pkcs11Error::NoOaepSha256`] when it can't use an
    /// RSA key as one is used here.
    pub async fn create_key(&self, label: &str, kind: KeyKind) -> Result<KeyId, Pkcs11Error> {
        let new = uri(label, class(kind)?)?;
        let id = id(millis(self.0.token.clock.now().wall), self.draw()?);
        self.run(Access::Write, move |connection| {
            for class in Class::ALL {
                let there = keys::objects(connection, &KeyUri { class, ..new.clone() })?;
                let Some((found, _)) = there.into_iter().next() else { continue };
                // It is ours when the session was lost after it was made.
                if found == id {
                    let uri = KeyUri { id: Some(found), ..new.clone() };
                    return uri.key_id(connection.token_label());
                }
                let key_id = new.key_id(connection.token_label())?;
                return Err(Pkcs11Error::key(&key_id, KeyFault::Exists));
            }
            generate(connection, &new, kind, id.clone())
        })
        .await
    }

    /// Makes a new version of the key of that label, of the same kind. Answers with the version.
    ///
    /// # Errors
    /// [`KeyFault::NotFound`]; [`KeyFault::Ambiguous`] when there are keys of that label that were not made here, or of
    /// both classes.
    pub async fn new_version(&self, label: &str) -> Result<KeyId, Pkcs11Error> {
        let new = uri(label, Class::Secret)?;
        let random = self.draw()?;
        let clock = self.0.token.clock.clone();
        self.run(Access::Write, move |connection| {
            let mut found = Vec::new();
            for class in Class::ALL {
                let uri = KeyUri { class, ..new.clone() };
                if !keys::objects(connection, &uri)?.is_empty() {
                    found.push(uri);
                }
            }
            let named = new.key_id(connection.token_label())?;
            let uri = match (found.pop(), found.pop()) {
                (None, _) => return Err(Pkcs11Error::key(&named, KeyFault::NotFound)),
                (Some(uri), None) => uri,
                (Some(_), Some(_)) => return Err(Pkcs11Error::key(&named, KeyFault::Ambiguous)),
            };
            let key_id = uri.key_id(connection.token_label())?;
            let latest = keys::find(connection, &key_id, &uri)?;
            let of = KeyUri::parse(&latest.key_id, connection.token_label())?.id.unwrap_or_default();
            let Some((time, _)) = of.split_first_chunk::<TIME_LEN>().filter(|_| of.len() == ID_LEN) else {
                return Err(Pkcs11Error::key(&key_id, KeyFault::Ambiguous));
            };
            // Later than the latest, whatever the clock says.
            let time = millis(clock.now().wall).max(u64::from_be_bytes(*time).saturating_add(1));
            generate(connection, &uri, latest.kind, id(time, random))
        })
        .await
    }

    /// Disables a key: nothing is wrapped or unwrapped by it until it is enabled.
    ///
    /// # Errors
    /// [`KeyFault::Fixed`] when the token does not let the key's attributes be changed.
    pub async fn disable(&self, key_id: &KeyId) -> Result<(), Pkcs11Error> {
        self.set_enabled(key_id, false).await
    }

    /// Enables a key.
    ///
    /// # Errors
    /// As [`disable`](Self::disable).
    pub async fn enable(&self, key_id: &KeyId) -> Result<(), Pkcs11Error> {
        self.set_enabled(key_id, true).await
    }

    async fn set_enabled(&self, key_id: &KeyId, enabled: bool) -> Result<(), Pkcs11Error> {
        let uri = KeyUri::parse(key_id, self.token())?;
        let key_id = key_id.clone();
        self.run(Access::Write, move |connection| {
            let objects = keys::objects(connection, &uri)?;
            if objects.is_empty() {
                return Err(Pkcs11Error::key(&key_id, KeyFault::NotFound));
            }
            let attributes = match uri.class {
                Class::Secret => vec![Attribute::Wrap(enabled), Attribute::Unwrap(enabled)],
                Class::Private => vec![Attribute::Decrypt(enabled)],
            };
            for (_, handle) in objects {
                let changed = connection.session.update_attributes(handle, &attributes);
                changed.map_err(|error| match error.into() {
                    Pkcs11Error::Answered(answer)
                        if matches!(answer.code, RvError::AttributeReadOnly | RvError::ActionProhibited)
                            && matches!(answer.function, Function::SetAttributeValue) =>
                    {
                        Pkcs11Error::key(&key_id, KeyFault::Fixed { answer })
                    }
                    other => other,
                })?;
            }
            Ok(())
        })
        .await
    }

    fn draw(&self) -> Result<[u8; ID_LEN - TIME_LEN], Pkcs11Error> {
        let mut random = [0; ID_LEN - TIME_LEN];
        self.0.entropy.fill(&mut random)?;
        Ok(random)
    }
}

fn millis(wall: Duration) -> u64 {
    u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)
}

fn id(time: u64, random: [u8; ID_LEN - TIME_LEN]) -> Vec<u8> {
    [time.to_be_bytes().as_slice(), &random].concat()
}

fn generate(
    connection: &Connection<'_>,
    uri: &KeyUri,
    kind: KeyKind,
    id: Vec<u8>,
) -> Result<KeyId, Pkcs11Error> {
    let named = KeyUri { id: Some(id.clone()), ..uri.clone() };
    let key_id = named.key_id(connection.token_label())?;
    let identity =
        [Attribute::Token(true), Attribute::Label(uri.object.as_bytes().into()), Attribute::Id(id)];
    let secret = [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)];
    let made = match kind {
        KeyKind::Rsa(size) => generate_rsa(connection, size, &identity, &secret)?,
        _ => {
            let usage = [
                Attribute::ValueLen(32.into()),
                Attribute::Wrap(true),
                Attribute::Unwrap(true),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Sign(false),
                Attribute::Verify(false),
            ];
            let template = [&identity[..], &secret, &usage].concat();
            vec![connection.session.generate_key(&Mechanism::AesKeyGen, &template)?]
        }
    };
    // Looked at as any other: a key that can't be used is not left behind.
    if let Err(error) = keys::find(connection, &key_id, &named) {
        for handle in made {
            let _ = connection.session.destroy_object(handle);
        }
        return Err(error);
    }
    Ok(key_id)
}

fn generate_rsa(
    connection: &Connection<'_>,
    size: RsaSize,
    identity: &[Attribute],
    secret: &[Attribute],
) -> Result<Vec<cryptoki::object::ObjectHandle>, Pkcs11Error> {
    let bits = size.bits().try_into().map_err(Pkcs11Error::from)?;
    let public = [
        Attribute::Private(false),
        Attribute::ModulusBits(bits),
        Attribute::PublicExponent(EXPONENT.into()),
        Attribute::Encrypt(true),
        Attribute::Verify(false),
        Attribute::Wrap(false),
    ];
    let private = [Attribute::Decrypt(true), Attribute::Sign(false), Attribute::Unwrap(false)];
    let (public, private) = connection.session.generate_key_pair(
        &Mechanism::RsaPkcsKeyPairGen,
        &[identity, &public].concat(),
        &[identity, secret, &private].concat(),
    )?;
    Ok(vec![public, private])
}
