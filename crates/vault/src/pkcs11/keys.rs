//! Keys in a token: found, judged, used.
//!
//! Guarantees: a key is looked at anew in each call, so a change is felt by the next; one that can leave its token is refused;
//! an AEK is in the token, as a session object, only while it is wrapped or read, and is destroyed before the session is used
//! again. What a wrap's bytes do wrong is never a denial.

use std::time::Duration;

use cofferdam_crypto::{Aek, KeyId, WrapAlgorithm, rsa::RsaPublicKey};
use cryptoki::{
    context::Function,
    error::{Error as CryptokiError, RvError},
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use zeroize::{Zeroize, Zeroizing};

use super::{
    date,
    error::{KeyFault, Pkcs11Error},
    token::Connection,
    uri::{Class, KeyUri},
};
use crate::{KeyKind, KeyState, VaultErrorKind};

/// Bytes of an id that was made here: the time, and random ones.
pub(super) const ID_LEN: usize = 16;

/// What a key is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Wrap,
    Unwrap,
}

/// A key as it is now.
#[derive(Debug)]
pub(super) struct Kek {
    /// With its version.
    pub(super) key_id: KeyId,
    pub(super) kind: KeyKind,
    /// Of an RSA key.
    pub(super) public: Option<RsaPublicKey>,
    pub(super) not_before: Option<Duration>,
    pub(super) expires_at: Option<Duration>,
    handle: ObjectHandle,
    can_wrap: bool,
    can_unwrap: bool,
}

impl Class {
    pub(super) fn object_class(self) -> ObjectClass {
        match self {
            Self::Secret => ObjectClass::SECRET_KEY,
            Self::Private => ObjectClass::PRIVATE_KEY,
        }
    }
}

/// The objects that an id means, by their own ids.
pub(super) fn objects(
    connection: &Connection<'_>,
    uri: &KeyUri,
) -> Result<Vec<(Vec<u8>, ObjectHandle)>, Pkcs11Error> {
    let mut template = vec![
        Attribute::Class(uri.class.object_class()),
        Attribute::Token(true),
        Attribute::Label(uri.object.as_bytes().into()),
    ];
    template.extend(uri.id.clone().map(Attribute::Id));
    let mut objects = Vec::new();
    for handle in connection.session.find_objects(&template)? {
        let id = match &uri.id {
            Some(id) => Some(id.clone()),
            None => {
                let said = connection.session.get_attributes(handle, &[AttributeType::Id])?;
                said.into_iter().find_map(|a| if let Attribute::Id(id) = a { Some(id) } else { None })
            }
        };
        objects.push((id.unwrap_or_default(), handle));
    }
    if objects.is_empty() {
        connection.confirm_present()?;
    }
    objects.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(objects)
}

/// The latest of a key's versions, which must be one or have been made here.
pub(super) fn latest(
    mut objects: Vec<(Vec<u8>, ObjectHandle)>,
) -> Result<Option<(Vec<u8>, ObjectHandle)>, KeyFault> {
    let Some(last) = objects.pop() else { return Ok(None) };
    if objects.last().is_some_and(|(id, _)| *id == last.0) {
        return Err(KeyFault::Twice);
    }
    if !objects.is_empty() && objects.iter().chain([&last]).any(|(id, _)| id.len() != ID_LEN) {
        return Err(KeyFault::Ambiguous);
    }
    Ok(Some(last))
}

/// The key that an id means.
pub(super) fn find(connection: &Connection<'_>, key_id: &KeyId, uri: &KeyUri) -> Result<Kek, Pkcs11Error> {
    let fault = |fault| Pkcs11Error::key(key_id, fault);
    let latest = latest(objects(connection, uri)?).map_err(fault)?;
    let (id, handle) = latest.ok_or_else(|| fault(KeyFault::NotFound))?;
    if id.is_empty() {
        return Err(fault(KeyFault::NoId));
    }
    let uri = KeyUri { id: Some(id), ..uri.clone() };
    let key_id = uri.key_id(connection.token_label())?;
    describe(connection, key_id, &uri, handle)
}

fn describe(
    connection: &Connection<'_>,
    key_id: KeyId,
    uri: &KeyUri,
    handle: ObjectHandle,
) -> Result<Kek, Pkcs11Error> {
    use AttributeType as T;
    let fault = |fault| Pkcs11Error::key(&key_id, fault);
    let common = [T::KeyType, T::Sensitive, T::Extractable, T::StartDate, T::EndDate];
    let own = match uri.class {
        Class::Secret => [T::ValueLen, T::Wrap, T::Unwrap].as_slice(),
        Class::Private => &[T::Modulus, T::PublicExponent, T::Decrypt],
    };
    let said = connection.session.get_attributes(handle, &[&common, own].concat())?;
    let (mut key_type, mut value_len, mut modulus, mut exponent) = (None, 0, None, None);
    // Of what a token does not say, the worse is taken where that is no denial.
    let (mut sensitive, mut extractable, mut can_wrap, mut can_unwrap) = (false, true, None, None);
    let (mut not_before, mut expires_at) = (None, None);
    for attribute in said {
        match attribute {
            Attribute::KeyType(of) => key_type = Some(of),
            Attribute::ValueLen(len) => value_len = usize::from(len),
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            Attribute::Sensitive(is) => sensitive = is,
            Attribute::Extractable(is) => extractable = is,
            Attribute::Wrap(can) => can_wrap = Some(can),
            Attribute::Unwrap(can) => can_unwrap = Some(can),
            // Whoever has the public half wraps: the two go together.
            Attribute::Decrypt(can) => (can_wrap, can_unwrap) = (Some(can), Some(can)),
            Attribute::StartDate(date) => not_before = date::start(&date)?,
            Attribute::EndDate(date) => expires_at = date::end(&date)?,
            _ => {}
        }
    }
    let wrong = |found: String| fault(KeyFault::WrongKind { found });
    let (kind, public) = match (uri.class, key_type) {
        (Class::Secret, Some(KeyType::AES)) if value_len == Aek::LEN => (KeyKind::Aes256, None),
        (Class::Secret, Some(KeyType::AES)) => return Err(wrong(format!("AES with {} bits", value_len * 8))),
        (Class::Private, Some(KeyType::RSA)) => {
            let exponent = match exponent {
                Some(exponent) => exponent,
                None => public_exponent(connection, uri)?,
            };
            let public = RsaPublicKey::from_components(&modulus.unwrap_or_default(), &exponent)
                .map_err(|e| wrong(format!("no RSA key that can be used ({e})")))?;
            (KeyKind::Rsa(public.size()), Some(public))
        }
        (_, other) => return Err(wrong(other.map_or_else(|| "of no kind".into(), |of| of.to_string()))),
    };
    if !sensitive || extractable {
        let why = if extractable { "CKA_EXTRACTABLE" } else { "not CKA_SENSITIVE" };
        return Err(fault(KeyFault::Exposed { why }));
    }
    let (Some(can_wrap), Some(can_unwrap)) = (can_wrap, can_unwrap) else {
        return Err(Pkcs11Error::Malformed {
            why: "a key without CKA_WRAP, CKA_UNWRAP or CKA_DECRYPT".into(),
        });
    };
    let kek = Kek { key_id, kind, public, not_before, expires_at, handle, can_wrap, can_unwrap };
    kek.check_oaep(connection)?;
    Ok(kek)
}

/// The public exponent of a private key whose object does not have it: its public key's.
fn public_exponent(connection: &Connection<'_>, uri: &KeyUri) -> Result<Vec<u8>, Pkcs11Error> {
    let mut template = vec![Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::KeyType(KeyType::RSA)];
    template.extend(uri.id.clone().map(Attribute::Id));
    for handle in connection.session.find_objects(&template)? {
        for attribute in connection.session.get_attributes(handle, &[AttributeType::PublicExponent])? {
            if let Attribute::PublicExponent(exponent) = attribute {
                return Ok(exponent);
            }
        }
    }
    Ok(Vec::new())
}

fn oaep() -> Mechanism<'static> {
    let source = PkcsOaepSource::empty();
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, source))
}

impl Kek {
    /// Its state at a time since the Unix epoch.
    pub(super) fn state(&self, now: Duration) -> KeyState {
        if !self.can_wrap || !self.can_unwrap { KeyState::Disabled } else { self.state_by_date(now) }
    }

    fn state_by_date(&self, now: Duration) -> KeyState {
        if self.expires_at.is_some_and(|at| now >= at) {
            KeyState::Expired
        } else if self.not_before.is_some_and(|at| now < at) {
            KeyState::NotYetActive
        } else {
            KeyState::Enabled
        }
    }

    pub(super) fn check(&self, usage: Usage, now: Duration) -> Result<(), Pkcs11Error> {
        let may = match usage {
            Usage::Wrap => self.can_wrap,
            Usage::Unwrap => self.can_unwrap,
        };
        let fault = match self.state_by_date(now) {
            _ if !may => KeyFault::Disabled,
            KeyState::Expired => KeyFault::Expired,
            KeyState::NotYetActive => KeyFault::NotYetActive,
            _ => return Ok(()),
        };
        Err(Pkcs11Error::key(&self.key_id, fault))
    }

    /// Finds out whether the token can do what an RSA key is for, once, by having it decrypt what is no ciphertext: PKCS #11
    /// has no other way to ask which hashes it takes.
    fn check_oaep(&self, connection: &Connection<'_>) -> Result<(), Pkcs11Error> {
        let Some(public) = self.public.as_ref().filter(|_| self.can_unwrap) else { return Ok(()) };
        let can = match connection.oaep_sha256() {
            Some(can) => can,
            None => {
                use RvError as R;
                let zeros = vec![0; public.modulus_len()];
                let can = match connection.session.decrypt(&oaep(), self.handle, &zeros) {
                    Err(CryptokiError::Pkcs11(
                        R::ArgumentsBad
                        | R::MechanismInvalid
                        | R::MechanismParamInvalid
                        | R::FunctionNotSupported,
                        Function::DecryptInit,
                    )) => false,
                    Ok(_) | Err(CryptokiError::Pkcs11(_, Function::Decrypt)) => true,
                    Err(error) => return Err(error.into()),
                };
                // Whatever it left of the operation.
                connection.spoil();
                connection.note_oaep_sha256(can);
                can
            }
        };
        if can { Ok(()) } else { Err(Pkcs11Error::NoOaepSha256 { token: connection.token_label().into() }) }
    }

    pub(super) fn wrap(&self, connection: &Connection<'_>, aek: &Aek) -> Result<Vec<u8>, Pkcs11Error> {
        if let Some(public) = &self.public {
            return Ok(public.wrap(aek)?);
        }
        let mut template = session_object(true);
        template.push(Attribute::Value(aek.expose().to_vec()));
        let object = connection.session.create_object(&template);
        if let Some(Attribute::Value(value)) = template.last_mut() {
            value.zeroize();
        }
        let object = object?;
        let wrapped = connection.session.wrap_key(&Mechanism::AesKeyWrap, self.handle, object);
        destroy(connection, object);
        let wrapped = wrapped?;
        match self.kind.algorithm().accepts_len(wrapped.len()) {
            true => Ok(wrapped),
            false => Err(Pkcs11Error::Malformed { why: format!("a wrap of {} bytes", wrapped.len()) }),
        }
    }

    pub(super) fn unwrap(
        &self,
        connection: &Connection<'_>,
        algorithm: WrapAlgorithm,
        wrapped: &[u8],
    ) -> Result<Aek, Pkcs11Error> {
        let corrupt = |why| Err(Pkcs11Error::key(&self.key_id, KeyFault::Corrupt { why }));
        if algorithm != self.kind.algorithm() {
            return corrupt(format!("the wrapped key was not wrapped by this key, which is {}", self.kind));
        }
        if self.public.as_ref().is_some_and(|public| public.modulus_len() != wrapped.len()) {
            return corrupt(format!(
                "the wrapped key has {} bytes, which is not this key's length",
                wrapped.len()
            ));
        }
        let key = match self.public {
            Some(_) => connection.session.decrypt(&oaep(), self.handle, wrapped).map(Zeroizing::new),
            None => self.unwrap_aes(connection, wrapped),
        };
        let key = match key.map_err(Pkcs11Error::from) {
            Ok(key) => key,
            Err(error) if error.kind() == VaultErrorKind::Corrupt => {
                connection.confirm_present()?;
                return corrupt(format!("the token can't unwrap the wrapped key ({error})"));
            }
            Err(error) => return Err(error),
        };
        if key.len() != Aek::LEN {
            return corrupt(format!("what was wrapped has {} bytes, an AEK has 32", key.len()));
        }
        Aek::try_from_fn(|aek| {
            aek.copy_from_slice(&key);
            Ok(())
        })
    }

    fn unwrap_aes(
        &self,
        connection: &Connection<'_>,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptokiError> {
        let session = connection.session;
        let template = session_object(false);
        let object = session.unwrap_key(&Mechanism::AesKeyWrap, self.handle, wrapped, &template)?;
        let said = session.get_attributes(object, &[AttributeType::Value]);
        destroy(connection, object);
        let value = said?.into_iter().find_map(|a| if let Attribute::Value(v) = a { Some(v) } else { None });
        Ok(Zeroizing::new(value.unwrap_or_default()))
    }
}

/// An AEK in a session: gone with it, seen only by who is logged in.
fn session_object(sensitive: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(sensitive),
        Attribute::Extractable(true),
    ]
}

fn destroy(connection: &Connection<'_>, object: ObjectHandle) {
    if let Err(error) = connection.session.destroy_object(object) {
        tracing::warn!(%error, "a session object was not destroyed: closing its session");
        connection.spoil();
    }
}
