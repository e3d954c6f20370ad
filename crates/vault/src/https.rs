//! What the adapters that speak HTTP by reqwest share.
//!
//! Guarantees: TLS by rustls over aws-lc, for one client alone (no process-wide provider is installed or asked for); a TLS failure is
//! told by its source, not by its text; at most [`MAX_BODY`] bytes of an answer are read, and what was read is wiped when it is dropped,
//! copies that reading made included.

use std::{error::Error, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;
use zeroize::Zeroizing;

/// The most of an answer that is read, in bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// Why TLS can't be set up.
#[derive(Debug)]
pub(crate) enum SetUpError {
    /// The authorities to believe are none, and why.
    Roots(String),
    Rustls(rustls::Error),
}

impl From<rustls::Error> for SetUpError {
    fn from(error: rustls::Error) -> Self {
        Self::Rustls(error)
    }
}

/// TLS that believes these authorities, in PEM, or those that the system believes.
pub(crate) fn tls(roots: Option<&[u8]>) -> Result<ClientConfig, SetUpError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match roots {
        None => builder.with_platform_verifier()?,
        Some(pem) => builder.with_root_certificates(trusted(pem).map_err(SetUpError::Roots)?),
    };
    Ok(builder.with_no_client_auth())
}

fn trusted(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| e.to_string())?;
        store.add(certificate).map_err(|e| e.to_string())?;
    }
    if store.is_empty() { Err("there is no certificate in it".into()) } else { Ok(store) }
}

/// Whether TLS is what failed.
pub(crate) fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An io::Error tells its source's source for its own.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// Why the body of an answer was not read.
#[derive(Debug)]
pub(crate) enum Unread {
    TooLong,
    Broken(reqwest::Error),
}

/// The body of an answer.
pub(crate) async fn read(mut answer: reqwest::Response) -> Result<Zeroizing<Vec<u8>>, Unread> {
    let announced = usize::try_from(answer.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > MAX_BODY {
        return Err(Unread::TooLong);
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced.max(4 << 10)));
    while let Some(chunk) = answer.chunk().await.map_err(Unread::Broken)? {
        let needed = body.len() + chunk.len();
        if needed > MAX_BODY {
            return Err(Unread::TooLong);
        }
        if needed > body.capacity() {
            // By hand: a vector that grows leaves what it held behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[test]
    fn a_tls_failure_is_known_by_its_source_however_deep() {
        #[derive(Debug, Error)]
        #[error("wraps")]
        struct Wraps(#[source] io::Error);
        let tls = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(is_tls(&tls()));
        assert!(is_tls(&Wraps(io::Error::other(tls()))));
        assert!(is_tls(&io::Error::other(Wraps(io::Error::other(tls())))));
        assert!(!is_tls(&Wraps(io::Error::other("certificate unknown, TLS failed"))));
    }

    #[test]
    fn authorities_are_certificates_in_pem() {
        for bad in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n!!\n",
        ] {
            assert!(matches!(tls(Some(bad.as_bytes())), Err(SetUpError::Roots(_))), "{bad:?}");
        }
    }
}
