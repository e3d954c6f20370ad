//! What the server says: bodies and headers as Key Vault writes them.
//!
//! Guarantees: every answer is JSON, has a request id of its own and says that it may not be kept; an error's body is
//! `{"error":{"code":..,"message":..,"innererror":{"code":..}}}`; no message repeats what a request's body held.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
};
use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::json;

use super::backend::BackendError;
use crate::Entropy;

/// What the real service would say it runs.
const SERVICE_VERSION: &str = "1.9.0.0";

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, String)>,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn ok(body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self { status: StatusCode::OK, headers: Vec::new(), body },
            Err(_) => Failure::internal("an answer could not be written").into(),
        }
    }

    pub(super) fn no_content() -> Self {
        Self { status: StatusCode::NO_CONTENT, headers: Vec::new(), body: Vec::new() }
    }

    /// An answer of the token endpoint, whose errors have another shape.
    pub(super) fn of(status: StatusCode, body: &serde_json::Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string().into_bytes() }
    }

    #[must_use]
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The response, with the headers that all have. The client's request id is given back.
    pub(super) fn into_response(
        self,
        entropy: &dyn Entropy,
        client_request_id: Option<HeaderValue>,
    ) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let fixed = [
            (header::CACHE_CONTROL, "no-cache"),
            (header::PRAGMA, "no-cache"),
            (header::EXPIRES, "-1"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (HeaderName::from_static("x-ms-keyvault-region"), "local"),
            (HeaderName::from_static("x-ms-keyvault-service-version"), SERVICE_VERSION),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.status != StatusCode::NO_CONTENT {
            let json = HeaderValue::from_static("application/json; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, json);
        }
        if let Some(id) = client_request_id {
            headers.insert(HeaderName::from_static("x-ms-client-request-id"), id);
        }
        let id = request_id(entropy).map(|id| ("x-ms-request-id", id));
        let own = self.headers.into_iter().chain(id.map(|(name, id)| (HeaderName::from_static(name), id)));
        for (name, value) in own {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// A random UUID (RFC 9562, version 4); none where there are no random bytes, as an answer matters more.
fn request_id(entropy: &dyn Entropy) -> Option<String> {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes).ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = HEXLOWER.encode(&bytes);
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// A refusal on its way.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    inner: Option<&'static str>,
    message: String,
    headers: Vec<(HeaderName, String)>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, inner: None, message: message.into(), headers: Vec::new() }
    }

    /// The request is not one that the service understands.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadParameter", message)
    }

    pub(super) fn forbidden(inner: &'static str, message: impl Into<String>) -> Self {
        Self { inner: Some(inner), ..Self::new(StatusCode::FORBIDDEN, "Forbidden", message) }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }

    pub(super) fn throttled(retry_after: Duration) -> Self {
        let message = "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached";
        let seconds = retry_after.as_secs().to_string();
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Throttled", message).with(header::RETRY_AFTER, seconds)
    }

    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[cfg(test)]
    pub(super) fn is_bad(&self) -> bool {
        self.code == "BadParameter"
    }

    pub(super) fn key_not_found(id: &str) -> Self {
        let message = format!(
            "A key with (name/id) {id} was not found in this key vault. If you recently deleted this key you may be able \
             to recover it using the correct recovery command. For help resolving this issue, please see \
             https://go.microsoft.com/fwlink/?linkid=2125182"
        );
        Self::new(StatusCode::NOT_FOUND, "KeyNotFound", message)
    }

    pub(super) fn deleted_key_not_found(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "KeyNotFound", format!("Deleted Key not found: {name}"))
    }

    /// What a store's refusal of an operation on a key means to who asked for it.
    pub(super) fn of(error: BackendError, operation: &str, name: &str, version: Option<&str>) -> Self {
        let id = version.map_or_else(|| name.to_owned(), |version| format!("{name}/{version}"));
        match error {
            BackendError::NotFound if matches!(operation, "recover" | "purge") => {
                Self::deleted_key_not_found(name)
            }
            BackendError::NotDeleted => Self::deleted_key_not_found(name),
            BackendError::Deleted if matches!(operation, "create" | "import") => {
                let message = format!(
                    "Key {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this \
                     state, the key can only be recovered or purged."
                );
                let conflict = Self::new(StatusCode::CONFLICT, "Conflict", message);
                Self { inner: Some("ObjectIsDeletedButRecoverable"), ..conflict }
            }
            BackendError::NotFound | BackendError::Deleted => Self::key_not_found(&id),
            BackendError::Disabled => Self::forbidden(
                "KeyDisabled",
                format!("Operation {operation} is not allowed on a disabled key."),
            ),
            BackendError::Expired => Self::forbidden(
                "KeyExpired",
                format!("Operation {operation} is not allowed on an expired key."),
            ),
            BackendError::NotYetValid => Self::forbidden(
                "KeyNotYetValid",
                format!("Operation {operation} is not allowed on a key that is not yet valid."),
            ),
            BackendError::NotPermitted => Self::forbidden(
                "KeyOperationForbidden",
                format!("Operation {operation} is not permitted on this key."),
            ),
            BackendError::PurgeProtected => Self::new(
                StatusCode::FORBIDDEN,
                "Forbidden",
                "Operation \"purge\" is not allowed because purge protection is enabled for this vault. Key Vault \
                 service will automatically purge it after the retention period has passed.",
            ),
            BackendError::OtherKind { .. } | BackendError::Unsupported { .. } => Self::bad(error.to_string()),
            BackendError::Value { what } => Self::bad(format!("The parameter is incorrect: {what}.")),
            BackendError::Unavailable(source) => {
                tracing::warn!(%source, operation, "the store of keys can't be used");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "ServiceUnavailable",
                    "The service is temporarily unavailable.",
                )
            }
        }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        let mut error = json!({ "code": failure.code, "message": failure.message });
        if let Some(code) = failure.inner {
            error["innererror"] = json!({ "code": code });
        }
        let body = json!({ "error": error }).to_string().into_bytes();
        Self { status: failure.status, headers: failure.headers, body }
    }
}

impl From<Result<Answer, Failure>> for Answer {
    fn from(result: Result<Answer, Failure>) -> Self {
        result.unwrap_or_else(Into::into)
    }
}
