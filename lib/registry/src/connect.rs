//! Registry URIs.

use std::sync::Arc;

use crate::Registry;
use crate::error::RegistryError;
use crate::fixed::FixedRegistry;
use crate::http::HttpRegistry;

/// Hosts that one URI may list.
const HOSTS_MAX: usize = 64;

/// Opens the registry that `uri` names: `http://host:port[,host:port]` (brokers that keep their own),
/// `static://host:port[,host:port]` (a fixed list of brokers).
///
/// Servers need not be reachable yet: watches stay `None` until they are.
///
/// # Errors
/// When the URI is not one of these.
pub async fn connect(uri: &str) -> Result<Arc<dyn Registry>, RegistryError> {
    let wrong = |reason: &str| RegistryError::Uri { uri: uri.to_owned(), reason: reason.to_owned() };
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Err(wrong("no scheme; expected http://, static://"));
    };
    match scheme {
        "http" => Ok(HttpRegistry::start(&hosts(uri, rest, None)?)),
        "static" => Ok(Arc::new(FixedRegistry::new(&hosts(uri, rest, None)?))),
        "embedded" => {
            Err(wrong("only a broker opens it, in its own data directory; clients say http://host:port"))
        }
        "https" => Err(wrong("TLS is not spoken; expected http://host:port, the HTTP port of a broker")),
        "etcd" => Err(wrong("etcd is not in this version yet; expected http://, static://")),
        _ => Err(wrong("unknown scheme; expected http://, static://")),
    }
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
            ("etcd://http://a:1", "not in this version yet"),
            ("embedded://", "http://host:port"),
            ("https://a:1", "TLS"),
            ("static://a", "\"a\" is not host:port"),
        ] {
            let error = connect(uri).await.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(part) && error.contains(uri), "{uri}: {error}");
        }
    }
}
