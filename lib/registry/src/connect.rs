//! Registry URIs.

use std::path::PathBuf;
use std::sync::Arc;

use crate::Registry;
use crate::error::RegistryError;
use crate::etcd::EtcdRegistry;
use crate::file::FileRegistry;
use crate::fixed::FixedRegistry;
use crate::http::HttpRegistry;
use crate::zk::ZkRegistry;

/// Hosts that one URI may list.
const HOSTS_MAX: usize = 64;
const ZK_PORT: u16 = 2181;

/// The forms of URI, for errors.
const FORMS: &str = "http://host:port[,host:port], file://path[?env=name], zk://host:port[,host:port], etcd://host:port[,host:port], static://host:port[,host:port]";

/// Opens the registry that `uri` names: `http://host:port[,host:port]` (brokers that keep their own), `file://path[?env=name]`
/// (a YAML file), `zk://host:port[,host:port]` (ZooKeeper), `etcd://host:port[,host:port]` (etcd; see
/// [`EtcdRegistry::open`]), `static://host:port[,host:port]` (a fixed list of brokers).
///
/// Servers need not be reachable yet: watches stay `None` until they are.
///
/// # Errors
/// When the URI is not one of these, or names a file that cannot be read or is not what it must be.
pub async fn connect(uri: &str) -> Result<Arc<dyn Registry>, RegistryError> {
    let wrong = |reason: &str| RegistryError::Uri { uri: uri.to_owned(), reason: reason.to_owned() };
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Err(wrong(&format!("no scheme; expected {FORMS}")));
    };
    match scheme {
        "http" => Ok(HttpRegistry::start(&hosts(uri, rest, None)?)),
        "file" => {
            let (path, env) = file(uri, rest)?;
            Ok(FileRegistry::open(&path, env).await?)
        }
        "zk" => Ok(ZkRegistry::start(&hosts(uri, rest, Some(ZK_PORT))?, ZkRegistry::SESSION_TIMEOUT)),
        "static" => Ok(Arc::new(FixedRegistry::new(&hosts(uri, rest, None)?))),
        "embedded" => {
            Err(wrong("only a broker opens it, in its own data directory; clients say http://host:port"))
        }
        "https" => Err(wrong("TLS is not spoken; expected http://host:port, the HTTP port of a broker")),
        "etcd" => Ok(EtcdRegistry::open(uri).await?),
        _ => Err(wrong(&format!("unknown scheme; expected {FORMS}"))),
    }
}

/// The path and the environment of a `file://` URI.
fn file(uri: &str, rest: &str) -> Result<(PathBuf, Option<String>), RegistryError> {
    let wrong = |reason: String| RegistryError::Uri { uri: uri.to_owned(), reason };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    if path.is_empty() {
        return Err(wrong("no path; expected file://path[?env=name]".to_owned()));
    }
    let env = match query.map(|query| query.split_once('=')) {
        None => None,
        Some(Some(("env", env))) if !env.is_empty() && !env.contains('&') => Some(env.to_owned()),
        Some(_) => return Err(wrong(format!("unknown query {query:?}; expected ?env=name"))),
    };
    Ok((PathBuf::from(path), env))
}

/// The `host:port` list of a URI. `default_port` is for hosts that name none.
pub(crate) fn hosts(uri: &str, rest: &str, default_port: Option<u16>) -> Result<Vec<String>, RegistryError> {
    let wrong = |reason: String| RegistryError::Uri { uri: uri.to_owned(), reason };
    let list = rest.strip_suffix('/').unwrap_or(rest);
    let mut hosts: Vec<String> = Vec::new();
    for part in list.split(',').map(str::trim) {
        let host = match (with_port(part), default_port) {
            (true, _) => part.to_owned(),
            (false, Some(port)) if is_host(part) => format!("{part}:{port}"),
            _ => return Err(wrong(format!("{part:?} is not host:port"))),
        };
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.len() > HOSTS_MAX {
        return Err(wrong(format!("{} hosts are listed; at most {HOSTS_MAX} are allowed", hosts.len())));
    }
    Ok(hosts)
}

/// Whether `address` is `host:port`, as clients connect to it.
pub(crate) fn with_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_host(host: &str) -> bool {
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
    !host.is_empty() && host.len() <= 253 && host.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_lists_are_read() {
        let read = |rest| hosts("uri", rest, None).unwrap();
        assert_eq!(read("a:1,b.example:65535/"), ["a:1", "b.example:65535"]);
        assert_eq!(read("[::1]:80, a:1 ,a:1"), ["[::1]:80", "a:1"]);
        assert_eq!(hosts("uri", "a,b:1", Some(2181)).unwrap(), ["a:2181", "b:1"]);
        for rest in
            ["", "a", "a:0", "a:70000", "a:1,,b:2", "a:1/path", "user:secret@a:1", "a b:1", "[::g]:1", ":1"]
        {
            assert!(hosts("uri", rest, None).is_err(), "{rest}");
        }
    }

    #[tokio::test]
    async fn a_wrong_uri_says_what_is_expected() {
        for (uri, part) in [
            ("localhost:2181", "no scheme"),
            ("consul://a:1", "unknown scheme; expected http://"),
            ("etcd://http://a:x", "is not host:port"),
            ("embedded://", "http://host:port"),
            ("https://a:1", "TLS"),
            ("static://a", "\"a\" is not host:port"),
            ("file://", "no path"),
            ("file://registry.yaml?envi=dev", "?env=name"),
            ("zk://localhost:0", "is not host:port"),
        ] {
            let error = connect(uri).await.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(part) && error.contains(uri), "{uri}: {error}");
        }
    }
}
