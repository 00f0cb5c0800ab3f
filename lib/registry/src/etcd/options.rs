//! What an etcd URI says.
//!
//! `etcd://[user:password@]host:port[,host:port][?option=value&...]`; `http://` or `https://` may stand before each host, and
//! `https` means TLS. Options: `username`, `password`, `ca`, `cert`, `key` (PEM files), `domain` (the name in the servers'
//! certificate), `leaseSeconds`. User, password and option values are percent-encoded where they hold `%@:/,?&`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::connect::hosts;
use crate::error::RegistryError;

const PORT: u16 = 2379;
/// How long a lease outlives the last word of its broker, unless the URI says another time. A third of it passes between two
/// words, and a third is waited for an answer: the rest is for finding another endpoint.
const LEASE_SECONDS: u64 = 10;
const LEASE_SECONDS_MIN: u64 = 2;
const LEASE_SECONDS_MAX: u64 = 600;

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two pings on a quiet connection. A server takes pings that come more often than every five seconds for abuse.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// Longest wait for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// A certificate or key file is a few KiB.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

const KNOWN: &str = "username, password, ca, cert, key, domain, leaseSeconds";

/// Who asks.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Credentials({:?}, ***)", self.name)
    }
}

/// An etcd URI, taken apart.
#[derive(Debug)]
pub(super) struct Options {
    /// `host:port`, at least one.
    pub(super) hosts: Vec<String>,
    is_tls: bool,
    pub(super) credentials: Option<Credentials>,
    ca: Option<PathBuf>,
    /// Of the client: certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
    domain: Option<String>,
    pub(super) lease_ttl: Duration,
}

impl Options {
    /// # Errors
    /// When something is missing, unknown or contradicts something else; the password is not in the error.
    pub(super) fn parse(uri: &str) -> Result<Self, RegistryError> {
        read(uri).map_err(|error| match error {
            RegistryError::Uri { reason, .. } => RegistryError::Uri { uri: without_password(uri), reason },
            other => other,
        })
    }

    /// The URI without user and options.
    pub(super) fn place(&self) -> String {
        format!("etcd://{}{}", if self.is_tls { "https://" } else { "" }, self.hosts.join(","))
    }

    /// How to connect to one host. Certificates are read each time: they are replaced while a broker runs.
    ///
    /// # Errors
    /// When a file cannot be read or is no certificate.
    pub(super) async fn endpoint(&self, host: &str) -> Result<Endpoint, RegistryError> {
        let scheme = if self.is_tls { "https" } else { "http" };
        let wrong = |error: tonic::transport::Error| RegistryError::Content {
            place: self.place(),
            reason: causes(&error),
        };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        if !self.is_tls {
            return Ok(endpoint);
        }
        let mut tls = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
        tls = match &self.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(pem(ca).await?)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(pem(certificate).await?, pem(key).await?));
        }
        if let Some(domain) = &self.domain {
            tls = tls.domain_name(domain);
        }
        endpoint.tls_config(tls).map_err(wrong)
    }
}

/// An error with what is behind it: the outermost one of a transport says little.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

async fn pem(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let wrong = |reason: String| RegistryError::Content { place: path.display().to_string(), reason };
    let meta = tokio::fs::metadata(path).await.map_err(|error| wrong(error.to_string()))?;
    if meta.len() > PEM_BYTES_MAX {
        return Err(wrong(format!("larger than {PEM_BYTES_MAX} bytes; expected a PEM file")));
    }
    let text = tokio::fs::read(path).await.map_err(|error| wrong(error.to_string()))?;
    if !text.windows(10).any(|part| part == b"-----BEGIN") {
        return Err(wrong("holds no -----BEGIN line; expected a PEM file".to_owned()));
    }
    Ok(text)
}

fn read(uri: &str) -> Result<Options, RegistryError> {
    let wrong = |reason: String| RegistryError::Uri { uri: uri.to_owned(), reason };
    let rest = uri.strip_prefix("etcd://").unwrap_or(uri);
    let (list, query) = rest.split_once('?').map_or((rest, ""), |(list, query)| (list, query));
    let mut credentials = None;
    let mut schemes = Vec::new();
    let mut parts = Vec::new();
    for (index, part) in list.strip_suffix('/').unwrap_or(list).split(',').enumerate() {
        let (scheme, place) = part.trim().split_once("://").unwrap_or(("http", part.trim()));
        let (user, host) = place.rsplit_once('@').map_or((None, place), |(user, host)| (Some(user), host));
        if let Some(user) = user {
            if index > 0 {
                return Err(wrong("user and password stand before the first host only".to_owned()));
            }
            let (name, password) = user.split_once(':').ok_or_else(|| {
                wrong("a user without a password; expected user:password@host:port".to_owned())
            })?;
            credentials = Some((decode(name).map_err(wrong)?, decode(password).map_err(wrong)?));
        }
        schemes.push(scheme);
        parts.push(host.strip_suffix('/').unwrap_or(host));
    }
    let is_tls = match schemes.as_slice() {
        all if all.iter().all(|scheme| *scheme == "http") => false,
        all if all.iter().all(|scheme| *scheme == "https") => true,
        _ => {
            return Err(wrong(
                "the hosts have different schemes; all are http:// or all are https://".to_owned(),
            ));
        }
    };
    let hosts = hosts(uri, &parts.join(","), Some(PORT))?;
    let mut options = Options {
        hosts,
        is_tls,
        credentials: None,
        ca: None,
        identity: None,
        domain: None,
        lease_ttl: Duration::from_secs(LEASE_SECONDS),
    };
    let (mut certificate, mut key) = (None, None);
    let (mut name, mut password) = credentials.unzip();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (option, value) =
            pair.split_once('=').ok_or_else(|| wrong(format!("option {pair:?} has no value")))?;
        let value = decode(value).map_err(wrong)?;
        match option {
            "username" => name = Some(value),
            "password" => password = Some(value),
            "ca" => options.ca = Some(value.into()),
            "cert" => certificate = Some(PathBuf::from(value)),
            "key" => key = Some(PathBuf::from(value)),
            "domain" => options.domain = Some(value),
            "leaseSeconds" => options.lease_ttl = lease_ttl(&value).map_err(wrong)?,
            _ => return Err(wrong(format!("unknown option {option:?}; there are {KNOWN}"))),
        }
    }
    options.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(wrong("cert and key go together; one of them is missing".to_owned())),
    };
    options.credentials = match (name, password) {
        (Some(name), Some(password)) if !name.is_empty() => Some(Credentials { name, password }),
        (None, None) => None,
        _ => return Err(wrong("username and password go together; one of them is missing".to_owned())),
    };
    let has_tls_options = options.ca.is_some() || options.identity.is_some() || options.domain.is_some();
    if has_tls_options && !is_tls {
        return Err(wrong(
            "ca, cert, key and domain are for TLS; expected etcd://https://host:port".to_owned(),
        ));
    }
    Ok(options)
}

fn lease_ttl(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX).contains(&seconds) => {
            Ok(Duration::from_secs(seconds))
        }
        _ => Err(format!("leaseSeconds is {LEASE_SECONDS_MIN} to {LEASE_SECONDS_MAX}, not {text:?}")),
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("a % is not followed by two hexadecimal digits; write %25 for one")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "a percent-encoded value is not UTF-8".to_owned())
}

/// The URI as it may be shown.
fn without_password(uri: &str) -> String {
    let (list, query) = uri.split_once('?').map_or((uri, None), |(list, query)| (list, Some(query)));
    let mut shown = match list.rsplit_once('@') {
        Some((before, after)) => {
            let schemes = ["etcd://https://", "etcd://http://", "etcd://"];
            let scheme = schemes.into_iter().find(|scheme| before.starts_with(scheme)).unwrap_or_default();
            format!("{scheme}***@{after}")
        }
        None => list.to_owned(),
    };
    for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        shown.push_str(if pair.starts_with("password=") { "password=***" } else { pair });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Options {
        Options::parse(uri).unwrap()
    }

    #[test]
    fn hosts_are_read_with_and_without_a_scheme() {
        for uri in [
            "etcd://http://a:1,http://b:2379",
            "etcd://a:1,b",
            "etcd://http://a:1/,b/",
            "etcd://a:1,http://b",
        ] {
            let options = parse(uri);
            assert_eq!((options.hosts.join(" "), options.is_tls), ("a:1 b:2379".to_owned(), false), "{uri}");
            assert_eq!(options.place(), "etcd://a:1,b:2379");
        }
        let options =
            parse("etcd://https://a:1,https://[::1]:2?ca=/x/ca.pem&cert=/c&key=/k&domain=etcd.example");
        assert_eq!((options.place().as_str(), options.is_tls), ("etcd://https://a:1,[::1]:2", true));
        assert_eq!(options.ca, Some(PathBuf::from("/x/ca.pem")));
        assert_eq!(options.identity, Some((PathBuf::from("/c"), PathBuf::from("/k"))));
        assert_eq!(options.domain.as_deref(), Some("etcd.example"));
        assert_eq!(parse("etcd://a?leaseSeconds=30").lease_ttl, Duration::from_secs(30));
    }

    #[test]
    fn user_and_password_stand_before_the_hosts_or_in_the_options_and_are_shown_nowhere() {
        for uri in [
            "etcd://kite:s%40cret%2F@a:1,b:2",
            "etcd://http://kite:s%40cret%2F@a:1,http://b:2",
            "etcd://a:1,b:2?username=kite&password=s%40cret%2F",
        ] {
            let options = parse(uri);
            let credentials = options.credentials.as_ref().unwrap();
            assert_eq!(
                (credentials.name.as_str(), credentials.password.as_str()),
                ("kite", "s@cret/"),
                "{uri}"
            );
            assert!(!format!("{options:?}{}", options.place()).contains("cret"), "{options:?}");
            assert!(!without_password(uri).contains("cret"), "{}", without_password(uri));
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (uri, part) in [
            ("etcd://", "is not host:port"),
            ("etcd://a:0", "is not host:port"),
            ("etcd://http://a:1,https://b:1", "different schemes"),
            ("etcd://ftp://a:1", "different schemes"),
            ("etcd://kite@a:1", "without a password"),
            ("etcd://a:1,kite:secret@b:1", "first host only"),
            ("etcd://kite:secret@a:x", "is not host:port"),
            ("etcd://kite:%zz-secret@a:1", "hexadecimal"),
            ("etcd://a:1?password=secret", "go together"),
            ("etcd://a:1?username=kite&password=secret&usrname=x", "unknown option \"usrname\""),
            ("etcd://a:1?ca=/x", "for TLS"),
            ("etcd://https://a:1?cert=/x", "cert and key"),
            ("etcd://a:1?leaseSeconds=1", "2 to 600"),
            ("etcd://a:1?ca", "no value"),
        ] {
            let error = Options::parse(uri).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{uri}: {error}");
        }
    }

    #[tokio::test]
    async fn a_certificate_that_is_none_is_named() {
        let error = parse("etcd://https://a:1?ca=/nonexistent/ca.pem").endpoint("a:1").await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, "nonsense").unwrap();
        let uri = format!("etcd://https://a:1?ca={}", file.display());
        let error = parse(&uri).endpoint("a:1").await.unwrap_err();
        assert!(error.to_string().contains("PEM"), "{error}");
    }
}
