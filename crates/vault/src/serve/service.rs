//! A request's way: whose it is, what it asks for, whether it may, what the answer is.
//!
//! Guarantees: nothing of a key is looked at before the caller is known and allowed; a request ends within its time;
//! logs hold method, path and status, never a header, a query or a body.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, Response, StatusCode, header, request::Parts},
};

use super::{
    access::{Access, Caller, Unknown},
    answer::{Answer, Failure},
    backend::KeyStoreBackend,
    limits,
    operations::Operations,
    route::Route,
    tokens::{self, RESOURCE, TokenRoute},
};
use crate::{Entropy, Recovery};

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) url: String,
    pub(super) keys: Arc<dyn KeyStoreBackend>,
    pub(super) access: Access,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) recovery: Recovery,
    pub(super) token_lifetime: Duration,
    pub(super) request_time: Duration,
    pub(super) throttle: Mutex<Option<Throttle>>,
}

/// How requests are turned away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttle {
    pub(super) retry_after: Duration,
    /// How many more; None is until it is ended.
    pub(super) requests: Option<u32>,
}

pub(super) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let client_request_id = parts.headers.get(HeaderName::from_static("x-ms-client-request-id")).cloned();
    let answer = match tokio::time::timeout(shared.request_time, shared.answer(&parts, body)).await {
        Ok(answer) => answer,
        Err(_) => Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "RequestTimeout",
            "The request took too long to arrive.",
        )
        .into(),
    };
    tracing::debug!(method = %parts.method, path = parts.uri.path(), status = answer.status().as_u16(), "answered");
    answer.into_response(&*shared.entropy, client_request_id)
}

impl Shared {
    async fn answer(&self, parts: &Parts, body: Body) -> Answer {
        let path = parts.uri.path();
        match TokenRoute::of(&parts.method, path) {
            Some(TokenRoute::Configuration(tenant)) => {
                tokens::configuration(&self.access, &self.url, &tenant)
            }
            Some(TokenRoute::Token(tenant)) => match limits::read(&parts.headers, body).await {
                Ok(body) => tokens::token(&self.access, &tenant, self.token_lifetime, &body),
                Err(refused) => refused.into(),
            },
            None => self.operation(parts, body).await.into(),
        }
    }

    async fn operation(&self, parts: &Parts, body: Body) -> Result<Answer, Failure> {
        if let Some(retry_after) = self.throttled() {
            return Err(Failure::throttled(retry_after));
        }
        self.caller(parts)?;
        let route = Route::of(&parts.method, &parts.uri)?;
        let body = limits::read(&parts.headers, body).await?;
        // After the body: it may have taken its time.
        let caller = self.caller(parts)?;
        let permission = route.permission();
        if !caller.may(permission) {
            return Err(self.denied(&caller, permission.name()));
        }
        Operations { keys: &*self.keys, url: &self.url, recovery: self.recovery }.run(route, &body).await
    }

    fn throttled(&self) -> Option<Duration> {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let Throttle { retry_after, requests } = throttle.as_mut()?;
        let retry_after = *retry_after;
        match requests {
            None => {}
            Some(0) => {
                *throttle = None;
                return None;
            }
            Some(left) => *left -= 1,
        }
        Some(retry_after)
    }

    fn caller(&self, parts: &Parts) -> Result<Caller, Failure> {
        let authorization =
            parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        self.access.caller(authorization).map_err(|unknown| self.challenge(unknown))
    }

    /// Where to get a token, and what is wrong with the one that came.
    fn challenge(&self, unknown: Unknown) -> Failure {
        let (url, tenant) = (&self.url, self.access.tenant());
        let mut challenge = format!(r#"Bearer authorization="{url}/{tenant}", resource="{RESOURCE}""#);
        let message = match &unknown {
            Unknown::NoToken => "AKV10000: Request is missing a Bearer or PoP token.".to_owned(),
            Unknown::BadToken => {
                "[BearerReadAccessTokenFailed] Error validating token: 'S2S12005'.".to_owned()
            }
            Unknown::Expired => "[TokenExpired] Error validating token: 'S2S12086'.".to_owned(),
            Unknown::OtherTenant(other) => {
                format!("AKV10032: Invalid issuer. Expected one of {url}/{tenant}/, found {url}/{other}/.")
            }
        };
        if unknown != Unknown::NoToken {
            challenge.push_str(r#", error="invalid_token""#);
        }
        Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
            .with(header::WWW_AUTHENTICATE, challenge)
    }

    fn denied(&self, caller: &Caller, permission: &str) -> Failure {
        let (id, url, vault) = (&caller.client_id, &self.url, self.keys.name());
        let tenant = &caller.tenant;
        let message = format!(
            "The user, group or application 'appid={id};oid={id};iss={url}/{tenant}/' does not have keys {permission} \
             permission on key vault '{vault};location=local'. For help resolving this issue, please see \
             https://go.microsoft.com/fwlink/?linkid=2125287"
        );
        Failure::forbidden("AccessDenied", message)
    }
}
