//! The token endpoint: as much of Microsoft Entra ID's as its clients need to get a token by a client's secret
//! (OAuth 2.0, RFC 6749, 4.4; OpenID Connect Discovery 1.0).
//!
//! Guarantees: a secret is compared in constant time and never repeated; errors have Entra's codes and shape.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    access::{Access, NoToken},
    answer::Answer,
};

/// What tokens are for.
pub(super) const RESOURCE: &str = "https://vault.azure.net";

/// A request to the token endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TokenRoute {
    Token(String),
    Configuration(String),
}

impl TokenRoute {
    /// The route of a path that is the endpoint's.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        match segments[..] {
            [tenant, "oauth2", "v2.0", "token"] | [tenant, "oauth2", "token"] if *method == Method::POST => {
                Some(Self::Token(tenant.into()))
            }
            [tenant, "v2.0", ".well-known", "openid-configuration"]
            | [tenant, ".well-known", "openid-configuration"]
                if *method == Method::GET =>
            {
                Some(Self::Configuration(tenant.into()))
            }
            _ => None,
        }
    }
}

/// Where a tenant's endpoints are.
pub(super) fn configuration(access: &Access, url: &str, tenant: &str) -> Answer {
    if !access.has_tenant(tenant) {
        return no_tenant();
    }
    let of = |path: &str| format!("{url}/{tenant}/{path}");
    Answer::of(
        StatusCode::OK,
        &json!({
            "issuer": of("v2.0"),
            "authorization_endpoint": of("oauth2/v2.0/authorize"),
            "token_endpoint": of("oauth2/v2.0/token"),
            "jwks_uri": of("discovery/v2.0/keys"),
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "response_types_supported": ["token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }),
    )
}

/// A token for who sends a client's secret.
pub(super) fn token(access: &Access, tenant: &str, lifetime: Duration, body: &[u8]) -> Answer {
    let (mut grant, mut client, mut secret, mut scope) = (None, None, None, None);
    for (name, value) in form_urlencoded::parse(body) {
        let value = Zeroizing::new(value.into_owned());
        match &*name {
            "grant_type" => grant = Some(value),
            "client_id" => client = Some(value),
            "client_secret" => secret = Some(value),
            "scope" | "resource" => scope = Some(value),
            _ => {}
        }
    }
    match grant.as_deref().map(String::as_str) {
        Some("client_credentials") => {}
        None => {
            return refused(
                "invalid_request",
                900_144,
                "The request body must contain the following parameter: 'grant_type'.",
            );
        }
        Some(_) => {
            return refused(
                "unsupported_grant_type",
                70_003,
                "This server knows the grant type client_credentials alone.",
            );
        }
    }
    let (Some(client), Some(secret)) = (client, secret) else {
        return refused(
            "invalid_client",
            7_000_216,
            "'client_id' and 'client_secret' are required for the 'client_credentials' grant type.",
        );
    };
    let scope = scope.as_deref().map_or("", String::as_str);
    if scope.split(' ').all(|scope| scope.trim_end_matches("/.default").trim_end_matches('/') != RESOURCE) {
        return refused(
            "invalid_scope",
            70_011,
            "The scope must be https://vault.azure.net/.default: this server has no other resource.",
        );
    }
    match access.token_for(tenant, &client, &secret, lifetime) {
        Ok(token) => {
            let seconds = lifetime.as_secs();
            let body = json!({
                "token_type": "Bearer",
                "expires_in": seconds,
                "ext_expires_in": seconds,
                "access_token": *token,
            });
            Answer::of(StatusCode::OK, &body)
        }
        Err(NoToken::Tenant) => no_tenant(),
        Err(NoToken::Client) => {
            let what = "Application with this identifier was not found in the directory.";
            refused("unauthorized_client", 700_016, what)
        }
        Err(NoToken::Secret) => {
            let what = "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value.";
            let answer = refused("invalid_client", 7_000_215, what);
            answer.with_status(StatusCode::UNAUTHORIZED)
        }
        Err(NoToken::Entropy(source)) => {
            tracing::error!(%source, "no token could be drawn");
            refused("temporarily_unavailable", 90_033, "A transient error has occurred. Please try again.")
                .with_status(StatusCode::SERVICE_UNAVAILABLE)
        }
    }
}

fn no_tenant() -> Answer {
    refused("invalid_request", 90_002, "Tenant not found. Check to make sure you have the correct tenant ID.")
}

fn refused(error: &str, code: u32, what: &str) -> Answer {
    let description = format!("AADSTS{code}: {what}");
    let body = json!({ "error": error, "error_description": description, "error_codes": [code] });
    Answer::of(StatusCode::BAD_REQUEST, &body)
}
