//! TLS, from PEM files.
//!
//! Flume's keystores often hold certificates that keytool signed with themselves and that name no host. They are not verified by
//! name but recognised: a certificate that stands itself in the CA file is accepted from whoever proves to have its key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Where a client's certificates are. All files are PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that sign sources' certificates, or these certificates themselves. `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// The name that a source's certificate has to carry. `None`: the host that is connected to.
    pub server_name: Option<String>,
    /// Our certificate and its chain, for sources that ask for one.
    pub certificate: Option<PathBuf>,
    /// The key of our certificate.
    pub key: Option<PathBuf>,
}

/// Where a server's certificates are. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsServerFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of clients' certificates. `None`: clients need none.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is not PEM.
    #[error("cannot read {what} from {}: {reason}; a PEM file is expected", path.display())]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it was not found.
        reason: String,
    },
    /// There are no authorities to trust.
    #[error("the system has no certificate authorities: name a CA file")]
    NoAuthorities,
    /// A certificate without a key, or the other way round.
    #[error("a client certificate and its key go together: give both or neither")]
    HalfIdentity,
    /// No DNS name or IP address.
    #[error("\"{0}\" is no name that a certificate can carry")]
    ServerName(String),
    /// The parts do not fit together.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
    /// The authorities make no verifier.
    #[error("the certificate authorities cannot be used: {0}")]
    Verifier(String),
}

/// A client's TLS, ready to be used for any number of connections. Clones share it, and the sessions that it remembers.
#[derive(Clone)]
pub struct TlsOptions {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsOptions").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl TlsOptions {
    /// Reads the files. Blocks on the disk: for the start of a program.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in them cannot be used.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = KnownOrSigned::load(files.ca.as_deref(), &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match (&files.certificate, &files.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
            }
            _ => return Err(TlsError::HalfIdentity),
        };
        let server_name = files
            .server_name
            .clone()
            .map(|name| ServerName::try_from(name.clone()).map_err(|_| TlsError::ServerName(name)));
        Ok(Self { config: Arc::new(config), server_name: server_name.transpose()? })
    }

    pub(crate) async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }
}

/// A server's TLS.
#[derive(Clone)]
pub struct TlsServerOptions(Arc<ServerConfig>);

impl std::fmt::Debug for TlsServerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsServerOptions").finish_non_exhaustive()
    }
}

impl TlsServerOptions {
    /// Reads the files. Blocks on the disk: for the start of a program.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in them cannot be used.
    pub fn load(files: &TlsServerFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| TlsError::Verifier(error.to_string()))?,
                )
            }
        };
        let config = builder.with_single_cert(certificates(&files.certificate)?, private_key(&files.key)?)?;
        Ok(Self(Arc::new(config)))
    }

    pub(crate) async fn handshake(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        TlsAcceptor::from(Arc::clone(&self.0)).accept(stream).await
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |reason: String| TlsError::File { what: "certificates", path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates.map_err(|cause| error(cause.to_string()))? {
        none if none.is_empty() => Err(error("there are none in it".to_owned())),
        certificates => Ok(certificates),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|cause| TlsError::File {
        what: "a private key",
        path: path.to_owned(),
        reason: cause.to_string(),
    })
}

/// Accepts a certificate that it knows, and otherwise what the usual verification accepts.
#[derive(Debug)]
struct KnownOrSigned {
    known: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl KnownOrSigned {
    fn load(ca: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let known = ca.map(certificates).transpose()?.unwrap_or_default();
        let mut roots = RootCertStore::empty();
        if ca.is_some() {
            roots.add_parsable_certificates(known.iter().cloned());
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            return Err(TlsError::NoAuthorities);
        }
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| TlsError::Verifier(error.to_string()))?;
        Ok(Self { known, signed })
    }
}

impl ServerCertVerifier for KnownOrSigned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.known.iter().any(|known| known == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}
