//! Certificates that are right, and those that are not.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::Speaks;

/// A server's certificate, and the authority that a client is told to trust.
pub(super) struct Certificate {
    pub(super) authority: String,
    config: Arc<ServerConfig>,
}

impl Certificate {
    pub(super) fn new(speaks: Speaks) -> Self {
        let trusted = authority("Cofferdam tests");
        let other = authority("Somebody else");
        let issuer = if speaks == Speaks::HttpsOfAnotherAuthority { &other } else { &trusted };
        let names = match speaks {
            Speaks::HttpsOfAnotherName => vec!["vault.example".to_owned()],
            _ => vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        };
        let key = KeyPair::generate().expect("a key for the server");
        let mut params = CertificateParams::new(names).expect("names that certificates may have");
        params.distinguished_name.push(DnType::CommonName, "A server of Cofferdam's tests");
        if speaks == Speaks::HttpsExpired {
            (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        }
        let certificate = params.signed_by(&key, issuer).expect("a certificate for the server");
        let chain = vec![certificate.der().clone(), issuer.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has every version")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        Self { authority: trusted.pem(), config: Arc::new(config) }
    }

    /// A server's side of a new connection.
    pub(super) fn accept(&self) -> ServerConnection {
        ServerConnection::new(self.config.clone()).expect("settings that rustls has taken already")
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key for the authority");
    CertifiedIssuer::self_signed(params, key).expect("a certificate for the authority")
}
