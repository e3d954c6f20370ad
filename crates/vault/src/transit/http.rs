//! One request to Vault and its answer.
//!
//! Guarantees: TLS by rustls over aws-lc, for this client alone (no process-wide provider is installed or asked for); no
//! redirect is followed, no proxy of the environment asked, nothing sent twice; at most [`MAX_BODY`] bytes of an answer are
//! read. What is sent and what is answered is wiped by us, where it is ours.
//!
//! What remains: hyper's, rustls's and the system's own buffers of the connection hold what passed until they are used
//! again or freed.

use std::{fmt, time::Duration};

use bytes::Bytes;
use reqwest::{Method, Url, header, redirect};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Secret, TransitError, TransitOptions, Trust};
use crate::{
    VaultError, VaultErrorKind as Kind,
    https::{self, MAX_BODY, SetUpError, Unread},
};

const HEADER_TOKEN: &str = "x-vault-token";
const HEADER_NAMESPACE: &str = "x-vault-namespace";

/// A client of one server. Clones share its connections.
#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    base: Url,
}

/// What is asked. The path is safe as it is: `place` sees to it.
pub(super) struct Request<'a> {
    pub(super) namespace: &'a str,
    pub(super) path: &'a str,
    pub(super) token: Option<&'a Secret>,
    /// With a body it is a POST, without one a GET.
    pub(super) body: Option<Body>,
}

/// An answer of whatever status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// A body in JSON, wiped when the client has sent it.
pub(super) struct Body(Zeroizing<Vec<u8>>);

impl Body {
    /// `room` is how long it may become, so that it does not grow and leave a copy behind.
    pub(super) fn json(value: &impl Serialize, room: usize) -> Result<Self, VaultError> {
        let mut body = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *body, value).map_err(|e| {
            VaultError::new(Kind::Other, "a request could not be written: this is a defect, please report it")
                .caused_by(e)
        })?;
        Ok(Self(body))
    }
}

impl Http {
    pub(super) fn new(options: &TransitOptions) -> Result<Self, TransitError> {
        let base = base(options)?;
        let roots = match &options.trust {
            Trust::System => None,
            Trust::Only(pem) => Some(pem.as_slice()),
        };
        let tls = https::tls(roots).map_err(|e| match e {
            SetUpError::Roots(why) => TransitError::BadCertificates { why },
            SetUpError::Rustls(e) => e.into(),
        })?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(options.connect_timeout)
            .timeout(options.call_timeout)
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(TransitError::Client)?;
        Ok(Self { client, base })
    }

    /// The host and port of the server, as its name where none is given.
    pub(super) fn host_and_port(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        format!("{host}:{}", self.base.port_or_known_default().unwrap_or_default())
    }

    pub(super) async fn ask(&self, request: Request<'_>) -> Result<Answer, VaultError> {
        let mut url = self.base.clone();
        url.set_path(&format!("/v1/{}", request.path));
        let method = if request.body.is_some() { Method::POST } else { Method::GET };
        // Agents and proxies of Vault's may insist on it: no page in a browser can be made to send it.
        let mut http = self.client.request(method, url).header("x-vault-request", "true");
        if !request.namespace.is_empty() {
            http = http.header(HEADER_NAMESPACE, request.namespace);
        }
        if let Some(token) = request.token {
            http = http.header(HEADER_TOKEN, secret_header(token)?);
        }
        if let Some(Body(body)) = request.body {
            let body = Bytes::from_owner(Wiped(body));
            http = http.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        read(http.send().await.map_err(failed)?).await
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", self.base)
    }
}

/// Bytes that are wiped when the last who holds them lets go.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn secret_header(token: &Secret) -> Result<header::HeaderValue, VaultError> {
    let bytes = Bytes::from_owner(Wiped(Zeroizing::new(token.expose().as_bytes().to_vec())));
    let mut value = header::HeaderValue::from_maybe_shared(bytes).map_err(|_| {
        VaultError::new(Kind::Unauthenticated, "the token has characters that no header can hold")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read(response: reqwest::Response) -> Result<Answer, VaultError> {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let body = https::read(response).await.map_err(|e| match e {
        Unread::Broken(e) => failed(e),
        Unread::TooLong => {
            let kind = if status >= 500 { Kind::Unavailable } else { Kind::Other };
            let message = format!(
                "the vault's answer ({status}) has more than {MAX_BODY} bytes: see who answers there"
            );
            VaultError::new(kind, message)
        }
    })?;
    Ok(Answer { status, retry_after, body })
}

/// What a request that got no whole answer means.
fn failed(error: reqwest::Error) -> VaultError {
    // Its path names the key, which the error does already.
    let error = error.without_url();
    let (kind, message) = if https::is_tls(&error) {
        (
            Kind::Untrusted,
            "TLS with the vault failed: see whether its certificate is its own, in date, and trusted",
        )
    } else if error.is_timeout() {
        (Kind::Unavailable, "the vault did not answer in time")
    } else if error.is_connect() {
        (
            Kind::Unavailable,
            "the vault can't be reached: see whether it is up and the network lets it be asked",
        )
    } else if error.is_builder() {
        (Kind::Other, "the request could not be made: this is a defect, please report it")
    } else {
        (Kind::Unavailable, "the connection to the vault broke off before its answer was whole")
    };
    VaultError::new(kind, message).caused_by(error)
}

fn base(options: &TransitOptions) -> Result<Url, TransitError> {
    let bad = |why| TransitError::BadAddress { address: options.address.clone(), why };
    let url = Url::parse(&options.address).map_err(|_| bad("it is no URL"))?;
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err(bad("it names no host"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(TransitError::BadAddress {
            address: "(left out)".into(),
            why: "it has a user or a password, which no vault takes",
        });
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it has more than a scheme, a host and a port"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if options.allow_plain_http_to_loopback && is_loopback(host) => Ok(url),
        "http" => Err(TransitError::PlainHttp { address: options.address.clone() }),
        _ => Err(bad("its scheme is not https")),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    // A name could be led elsewhere.
    bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
