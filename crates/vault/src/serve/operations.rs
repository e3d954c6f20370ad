//! What each operation of the API does with the store of keys.
//!
//! Guarantees: what this server does not do as it is asked (a release policy, an algorithm, a kind of key) is refused,
//! never left out in silence. Not its job: who may ask, the bounds of a body.

use cofferdam_crypto::{
    kw::Kek,
    rsa::{RsaComponents, RsaKek, RsaSize},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use super::{
    answer::{Answer, Failure},
    backend::{BackendError, KeyChange, KeyStoreBackend, NewKey, NewMaterial, StoredKey},
    route::{Page, Route},
    wire::{
        AttributesIn, Base64, CreateIn, ImportIn, KeyIn, ListOut, OperationIn, OperationOut, Secret,
        UpdateIn, Writer,
    },
};
use crate::{KeyKind, KeyOperation, Recovery};

/// The algorithms that keys are wrapped by.
const RSA_OAEP_256: &str = "RSA-OAEP-256";
const A256KW: &str = "A256KW";

/// Key Vault's bounds of tags.
const MAX_TAGS: usize = 15;
const MAX_TAG_NAME: usize = 512;
const MAX_TAG_VALUE: usize = 256;

pub(super) struct Operations<'a> {
    pub(super) keys: &'a dyn KeyStoreBackend,
    pub(super) url: &'a str,
    /// What becomes of new keys when they are deleted.
    pub(super) recovery: Recovery,
}

impl Operations<'_> {
    pub(super) async fn run(&self, route: Route, body: &[u8]) -> Result<Answer, Failure> {
        match route {
            Route::Keys(page) => self.list(&page, false).await,
            Route::DeletedKeys(page) => self.list(&page, true).await,
            Route::Versions(name, page) => self.versions(&name, &page).await,
            Route::Create(name) => self.create(&name, parse(body)?).await,
            Route::Import(name) => self.import(&name, parse(body)?).await,
            Route::Get(name, version) => self.get(&name, version.as_deref()).await,
            Route::Update(name, version) => self.update(&name, version.as_deref(), parse(body)?).await,
            Route::Delete(name) => {
                let key = self.keys.delete(&name).await.map_err(|e| Failure::of(e, "delete", &name, None))?;
                self.bundle(&key, None)
            }
            Route::Wrap(name, version) => self.wrap(&name, version.as_deref(), parse(body)?).await,
            Route::Unwrap(name, version) => self.unwrap(&name, version.as_deref(), parse(body)?).await,
            Route::GetDeleted(name) => {
                let key = self.keys.key(&name).await;
                match key {
                    Ok(key) if key.deleted().is_some() => self.bundle(&key, None),
                    Ok(_) | Err(BackendError::NotFound) => Err(Failure::deleted_key_not_found(&name)),
                    Err(e) => Err(Failure::of(e, "get", &name, None)),
                }
            }
            Route::Recover(name) => {
                let key =
                    self.keys.recover(&name).await.map_err(|e| Failure::of(e, "recover", &name, None))?;
                self.bundle(&key, None)
            }
            Route::Purge(name) => {
                self.keys.purge(&name).await.map_err(|e| Failure::of(e, "purge", &name, None))?;
                Ok(Answer::no_content())
            }
        }
    }

    fn writer(&self) -> Writer<'_> {
        Writer { url: self.url }
    }

    fn bundle(&self, key: &StoredKey, version: Option<&str>) -> Result<Answer, Failure> {
        let Some(version) = key.version(version) else {
            return Err(Failure::internal("a key has lost the version that it was asked for"));
        };
        Ok(Answer::ok(&self.writer().bundle(key, version)))
    }

    async fn list(&self, page: &Page, deleted: bool) -> Result<Answer, Failure> {
        let mut keys = self.keys.keys().await.map_err(|e| Failure::of(e, "list", "", None))?;
        keys.retain(|key| key.deleted().is_some() == deleted);
        keys.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let items = keys.iter().filter_map(|key| Some((&*key.name, key, key.latest()?)));
        self.page(page, items, |key, latest| self.writer().key(key, latest))
    }

    async fn versions(&self, name: &str, page: &Page) -> Result<Answer, Failure> {
        let key = match self.keys.key(name).await {
            // No versions, as the real one answers, not an error.
            Err(BackendError::NotFound) => {
                return Ok(Answer::ok(&ListOut { value: Vec::new(), next_link: None }));
            }
            key => key.map_err(|e| Failure::of(e, "list", name, None))?,
        };
        let mut versions: Vec<_> = key.versions.iter().filter(|v| v.deleted.is_none()).collect();
        versions.sort_unstable_by(|a, b| a.version.cmp(&b.version));
        let items = versions.into_iter().map(|version| (&*version.version, &key, version));
        self.page(page, items, |key, version| self.writer().version(key, version))
    }

    /// One page of what is sorted by its name.
    fn page<'a, A, B>(
        &self,
        page: &Page,
        items: impl Iterator<Item = (&'a str, A, B)>,
        write: impl Fn(A, B) -> super::wire::ItemOut,
    ) -> Result<Answer, Failure> {
        let mut items =
            items.filter(|(name, ..)| page.after.as_deref().is_none_or(|after| *name > after)).peekable();
        let (mut value, mut last) = (Vec::new(), None);
        while value.len() < page.len {
            let Some((name, key, version)) = items.next() else { break };
            value.push(write(key, version));
            last = Some(name);
        }
        let next_link = last.filter(|_| items.peek().is_some()).map(|last| page.next(self.url, last));
        Ok(Answer::ok(&ListOut { value, next_link }))
    }

    async fn get(&self, name: &str, version: Option<&str>) -> Result<Answer, Failure> {
        let failed = |e| Failure::of(e, "get", name, version);
        let key = self.keys.key(name).await.map_err(failed)?;
        match key.version(version) {
            None => Err(failed(BackendError::NotFound)),
            Some(found) if found.deleted.is_some() => Err(failed(BackendError::Deleted)),
            // A disabled key too: the real service refuses that of secrets alone.
            Some(found) => Ok(Answer::ok(&self.writer().bundle(&key, found))),
        }
    }

    async fn create(&self, name: &str, asked: CreateIn) -> Result<Answer, Failure> {
        refuse(asked.release_policy.is_some(), "release_policy: this server releases no keys")?;
        refuse(asked.crv.is_some(), "crv: this server makes no elliptic-curve keys")?;
        refuse(
            asked.public_exponent.is_some_and(|e| e != 65_537),
            "public_exponent: this server makes 65537 alone",
        )?;
        let hsm = asked.kty.ends_with("-HSM");
        let kind = match (&*asked.kty, asked.key_size) {
            ("RSA" | "RSA-HSM", size) => {
                let size = RsaSize::from_bits(size.unwrap_or(2048) as usize);
                KeyKind::Rsa(size.ok_or_else(|| invalid("key_size: 2048, 3072 or 4096 for RSA"))?)
            }
            ("oct-HSM", None | Some(256)) => KeyKind::Aes256,
            ("oct-HSM", Some(_)) => return Err(invalid("key_size: 256 for oct-HSM")),
            _ => return Err(invalid("kty: RSA, RSA-HSM or oct-HSM")),
        };
        let material = NewMaterial::Draw(kind);
        let said = change(asked.attributes, asked.key_ops, asked.tags)?;
        self.make(name, "create", NewKey { material, hsm, recovery: self.recovery, said }).await
    }

    async fn import(&self, name: &str, asked: ImportIn) -> Result<Answer, Failure> {
        refuse(asked.release_policy.is_some(), "release_policy: this server releases no keys")?;
        let hsm = asked.hsm.unwrap_or(false) || asked.key.kty.ends_with("-HSM");
        let said = change(asked.attributes, asked.key.key_ops.clone(), asked.tags)?;
        let material = brought(&asked.key)?;
        self.make(name, "import", NewKey { material, hsm, recovery: self.recovery, said }).await
    }

    async fn make(&self, name: &str, operation: &str, new: NewKey) -> Result<Answer, Failure> {
        let made = self.keys.create(name, new).await;
        let (key, version) = made.map_err(|e| Failure::of(e, operation, name, None))?;
        self.bundle(&key, Some(&version))
    }

    async fn update(&self, name: &str, version: Option<&str>, asked: UpdateIn) -> Result<Answer, Failure> {
        refuse(asked.release_policy.is_some(), "release_policy: this server releases no keys")?;
        let change = change(asked.attributes, asked.key_ops, asked.tags)?;
        let updated = self.keys.update(name, version, change).await;
        let (key, version) = updated.map_err(|e| Failure::of(e, "update", name, version))?;
        self.bundle(&key, Some(&version))
    }

    async fn wrap(&self, name: &str, version: Option<&str>, asked: OperationIn) -> Result<Answer, Failure> {
        self.check_algorithm(name, version, "wrapKey", &asked).await?;
        let wrapped = self.keys.wrap(name, version, asked.value.0).await;
        let (version, wrapped) = wrapped.map_err(|e| Failure::of(e, "wrapKey", name, version))?;
        let kid = self.writer().kid(name, &version);
        Ok(Answer::ok(&OperationOut { kid, value: Base64(&wrapped) }))
    }

    async fn unwrap(&self, name: &str, version: Option<&str>, asked: OperationIn) -> Result<Answer, Failure> {
        self.check_algorithm(name, version, "unwrapKey", &asked).await?;
        let unwrapped = self.keys.unwrap(name, version, asked.value.0.to_vec()).await;
        let (version, key) = unwrapped.map_err(|e| Failure::of(e, "unwrapKey", name, version))?;
        let kid = self.writer().kid(name, &version);
        Ok(Answer::ok(&OperationOut { kid, value: Base64(&key) }))
    }

    /// Whether the key's kind, which no change alters, goes with the algorithm.
    async fn check_algorithm(
        &self,
        name: &str,
        version: Option<&str>,
        operation: &str,
        asked: &OperationIn,
    ) -> Result<(), Failure> {
        let extra = asked.iv.is_some() || asked.aad.is_some() || asked.tag.is_some();
        refuse(extra, "iv, aad and tag: RSA-OAEP-256 and A256KW have none")?;
        let key = self.keys.key(name).await.map_err(|e| Failure::of(e, operation, name, version))?;
        let kid = match key.version(version) {
            Some(found) => self.writer().kid(name, &found.version),
            None => return Err(Failure::of(BackendError::NotFound, operation, name, version)),
        };
        let incompatible = |has: &str, alg: &str, wants: &str| {
            Failure::bad(format!(
                "Key and encryption algorithm are incompatible. Key {kid} is of type '{has}', and algorithm '{alg}' can \
                 only be used with a key of type {wants}."
            ))
        };
        match (&*asked.alg, key.kind) {
            (RSA_OAEP_256, KeyKind::Rsa(_)) | (A256KW, KeyKind::Aes256) => Ok(()),
            (RSA_OAEP_256, _) => Err(incompatible("oct-HSM", RSA_OAEP_256, "'RSA' or 'RSA-HSM'")),
            (A256KW, _) => Err(incompatible("RSA", A256KW, "'oct' or 'oct-HSM'")),
            // The real service takes the first two, and warns of them.
            ("RSA-OAEP" | "RSA1_5", _) => {
                Err(invalid("alg: SHA-1 and PKCS #1 v1.5 are not taken here, use RSA-OAEP-256"))
            }
            _ => Err(invalid("alg: RSA-OAEP-256 or A256KW")),
        }
    }
}

/// What a body says. The error tells where it went wrong, not what stood there: it may be a key.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if body.is_empty() {
        return Err(Failure::bad("Request body not specified"));
    }
    serde_json::from_slice(body).map_err(|e| {
        let what = match e.classify() {
            serde_json::error::Category::Data => "a property is missing, unknown here, or of another type",
            _ => "it is not JSON",
        };
        Failure::bad(format!(
            "The request body is invalid at line {}, column {}: {what}.",
            e.line(),
            e.column()
        ))
    })
}

fn invalid(what: &str) -> Failure {
    Failure::bad(format!("Property has invalid value: {what}."))
}

fn refuse(given: bool, what: &str) -> Result<(), Failure> {
    if given { Err(invalid(what)) } else { Ok(()) }
}

fn change(
    attributes: Option<AttributesIn>,
    operations: Option<Vec<KeyOperation>>,
    tags: Option<BTreeMap<String, String>>,
) -> Result<KeyChange, Failure> {
    let attributes = attributes.unwrap_or_default();
    refuse(attributes.exportable == Some(true), "exportable: this server gives no key away")?;
    // A millisecond count of it must fit.
    let time = |seconds: Option<u64>| match seconds {
        Some(seconds) if seconds > u64::from(u32::MAX) * 100 => {
            Err(invalid("nbf and exp: seconds since 1970"))
        }
        seconds => Ok(seconds.map(Duration::from_secs)),
    };
    if let (Some(nbf), Some(exp)) = (attributes.nbf, attributes.exp) {
        refuse(exp <= nbf, "exp: it must be later than nbf")?;
    }
    if let Some(tags) = &tags {
        let fits = |(name, value): (&String, &String)| {
            !name.is_empty() && name.chars().count() <= MAX_TAG_NAME && value.chars().count() <= MAX_TAG_VALUE
        };
        let what = "tags: at most 15, names of 1 to 512 characters, values of at most 256";
        refuse(tags.len() > MAX_TAGS || !tags.iter().all(fits), what)?;
    }
    if let Some(operations) = &operations {
        refuse(operations.len() > 16, "key_ops: each once")?;
    }
    Ok(KeyChange {
        enabled: attributes.enabled,
        not_before: time(attributes.nbf)?,
        expires: time(attributes.exp)?,
        operations,
        tags,
    })
}

/// A key that was brought, looked at as a whole before the store has it.
fn brought(key: &KeyIn) -> Result<NewMaterial, Failure> {
    match &*key.kty {
        "RSA" | "RSA-HSM" => {
            let part = |part: &'_ Option<Secret>| part.as_ref().map(|secret| secret.0.clone());
            let parts = [&key.n, &key.e, &key.d, &key.p, &key.q, &key.dp, &key.dq, &key.qi].map(part);
            let [Some(n), Some(e), Some(d), Some(p), Some(q), Some(dp), Some(dq), Some(qi)] = &parts else {
                return Err(invalid("key: an RSA key has n, e, d, p, q, dp, dq and qi"));
            };
            refuse(key.k.is_some(), "key: an RSA key has no k")?;
            let kek = RsaKek::from_components(&RsaComponents { n, e, d, p, q, dp, dq, qi });
            kek.map(NewMaterial::Rsa).map_err(|e| invalid(&format!("key: {e}")))
        }
        "oct" | "oct-HSM" => {
            let bytes = match &key.k {
                Some(Secret(bytes)) if bytes.len() == Kek::LEN => bytes,
                _ => return Err(invalid("key: an oct key has k, of 256 bits")),
            };
            let kek = Kek::try_from_fn(|kek| -> Result<(), Infallible> {
                kek.copy_from_slice(bytes);
                Ok(())
            });
            kek.map(NewMaterial::Aes).map_err(|e| match e {})
        }
        _ => Err(invalid("kty: RSA, RSA-HSM, oct or oct-HSM")),
    }
}
