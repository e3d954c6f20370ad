//! Who may do what: clients, their permissions, and the tokens they are given.
//!
//! Guarantees: tokens and client secrets are 256 random bits and kept as SHA-256 alone; what is presented is compared
//! in constant time; a token ends by the clock that was passed in, and when its client is removed or its tokens are
//! expired. Not its job: HTTP.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cofferdam_crypto::EntropyError;
use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{Clock, Entropy, Timestamp};

/// The most tokens that are alive at once; the ones nearest to their end go first.
const MAX_TOKENS: usize = 10_000;

/// What a client may do with keys: Key Vault's key permissions, of those that this server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Permission {
    /// Read a key and its public half.
    Get,
    /// List keys and versions.
    List,
    /// Make keys and versions.
    Create,
    /// Bring keys.
    Import,
    /// Change what is said of a key.
    Update,
    /// Delete keys.
    Delete,
    /// Recover deleted keys.
    Recover,
    /// Destroy deleted keys.
    Purge,
    /// Wrap.
    WrapKey,
    /// Unwrap.
    UnwrapKey,
}

impl Permission {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::List,
        Self::Create,
        Self::Import,
        Self::Update,
        Self::Delete,
        Self::Recover,
        Self::Purge,
        Self::WrapKey,
        Self::UnwrapKey,
    ];

    /// What a service that wraps under a customer's key needs, and all that it should have.
    pub const WRAPPING: [Self; 3] = [Self::Get, Self::WrapKey, Self::UnwrapKey];

    /// Its name in an access policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Import => "import",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Recover => "recover",
            Self::Purge => "purge",
            Self::WrapKey => "wrapKey",
            Self::UnwrapKey => "unwrapKey",
        }
    }
}

/// A client that may ask for tokens.
pub(super) struct Client {
    tenant: String,
    secret: [u8; 32],
    permissions: Vec<Permission>,
}

struct Token {
    client_id: Arc<str>,
    since: Timestamp,
    lifetime: Duration,
}

/// Who a request is from.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) client_id: Arc<str>,
    pub(super) tenant: String,
    permissions: Vec<Permission>,
}

impl Caller {
    pub(super) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }
}

/// Why a request is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It has no token.
    NoToken,
    /// Its token is none of this server's.
    BadToken,
    /// Its token's time is over.
    Expired,
    /// Its token is of another tenant.
    OtherTenant(String),
}

/// Why a client gets no token.
#[derive(Debug)]
pub(super) enum NoToken {
    /// There is no such tenant.
    Tenant,
    /// The tenant has no such client.
    Client,
    /// The secret is not the client's.
    Secret,
    /// There were no random bytes.
    Entropy(EntropyError),
}

/// All clients and tokens.
pub(super) struct Access {
    tenant: String,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: BTreeMap<Arc<str>, Client>,
    tokens: BTreeMap<[u8; 32], Token>,
}

impl Access {
    pub(super) fn new(tenant: String, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { tenant, clock, entropy, state: Mutex::default() }
    }

    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Adds a client, or gives it another tenant, secret and permissions; its tokens go on.
    pub(super) fn add(&self, client_id: &str, tenant: String, secret: &str, permissions: Vec<Permission>) {
        let client = Client { tenant, secret: hash(secret), permissions };
        self.state().clients.insert(client_id.into(), client);
    }

    /// Whether there was such a client.
    pub(super) fn permit(&self, client_id: &str, permissions: Vec<Permission>) -> bool {
        match self.state().clients.get_mut(client_id) {
            None => false,
            Some(client) => {
                client.permissions = permissions;
                true
            }
        }
    }

    pub(super) fn has_tenant(&self, tenant: &str) -> bool {
        tenant == self.tenant || self.state().clients.values().any(|client| client.tenant == tenant)
    }

    /// A token for who knows the client's secret.
    pub(super) fn token_for(
        &self,
        tenant: &str,
        client_id: &str,
        secret: &str,
        lifetime: Duration,
    ) -> Result<Zeroizing<String>, NoToken> {
        if !self.has_tenant(tenant) {
            return Err(NoToken::Tenant);
        }
        match self.state().clients.get(client_id) {
            Some(client) if client.tenant != tenant => return Err(NoToken::Client),
            Some(client) if !bool::from(client.secret.ct_eq(&hash(secret))) => return Err(NoToken::Secret),
            Some(_) => {}
            None => return Err(NoToken::Client),
        }
        self.issue(client_id, lifetime)
    }

    /// A token for a client, asked of nobody.
    pub(super) fn issue(&self, client_id: &str, lifetime: Duration) -> Result<Zeroizing<String>, NoToken> {
        let token = self.random().map_err(NoToken::Entropy)?;
        let since = self.clock.now();
        let mut state = self.state();
        let Some((client_id, _)) = state.clients.get_key_value(client_id) else {
            return Err(NoToken::Client);
        };
        let client_id = client_id.clone();
        state.tokens.retain(|_, token| since.since(&token.since) < token.lifetime);
        while state.tokens.len() >= MAX_TOKENS {
            let left = |token: &Token| token.lifetime.saturating_sub(since.since(&token.since));
            let Some(oldest) =
                state.tokens.iter().min_by_key(|(_, token)| left(token)).map(|(hash, _)| *hash)
            else {
                break;
            };
            state.tokens.remove(&oldest);
        }
        state.tokens.insert(hash(&token), Token { client_id, since, lifetime });
        Ok(token)
    }

    /// A secret that nobody can guess.
    pub(super) fn random(&self) -> Result<Zeroizing<String>, EntropyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.entropy.fill(&mut *bytes)?;
        Ok(Zeroizing::new(BASE64URL_NOPAD.encode(&*bytes)))
    }

    /// Ends every token.
    pub(super) fn expire_all(&self) {
        self.state().tokens.values_mut().for_each(|token| token.lifetime = Duration::ZERO);
    }

    /// Whose request this is, by its header `Authorization`.
    pub(super) fn caller(&self, authorization: Option<&str>) -> Result<Caller, Unknown> {
        let Some((scheme, token)) = authorization.and_then(|header| header.split_once(' ')) else {
            return Err(Unknown::NoToken);
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Unknown::NoToken);
        }
        let now = self.clock.now();
        let presented = hash(token.trim());
        let state = self.state();
        // Found by its hash, of which nobody can aim at a neighbour; then compared as a whole.
        let (known, token) = state.tokens.get_key_value(&presented).ok_or(Unknown::BadToken)?;
        if !bool::from(known.ct_eq(&presented)) {
            return Err(Unknown::BadToken);
        }
        if now.since(&token.since) >= token.lifetime {
            return Err(Unknown::Expired);
        }
        let client = state.clients.get(&token.client_id).ok_or(Unknown::BadToken)?;
        if client.tenant != self.tenant {
            return Err(Unknown::OtherTenant(client.tenant.clone()));
        }
        Ok(Caller {
            client_id: token.client_id.clone(),
            tenant: client.tenant.clone(),
            permissions: client.permissions.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Access")
            .field("tenant", &self.tenant)
            .field("clients", &state.clients.keys().collect::<Vec<_>>())
            .field("tokens", &state.tokens.len())
            .finish_non_exhaustive()
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemEntropy;

    #[derive(Debug, Default)]
    struct Time(Mutex<Duration>);

    impl Time {
        fn advance(&self, by: Duration) {
            *self.0.lock().unwrap() += by;
        }
    }

    impl Clock for Time {
        fn now(&self) -> Timestamp {
            let now = *self.0.lock().unwrap();
            Timestamp { boot: now, wall: now }
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn access() -> (Access, Arc<Time>) {
        let time = Arc::new(Time::default());
        assert_eq!(time.now().boot, Duration::ZERO);
        let access = Access::new("home".into(), time.clone(), Arc::new(SystemEntropy));
        access.add("app", "home".into(), "secret", vec![Permission::Get]);
        access.add("stranger", "abroad".into(), "secret", Permission::ALL.to_vec());
        (access, time)
    }

    fn bearer(token: &str) -> String {
        format!("Bearer {token}")
    }

    #[test]
    fn a_token_is_its_clients_until_its_time_is_over() {
        let (access, time) = access();
        let token = access.token_for("home", "app", "secret", HOUR).unwrap();
        let caller = access.caller(Some(&bearer(&token))).unwrap();
        assert_eq!(&*caller.client_id, "app");
        assert!(caller.may(Permission::Get) && !caller.may(Permission::WrapKey));
        time.advance(HOUR - Duration::from_millis(1));
        assert!(access.caller(Some(&bearer(&token))).is_ok());
        time.advance(Duration::from_millis(1));
        assert_eq!(access.caller(Some(&bearer(&token))).unwrap_err(), Unknown::Expired);
    }

    #[test]
    fn what_is_not_a_token_of_this_tenant_is_refused_and_says_why() {
        let (access, _) = access();
        let token = access.token_for("abroad", "stranger", "secret", HOUR).unwrap();
        let other = Unknown::OtherTenant("abroad".into());
        assert_eq!(access.caller(Some(&bearer(&token))).unwrap_err(), other);
        for (header, why) in [
            (None, Unknown::NoToken),
            (Some(""), Unknown::NoToken),
            (Some("Bearer"), Unknown::NoToken),
            (Some("Basic abc"), Unknown::NoToken),
            (Some("Bearer "), Unknown::BadToken),
            (Some("Bearer abc"), Unknown::BadToken),
        ] {
            assert_eq!(access.caller(header).unwrap_err(), why, "{header:?}");
        }
    }

    #[test]
    fn only_the_clients_own_secret_in_its_own_tenant_gets_a_token() {
        let (access, _) = access();
        let ask = |tenant, client, secret| access.token_for(tenant, client, secret, HOUR);
        assert!(matches!(ask("nowhere", "app", "secret"), Err(NoToken::Tenant)));
        assert!(matches!(ask("home", "nobody", "secret"), Err(NoToken::Client)));
        assert!(matches!(ask("abroad", "app", "secret"), Err(NoToken::Client)));
        assert!(matches!(ask("home", "app", "secre"), Err(NoToken::Secret)));
        assert!(matches!(ask("home", "app", ""), Err(NoToken::Secret)));
    }

    #[test]
    fn permissions_are_taken_from_tokens_that_are_out_already() {
        let (access, _) = access();
        let token = access.issue("app", HOUR).unwrap();
        assert!(access.permit("app", Vec::new()));
        assert!(!access.caller(Some(&bearer(&token))).unwrap().may(Permission::Get));
        access.expire_all();
        assert_eq!(access.caller(Some(&bearer(&token))).unwrap_err(), Unknown::Expired);
        assert!(!access.permit("nobody", Vec::new()));
    }

    #[test]
    fn debug_shows_no_secret() {
        let (access, _) = access();
        let token = access.issue("app", HOUR).unwrap();
        let shown = format!("{access:?}");
        assert!(shown.contains("app") && !shown.contains(&*token) && !shown.contains("secret"), "{shown}");
    }
}
