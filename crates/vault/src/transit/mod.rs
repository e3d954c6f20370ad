//! HashiCorp Vault and OpenBao: KEKs of a Transit engine, which never leave it.
//!
//! Guarantees:
//! - A wrap is bound to its account, epoch and provider, as `associated_data` that the engine authenticates.
//! - A wrap is of a key of type `aes256-gcm96` alone, not derived, and of an exact version; it makes no key, though the engine
//!   would on a token that may create.
//! - A 403 is a denial only of a token that Vault has just said is good: Vault answers the same to one that expired.
//! - Nothing is retried or cached but the token.
//! - The texts in base64 that hold an AEK are ours to wipe, and are wiped; `http` says what remains.
//!
//! Not its job: to renew a token that no longer serves in mid-call (`Reauthenticating`, which [`TransitVault::connect`] puts
//! around it), to manage keys.
//!
//! vaultrs is not used: it reads a body of any length, follows redirects, passes on no `Retry-After`, keeps plaintexts in
//! errors that it logs, and knows no `soft_deleted`.

mod credential;
mod error;
mod http;
mod options;
mod place;
mod said;
mod secret;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrapAlgorithm, WrappedKey};

pub use credential::TransitCredential;
pub use error::TransitError;
pub use options::{TransitLogin, TransitOptions, Trust};
pub use secret::{Secret, SecretSource};

use crate::{
    KeyProperties, KeyVault, PublicKeyAnswer, Reauthenticating, VaultError, VaultErrorKind as Kind,
    WrapContext,
};
use credential::parse;
use http::{Answer, Body, Http, Request};
use place::{KeyPath, Place};
use wire::{Decrypt, Decrypted, Encrypt, Encrypted, Key, Plaintext, Sealed, aad};

/// A Transit engine of one server, and all its mounts in one namespace.
#[derive(Debug)]
pub struct TransitVault {
    http: Http,
    place: Place,
    credential: Arc<TransitCredential>,
}

impl TransitVault {
    /// The vault of these options, which logs in at its first call and renews its token ahead: what a service registers.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`TransitError`] names the setting that is wrong; [`TransitError::NoRuntime`] outside of a tokio runtime.
    pub fn connect(
        options: TransitOptions,
        login: TransitLogin,
    ) -> Result<Reauthenticating<Self>, TransitError> {
        let clock = options.clock.clone();
        let vault = Self::new(&options, login)?;
        vault.credential.keep_alive()?;
        let credential = vault.credential.clone();
        Ok(Reauthenticating::new(vault, credential, clock))
    }

    fn new(options: &TransitOptions, login: TransitLogin) -> Result<Self, TransitError> {
        let http = Http::new(options)?;
        let authority = options.authority.clone().unwrap_or_else(|| http.host_and_port());
        let place = Place::new(&authority, options.namespace.as_deref().unwrap_or_default())?;
        let credential = Arc::new(TransitCredential::new(http.clone(), login, options)?);
        Ok(Self { http, place, credential })
    }

    /// Its credential.
    pub fn credential(&self) -> &Arc<TransitCredential> {
        &self.credential
    }

    /// Whether this is an id of a key that this vault could have.
    pub fn owns(&self, key_id: &KeyId) -> bool {
        self.place.parse(key_id).is_ok()
    }

    /// The id of a key by its mount and name, without a version: whether there is one or not.
    ///
    /// # Errors
    /// [`TransitError::BadName`] where no id can hold one of them.
    pub fn key_id(&self, mount: &str, name: &str) -> Result<KeyId, TransitError> {
        self.place.key_id(mount, name, None)
    }

    /// Asks, and finds out of whom Vault denied something: of us, or of a token that is none.
    async fn ask<T>(
        &self,
        key_id: &KeyId,
        path: &str,
        body: Option<Body>,
        read: impl FnOnce(&Answer, &Secret) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let Some(token) = self.credential.token() else {
            let message = "not logged in to the vault yet";
            return Err(VaultError::new(Kind::Unauthenticated, message).about(key_id));
        };
        let request = Request { namespace: self.place.namespace(), path, token: Some(&token), body };
        let answered = match self.http.ask(request).await {
            Ok(answer) => read(&answer, &token),
            Err(failed) => Err(failed),
        };
        let failed = match answered {
            Err(failed) if failed.kind() == Kind::AccessDenied => failed,
            other => return other.map_err(|e| e.about(key_id)),
        };
        match self.credential.is_good(&token).await {
            Ok(true) => Err(failed.about(key_id)),
            Ok(false) => {
                let message = "the vault no longer takes the token: it expired or was revoked";
                Err(VaultError::new(Kind::Unauthenticated, message).about(key_id).caused_by(failed))
            }
            Err(unknown) => {
                let message =
                    format!("{failed}; whether the token is good could not be found out: {unknown}");
                Err(VaultError::new(unknown.kind(), message).about(key_id).caused_by(unknown))
            }
        }
    }

    /// What the engine says of a key, if it is of a kind that can be a KEK.
    async fn key(&self, key_id: &KeyId, path: &KeyPath<'_>) -> Result<Key, VaultError> {
        let url = format!("{}/keys/{}", path.mount, path.name);
        let key: Key = self.ask(key_id, &url, None, Key::read).await?;
        key.check_kind().map_err(|e| e.about(key_id))?;
        Ok(key)
    }
}

#[async_trait]
impl KeyVault for TransitVault {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        let path = self.place.parse(key_id)?;
        // First, since the engine makes a key that it does not have, and wraps by kinds of keys that we don't take.
        let key = self.key(key_id, &path).await?;
        let version = key.version_for_wrap(path.version).map_err(|e| e.about(key_id))?;
        let named = self.place.versioned(key_id, &path, version)?;
        let plaintext = Plaintext::of(aek);
        let asked = Encrypt {
            plaintext: plaintext.as_str(),
            associated_data: &aad(&context.scope),
            key_version: version,
        };
        let body = Body::json(&asked, 1 << 10)?;
        let url = format!("{}/encrypt/{}", path.mount, path.name);
        let answered = |answer: &Answer, token: &Secret| {
            let encrypted: Encrypted = parse(answer, &[token.expose(), plaintext.as_str()])?;
            Ok(encrypted.data.ciphertext)
        };
        let ciphertext = self.ask(&named, &url, Some(body), answered).await?;
        if Sealed::parse(ciphertext.as_bytes()).is_none_or(|sealed| sealed.version != version) {
            let message =
                "the vault answered something else than a wrapped key of that version: see who answers";
            return Err(VaultError::new(Kind::Other, message).about(&named));
        }
        Ok(WrappedKey { key_id: named, algorithm: WrapAlgorithm::Transit, bytes: ciphertext.into_bytes() })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        let key_id = &wrapped.key_id;
        let path = self.place.parse(key_id)?;
        let corrupt = |message| VaultError::new(Kind::Corrupt, message).about(key_id);
        let Some(version) = path.version else {
            return Err(corrupt("the wrapped key names no version of its KEK: restore the account's record"));
        };
        if wrapped.algorithm != WrapAlgorithm::Transit {
            return Err(corrupt("a key of another kind wrapped this one: restore the account's record"));
        }
        let sealed = Sealed::parse(&wrapped.bytes).filter(|sealed| sealed.version == version);
        let Some(sealed) = sealed else {
            return Err(corrupt(
                "the wrapped key has a form that this version never gives: restore the account's record",
            ));
        };
        let asked = Decrypt { ciphertext: sealed.text, associated_data: &aad(&context.scope) };
        let body = Body::json(&asked, 1 << 10)?;
        let url = format!("{}/decrypt/{}", path.mount, path.name);
        let answered = |answer: &Answer, token: &Secret| {
            let decrypted: Decrypted = parse(answer, &[token.expose()])?;
            decrypted.aek()
        };
        self.ask(key_id, &url, Some(body), answered).await
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let path = self.place.parse(key_id)?;
        let key = self.key(key_id, &path).await?;
        let version = key.version(path.version).map_err(|e| e.about(key_id))?;
        let named = self.place.versioned(key_id, &path, version)?;
        let latest = self.place.versioned(key_id, &path, key.latest_version)?;
        Ok(key.properties(named, latest, version))
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.place.parse(key_id)?;
        Err(VaultError::not_rsa(key_id))
    }
}
