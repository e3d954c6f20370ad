//! What a failure of KMS means: the table at the end of `docs/vault-aws.md`.
//!
//! Guarantees: only an exception that KMS names is a denial, whatever the HTTP status; a failure below HTTP is told by its
//! source, not by its text; no message carries a secret. KMS's own words are cut at the first line, as its answer to a
//! wrong signature goes on with the request's headers, session token included; the SDK's errors are not passed on, as they
//! print the answer's body.

use std::{error::Error, io, iter, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::{
    config::http::HttpResponse,
    error::{ErrorMetadata, ProvideErrorMetadata, SdkError},
};
use cofferdam_crypto::KeyId;

use super::transport::Unread;
use crate::{VaultError, VaultErrorKind as Kind};

/// The most of somebody else's words that a message takes up, in characters.
const MAX_WORDS: usize = 400;

/// What a failed call to KMS means, in which these secrets were sent.
pub(super) fn failure<E>(failed: &SdkError<E, HttpResponse>, key_id: &KeyId, secrets: &[&str]) -> VaultError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let (kind, message) = match failed {
        SdkError::ServiceError(said) => answered(said.err().meta(), said.raw(), secrets),
        SdkError::ResponseError(said) => unread(failed, said.raw()),
        SdkError::TimeoutError(_) => {
            (Kind::Unavailable, "AWS KMS did not answer in time: see whether it can be reached".into())
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => undelivered(failed),
        _ => (Kind::Other, format!("AWS's SDK failed ({}): report it", chain_text(failed))),
    };
    VaultError::new(kind, message).about(key_id)
}

fn answered(said: &ErrorMetadata, raw: &HttpResponse, secrets: &[&str]) -> (Kind, String) {
    let status = raw.status().as_u16();
    let Some(code) = said.code() else {
        return (of_status(status, raw), status_text(status));
    };
    let words = said.message().unwrap_or_default();
    let kind = of_code(code, words).unwrap_or_else(|| of_status(status, raw));
    let kind = match kind {
        Kind::Throttled { .. } => Kind::Throttled { retry_after: retry_after(raw) },
        kind => kind,
    };
    let repeats = |text: &str| secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret));
    let (code, words) = match repeats(code) || repeats(words) {
        true => ("an error".into(), "whose words are left out: they repeat a secret".into()),
        false => (words_of(code), words_of(words)),
    };
    let advice = match kind {
        Kind::AccessDenied => {
            ": allow this service kms:Encrypt, kms:Decrypt and kms:DescribeKey in the key's policy"
        }
        Kind::KeyDisabled => ": enable the key",
        Kind::KeyNotFound => ": cancel the key's deletion, import its material again, or name another key",
        Kind::Throttled { .. } => ": raise the quota if it lasts",
        Kind::Unauthenticated => {
            return (
                kind,
                format!("AWS KMS takes no request signed so ({code}): {}", signature_advice(&words)),
            );
        }
        Kind::Corrupt => {
            ": the wrapped key is damaged, another account's, epoch's or key's; restore its record"
        }
        _ => "",
    };
    let separator = if words.is_empty() { "" } else { ", " };
    (kind, format!("AWS KMS says {code}{separator}{words}{advice}"))
}

/// What an exception that KMS names means; `None` for one that says nothing of the key, the credential or KMS.
fn of_code(code: &str, words: &str) -> Option<Kind> {
    Some(match code {
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" => Kind::AccessDenied,
        "DisabledException" | "KMSInvalidStateException" => of_state(code, words),
        "NotFoundException" => Kind::KeyNotFound,
        "InvalidCiphertextException" | "IncorrectKeyException" => Kind::Corrupt,
        "KeyUnavailableException"
        | "DependencyTimeoutException"
        | "KMSInternalException"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestAbortedException"
        | "RequestTimeoutException" => Kind::Unavailable,
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException" => Kind::Throttled { retry_after: None },
        "ExpiredTokenException"
        | "ExpiredToken"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "RequestExpired"
        | "RequestTimeTooSkewed" => Kind::Unauthenticated,
        _ => return None,
    })
}

/// KMS tells a key's state in its words alone: `ARN is disabled.`, `ARN is pending deletion.` (the developer guide's
/// "Key states"). Words that say nothing known are an outage, which revokes nothing, so that a change of theirs can't.
fn of_state(code: &str, words: &str) -> Kind {
    let words = words.to_ascii_lowercase();
    let says = |state: &str| words.contains(state);
    if says("is pending deletion") || says("is pending replica deletion") || says("is pending import") {
        Kind::KeyNotFound
    } else if says("is disabled") || code == "DisabledException" {
        Kind::KeyDisabled
    } else {
        Kind::Unavailable
    }
}

/// What an answer without a name means: a proxy may have given it, so it is never a denial.
fn of_status(status: u16, raw: &HttpResponse) -> Kind {
    match status {
        401 => Kind::Unauthenticated,
        429 => Kind::Throttled { retry_after: retry_after(raw) },
        500.. => Kind::Unavailable,
        _ => Kind::Other,
    }
}

fn status_text(status: u16) -> String {
    match status {
        300..400 => format!("AWS KMS answered {status}, a redirect, which is not followed: see who answers"),
        _ => format!("AWS KMS answered {status} without saying why: see who answers"),
    }
}

fn signature_advice(words: &str) -> &'static str {
    let words = words.to_ascii_lowercase();
    if words.contains("earlier than") || words.contains("later than") || words.contains("not yet current") {
        "this machine's clock is wrong, set it"
    } else {
        "renew the service's credentials"
    }
}

fn retry_after(raw: &HttpResponse) -> Option<Duration> {
    raw.headers().get("retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

fn unread(failed: &(dyn Error + 'static), raw: &HttpResponse) -> (Kind, String) {
    let status = raw.status().as_u16();
    let unread = chain(failed).find_map(|e| e.downcast_ref::<Unread>());
    let (kind, what) = match unread {
        Some(Unread::Cut(_)) => (Kind::Unavailable, "ended early"),
        Some(Unread::TooLong) => (Kind::Other, "is longer than any of KMS's"),
        None => (Kind::Other, "is not one of KMS's"),
    };
    let kind = if status >= 500 { Kind::Unavailable } else { kind };
    (kind, format!("the answer of AWS KMS, with status {status}, {what}: see who answers"))
}

fn undelivered<E: Error + 'static>(failed: &SdkError<E, HttpResponse>) -> (Kind, String) {
    if let Some(none) = chain(failed).find(|e| e.is::<CredentialsError>()) {
        let message = format!(
            "there are no credentials for AWS KMS ({}): restore the service's access to where they come from",
            chain_text(none)
        );
        return (Kind::Unauthenticated, message);
    }
    let text = chain_text(failed);
    if chain(failed).any(|e| e.is::<rustls::Error>()) {
        return (
            Kind::Untrusted,
            format!("who answers in place of AWS KMS is not trusted ({text}): see who it is"),
        );
    }
    match failed {
        SdkError::DispatchFailure(failed)
            if failed.is_io() || failed.is_timeout() || failed.as_other().is_some() =>
        {
            (Kind::Unavailable, format!("AWS KMS can't be reached ({text}): mend the way to it"))
        }
        _ => (Kind::Other, format!("AWS KMS was not asked ({text}): report it")),
    }
}

/// An error and what caused it. An `io::Error` hides the one that it is made of.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// An error and what caused it, in one line.
pub(super) fn chain_text(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in chain(error).map(ToString::to_string) {
        if texts.last() != Some(&text) {
            texts.push(text);
        }
    }
    words_of(&texts.join(": "))
}

/// The first line, cut where it is long, without a full stop or anything that isn't printed.
fn words_of(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    line.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}
