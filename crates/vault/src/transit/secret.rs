//! Tokens and secret ids, and where they come from.
//!
//! Guarantees: a secret is wiped on drop, is never printed, and fits a header as it is.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, de};
use zeroize::Zeroizing;

use super::TransitError;
use crate::{Executor, executor};

/// The longest a secret may be, in bytes: tokens of Vault's have up to a few hundred.
const MAX_LEN: usize = 8 << 10;

/// A secret text: a token, a secret id. Not printed, not copied, wiped on drop.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// This text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// Without what surrounds it in a file, if it can be sent in a header.
    fn checked(text: Zeroizing<String>, what: &'static str) -> Result<Self, TransitError> {
        let bad = |why| Err(TransitError::BadSecret { what, why });
        match text.trim() {
            "" => bad("is empty"),
            text if text.len() > MAX_LEN => bad("is longer than 8 KiB"),
            text if !text.bytes().all(|b| b.is_ascii_graphic()) => {
                bad("has characters that are not printable ASCII")
            }
            text => Ok(Self(Zeroizing::new(text.to_owned()))),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text.to_owned()))
            }
        }
        // By reference: only a text with escapes passes a buffer of serde_json's, and no secret needs one.
        deserializer.deserialize_str(Text)
    }
}

/// What a callback answers.
type Given = Result<Secret, Box<dyn std::error::Error + Send + Sync>>;

/// Where a secret comes from. It is asked at each login, so that one which was renewed there is found.
#[derive(Clone)]
pub struct SecretSource(From);

#[derive(Clone)]
enum From {
    Value(Arc<Secret>),
    File(PathBuf),
    Callback(Arc<dyn Fn() -> Given + Send + Sync>),
}

impl SecretSource {
    /// This secret, for ever.
    pub fn value(secret: Secret) -> Self {
        Self(From::Value(Arc::new(secret)))
    }

    /// What a file holds, without white space around it: the sink of an agent, a mounted secret.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(From::File(path.into()))
    }

    /// What a callback answers. It may block: it is called where files are read.
    pub fn callback(give: impl Fn() -> Given + Send + Sync + 'static) -> Self {
        Self(From::Callback(Arc::new(give)))
    }

    pub(super) async fn read(&self, what: &'static str, on: &dyn Executor) -> Result<Secret, TransitError> {
        let from = self.0.clone();
        executor::run(on, move || {
            let text = match from {
                From::Value(secret) => Zeroizing::new(secret.expose().to_owned()),
                From::File(path) => {
                    read_file(&path).map_err(|source| TransitError::SecretFile { what, path, source })?
                }
                From::Callback(give) => {
                    give().map_err(|source| TransitError::SecretCallback { what, source })?.0
                }
            };
            Secret::checked(text, what)
        })
        .await?
    }
}

fn read_file(path: &Path) -> std::io::Result<Zeroizing<String>> {
    // Room for one byte too many, so that it never grows and leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * MAX_LEN));
    File::open(path)?.take(MAX_LEN as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            From::Value(_) => f.write_str("Value(..)"),
            From::File(path) => f.debug_tuple("File").field(path).finish(),
            From::Callback(_) => f.write_str("Callback(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Inline;

    #[tokio::test]
    async fn a_secret_is_what_its_source_says_now_without_white_space_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = SecretSource::file(&path);
        for text in ["s.first\n", " s.second\r\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(source.read("the token", &Inline).await.unwrap().expose(), text.trim());
        }
        let callback = SecretSource::callback(|| Ok(Secret::new("s.third".into())));
        assert_eq!(callback.read("the token", &Inline).await.unwrap().expose(), "s.third");
    }

    #[tokio::test]
    async fn what_is_no_secret_is_refused_without_being_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let long = "x".repeat(MAX_LEN + 1);
        for (text, why) in [
            ("", "is empty"),
            (" \n", "is empty"),
            (&long, "is longer"),
            ("s.canary one", "not printable"),
            ("s.canary\u{e9}", "not printable"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = SecretSource::file(&path).read("the token", &Inline).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
        let error =
            SecretSource::file(folder.path().join("gone")).read("the token", &Inline).await.unwrap_err();
        assert!(matches!(error, TransitError::SecretFile { .. }), "{error}");
        let down = SecretSource::callback(|| Err("the agent is down".into()));
        let error = down.read("the token", &Inline).await.unwrap_err();
        assert!(error.to_string().contains("the agent is down"), "{error}");
    }

    #[test]
    fn nothing_prints_a_secret() {
        let secret = Secret::new("s.canary".into());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(format!("{:?}", SecretSource::value(secret)), "Value(..)");
        let read: Secret = serde_json::from_str(r#""s.canary""#).unwrap();
        assert_eq!(read.expose(), "s.canary");
    }
}
