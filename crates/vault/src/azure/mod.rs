//! Azure Key Vault and Azure managed HSM, by Microsoft's own client.
//!
//! Guarantees:
//! - The KEK never leaves the vault: the vault wraps and unwraps, with RSA-OAEP-256 or, in a managed HSM, A256KW.
//! - A wrap names the version that the vault wrapped with, and is not made under a key that the vault says is disabled: Key
//!   Vault itself may still wrap with the public half of one.
//! - Nothing is retried, cached or redirected. A key id of another vault is refused before anything is sent.
//! - A denial is what Key Vault's own error body says, to a token that is known good ([`AzureVault::connect`]).
//!
//! Not its job: layers, budgets, the key check value that tells a wrapped key of another account (Azure binds no
//! context).
//!
//! What remains of an AEK: Microsoft's client copies an answer once more than it must, and hyper and rustls have buffers
//! that do not wipe. Everything else that holds one is wiped.
//!
//! SDK types show where they can't be avoided: credentials of your own are those of `azure_identity`, which is re-exported.

mod answers;
mod credential;
mod names;
mod options;
#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;
mod wire;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
pub use azure_core;
use azure_core::{
    Bytes, Error,
    cloud::{CloudConfiguration, CustomConfiguration},
    http::{ClientOptions, HttpClient, RequestContent, RetryOptions, Transport},
};
pub use azure_identity;
use azure_security_keyvault_keys::{
    KeyClient, KeyClientOptions,
    models::{KeyClientGetKeyOptions, KeyClientWrapKeyOptions, KeyOperationParameters, KeyOperationResult},
};
use cofferdam_crypto::{Aek, KeyId, WrapAlgorithm, WrappedKey};
use data_encoding::BASE64URL_NOPAD;
use zeroize::{Zeroize, Zeroizing};

pub use credential::{AzureCredential, ManagedIdentity};
pub use options::{AzureError, AzureOptions};

use crate::{
    Clock, Credential, KeyProperties, KeyState, KeyVault, Meaning, PublicKeyAnswer, Reauthenticating,
    VaultError, VaultErrorKind as Kind, WrapContext,
};
use answers::{Asked, Described, Operated};
use credential::Tokens;
use names::{Cloud, Hosts, KeyPath, VaultUrl};
use wire::Wire;

/// A key vault of Azure, or a managed HSM.
///
/// Its methods must be called within a tokio runtime.
pub struct AzureVault {
    url: VaultUrl,
    client: KeyClient,
    tokens: Arc<Tokens>,
    clock: Arc<dyn Clock>,
}

impl AzureVault {
    /// The vault, with its token renewed before a "no" of it counts. Sends nothing yet.
    ///
    /// # Errors
    /// [`AzureError`] when the options name no vault or the client can't be set up.
    pub fn connect(options: AzureOptions) -> Result<Reauthenticating<Self>, AzureError> {
        let clock = options.clock.clone();
        let vault = Self::new(options)?;
        let credential = vault.credential();
        Ok(Reauthenticating::new(vault, credential, clock))
    }

    /// The vault as it is, for who composes it with [`AzureVault::credential`] otherwise than [`AzureVault::connect`].
    ///
    /// # Errors
    /// [`AzureError`] when the options name no vault or the client can't be set up.
    pub fn new(options: AzureOptions) -> Result<Self, AzureError> {
        let wire = Wire::new(&options)?;
        Self::over(options, Arc::new(wire))
    }

    fn over(options: AzureOptions, transport: Arc<dyn HttpClient>) -> Result<Self, AzureError> {
        let url = VaultUrl::parse(&options.vault_url, &options.hosts)?;
        let cloud = cloud(url.cloud(), options.authority_host);
        let client_options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::new(transport)),
            cloud: cloud.map(Arc::new),
            ..ClientOptions::default()
        };
        let tokens = Arc::new(Tokens::new(
            options.credential,
            client_options.clone(),
            options.clock.clone(),
            options.call_timeout,
        ));
        let key_options = KeyClientOptions {
            client_options,
            verify_challenge_resource: Some(options.hosts != Hosts::Any),
            ..KeyClientOptions::default()
        };
        let client = KeyClient::new(url.as_str(), tokens.clone(), Some(key_options));
        let client = client.map_err(|e| AzureError::Client(Box::new(e)))?;
        Ok(Self { url, client, tokens, clock: options.clock })
    }

    /// Its credential, for [`Reauthenticating`].
    pub fn credential(&self) -> Arc<dyn Credential> {
        self.tokens.clone()
    }

    /// Whether a key id is of this vault, whether there is such a key or not.
    pub fn owns(&self, key_id: &KeyId) -> bool {
        self.url.parts(key_id.as_str()).is_ok()
    }

    /// What a failed call means, in which this secret was sent.
    fn failed(&self, asked: Asked, error: Error, key_id: &KeyId, sent: &str) -> VaultError {
        let token = self.tokens.in_use();
        let secrets = [sent, token.as_ref().map_or("", |token| token.secret())];
        answers::failed(asked, error, self.clock.now().wall, &secrets).about(key_id)
    }

    /// What the vault says of the version named, or of the latest.
    async fn get(&self, path: &KeyPath, about: &KeyId) -> Result<Described, VaultError> {
        let options = KeyClientGetKeyOptions { key_version: path.version.clone(), ..Default::default() };
        let answer = self.client.get_key(&path.name, Some(options)).await;
        let answer = answer.map_err(|e| self.failed(Asked::Get, e, about, ""))?;
        // Without its error: that could repeat what was answered.
        let key = answer.into_model().map_err(|_| odd(about, "its answer is no key"))?;
        self.describe(path, about, key.key.as_ref(), key.attributes.as_ref())
    }

    /// What the vault says of a key that it has deleted and could recover.
    async fn get_deleted(&self, path: &KeyPath, about: &KeyId) -> Result<Described, VaultError> {
        let answer = self.client.get_deleted_key(&path.name, None).await;
        let answer = answer.map_err(|e| self.failed(Asked::Get, e, about, ""))?;
        let key = answer.into_model().map_err(|_| odd(about, "its answer is no deleted key"))?;
        self.describe(path, about, key.key.as_ref(), key.attributes.as_ref())
    }

    fn describe(
        &self,
        path: &KeyPath,
        about: &KeyId,
        key: Option<&azure_security_keyvault_keys::models::JsonWebKey>,
        attributes: Option<&azure_security_keyvault_keys::models::KeyAttributes>,
    ) -> Result<Described, VaultError> {
        let key = key.ok_or_else(|| odd(about, "its answer has no key"))?;
        let kid = key.kid.as_deref().ok_or_else(|| odd(about, "its answer names no key"))?;
        let (key_id, _) = self.url.answered(kid, path).map_err(|why| odd(about, &why))?;
        Described::new(key_id, key, attributes).map_err(|why| odd(about, &why))
    }

    /// The bytes that a wrap or unwrap answered, as `read` takes them from their text.
    fn operated<T>(
        &self,
        answer: azure_core::http::Response<KeyOperationResult>,
        asked: &KeyPath,
        about: &KeyId,
        read: impl FnOnce(KeyId, &str) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let mut body = Wiped(Some(answer.into_body().into()));
        let operated = serde_json::from_slice::<Operated<'_>>(body.bytes());
        let operated = operated.map_err(|_| odd(about, "its answer is no wrapped or unwrapped key"))?;
        let (key_id, _) = self.url.answered(operated.kid, asked).map_err(|why| odd(about, &why))?;
        read(key_id, operated.value)
    }
}

impl fmt::Debug for AzureVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureVault")
            .field("url", &self.url.as_str())
            .field("credential", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// Where tokens come from; none is by AZURE_AUTHORITY_HOST.
fn cloud(cloud: Cloud, authority_host: Option<String>) -> Option<CloudConfiguration> {
    match (authority_host, cloud) {
        (Some(host), _) => {
            let mut custom = CustomConfiguration::default();
            custom.authority_host = host;
            Some(custom.into())
        }
        (None, Cloud::Public) => Some(CloudConfiguration::AzurePublic),
        (None, Cloud::China) => Some(CloudConfiguration::AzureChina),
        (None, Cloud::Government) => Some(CloudConfiguration::AzureGovernment),
        (None, Cloud::Other) => None,
    }
}

/// An answer that is not what the API says.
fn odd(about: &KeyId, why: &str) -> VaultError {
    VaultError::new(Kind::Other, format!("the vault answers oddly: {why}")).about(about)
}

fn corrupt(about: &KeyId, message: impl Into<String>) -> VaultError {
    VaultError::new(Kind::Corrupt, message).about(about)
}

/// An answer that is wiped, where nobody else has it.
struct Wiped(Option<Bytes>);

impl Wiped {
    fn bytes(&mut self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        if let Some(Ok(mut alone)) = self.0.take().map(Bytes::try_into_mut) {
            alone.zeroize();
        }
    }
}

/// The body of a wrap or an unwrap, wiped when it was sent.
fn body(algorithm: &'static str, bytes: &[u8]) -> RequestContent<KeyOperationParameters> {
    let len = BASE64URL_NOPAD.encode_len(bytes.len());
    let mut value = Zeroizing::new(vec![0; len]);
    BASE64URL_NOPAD.encode_mut(bytes, &mut value);
    let parts: [&[u8]; 5] = [br#"{"alg":""#, algorithm.as_bytes(), br#"","value":""#, &value, br#""}"#];
    let mut json = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.into_iter().for_each(|part| json.extend_from_slice(part));
    Bytes::from_owner(json).into()
}

/// Its name in Azure, of those that Azure has.
fn azure_name(algorithm: WrapAlgorithm) -> Option<&'static str> {
    match algorithm {
        WrapAlgorithm::RsaOaep256 => Some("RSA-OAEP-256"),
        WrapAlgorithm::Aes256Kw => Some("A256KW"),
        _ => None,
    }
}

#[async_trait]
impl KeyVault for AzureVault {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        _context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        let key = self.get(&self.url.parse_key_id(key_id)?, key_id).await?;
        if !key.enabled {
            let message = "the key is disabled: the customer enables it";
            return Err(VaultError::new(Kind::KeyDisabled, message).about(&key.key_id));
        }
        let path = self.url.parse_key_id(&key.key_id)?;
        let algorithm = key.kind.algorithm();
        let name = azure_name(algorithm).ok_or_else(|| odd(key_id, "its key is of no kind of Azure's"))?;
        let options = KeyClientWrapKeyOptions { key_version: path.version.clone(), ..Default::default() };
        let answer = self.client.wrap_key(&path.name, body(name, aek.expose()), Some(options)).await;
        let answer = answer.map_err(|e| {
            let sent = Zeroizing::new(BASE64URL_NOPAD.encode(aek.expose()));
            self.failed(Asked::Wrap, e, &key.key_id, &sent)
        })?;
        self.operated(answer, &path, &key.key_id, |key_id, value| {
            let bytes = BASE64URL_NOPAD.decode(value.as_bytes()).ok();
            let expected = key.public.as_ref().map(|public| public.modulus_len());
            let fits = |len| algorithm.accepts_len(len) && expected.is_none_or(|expected| expected == len);
            match bytes.filter(|bytes| fits(bytes.len())) {
                Some(bytes) => Ok(WrappedKey { key_id, algorithm, bytes }),
                None => Err(odd(&key_id, "what it wrapped has not the length that this key gives")),
            }
        })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, _context: &WrapContext) -> Result<Aek, VaultError> {
        let key_id = &wrapped.key_id;
        let path = self.url.parse_key_id(key_id)?;
        let Some(name) = azure_name(wrapped.algorithm) else {
            return Err(corrupt(key_id, "the key was not wrapped in Azure"));
        };
        let len = wrapped.bytes.len();
        if !wrapped.algorithm.accepts_len(len) {
            let message = format!("the wrapped key has {len} bytes, which no key wraps an AEK into");
            return Err(corrupt(key_id, message));
        }
        let Some(version) = &path.version else {
            return Err(corrupt(key_id, "the wrapped key does not name the version that wrapped it"));
        };
        let answer = self.client.unwrap_key(&path.name, version, body(name, &wrapped.bytes), None).await;
        let answer = answer.map_err(|e| self.failed(Asked::Unwrap, e, key_id, ""))?;
        self.operated(answer, &path, key_id, |_, value| {
            let value = value.as_bytes();
            if BASE64URL_NOPAD.decode_len(value.len()).ok() != Some(Aek::LEN) {
                return Err(corrupt(key_id, "what the vault unwrapped has not the length of an AEK"));
            }
            let aek = Aek::try_from_fn(|out| BASE64URL_NOPAD.decode_mut(value, out).map(drop));
            aek.map_err(|_| odd(key_id, "what it unwrapped is not in base64url"))
        })
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let path = self.url.parse_key_id(key_id)?;
        let now = self.clock.now().wall;
        let key = match self.get(&path, key_id).await {
            Ok(key) => key,
            Err(gone) if gone.kind() == Kind::KeyNotFound => {
                // Of a deleted key the vault describes the latest version alone.
                let deleted = self.get_deleted(&path, key_id).await.map_err(|_| gone)?;
                let latest = deleted.key_id.clone();
                return Ok(deleted.properties(latest, KeyState::Deleted));
            }
            Err(other) => return Err(other),
        };
        let latest = match path.version {
            None => key.key_id.clone(),
            Some(_) => match self.get(&path.latest(), key_id).await {
                Ok(latest) => latest.key_id,
                // What is said of another version is no word on this one.
                Err(e) if e.kind().meaning() != Meaning::Outage => {
                    return Err(odd(key_id, "it denies a sight of the latest version").caused_by(e));
                }
                Err(e) => return Err(e),
            },
        };
        let state = key.state(now);
        Ok(key.properties(latest, state))
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        let key = self.get(&self.url.parse_key_id(key_id)?, key_id).await?;
        let state = key.state(self.clock.now().wall);
        if state != KeyState::Enabled {
            let message =
                format!("the key can't be used ({state:?}): the customer enables it or changes its dates");
            return Err(VaultError::new(Kind::KeyDisabled, message).about(&key.key_id));
        }
        match key.public {
            Some(public) => Ok(PublicKeyAnswer { key_id: key.key_id, key: public }),
            None => Err(VaultError::not_rsa(&key.key_id)),
        }
    }
}
