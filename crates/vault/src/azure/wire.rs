//! What carries requests to the vault and to the token service, under Microsoft's client.
//!
//! Guarantees: TLS by rustls over aws-lc; no redirect is followed, nothing is sent twice; a body is read up to
//! [`MAX_BODY`] and no further (`https`); plain http goes only to the token service of the machine itself (managed identity), past any
//! proxy. Bodies are wiped when they are dropped.
//!
//! HTTP/1.1, one request a connection at a time: a connection that stalls must not hold up everybody's keys.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use async_trait::async_trait;
use azure_core::{
    Bytes,
    error::ErrorKind,
    http::{
        AsyncRawResponse, Body, HttpClient, Request, StatusCode, Url,
        headers::{HeaderName, HeaderValue, Headers},
    },
};
use reqwest::{Client, header};
use thiserror::Error;

use super::{AzureError, AzureOptions};
use crate::{
    VaultErrorKind as Kind,
    https::{MAX_BODY, SetUpError, Unread, is_tls, read, tls},
};

/// A client of both the vault and the token service.
#[derive(Clone)]
pub(super) struct Wire {
    /// By the system's proxy, where it has one.
    out: Client,
    /// To this machine and its host, which no proxy reaches.
    near: Client,
}

impl Wire {
    pub(super) fn new(options: &AzureOptions) -> Result<Self, AzureError> {
        let tls = tls(options.roots.as_deref()).map_err(|e| match e {
            SetUpError::Roots(why) => AzureError::Roots(why.into()),
            SetUpError::Rustls(e) => AzureError::Client(Box::new(e)),
        })?;
        let client = |direct: bool| {
            let builder = Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .http1_only()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .connect_timeout(options.connect_timeout)
                .timeout(options.call_timeout);
            let builder = if direct { builder.no_proxy() } else { builder };
            builder.build().map_err(|e| AzureError::Client(Box::new(e)))
        };
        Ok(Self { out: client(false)?, near: client(true)? })
    }

    async fn send(&self, request: &Request) -> Result<AsyncRawResponse, WireError> {
        let url = request.url();
        let near = is_near(url);
        if url.scheme() != "https" && !near {
            return Err(WireError::PlainHttp);
        }
        let client = if near { &self.near } else { &self.out };
        let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes());
        let method = method.map_err(|_| WireError::Request("its method is none"))?;
        let Body::Bytes(body) = request.body().clone() else {
            return Err(WireError::Request("its body is a stream"));
        };
        let sent = client.request(method, url.clone()).headers(sent_headers(request)?);
        let answer = sent.body(body).send().await?;
        let status = StatusCode::from(answer.status().as_u16());
        let headers = headers(answer.headers());
        let body = read(answer).await.map_err(|e| match e {
            Unread::TooLong => WireError::TooLong { status },
            Unread::Broken(e) => e.into(),
        })?;
        Ok(AsyncRawResponse::from_bytes(status, headers, Bytes::from_owner(body)))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

#[async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        self.send(request).await.map_err(|e| {
            let message = e.to_string();
            azure_core::Error::with_error(ErrorKind::Io, e, message)
        })
    }
}

/// Why a request brought no answer.
#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("TLS with the peer failed: find out who answers in its place")]
    Tls(#[source] reqwest::Error),
    #[error("there was no answer in time")]
    TimedOut(#[source] reqwest::Error),
    #[error("the peer could not be reached, or broke off")]
    Broken(#[source] reqwest::Error),
    #[error("the answer, of status {status}, has more than {MAX_BODY} bytes: it was not read further")]
    TooLong { status: StatusCode },
    #[error("a request in the clear was not sent")]
    PlainHttp,
    #[error("a request could not be made: {0}")]
    Request(&'static str),
}

impl WireError {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Tls(_) => Kind::Untrusted,
            Self::TimedOut(_) | Self::Broken(_) => Kind::Unavailable,
            Self::TooLong { status } if status.is_server_error() => Kind::Unavailable,
            Self::TooLong { .. } | Self::PlainHttp | Self::Request(_) => Kind::Other,
        }
    }
}

impl From<reqwest::Error> for WireError {
    fn from(error: reqwest::Error) -> Self {
        if is_tls(&error) {
            Self::Tls(error)
        } else if error.is_timeout() {
            Self::TimedOut(error)
        } else {
            Self::Broken(error)
        }
    }
}

/// Whether it is this machine, or its host at a link-local address: where a managed identity's tokens come from.
fn is_near(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    if host == "localhost" {
        return true;
    }
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip: Ipv4Addr| ip.is_loopback())
        }
        Err(_) => false,
    }
}

fn sent_headers(request: &Request) -> Result<header::HeaderMap, WireError> {
    let mut headers = header::HeaderMap::new();
    for (name, value) in request.headers().iter() {
        let name = header::HeaderName::try_from(name.as_str())
            .map_err(|_| WireError::Request("a header is none"))?;
        let mut value = header::HeaderValue::try_from(value.as_str())
            .map_err(|_| WireError::Request("a header is none"))?;
        // Tokens, and what a managed identity proves itself with.
        value.set_sensitive(name == header::AUTHORIZATION || name == "x-identity-header" || name == "secret");
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Those that are text; none of the others means anything here.
fn headers(answered: &header::HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in answered {
        if let Ok(value) = value.to_str() {
            headers.insert(HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value.to_owned()));
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_itself_is_near() {
        for near in [
            "http://localhost:42356/msi/token",
            "http://127.0.0.1:41078/x",
            "http://169.254.169.254/metadata/identity/oauth2/token",
            "http://[::1]/",
        ] {
            assert!(is_near(&Url::parse(near).unwrap()), "{near}");
        }
        for far in [
            "http://login.microsoftonline.com/",
            "http://localhost.evil.example/",
            "http://169.254.169.254.evil.example/",
            "http://10.0.0.1/",
            "http://[2001:db8::1]/",
        ] {
            assert!(!is_near(&Url::parse(far).unwrap()), "{far}");
        }
    }
}
