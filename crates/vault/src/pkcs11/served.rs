//! A token behind a server that speaks another vault's API.
//!
//! Guarantees: as the trait says; a key's state is looked at by the call that uses it. What a token can't do is refused and
//! never pretended: it takes no key that was brought, keeps no dates and no tags for who asks, wraps keys of 32 bytes alone,
//! and knows no soft delete, so nothing is deleted here.
//!
//! Served are the keys with an id of 16 bytes, as those have that are made here: it is the version's name. Others are not there.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId};
use cryptoki::object::{Attribute, AttributeType};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{
    Access, Connection, KeyFault, Pkcs11Error, Pkcs11Vault,
    keys::{self, ID_LEN, Kek, Usage},
    uri::{Class, KeyUri},
};
use crate::{
    KeyKind, KeyOperation, KeyState, Recovery,
    serve::{
        BackendError, KeyChange, KeyDetails, KeyStoreBackend, NewKey, NewMaterial, StoredKey, StoredVersion,
    },
};

/// Which keys a label has, by class: their ids, oldest first.
type Labelled = BTreeMap<String, Vec<(Class, Vec<Vec<u8>>)>>;

const OPERATIONS: [KeyOperation; 2] = [KeyOperation::WrapKey, KeyOperation::UnwrapKey];

#[async_trait]
impl KeyStoreBackend for Pkcs11Vault {
    fn name(&self) -> &str {
        self.token()
    }

    async fn keys(&self) -> Result<Vec<StoredKey>, BackendError> {
        self.stored(None).await
    }

    async fn key(&self, name: &str) -> Result<StoredKey, BackendError> {
        self.stored(Some(name.to_owned())).await?.pop().ok_or(BackendError::NotFound)
    }

    async fn create(&self, name: &str, new: NewKey) -> Result<(StoredKey, String), BackendError> {
        let NewMaterial::Draw(kind) = new.material else {
            return Err(unsupported("a token takes no key that was brought: have it make one"));
        };
        check_change(&new.said)?;
        let made = match self.key(name).await {
            Ok(StoredKey { kind: has, .. }) if has != kind => return Err(BackendError::OtherKind { has }),
            Ok(_) => self.new_version(name).await,
            Err(BackendError::NotFound) => self.create_key(name, kind).await,
            Err(error) => return Err(error),
        };
        let key_id = made.map_err(failed)?;
        if new.said.enabled == Some(false) {
            self.disable(&key_id).await.map_err(failed)?;
        }
        let version = self.version_of(&key_id)?;
        Ok((self.key(name).await?, version))
    }

    async fn update(
        &self,
        name: &str,
        version: Option<&str>,
        change: KeyChange,
    ) -> Result<(StoredKey, String), BackendError> {
        check_change(&change)?;
        let (class, key) = self.classed(Some(name.to_owned())).await?.pop().ok_or(BackendError::NotFound)?;
        let version = key.version(version).ok_or(BackendError::NotFound)?.version.clone();
        let Some(enabled) = change.enabled else { return Ok((key, version)) };
        let id = Some(id_of(&version)?);
        let key_id = KeyUri { object: name.to_owned(), id, class }.key_id(self.token()).map_err(failed)?;
        match enabled {
            true => self.enable(&key_id).await,
            false => self.disable(&key_id).await,
        }
        .map_err(failed)?;
        Ok((self.key(name).await?, version))
    }

    async fn delete(&self, name: &str) -> Result<StoredKey, BackendError> {
        self.key(name).await?;
        Err(unsupported(
            "nothing brings a key back that a token deleted: its owner does it with the HSM's own tools",
        ))
    }

    async fn recover(&self, name: &str) -> Result<StoredKey, BackendError> {
        self.key(name).await?;
        Err(BackendError::NotDeleted)
    }

    async fn purge(&self, name: &str) -> Result<(), BackendError> {
        self.key(name).await?;
        Err(BackendError::NotDeleted)
    }

    async fn wrap(
        &self,
        name: &str,
        version: Option<&str>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<(String, Vec<u8>), BackendError> {
        let aek = Aek::try_from_fn(|aek| {
            if key.len() != aek.len() {
                return Err(BackendError::Value { what: "this vault wraps keys of 32 bytes alone".into() });
            }
            aek.copy_from_slice(&key);
            Ok(())
        })?;
        let work = move |connection: &Connection<'_>, kek: &Kek| kek.wrap(connection, &aek);
        self.used(name, version, Usage::Wrap, work).await
    }

    async fn unwrap(
        &self,
        name: &str,
        version: Option<&str>,
        wrapped: Vec<u8>,
    ) -> Result<(String, Zeroizing<Vec<u8>>), BackendError> {
        let work = move |connection: &Connection<'_>, kek: &Kek| {
            kek.unwrap(connection, kek.kind.algorithm(), &wrapped)
        };
        let (version, aek) = self.used(name, version, Usage::Unwrap, work).await?;
        Ok((version, Zeroizing::new(aek.expose().to_vec())))
    }
}

impl Pkcs11Vault {
    async fn stored(&self, name: Option<String>) -> Result<Vec<StoredKey>, BackendError> {
        Ok(self.classed(name).await?.into_iter().map(|(_, key)| key).collect())
    }

    /// The keys of this label, or all, each with the class of its objects.
    async fn classed(&self, name: Option<String>) -> Result<Vec<(Class, StoredKey)>, BackendError> {
        let (clock, recoverable) = (self.0.token.clock.clone(), self.0.recoverable);
        let work = move |connection: &Connection<'_>| {
            let now = clock.now().wall;
            let mut found = Vec::new();
            for (name, classes) in labelled(connection, name.as_deref())? {
                // With objects of both classes nobody can tell which is meant.
                let [(class, ids)] = &classes[..] else { continue };
                let Some((kind, versions)) = versions(connection, &name, *class, ids, now)? else { continue };
                let recovery = if recoverable { Recovery::default() } else { Recovery::Purgeable };
                found.push((*class, StoredKey { name, kind, recovery, versions }));
            }
            Ok(found)
        };
        self.run(Access::Read, work).await.map_err(failed)
    }

    /// Uses a key as it is now; with the version that was used.
    async fn used<T: Send + 'static>(
        &self,
        name: &str,
        version: Option<&str>,
        usage: Usage,
        work: impl Fn(&Connection<'_>, &Kek) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<(String, T), BackendError> {
        let (object, id) = (name.to_owned(), version.map(id_of).transpose()?);
        let clock = self.0.token.clock.clone();
        let work = move |connection: &Connection<'_>| {
            for class in Class::ALL {
                let uri = KeyUri { object: object.clone(), id: id.clone(), class };
                if keys::objects(connection, &uri)?.is_empty() {
                    continue;
                }
                let kek = keys::find(connection, &uri.key_id(connection.token_label())?, &uri)?;
                let now = clock.now().wall;
                match usage {
                    Usage::Wrap => kek.check(usage, now)?,
                    // What was wrapped must come back, whatever the date.
                    Usage::Unwrap if kek.state(now) == KeyState::Disabled => {
                        return Err(Pkcs11Error::key(&kek.key_id, KeyFault::Disabled));
                    }
                    Usage::Unwrap => {}
                }
                let done = work(connection, &kek)?;
                return Ok(Some((kek.key_id, done)));
            }
            Ok(None)
        };
        let (key_id, done) =
            self.run(Access::Read, work).await.map_err(failed)?.ok_or(BackendError::NotFound)?;
        Ok((self.version_of(&key_id)?, done))
    }

    fn version_of(&self, key_id: &KeyId) -> Result<String, BackendError> {
        let id = KeyUri::parse(key_id, self.token()).map_err(failed)?.id.filter(|id| id.len() == ID_LEN);
        id.map(|id| HEXLOWER.encode(&id)).ok_or(BackendError::NotFound)
    }
}

/// What there is, of one label or of all.
fn labelled(connection: &Connection<'_>, name: Option<&str>) -> Result<Labelled, Pkcs11Error> {
    let mut found = Labelled::new();
    for class in Class::ALL {
        let mut template = vec![Attribute::Class(class.object_class()), Attribute::Token(true)];
        template.extend(name.map(|name| Attribute::Label(name.as_bytes().into())));
        for handle in connection.session.find_objects(&template)? {
            let said =
                connection.session.get_attributes(handle, &[AttributeType::Label, AttributeType::Id])?;
            let (mut label, mut id) = (None, None);
            for attribute in said {
                match attribute {
                    Attribute::Label(bytes) => label = String::from_utf8(bytes).ok(),
                    Attribute::Id(bytes) => id = Some(bytes).filter(|id| id.len() == ID_LEN),
                    _ => {}
                }
            }
            let (Some(label), Some(id)) = (label.filter(|label| is_servable(label)), id) else { continue };
            let classes = found.entry(label).or_default();
            match classes.iter_mut().find(|(of, _)| *of == class) {
                Some((_, ids)) => ids.push(id),
                None => classes.push((class, vec![id])),
            }
        }
    }
    if found.is_empty() {
        connection.confirm_present()?;
    }
    found.values_mut().flatten().for_each(|(_, ids)| ids.sort_unstable());
    Ok(found)
}

/// As a key is named there, so that nothing is listed that can't be asked for.
fn is_servable(label: &str) -> bool {
    (1..=127).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The versions that can be used and are of the latest one's kind.
fn versions(
    connection: &Connection<'_>,
    name: &str,
    class: Class,
    ids: &[Vec<u8>],
    now: Duration,
) -> Result<Option<(KeyKind, Vec<StoredVersion>)>, Pkcs11Error> {
    let mut found = Vec::new();
    for id in ids {
        let uri = KeyUri { object: name.to_owned(), id: Some(id.clone()), class };
        match keys::find(connection, &uri.key_id(connection.token_label())?, &uri) {
            Ok(kek) => found.push((id, kek)),
            // What it may not be used for, it is not served for.
            Err(Pkcs11Error::Key { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let Some(kind) = found.last().map(|(_, kek)| kek.kind) else { return Ok(None) };
    let of_kind = found.into_iter().filter(|(_, kek)| kek.kind == kind);
    Ok(Some((kind, of_kind.map(|(id, kek)| stored(id, &kek, now)).collect())))
}

fn stored(id: &[u8], kek: &Kek, now: Duration) -> StoredVersion {
    // What was not made here may have any id.
    let made = id.first_chunk().map_or(0, |time| u64::from_be_bytes(*time));
    let created = Duration::from_millis(made).min(now);
    StoredVersion {
        version: HEXLOWER.encode(id),
        public: kek.public.clone(),
        enabled: kek.state(now) != KeyState::Disabled,
        created,
        not_before: kek.not_before,
        expires: kek.expires_at,
        deleted: None,
        details: KeyDetails {
            updated: created,
            hsm: true,
            operations: OPERATIONS.into(),
            tags: BTreeMap::new(),
        },
    }
}

/// Refuses what a token does not keep.
fn check_change(change: &KeyChange) -> Result<(), BackendError> {
    let KeyChange { enabled: _, not_before, expires, operations, tags } = change;
    if not_before.is_some() || expires.is_some() {
        return Err(unsupported("a key's dates are set in the token, by the HSM's own tools"));
    }
    if tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
        return Err(unsupported("a token keeps no tags: leave them out"));
    }
    if operations.as_ref().is_some_and(|named| OPERATIONS.iter().any(|one| !named.contains(one))) {
        return Err(unsupported("a key of a token is for wrapKey and unwrapKey: name both, or none"));
    }
    Ok(())
}

fn id_of(version: &str) -> Result<Vec<u8>, BackendError> {
    let id = HEXLOWER.decode(version.as_bytes()).ok().filter(|id| id.len() == ID_LEN);
    id.ok_or(BackendError::NotFound)
}

fn unsupported(what: &str) -> BackendError {
    BackendError::Unsupported { what: what.into() }
}

fn failed(error: Pkcs11Error) -> BackendError {
    match error {
        Pkcs11Error::Key { fault: KeyFault::NotFound, .. } => BackendError::NotFound,
        Pkcs11Error::Key { fault: KeyFault::Disabled, .. } => BackendError::Disabled,
        Pkcs11Error::Key { fault: KeyFault::Expired, .. } => BackendError::Expired,
        Pkcs11Error::Key { fault: KeyFault::NotYetActive, .. } => BackendError::NotYetValid,
        Pkcs11Error::Key { fault: KeyFault::Corrupt { why }, .. } => BackendError::Value { what: why },
        Pkcs11Error::NoOaepSha256 { .. }
        | Pkcs11Error::KindOfOthers { .. }
        | Pkcs11Error::BadLabel { .. } => unsupported(&error.to_string()),
        other => BackendError::Unavailable(Box::new(other)),
    }
}
