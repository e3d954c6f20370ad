//! Where secrets are: in the environment or in files, never in the settings themselves.
//!
//! Guarantees: what is read is wiped on drop and shows in no error. It is read when it is needed, so one that was
//! renewed there is found.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use zeroize::Zeroizing;

/// The most bytes that a secret's file may have.
const MAX_LEN: u64 = 64 << 10;

/// Where a secret is: `{ env = "VARIABLE" }` or `{ file = "PATH" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SecretPlace {
    Env(String),
    File(PathBuf),
}

impl SecretPlace {
    /// The same where a relative path is of this folder.
    pub(super) fn within(&self, folder: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(folder.join(path)),
            Self::Env(_) => self.clone(),
        }
    }

    /// The secret as it is now. One line end behind it is not part of it.
    pub(super) fn read(&self) -> io::Result<Zeroizing<String>> {
        let text = match self {
            Self::Env(name) => {
                let value = env::var(name).map(Zeroizing::new);
                value.map_err(|e| io::Error::other(format!("the environment's {name}: {e}")))?
            }
            Self::File(path) => {
                let failed = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
                if std::fs::metadata(path).map_err(failed)?.len() > MAX_LEN {
                    return Err(failed(io::Error::other("it has more than 64 KiB")));
                }
                Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?)
            }
        };
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return Err(io::Error::other(format!("{self} is empty")));
        }
        Ok(Zeroizing::new(line.to_owned()))
    }
}

impl fmt::Display for SecretPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the environment's {name}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for SecretPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Place;
        impl<'de> Visitor<'de> for Place {
            type Value = SecretPlace;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ env = \"VARIABLE\" } or { file = \"PATH\" }")
            }

            // Not what stands there: it is a secret.
            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<SecretPlace, E> {
                Err(E::custom(
                    "a secret does not stand in this file: put it into the environment or into a file of its own, and say \
                     where, as { env = \"VARIABLE\" } or { file = \"PATH\" }",
                ))
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<SecretPlace, E> {
                self.visit_str("")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretPlace, A::Error> {
                let place = match map.next_key::<String>()?.as_deref() {
                    Some("env") => SecretPlace::Env(map.next_value()?),
                    Some("file") => SecretPlace::File(map.next_value()?),
                    _ => {
                        return Err(A::Error::custom(
                            "say where it is: { env = \"VARIABLE\" } or { file = \"PATH\" }",
                        ));
                    }
                };
                match map.next_key::<String>()? {
                    None => Ok(place),
                    Some(_) => {
                        Err(A::Error::custom("it is in one place: give env or file, and nothing else"))
                    }
                }
            }
        }
        deserializer.deserialize_any(Place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        pin: SecretPlace,
    }

    fn parse(text: &str) -> Result<SecretPlace, String> {
        toml::from_str::<Holder>(text).map(|of| of.pin).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_secret_is_said_to_be_somewhere_and_is_never_there_itself() {
        assert_eq!(parse(r#"pin = { env = "PIN" }"#).unwrap(), SecretPlace::Env("PIN".into()));
        let file = SecretPlace::File("pin".into());
        assert_eq!(parse(r#"pin = { file = "pin" }"#).unwrap(), file);
        assert_eq!(file.within(Path::new("/etc")), SecretPlace::File("/etc/pin".into()));
        for (inline, canary) in [(r#"pin = "canary""#, "canary"), ("pin = 73917391", "73917391")] {
            let refused = parse(inline).unwrap_err();
            assert!(refused.contains("does not stand in this file"), "{refused}");
            assert!(!refused.contains(canary), "{refused}");
        }
        for bad in [
            "pin = {}",
            r#"pin = { variable = "PIN" }"#,
            r#"pin = { env = "PIN", file = "pin" }"#,
            "pin = { env = 7 }",
            "pin = true",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_read_each_time_without_one_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let place = SecretPlace::File("secret".into()).within(folder.path());
        for (written, read) in
            [("one", "one"), ("two\n", "two"), (" three \r\n", " three "), ("4\n\n", "4\n")]
        {
            std::fs::write(folder.path().join("secret"), written).unwrap();
            assert_eq!(*place.read().unwrap(), read);
        }
        for empty in ["", "\n"] {
            std::fs::write(folder.path().join("secret"), empty).unwrap();
            assert!(place.read().unwrap_err().to_string().ends_with("is empty"));
        }
        std::fs::remove_file(folder.path().join("secret")).unwrap();
        let gone = place.read().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(gone.to_string().contains("secret"), "{gone}");
        let unset = SecretPlace::Env("COFFERDAM_TEST_UNSET_VARIABLE".into()).read().unwrap_err();
        assert!(unset.to_string().contains("COFFERDAM_TEST_UNSET_VARIABLE"), "{unset}");
    }
}
