//! The server's certificate, and the authority of its own that signed it.
//!
//! Guarantees: the authority's key signs this one certificate and is dropped before anybody sees either, so who trusts
//! the authority trusts this server and nothing else; keys are of P-256. Not its job: to be believed: a client is given
//! the authority in PEM.

use std::{fmt, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::ServeError;
use crate::Clock;

/// How long one is good for: what browsers and Apple's clients take at most is 398 days.
const LIFETIME: Duration = Duration::from_secs(397 * 24 * 60 * 60);
/// Clients' clocks may be behind.
const EARLY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate with its key and its authority.
pub struct ServerCertificate {
    authority_pem: String,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
    good_until: Duration,
}

impl ServerCertificate {
    /// A new one for this host name or address and for loopback, from a day ago for 396 days. The clock must be the one
    /// that its clients go by: the machine's.
    ///
    /// # Errors
    /// [`ServeError::Certificate`] when the name is none, or a key can't be made.
    pub fn generate(host: &str, clock: &dyn Clock) -> Result<Self, ServeError> {
        let failed = |e: rcgen::Error| ServeError::Certificate { what: e.to_string() };
        let now = clock.now().wall;
        let early = now.saturating_sub(EARLY);
        let from = date_time_ymd(1970, 1, 1) + early;
        let named = |name: &str| {
            let mut names = DistinguishedName::new();
            names.push(DnType::CommonName, name);
            names
        };

        let mut authority = CertificateParams::new(Vec::new()).map_err(failed)?;
        authority.distinguished_name = named("cofferdam vault serve: authority of one certificate");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (authority.not_before, authority.not_after) = (from, from + LIFETIME);
        let authority_key = KeyPair::generate().map_err(failed)?;
        let authority_pem = authority.self_signed(&authority_key).map_err(failed)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let mut server = CertificateParams::new(hosts(host)).map_err(failed)?;
        server.distinguished_name = named("cofferdam vault serve");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        (server.not_before, server.not_after) = (from, from + LIFETIME);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate_pem = server.signed_by(&key, &issuer).map_err(failed)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Self { authority_pem, certificate_pem, key_pem, good_until: early + LIFETIME })
    }

    /// One that was kept: what [`pem`](Self::pem) and [`good_until`](Self::good_until) told.
    pub fn from_pem(
        authority_pem: String,
        certificate_pem: String,
        key_pem: Zeroizing<String>,
        good_until: Duration,
    ) -> Self {
        Self { authority_pem, certificate_pem, key_pem, good_until }
    }

    /// When it ends, as time since the Unix epoch.
    pub fn good_until(&self) -> Duration {
        self.good_until
    }

    /// The authority, the certificate, and its private key.
    pub fn pem(&self) -> (&str, &str, &Zeroizing<String>) {
        (&self.authority_pem, &self.certificate_pem, &self.key_pem)
    }

    /// What rustls needs.
    pub(super) fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ServeError> {
        let failed = |e: rustls::pki_types::pem::Error| ServeError::Certificate { what: e.to_string() };
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(failed)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(failed)?;
        Ok((vec![certificate], key.into()))
    }
}

/// The names that it is for.
fn hosts(host: &str) -> Vec<String> {
    let mut hosts: Vec<String> = ["127.0.0.1", "::1", "localhost"].map(Into::into).into();
    let host = host.trim_matches(['[', ']']);
    if !hosts.iter().any(|known| known == host) {
        hosts.push(host.to_owned());
    }
    hosts
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate(..)")
    }
}
