//! What Vault says when it does not do what it was asked, and what that means.
//!
//! Guarantees: only Vault's own words on a key are a denial. A proxy's page, whatever its status, is an outage. The table is
//! the one of `docs/vault-transit.md`; a test goes through every row of it.
//!
//! Most failures are a 400 that is told apart by its text. The texts are those of OpenBao 2.7 and HashiCorp Vault 1.x, whose
//! code for them has one origin.

use std::time::Duration;

use serde::Deserialize;

use crate::VaultErrorKind as Kind;

/// The body of a failure.
#[derive(Deserialize)]
struct Failure {
    errors: Vec<String>,
}

/// Vault's words in the body of a failure; none where the body is not Vault's.
pub(super) fn errors(body: &[u8]) -> Option<Vec<String>> {
    serde_json::from_slice::<Failure>(body).ok().map(|failure| failure.errors)
}

/// What a 400 means, by how a line of its text begins. The first that fits counts.
const TEXTS: [(&str, Kind); 10] = [
    ("cipher: message authentication failed", Kind::Corrupt),
    ("ciphertext or signature version is disallowed by policy (too old)", Kind::KeyDisabled),
    ("requested version for encryption is less than the minimum encryption key version", Kind::KeyDisabled),
    ("encryption key not found", Kind::KeyNotFound),
    ("refusing to use soft-deleted key", Kind::KeyNotFound),
    ("no such key version", Kind::KeyNotFound),
    ("invalid ciphertext: version is too new", Kind::KeyNotFound),
    ("requested version for encryption is higher than the latest key version", Kind::KeyNotFound),
    ("invalid ciphertext", Kind::Corrupt),
    ("invalid role or secret ID", Kind::Unauthenticated),
];

/// What an answer means that is no success.
///
/// `AccessDenied` for a 403 of Vault's own: whether its token was good is for the caller to find out, as Vault says
/// the same to one that is not.
pub(super) fn kind(status: u16, errors: Option<&[String]>, retry_after: Option<Duration>) -> Kind {
    let begins =
        |with: &str| errors.unwrap_or_default().iter().any(|text| lines(text).any(|l| l.starts_with(with)));
    match status {
        400 => TEXTS.iter().find(|(text, _)| begins(text)).map_or(Kind::Other, |&(_, kind)| kind),
        401 => Kind::Unauthenticated,
        403 if begins("permission denied") => Kind::AccessDenied,
        // A key that is not there has no more to say than this.
        404 if errors.is_some_and(<[String]>::is_empty) => Kind::KeyNotFound,
        // The mount or the namespace was removed, and its keys with it.
        404 if begins("no handler for route") || begins("namespace not found") => Kind::KeyNotFound,
        // Proxies' time-out; a replica that has not caught up; nodes of a cluster that do not serve.
        408 | 412 | 472 | 473 => Kind::Unavailable,
        429 => Kind::Throttled { retry_after },
        // Vaults before 1.9 made a wrong tag an internal error.
        500 if begins("cipher: message authentication failed") => Kind::Corrupt,
        500..=599 => Kind::Unavailable,
        _ => Kind::Other,
    }
}

/// The errors in a text, without the frame that Vault puts around them.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.trim_start_matches(['\t', ' ', '*']))
}

/// The longest that Vault's words are passed on, in characters.
const MAX_WORDS: usize = 300;

/// Vault's words for a message; without them where they repeat a secret that was sent.
pub(super) fn words(errors: Option<&[String]>, secrets: &[&str]) -> String {
    let Some(errors) = errors else { return "no words of Vault's own".into() };
    let text = errors.join("; ");
    if secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret)) {
        return "its words are left out, they repeat a secret".into();
    }
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "no words".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(status: u16, body: &str) -> Kind {
        let errors = errors(body.as_bytes());
        kind(status, errors.as_deref(), Some(Duration::from_secs(7)))
    }

    const ONE: &str = r"1 error occurred:\n\t* ";

    /// Answers as they were recorded: of OpenBao 2.7.2 where nothing else is said, and what each means.
    #[test]
    fn every_answer_means_what_the_documented_table_says() {
        let recorded = [
            (400, r#"{"errors":["cipher: message authentication failed"]}"#, Kind::Corrupt),
            (400, r#"{"errors":["invalid ciphertext: no prefix"]}"#, Kind::Corrupt),
            (400, r#"{"errors":["invalid ciphertext: could not decode base64"]}"#, Kind::Corrupt),
            (400, r#"{"errors":["invalid ciphertext: version number could not be decoded"]}"#, Kind::Corrupt),
            (400, r#"{"errors":["invalid ciphertext length"]}"#, Kind::Corrupt),
            // HashiCorp Vault, from its source (sdk/helper/keysutil/policy.go).
            (400, r#"{"errors":["invalid ciphertext: wrong number of fields"]}"#, Kind::Corrupt),
            (400, r#"{"errors":["invalid ciphertext: unable to decrypt"]}"#, Kind::Corrupt),
            (400, r#"{"errors":["no such key version"]}"#, Kind::KeyNotFound),
            (400, r#"{"errors":["message decryption not supported for key type ed25519"]}"#, Kind::Other),
            (
                400,
                r#"{"errors":["ciphertext or signature version is disallowed by policy (too old)"]}"#,
                Kind::KeyDisabled,
            ),
            (
                400,
                r#"{"errors":["requested version for encryption is less than the minimum encryption key version"]}"#,
                Kind::KeyDisabled,
            ),
            (400, r#"{"errors":["encryption key not found"]}"#, Kind::KeyNotFound),
            (400, r#"{"errors":["refusing to use soft-deleted key"]}"#, Kind::KeyNotFound),
            (400, r#"{"errors":["invalid ciphertext: version is too new"]}"#, Kind::KeyNotFound),
            (
                400,
                r#"{"errors":["requested version for encryption is higher than the latest key version"]}"#,
                Kind::KeyNotFound,
            ),
            (
                400,
                r#"{"errors":["missing 'context' for key derivation; the key was created using a derived key, which means additional, per-request information must be included in order to perform operations with the key"]}"#,
                Kind::Other,
            ),
            (
                400,
                r#"{"errors":["'[0].associated_data' provided for non-AEAD cipher suite rsa-2048"]}"#,
                Kind::Other,
            ),
            (400, r#"{"errors":["missing ciphertext to decrypt"]}"#, Kind::Other),
            (400, r#"{"errors":["invalid role or secret ID"]}"#, Kind::Unauthenticated),
            (403, r#"{"errors":["permission denied"]}"#, Kind::AccessDenied),
            (403, r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#, Kind::AccessDenied),
            // HashiCorp Vault 1.14 and later, of a token that is none.
            (
                403,
                r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#,
                Kind::AccessDenied,
            ),
            (404, r#"{"errors":[]}"#, Kind::KeyNotFound),
            (
                404,
                r#"{"errors":["no handler for route \"transit/decrypt/k1\". route entry not found."]}"#,
                Kind::KeyNotFound,
            ),
            (404, r#"{"errors":["namespace not found"]}"#, Kind::KeyNotFound),
            (404, r#"{"errors":["1 error occurred:\n\t* unsupported path\n\n"]}"#, Kind::Other),
            (
                404,
                r#"{"request_id":"1ebaa156","data":null,"warnings":["Invalid path for a versioned K/V secrets engine."],"auth":null}"#,
                Kind::Other,
            ),
            (412, r#"{"errors":["required index state not present"]}"#, Kind::Unavailable),
            (413, r#"{"errors":["http: request body too large"]}"#, Kind::Other),
            (
                429,
                r#"{"errors":["request path \"transit/keys/p1\": rate limit quota exceeded"]}"#,
                Kind::Throttled { retry_after: Some(Duration::from_secs(7)) },
            ),
            (500, r#"{"errors":["1 error occurred:\n\t* internal error\n\n"]}"#, Kind::Unavailable),
            (503, r#"{"errors":["Vault is sealed"]}"#, Kind::Unavailable),
            (
                503,
                r#"{"errors":["API access to this namespace has been locked by an administrator - \"team1/\" must be unlocked to gain access."]}"#,
                Kind::Unavailable,
            ),
            (472, "", Kind::Unavailable),
            (473, "", Kind::Unavailable),
            (501, "", Kind::Unavailable),
            (502, "<html>Bad Gateway</html>", Kind::Unavailable),
            (307, "", Kind::Other),
        ];
        for (status, body, means) in recorded {
            assert_eq!(heard(status, body), means, "{status} {body}");
        }
    }

    #[test]
    fn what_vault_did_not_say_itself_is_no_denial() {
        for status in 100..=599 {
            for body in [
                "",
                "<html>permission denied</html>",
                "null",
                r#"{"error":"permission denied"}"#,
                r#"{"errors":"no"}"#,
            ] {
                let kind = heard(status, body);
                assert_eq!(kind.meaning(), crate::Meaning::Outage, "{status} {body}: {kind}");
            }
        }
        let elsewhere = r#"{"errors":["the path permission denied is unknown"]}"#;
        assert_eq!(heard(403, elsewhere), Kind::Other);
    }

    #[test]
    fn an_error_in_vaults_frame_is_heard_as_without_it() {
        for (text, kind) in TEXTS {
            assert_eq!(heard(400, &format!(r#"{{"errors":["{ONE}{text}\n\n"]}}"#)), kind, "{text}");
        }
        assert_eq!(heard(500, &format!(r#"{{"errors":["{ONE}{}"]}}"#, TEXTS[0].0)), Kind::Corrupt);
    }

    #[test]
    fn every_text_is_in_the_documented_table_with_its_kind() {
        let page = include_str!("../../../../docs/vault-transit.md");
        for (text, kind) in TEXTS {
            let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{text}")));
            let row = row.unwrap_or_else(|| panic!("no row for {text}"));
            assert!(row.contains(&format!("| `{kind}` |")), "{row}");
        }
    }

    #[test]
    fn words_are_short_on_one_line_and_repeat_no_secret() {
        let said = |text: &str| words(Some(&[text.to_owned()]), &["s.canary", ""]);
        assert_eq!(
            said("1 error occurred:\n\t* permission denied\n\n"),
            "1 error occurred: * permission denied"
        );
        assert!(!said("bad token s.canary").contains("canary"));
        assert_eq!(said(&"x".repeat(1000)).len(), MAX_WORDS);
        assert_eq!(words(None, &[]), "no words of Vault's own");
        assert_eq!(words(Some(&[]), &[]), "no words");
    }
}
