//! AWS KMS.
//!
//! Guarantees:
//! - An AEK is wrapped by a symmetric key (SYMMETRIC_DEFAULT) in an encryption context of account, epoch and provider,
//!   and opens in no other, under no other key: an unwrap names the key that its wrap names.
//! - A key of another partition, account or region is refused before anything is sent. Multi-region keys are the same
//!   key in the regions that the options list, spelled alike everywhere.
//! - Every answer has one meaning, by the table of `docs/vault-aws.md`; nothing is retried, cached or redirected.
//! - No key and no credential is logged, at any level, by us; by AWS's SDK alone where whoever answers repeats them in an
//!   error's message, at level trace of `aws_smithy_runtime`.
//!
//! What remains of an AEK in memory that is not wiped: AWS's SDK copies it into the request, as base64, and reads it from
//! the answer; TLS and the sockets' buffers hold it encrypted and in the clear. All is freed when the call ends.
//!
//! Not its job: to retry, to renew credentials ahead of time, to make keys.

mod arn;
mod classify;
mod credentials;
mod describe;
mod options;
mod transport;

use std::{collections::HashMap, convert::Infallible, error::Error, fmt, sync::Arc};

use async_trait::async_trait;
use aws_sdk_kms::{
    Client,
    config::{Region, http::HttpResponse},
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
    types::EncryptionAlgorithmSpec::{self, SymmetricDefault},
};
use cofferdam_crypto::{Aek, KeyId, KeyScope, WrapAlgorithm, WrappedKey};
use data_encoding::BASE64_NOPAD;
use zeroize::Zeroizing;

pub use credentials::{AwsCredentialSource, AwsCredentials};
pub use options::{AwsError, AwsOptions};

use crate::{
    Credential, KeyProperties, KeyVault, PublicKeyAnswer, Reauthenticating, VaultError,
    VaultErrorKind as Kind, WrapContext,
};
use arn::{Arn, Territory};
use credentials::{DefaultChain, Held, Provided};
use transport::SdkClock;

/// The keys of some AWS accounts in one region of AWS KMS.
#[derive(Clone)]
pub struct AwsVault {
    client: Client,
    territory: Arc<Territory>,
    credential: Arc<Held>,
}

impl AwsVault {
    /// A vault whose credential is renewed once before a denial counts: what a service uses.
    ///
    /// Sends nothing.
    ///
    /// # Errors
    /// [`AwsError`] says which option is wrong.
    pub fn connect(options: AwsOptions) -> Result<Reauthenticating<Self>, AwsError> {
        let clock = options.clock.clone();
        let vault = Self::new(options)?;
        let credential = vault.credential();
        Ok(Reauthenticating::new(vault, credential, clock))
    }

    /// A vault that passes on what KMS answers to the credential in use: compose it with [`credential`](Self::credential).
    ///
    /// # Errors
    /// [`AwsError`] says which option is wrong.
    pub fn new(options: AwsOptions) -> Result<Self, AwsError> {
        let territory = Arc::new(options.territory()?);
        options.check()?;
        let source = match options.credentials.clone() {
            Some(source) => source,
            None => Arc::new(DefaultChain {
                region: Region::new(options.region.clone()),
                http: transport::http_client(None)?,
                clock: SdkClock(options.clock.clone()),
            }),
        };
        let credential = Arc::new(Held::new(source, options.clock.clone()));
        let client = Client::from_conf(transport::config(&options, Provided(credential.clone()))?);
        Ok(Self { client, territory, credential })
    }

    /// What requests are signed with.
    pub fn credential(&self) -> Arc<dyn Credential> {
        self.credential.clone()
    }

    /// Whether this is a key of these accounts, in this region or of the same multi-region keys; not whether there is one.
    pub fn owns(&self, key_id: &KeyId) -> bool {
        self.territory.parse(key_id).is_ok()
    }

    /// What a failed call means, in which this secret was sent.
    fn failed<E>(&self, failed: &SdkError<E, HttpResponse>, key_id: &KeyId, sent: &str) -> VaultError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let session = self.credential.session_token();
        classify::failure(failed, key_id, &[sent, session.as_ref().map_or("", |token| token)])
    }

    /// The key as KMS of this region knows it.
    fn parse(&self, key_id: &KeyId) -> Result<Arn, VaultError> {
        match self.territory.parse(key_id) {
            Ok(arn) => Ok(self.territory.here(arn)),
            Err(why) => {
                let message =
                    format!("not a key of this vault of AWS KMS in {}: {why}", self.territory.region);
                Err(VaultError::new(Kind::Other, message).about(key_id))
            }
        }
    }

    /// The key that KMS says it used, as it is spelled everywhere; must be the one that was asked, if that named one.
    fn used(&self, key_id: &KeyId, asked: &Arn, said: Option<&str>) -> Result<KeyId, VaultError> {
        let other = |what: &str| {
            let message = format!("AWS KMS {what}: see who answers");
            VaultError::new(Kind::Other, message).about(key_id)
        };
        let said = said.ok_or_else(|| other("does not say which key it used"))?;
        let arn = Arn::parse(said).map_err(|_| other("names a key in a way that is not known"))?;
        let is_asked = if asked.is_key() {
            arn == *asked
        } else {
            arn.is_key() && arn.account == asked.account && arn.region == asked.region
        };
        if !is_asked || arn.partition != asked.partition {
            return Err(other("used another key than it was asked to"));
        }
        KeyId::new(self.territory.spelled(arn).to_string()).map_err(|_| other("names a key that is none"))
    }
}

impl fmt::Debug for AwsVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsVault")
            .field("region", &self.territory.region)
            .field("accounts", &self.territory.accounts)
            .finish_non_exhaustive()
    }
}

/// What a wrap is bound to, as KMS takes it and logs it in the clear. Written into every wrap: never to be changed.
fn encryption_context(scope: &KeyScope) -> HashMap<String, String> {
    let mut context: HashMap<_, _, _> = HashMap::from([
        ("cofferdam:account".into(), scope.account.to_string()),
        ("cofferdam:epoch".into(), scope.epoch.to_string()),
        ("cofferdam:provider".into(), scope.provider.kind().to_string()),
    ]);
    if let Some(segment) = scope.provider.segment() {
        context.insert("cofferdam:segment".into(), segment.to_string());
    }
    context
}

fn is_symmetric(algorithm: Option<&EncryptionAlgorithmSpec>) -> bool {
    algorithm.is_none_or(|algorithm| *algorithm == SymmetricDefault)
}

fn corrupt(key_id: &KeyId, message: impl Into<String>) -> VaultError {
    VaultError::new(Kind::Corrupt, message).about(key_id)
}

#[async_trait]
impl KeyVault for AwsVault {
    async fn wrap_key(
        &self,
        key_id: &KeyId,
        aek: &Aek,
        context: &WrapContext,
    ) -> Result<WrappedKey, VaultError> {
        let arn = self.parse(key_id)?;
        let asked = self
            .client
            .encrypt()
            .key_id(arn.to_string())
            .plaintext(Blob::new(&aek.expose()[..]))
            .set_encryption_context(Some(encryption_context(&context.scope)))
            .encryption_algorithm(SymmetricDefault);
        let answer = asked.send().await.map_err(|e| {
            let sent = Zeroizing::new(BASE64_NOPAD.encode(aek.expose()));
            self.failed(&e, key_id, &sent)
        })?;
        let used = self.used(key_id, &arn, answer.key_id())?;
        let bytes = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        let algorithm = WrapAlgorithm::AwsKms;
        if !algorithm.accepts_len(bytes.len()) || !is_symmetric(answer.encryption_algorithm.as_ref()) {
            let message = format!(
                "AWS KMS answered a wrapped key of {} bytes, which is none: see who answers",
                bytes.len()
            );
            return Err(VaultError::new(Kind::Other, message).about(key_id));
        }
        Ok(WrappedKey { key_id: used, algorithm, bytes })
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        let key_id = &wrapped.key_id;
        if wrapped.algorithm != WrapAlgorithm::AwsKms {
            return Err(corrupt(key_id, "the key is aws-kms: a key of another kind wrapped this one"));
        }
        let len = wrapped.bytes.len();
        if !wrapped.algorithm.accepts_len(len) {
            let message = format!("the wrapped key has {len} bytes, which AWS KMS wraps no AEK into");
            return Err(corrupt(key_id, message));
        }
        let arn = self.parse(key_id)?;
        if !arn.is_key() {
            return Err(corrupt(key_id, "the wrapped key names an alias, not the key that wrapped it"));
        }
        let asked = self
            .client
            .decrypt()
            .key_id(arn.to_string())
            .ciphertext_blob(Blob::new(&wrapped.bytes[..]))
            .set_encryption_context(Some(encryption_context(&context.scope)))
            .encryption_algorithm(SymmetricDefault);
        let mut answer = asked.send().await.map_err(|e| self.failed(&e, key_id, ""))?;
        let plaintext = Zeroizing::new(answer.plaintext.take().map(Blob::into_inner).unwrap_or_default());
        self.used(key_id, &arn, answer.key_id())?;
        let Ok(bytes) = <&[u8; Aek::LEN]>::try_from(&plaintext[..]) else {
            let message = format!("AWS KMS unwrapped {} bytes, an AEK has {}", plaintext.len(), Aek::LEN);
            return Err(corrupt(key_id, message));
        };
        let Ok(aek) = Aek::try_from_fn(|aek| {
            aek.copy_from_slice(bytes);
            Ok::<_, Infallible>(())
        });
        Ok(aek)
    }

    async fn key_properties(&self, key_id: &KeyId) -> Result<KeyProperties, VaultError> {
        let arn = self.parse(key_id)?;
        let asked = self.client.describe_key().key_id(arn.to_string());
        let answer = asked.send().await.map_err(|e| self.failed(&e, key_id, ""))?;
        let said = answer.key_metadata();
        let exact = self.used(key_id, &arn, said.and_then(|said| said.arn()))?;
        match said {
            Some(said) => describe::properties(exact, said),
            None => Err(VaultError::new(Kind::Other, "AWS KMS says nothing of the key: see who answers")
                .about(key_id)),
        }
    }

    /// None of these keys has a public half.
    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.parse(key_id)?;
        Err(VaultError::not_rsa(key_id))
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_crypto::{AccountId, Epoch, Provider, SegmentId};

    use super::*;

    #[test]
    fn the_encryption_context_is_what_every_wrap_was_made_with() {
        let account = AccountId::from_bytes([0xa1; 16]);
        let scope = KeyScope { account, epoch: Epoch::new(7), provider: Provider::Customer };
        let mut context: Vec<_> = encryption_context(&scope).into_iter().collect();
        context.sort();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            pair("cofferdam:account", "a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1"),
            pair("cofferdam:epoch", "7"),
            pair("cofferdam:provider", "customer"),
        ];
        assert_eq!(context, expected);
        let provider = Provider::Buffer(SegmentId::from_bytes([0x5e; 16]));
        let context = encryption_context(&KeyScope { provider, ..scope });
        assert_eq!(context["cofferdam:provider"], "buffer");
        assert_eq!(context["cofferdam:segment"], "5e".repeat(16));
    }
}
