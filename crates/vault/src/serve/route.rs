//! What a request asks for, by its method, path and query.
//!
//! Guarantees: a name is 1 to 127 letters, digits and hyphens and a version 32 hex digits before anything else looks at
//! them; nothing is decoded, so no spelling leads out of its place. Not its job: who may.

use axum::http::{Method, StatusCode, Uri};
use data_encoding::BASE64URL_NOPAD;

use super::{access::Permission, answer::Failure};

/// The versions of the API that are spoken. What this server does has one meaning in all of them.
const API_VERSIONS: [&str; 8] = ["7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01"];

/// How many items a page of a list has at most, and unless fewer are asked for.
const PAGE: usize = 25;

/// An operation on keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Keys(Page),
    Versions(String, Page),
    DeletedKeys(Page),
    Create(String),
    Import(String),
    Get(String, Option<String>),
    Update(String, Option<String>),
    Delete(String),
    Wrap(String, Option<String>),
    Unwrap(String, Option<String>),
    GetDeleted(String),
    Recover(String),
    Purge(String),
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// The path and query of the list without this page's own parts.
    pub(super) link: String,
    /// At most so many.
    pub(super) len: usize,
    /// Whether the client asked for a length.
    asked: bool,
    /// Those behind this name.
    pub(super) after: Option<String>,
}

impl Page {
    /// Where the page behind this one is.
    pub(super) fn next(&self, url: &str, last: &str) -> String {
        let token = BASE64URL_NOPAD.encode(last.as_bytes());
        let max = if self.asked { format!("&maxresults={}", self.len) } else { String::new() };
        format!("{url}{}&$skiptoken={token}{max}", self.link)
    }
}

impl Route {
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<Self, Failure> {
        let query = Query::of(uri)?;
        let segments: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
        let page = || query.page(uri.path());
        let (get, post) = (*method == Method::GET, *method == Method::POST);
        let none = || {
            Failure::new(
                StatusCode::NOT_FOUND,
                "NotFound",
                "There is no such resource here: this server has keys alone.",
            )
        };
        match segments[..] {
            ["keys"] | ["keys", ""] if get => Ok(Self::Keys(page()?)),
            ["deletedkeys"] | ["deletedkeys", ""] if get => Ok(Self::DeletedKeys(page()?)),
            ["deletedkeys", key] if get => Ok(Self::GetDeleted(name(key)?)),
            ["deletedkeys", key] if *method == Method::DELETE => Ok(Self::Purge(name(key)?)),
            ["deletedkeys", key, "recover"] if post => Ok(Self::Recover(name(key)?)),
            ["keys", key] | ["keys", key, ""] => match *method {
                Method::GET => Ok(Self::Get(name(key)?, None)),
                Method::PATCH => Ok(Self::Update(name(key)?, None)),
                Method::PUT => Ok(Self::Import(name(key)?)),
                Method::DELETE => Ok(Self::Delete(name(key)?)),
                _ => Err(not_allowed(method)),
            },
            ["keys", key, "versions"] if get => Ok(Self::Versions(name(key)?, page()?)),
            ["keys", key, "create"] if post => Ok(Self::Create(name(key)?)),
            ["keys", key, action] if post && is_crypto(action) => crypto(key, None, action),
            ["keys", key, of] => match *method {
                Method::GET => Ok(Self::Get(name(key)?, Some(version(of)?))),
                Method::PATCH => Ok(Self::Update(name(key)?, Some(version(of)?))),
                _ => Err(not_allowed(method)),
            },
            ["keys", key, "", action] if post => crypto(key, None, action),
            ["keys", key, of, action] if post => crypto(key, Some(version(of)?), action),
            ["keys" | "deletedkeys", ..] => Err(not_allowed(method)),
            _ => Err(none()),
        }
    }

    /// What the caller must be allowed to.
    pub(super) fn permission(&self) -> Permission {
        match self {
            Self::Keys(_) | Self::Versions(..) | Self::DeletedKeys(_) => Permission::List,
            Self::Create(_) => Permission::Create,
            Self::Import(_) => Permission::Import,
            Self::Get(..) | Self::GetDeleted(_) => Permission::Get,
            Self::Update(..) => Permission::Update,
            Self::Delete(_) => Permission::Delete,
            Self::Wrap(..) => Permission::WrapKey,
            Self::Unwrap(..) => Permission::UnwrapKey,
            Self::Recover(_) => Permission::Recover,
            Self::Purge(_) => Permission::Purge,
        }
    }
}

fn not_allowed(method: &Method) -> Failure {
    let message = format!("The method {method} is not one for this resource.");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

/// The operations of a key, in any case: clients differ.
const WRAP: &str = "wrapkey";
const UNWRAP: &str = "unwrapkey";
const NOT_DONE: [&str; 4] = ["encrypt", "decrypt", "sign", "verify"];

fn is_crypto(action: &str) -> bool {
    [WRAP, UNWRAP].iter().chain(&NOT_DONE).any(|known| action.eq_ignore_ascii_case(known))
}

fn crypto(key: &str, version: Option<String>, action: &str) -> Result<Route, Failure> {
    let key = name(key)?;
    if action.eq_ignore_ascii_case(WRAP) {
        Ok(Route::Wrap(key, version))
    } else if action.eq_ignore_ascii_case(UNWRAP) {
        Ok(Route::Unwrap(key, version))
    } else if is_crypto(action) {
        Err(Failure::bad(
            "This server wraps and unwraps keys alone: it does not encrypt, decrypt, sign or verify.",
        ))
    } else {
        Err(Failure::new(StatusCode::NOT_FOUND, "NotFound", "There is no such operation of a key here."))
    }
}

fn name(text: &str) -> Result<String, Failure> {
    let good =
        (1..=127).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if good { Ok(text.into()) } else { Err(invalid("name", text)) }
}

fn version(text: &str) -> Result<String, Failure> {
    let good = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if good { Ok(text.into()) } else { Err(invalid("version", text)) }
}

fn invalid(what: &str, text: &str) -> Failure {
    let shown: String = text.chars().take(128).collect();
    Failure::bad(format!("The request URI contains an invalid {what}: {shown}"))
}

/// The query's known parts.
struct Query {
    api_version: String,
    max_results: Option<usize>,
    after: Option<String>,
}

impl Query {
    fn of(uri: &Uri) -> Result<Self, Failure> {
        let (mut api_version, mut max_results, mut after) = (None, None, None);
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match &*name {
                "api-version" => api_version = Some(value.into_owned()),
                "maxresults" => {
                    let max = value.parse().ok().filter(|max| (1..=PAGE).contains(max));
                    max_results = Some(max.ok_or_else(|| Failure::bad("maxresults must be 1 to 25."))?);
                }
                "$skiptoken" => {
                    let token = BASE64URL_NOPAD.decode(value.as_bytes()).ok();
                    let token = token.and_then(|token| String::from_utf8(token).ok());
                    after =
                        Some(token.ok_or_else(|| Failure::bad("The $skiptoken is none of this server's."))?);
                }
                _ => {}
            }
        }
        let Some(api_version) = api_version else {
            return Err(Failure::bad("api-version must be specified"));
        };
        if !API_VERSIONS.contains(&&*api_version) {
            let latest = API_VERSIONS[API_VERSIONS.len() - 1];
            let shown: String = api_version.chars().take(32).collect();
            return Err(Failure::bad(format!(
                "The specified version ({shown}) is not recognized. Consider using the latest supported version ({latest})."
            )));
        }
        Ok(Self { api_version, max_results, after })
    }

    fn page(&self, path: &str) -> Result<Page, Failure> {
        Ok(Page {
            link: format!("{}?api-version={}", path.trim_end_matches('/'), self.api_version),
            len: self.max_results.unwrap_or(PAGE),
            asked: self.max_results.is_some(),
            after: self.after.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "0123456789abcdef0123456789abcdef";

    fn route(method: Method, path: &str) -> Result<Route, Failure> {
        Route::of(&method, &format!("{path}?api-version=7.4").parse().unwrap())
    }

    #[test]
    fn every_operation_is_found_in_the_spellings_of_microsofts_clients() {
        let k = || "k".to_owned();
        let v = || Some(VERSION.to_owned());
        for (method, path, expected) in [
            (Method::POST, "/keys/k/create".into(), Route::Create(k())),
            (Method::PUT, "/keys/k".into(), Route::Import(k())),
            (Method::GET, "/keys/k".into(), Route::Get(k(), None)),
            (Method::GET, "/keys/k/".into(), Route::Get(k(), None)),
            (Method::GET, format!("/keys/k/{VERSION}"), Route::Get(k(), v())),
            (Method::PATCH, "/keys/k/".into(), Route::Update(k(), None)),
            (Method::PATCH, format!("/keys/k/{VERSION}"), Route::Update(k(), v())),
            (Method::DELETE, "/keys/k".into(), Route::Delete(k())),
            (Method::POST, format!("/keys/k/{VERSION}/wrapkey"), Route::Wrap(k(), v())),
            (Method::POST, "/keys/k//wrapKey".into(), Route::Wrap(k(), None)),
            (Method::POST, "/keys/k/wrapKey".into(), Route::Wrap(k(), None)),
            (Method::POST, format!("/keys/k/{VERSION}/unwrapkey"), Route::Unwrap(k(), v())),
            (Method::GET, "/deletedkeys/k".into(), Route::GetDeleted(k())),
            (Method::POST, "/deletedkeys/k/recover".into(), Route::Recover(k())),
            (Method::DELETE, "/deletedkeys/k".into(), Route::Purge(k())),
        ] {
            assert_eq!(route(method.clone(), &path).unwrap(), expected, "{method} {path}");
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        for path in [
            "/keys/..",
            "/keys/../secrets",
            "/keys/%2e%2e",
            "/keys/%2e%2e%2fcustomer.vault",
            "/keys/a%00b",
            "/keys/a_b",
            "/keys/a.b",
            "/keys/k/..",
            "/keys/k/latest",
            "/keys/k/0123456789ABCDEF0123456789ABCDEF",
            "/keys/k/%2e",
            "/deletedkeys/..%5c",
        ] {
            let answer = route(Method::GET, path);
            assert!(matches!(&answer, Err(refused) if refused.is_bad()), "{path}: {answer:?}");
        }
        assert!(route(Method::GET, &format!("/keys/{}", "k".repeat(128))).is_err());
        for path in ["/", "/secrets/k", "/certificates", "//keys/k/../k", "/keys/k/a/b/c", "/.well-known"] {
            assert!(route(Method::GET, path).is_err(), "{path}");
        }
    }

    #[test]
    fn an_unknown_version_of_the_api_is_refused() {
        for query in ["", "?api-version=", "?api-version=9.9", "?api-version=7.4%20", "?version=7.4"] {
            let uri = format!("/keys/k{query}").parse().unwrap();
            assert!(matches!(Route::of(&Method::GET, &uri), Err(refused) if refused.is_bad()), "{query}");
        }
    }

    #[test]
    fn pages_go_on_where_they_ended() {
        let uri: Uri = "/keys?api-version=7.4&maxresults=2".parse().unwrap();
        let Route::Keys(page) = Route::of(&Method::GET, &uri).unwrap() else { panic!() };
        assert_eq!((page.len, &page.after), (2, &None));
        let next = page.next("https://h:1", "b");
        assert_eq!(next, "https://h:1/keys?api-version=7.4&$skiptoken=Yg&maxresults=2");
        let Route::Keys(page) = Route::of(&Method::GET, &next.parse().unwrap()).unwrap() else { panic!() };
        assert_eq!((page.len, page.after.as_deref()), (2, Some("b")));
        for bad in ["maxresults=0", "maxresults=26", "maxresults=x", "$skiptoken=!"] {
            let uri = format!("/keys?api-version=7.4&{bad}").parse().unwrap();
            assert!(Route::of(&Method::GET, &uri).is_err(), "{bad}");
        }
    }
}
