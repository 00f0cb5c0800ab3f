//! TLS towards Redis servers.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};

/// A connector that trusts the authorities in a PEM file, or the system's. Reads files: for the start of a program.
pub(crate) fn connector(authorities: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let unreadable =
                |error| format!("{}: {error}; a PEM file with certificates is expected", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                roots.add(certificate.map_err(unreadable)?).map_err(|error| error.to_string())?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(
            "there is no authority to trust: name a PEM file with the one of the Redis servers".to_owned()
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What has failed on a connection that speaks TLS, or was to do so, and what to do about it; nothing when it is not about TLS.
pub(crate) fn explain(error: &io::Error) -> Option<String> {
    let cause = error.get_ref()?.downcast_ref::<Error>()?;
    let advice = match cause {
        // A bad signature is one by an authority that bears the name of a trusted one.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "no authority that is trusted has signed its certificate; name the PEM file of the one that has: --redis-authorities"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "name the host as its certificate does",
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "its certificate has to be renewed, or a clock is wrong, its or ours",
        Error::InvalidCertificate(_) => "its certificate has to be replaced",
        Error::InvalidMessage(_) => NOT_TLS,
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate,
        ) => {
            "it may want a certificate of its clients, which a bridge does not have: see its tls-auth-clients"
        }
        _ => return Some(cause.to_string()),
    };
    Some(format!("{cause} ({advice})"))
}

/// What to do about a server that does not answer a greeting as a TLS server does.
pub(crate) const NOT_TLS: &str =
    "if it speaks no TLS at this port, its host is written redis://, not rediss://";
