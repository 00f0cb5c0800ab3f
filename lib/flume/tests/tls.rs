//! TLS with certificates made on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiteq_flume::{
    Answer, ConnectOptions, Connection, FlumeError, Protocol, ServerOptions, Status, TlsError, TlsFiles,
    TlsOptions, TlsServerFiles, TlsServerOptions,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use support::{Script, Source, batch, options, source};

const COMPACT: Protocol = Protocol::Compact;

/// Authority, certificates of a server and of a client, and a self-signed one without any host name.
struct Pki {
    directory: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let pki = Self { directory: tempfile::tempdir().unwrap() };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        pki.write("ca.pem", &ca.pem());
        for name in ["localhost", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            pki.write(&format!("{name}.pem"), &params.signed_by(&key, &ca).unwrap().pem());
            pki.write(&format!("{name}.key"), &key.serialize_pem());
        }
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Flume agent");
        pki.write("self.pem", &params.self_signed(&key).unwrap().pem());
        pki.write("self.key", &key.serialize_pem());
        pki
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn source(&self, name: &str, client_ca: Option<PathBuf>) -> Source {
        let certificate = self.path(&format!("{name}.pem"));
        let files = TlsServerFiles { certificate, key: self.path(&format!("{name}.key")), client_ca };
        let tls = Some(TlsServerOptions::load(&files).unwrap());
        source(ServerOptions { tls, ..ServerOptions::default() }, Script::new(&[Answer::Status(Status::Ok)]))
            .await
    }
}

fn trusting(ca: &Path) -> TlsFiles {
    TlsFiles { ca: Some(ca.to_owned()), ..TlsFiles::default() }
}

/// Connects and sends a batch.
async fn deliver(source: &Source, host: &str, files: &TlsFiles) -> Result<Connection, FlumeError> {
    let options = ConnectOptions { tls: Some(TlsOptions::load(files).unwrap()), ..options(COMPACT) };
    let mut connection = Connection::connect(host, source.address.port(), &options).await?;
    connection.append_batch(&batch(COMPACT, &[b"a", &vec![1; 4 << 20]])).await?;
    connection.append_batch(&batch(COMPACT, &[b"b"])).await?;
    Ok(connection)
}

#[tokio::test]
async fn a_certificate_of_a_known_authority_is_accepted_for_its_host() {
    let pki = Pki::new();
    let source = pki.source("localhost", None).await;
    let mut connection = deliver(&source, "localhost", &trusting(&pki.path("ca.pem"))).await.unwrap();
    assert!(connection.is_usable());

    let error = deliver(&source, "127.0.0.1", &trusting(&pki.path("ca.pem"))).await.unwrap_err();
    assert!(matches!(error, FlumeError::Connect { .. }), "{error}");
    let named = TlsFiles { server_name: Some("localhost".to_owned()), ..trusting(&pki.path("ca.pem")) };
    deliver(&source, "127.0.0.1", &named).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let pki = Pki::new();
    let source = pki.source("self", None).await;
    let error = deliver(&source, "localhost", &trusting(&pki.path("ca.pem"))).await.unwrap_err();
    assert!(matches!(error, FlumeError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_is_recognised_when_the_ca_file_holds_it() {
    let pki = Pki::new();
    let source = pki.source("self", None).await;
    deliver(&source, "127.0.0.1", &trusting(&pki.path("self.pem"))).await.unwrap();
    // Knowing one certificate does not open the door to others.
    let other = pki.source("localhost", None).await;
    assert!(deliver(&other, "localhost", &trusting(&pki.path("self.pem"))).await.is_err());
}

#[tokio::test]
async fn a_client_shows_its_certificate_to_a_source_that_asks_for_one() {
    let pki = Pki::new();
    let source = pki.source("localhost", Some(pki.path("ca.pem"))).await;
    let identified = TlsFiles {
        certificate: Some(pki.path("client.pem")),
        key: Some(pki.path("client.key")),
        ..trusting(&pki.path("ca.pem"))
    };
    deliver(&source, "localhost", &identified).await.unwrap();
    assert!(deliver(&source, "localhost", &trusting(&pki.path("ca.pem"))).await.is_err());
}

#[tokio::test]
async fn speaking_tls_to_a_source_without_it_is_told() {
    let pki = Pki::new();
    let source = source(ServerOptions::default(), Script::new(&[Answer::Status(Status::Ok)])).await;
    let error = deliver(&source, "localhost", &trusting(&pki.path("ca.pem"))).await.unwrap_err();
    assert!(matches!(error, FlumeError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn speaking_plainly_to_a_source_with_tls_is_told() {
    let source = Pki::new().source("localhost", None).await;
    let mut connection =
        Connection::connect("localhost", source.address.port(), &options(COMPACT)).await.unwrap();
    let error = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Protocol { .. } | FlumeError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_handshake_that_is_not_answered_costs_the_connect_timeout() {
    let pki = Pki::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect_timeout = Duration::from_millis(200);
    let tls = Some(TlsOptions::load(&trusting(&pki.path("ca.pem"))).unwrap());
    let options = ConnectOptions { connect_timeout, tls, ..options(COMPACT) };
    let port = listener.local_addr().unwrap().port();
    let error = Connection::connect("localhost", port, &options).await.unwrap_err();
    assert!(matches!(error, FlumeError::Timeout { timeout, .. } if timeout == connect_timeout), "{error}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let pki = Pki::new();
    pki.write("empty.pem", "nothing here\n");
    let missing = TlsOptions::load(&trusting(&pki.path("missing.pem"))).unwrap_err();
    assert!(missing.to_string().contains("missing.pem"), "{missing}");
    let empty = TlsOptions::load(&trusting(&pki.path("empty.pem"))).unwrap_err();
    assert!(empty.to_string().contains("empty.pem"), "{empty}");
    let half = TlsFiles { certificate: Some(pki.path("client.pem")), ..trusting(&pki.path("ca.pem")) };
    assert!(matches!(TlsOptions::load(&half), Err(TlsError::HalfIdentity)));
    let name = TlsFiles { server_name: Some("not a name".to_owned()), ..trusting(&pki.path("ca.pem")) };
    assert!(matches!(TlsOptions::load(&name), Err(TlsError::ServerName(_))));
}
