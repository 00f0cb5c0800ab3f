//! An authority, and what it has signed, for servers that speak TLS.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Files (PEM) of an authority of a test's own, and of a certificate and its key that serve a server on loopback and its
/// clients alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// Who trusts it trusts the certificate.
    pub authority: PathBuf,
    /// Good for `127.0.0.1` and `localhost`.
    pub certificate: PathBuf,
    /// The certificate's.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes an authority that nobody knows yet, named for the directory, and a certificate that it signs.
    #[must_use]
    pub fn make(directory: &Path) -> Self {
        let files = Self::in_directory(directory);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("authority of {}", directory.display()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(&files.authority, authority.pem()).unwrap();
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// Where they are, or will be.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        let [authority, certificate, key] =
            ["ca.pem", "cert.pem", "key.pem"].map(|name| directory.join(name));
        Self { authority, certificate, key }
    }
}
