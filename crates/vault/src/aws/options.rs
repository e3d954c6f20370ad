//! What a vault of AWS KMS is made from, and why one was not made.
//!
//! Guarantees: [`Settings`] exist only of options that hold together: names have their shapes, http is to loopback and
//! asked for, certificates can be read, and the SDK would log no key.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use thiserror::Error;

use super::{
    arn::{self, Territory},
    credentials::AwsCredentialSource,
};
use crate::{Clock, SystemClock};

/// With what a vault of AWS KMS is reached, and whose keys it may ask for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AwsOptions {
    /// Where requests go, such as `eu-west-1`.
    pub region: String,
    /// The AWS accounts whose keys may be asked for, 12 digits each.
    pub accounts: Vec<String>,
    /// The partition; `None` tells it from the region's name.
    pub partition: Option<String>,
    /// The region that multi-region keys are spelled with; `None` means [`region`](Self::region).
    pub home_region: Option<String>,
    /// Other regions whose multi-region keys are the same keys.
    pub replica_regions: Vec<String>,
    /// Where credentials come from; `None` means AWS's default chain: environment, profile, web identity, container,
    /// instance.
    pub credentials: Option<Arc<dyn AwsCredentialSource>>,
    /// Another URL of KMS than the region's public one: of a VPC endpoint, of the FIPS endpoint, of a server for tests.
    pub endpoint: Option<String>,
    /// Whether the endpoint may be `http://` on this machine. For tests alone.
    pub allow_plain_http_to_loopback: bool,
    /// Certificates, in PEM, of the authorities to trust for KMS in place of the system's.
    pub trust_only: Option<Vec<u8>>,
    /// How long a connection may take to make. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a call may take as a whole. Default 5 s.
    pub call_timeout: Duration,
    /// Dates requests and tells when credentials expire.
    pub clock: Arc<dyn Clock>,
}

impl AwsOptions {
    const TIMEOUT: Duration = Duration::from_secs(5);

    /// The keys of this AWS account in this region, with the default chain's credentials and the machine's clock.
    pub fn new(region: impl Into<String>, account: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            accounts: vec![account.into()],
            partition: None,
            home_region: None,
            replica_regions: Vec::new(),
            credentials: None,
            endpoint: None,
            allow_plain_http_to_loopback: false,
            trust_only: None,
            connect_timeout: Self::TIMEOUT,
            call_timeout: Self::TIMEOUT,
            clock: Arc::new(SystemClock),
        }
    }

    /// The same with the keys of one more account.
    #[must_use]
    pub fn account(mut self, account: impl Into<String>) -> Self {
        self.accounts.push(account.into());
        self
    }

    /// The same in a partition that the region's name does not tell.
    #[must_use]
    pub fn partition(mut self, partition: impl Into<String>) -> Self {
        self.partition = Some(partition.into());
        self
    }

    /// The same where the multi-region keys of `home` and `replicas` are the same keys, spelled as in `home` wherever
    /// the service runs: give every node the same ones.
    #[must_use]
    pub fn multi_region<S: Into<String>>(
        mut self,
        home: impl Into<String>,
        replicas: impl IntoIterator<Item = S>,
    ) -> Self {
        self.home_region = Some(home.into());
        self.replica_regions = replicas.into_iter().map(Into::into).collect();
        self
    }

    /// The same with credentials from there.
    #[must_use]
    pub fn credentials(mut self, source: Arc<dyn AwsCredentialSource>) -> Self {
        self.credentials = Some(source);
        self
    }

    /// The same at another URL.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The same where the endpoint may be `http://` on this machine. For tests alone: keys pass in the clear.
    #[must_use]
    pub fn allow_plain_http_to_loopback(mut self) -> Self {
        self.allow_plain_http_to_loopback = true;
        self
    }

    /// The same trusting these authorities alone, in PEM, for KMS.
    #[must_use]
    pub fn trust_only(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.trust_only = Some(pem.into());
        self
    }

    /// The same with other time-outs of a connection and of a call.
    #[must_use]
    pub fn timeouts(mut self, connect: Duration, call: Duration) -> Self {
        (self.connect_timeout, self.call_timeout) = (connect, call);
        self
    }

    /// The same with another clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whose keys these options are for.
    pub(super) fn territory(&self) -> Result<Territory, AwsError> {
        let home = self.home_region.as_ref().unwrap_or(&self.region);
        let mut same = vec![self.region.clone(), home.clone()];
        same.extend_from_slice(&self.replica_regions);
        for region in &same {
            if !arn::is_name(region) {
                return Err(AwsError::BadRegion { region: cut(region) });
            }
        }
        if self.accounts.is_empty() {
            return Err(AwsError::NoAccount);
        }
        for account in &self.accounts {
            if !arn::is_account(account) {
                return Err(AwsError::BadAccount { account: cut(account) });
            }
        }
        let partition = match &self.partition {
            None => arn::partition_of(&self.region).into(),
            Some(partition) if arn::is_name(partition) => partition.clone(),
            Some(partition) => return Err(AwsError::BadPartition { partition: cut(partition) }),
        };
        Ok(Territory {
            partition,
            region: self.region.clone(),
            accounts: self.accounts.clone(),
            home: home.clone(),
            same,
        })
    }

    /// Refuses what must not be connected with.
    pub(super) fn check(&self) -> Result<(), AwsError> {
        if let Some(url) = &self.endpoint {
            check_endpoint(url, self.allow_plain_http_to_loopback)?;
        }
        if let Some(pem) = &self.trust_only {
            check_roots(pem)?;
        }
        // The SDK logs what it sends and receives, at level trace, where these are set.
        for variable in ["LOG_SIGNABLE_BODY", "LOG_SENSITIVE_BODIES"] {
            if std::env::var(variable).is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
                return Err(AwsError::WouldLogKeys { variable });
            }
        }
        Ok(())
    }
}

fn check_endpoint(url: &str, allow_plain_http: bool) -> Result<(), AwsError> {
    let bad = |why| AwsError::BadEndpoint { url: cut(url), why };
    let (is_plain, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err(bad("it must begin with https://")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or("no port"))),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    if host.is_empty() || !host.bytes().all(is_host) || port.is_some_and(|port| port.parse::<u16>().is_err())
    {
        return Err(bad("it must be a host and perhaps a port, without a user, a path or a query"));
    }
    if is_plain {
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !is_loopback {
            return Err(bad("keys would pass in the clear: use https://"));
        }
        if !allow_plain_http {
            return Err(bad("keys would pass in the clear: use https://, or allow http for a test"));
        }
    }
    Ok(())
}

fn check_roots(pem: &[u8]) -> Result<(), AwsError> {
    let bad = |source: Box<dyn std::error::Error + Send + Sync>| AwsError::BadRoots { source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| bad(e.to_string().into()))?;
        roots.add(certificate).map_err(|e| bad(e.into()))?;
    }
    if roots.is_empty() { Err(bad("there is no certificate in it".into())) } else { Ok(()) }
}

fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

/// Why a vault of AWS KMS was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AwsError {
    /// A region has characters that are not allowed.
    #[error("{region:?} is no region of AWS: one looks like eu-west-1")]
    BadRegion {
        /// What was given, cut short where it is long.
        region: String,
    },
    /// An account is none.
    #[error("{account:?} is no AWS account: one has 12 digits")]
    BadAccount {
        /// What was given, cut short where it is long.
        account: String,
    },
    /// No account was given.
    #[error("no AWS account was given: name the one that the keys are in")]
    NoAccount,
    /// A partition has characters that are not allowed.
    #[error("{partition:?} is no partition of AWS: one looks like aws or aws-cn")]
    BadPartition {
        /// What was given, cut short where it is long.
        partition: String,
    },
    /// The endpoint is no URL that keys may pass over.
    #[error("{url:?} can't be the endpoint of AWS KMS: {why}")]
    BadEndpoint {
        /// What was given, cut short where it is long.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The certificates to trust can't be read.
    #[error("the certificates to trust for AWS KMS can't be read ({source}): give them in PEM")]
    BadRoots {
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The SDK was told to log what it sends.
    #[error("the environment sets {variable}, so AWS's SDK would log account keys: unset it")]
    WouldLogKeys {
        /// The variable.
        variable: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> AwsOptions {
        AwsOptions::new("eu-west-1", "111122223333")
    }

    #[test]
    fn plain_http_goes_to_this_machine_and_only_where_it_is_allowed() {
        for url in ["http://127.0.0.1:4566", "http://127.0.0.1:4566/", "http://[::1]:4566"] {
            assert!(options().endpoint(url).allow_plain_http_to_loopback().check().is_ok(), "{url}");
            let refused = options().endpoint(url).check().unwrap_err();
            assert!(refused.to_string().contains("in the clear"), "{refused}");
        }
        for url in ["http://kms.eu-west-1.amazonaws.com", "http://10.0.0.1:80", "http://localhost:80"] {
            let refused = options().endpoint(url).allow_plain_http_to_loopback().check().unwrap_err();
            assert!(refused.to_string().contains("use https"), "{refused}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_perhaps_a_port() {
        for url in
            ["https://kms-fips.eu-west-1.amazonaws.com", "https://localhost:8443/", "https://[::1]:8443"]
        {
            assert!(options().endpoint(url).check().is_ok(), "{url}");
        }
        for url in [
            "",
            "kms.eu-west-1.amazonaws.com",
            "ftp://h",
            "https://",
            "https://h:port",
            "https://user:pass@h",
            "https://h/path",
            "https://h?q",
            "https://[::1]x",
        ] {
            assert!(matches!(options().endpoint(url).check(), Err(AwsError::BadEndpoint { .. })), "{url}");
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(options().trust_only(pem).check(), Err(AwsError::BadRoots { .. })), "{pem:?}");
        }
    }

    #[test]
    fn names_of_other_shapes_are_refused() {
        assert!(matches!(AwsOptions::new("EU", "111122223333").territory(), Err(AwsError::BadRegion { .. })));
        assert!(matches!(AwsOptions::new("eu-west-1", "1").territory(), Err(AwsError::BadAccount { .. })));
        let none = AwsOptions { accounts: Vec::new(), ..options() };
        assert!(matches!(none.territory(), Err(AwsError::NoAccount)));
        assert!(matches!(options().partition("AWS").territory(), Err(AwsError::BadPartition { .. })));
        let replicas = options().multi_region("eu-west-1", ["us east"]);
        assert!(matches!(replicas.territory(), Err(AwsError::BadRegion { .. })));
        let territory = options().multi_region("us-east-1", ["ap-south-1"]).territory().unwrap();
        assert_eq!(territory.same, ["eu-west-1", "us-east-1", "ap-south-1"]);
        assert_eq!((territory.home.as_str(), territory.partition.as_str()), ("us-east-1", "aws"));
    }
}
