//! Addresses and URIs as they stand in flags and files.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// The registry that the broker keeps itself.
pub(crate) const EMBEDDED_REGISTRY: &str = "embedded://";

/// Where the HTTP port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpAddress {
    /// On the address where clients are listened for.
    Port(u16),
    /// Anywhere.
    Address(SocketAddr),
}

impl HttpAddress {
    /// Reads a port, alone or after a colon, or a whole address.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix(':').unwrap_or(text);
        if let Ok(port) = bare.parse() {
            return Ok(Self::Port(port));
        }
        let address = parse_address(text).map_err(|reason| format!("{reason}; a port alone is enough"))?;
        Ok(Self::Address(address))
    }

    /// The address to listen on, given the one for clients.
    pub(crate) fn beside(self, bind: SocketAddr) -> SocketAddr {
        match self {
            Self::Port(port) => SocketAddr::new(bind.ip(), port),
            Self::Address(address) => address,
        }
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(formatter),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// Reads `127.0.0.1:13800`, `[::1]:13800`, `localhost:13800`, or `:13800` for every interface.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let expected = |reason: &str| format!("expected IP:PORT, such as 127.0.0.1:13800, not {text:?}{reason}");
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    parse_host_port(text).map_err(|_| expected(""))?;
    let found = text.to_socket_addrs().map_err(|error| expected(&format!(": {error}")))?;
    // A name may stand for both families; clients of existing installations know IPv4 alone.
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| expected(": the name has no address"))
}

/// Checks that `text` is `host:port`, without looking the host up.
pub(crate) fn parse_host_port(text: &str) -> Result<String, String> {
    let is_good = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', ' ', ',']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_good {
        Ok(text.to_owned())
    } else {
        Err(format!("expected HOST:PORT, such as broker1:13800, not {text:?}"))
    }
}

/// Completes a registry: `embedded` becomes a URI, and hosts alone are ZooKeeper's.
pub(crate) fn registry_uri(text: &str) -> Result<String, String> {
    let text = text.trim();
    let expected = "expected embedded, zk://HOST:PORT,... or file://FILE";
    match text.split_once("://") {
        Some(("embedded", _)) => Ok(EMBEDDED_REGISTRY.to_owned()),
        Some(("zk" | "etcd" | "file", rest)) if !rest.is_empty() => Ok(text.to_owned()),
        Some(_) => Err(format!("{expected}, not {text:?}")),
        None if text == "embedded" => Ok(EMBEDDED_REGISTRY.to_owned()),
        None if !text.is_empty() && text.split(',').all(|host| parse_host_port(host.trim()).is_ok()) => {
            Ok(format!("zk://{text}"))
        }
        None => Err(format!("{expected}, not {text:?}")),
    }
}

/// A URI with its password left out, for logs and printed configurations.
pub(crate) fn without_password(uri: &str) -> String {
    let Some((place, query)) = uri.split_once('?') else { return uri.to_owned() };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if name.eq_ignore_ascii_case("password") => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    format!("{place}?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, address) in [
            ("127.0.0.1:13800", "127.0.0.1:13800"),
            ("[::1]:1", "[::1]:1"),
            (":13800", "0.0.0.0:13800"),
            ("localhost:13800", "127.0.0.1:13800"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), address);
        }
        for text in ["", "13800", "127.0.0.1", "127.0.0.1:99999", "a b:1", "x/y:1"] {
            assert!(parse_address(text).unwrap_err().contains("127.0.0.1:13800"), "{text}");
        }
    }

    #[test]
    fn an_http_port_alone_is_beside_the_clients() {
        let bind = "10.0.0.1:13800".parse().unwrap();
        for (text, address) in
            [("13801", "10.0.0.1:13801"), (":13801", "10.0.0.1:13801"), ("127.0.0.1:1", "127.0.0.1:1")]
        {
            assert_eq!(HttpAddress::parse(text).unwrap().beside(bind).to_string(), address);
        }
        assert!(HttpAddress::parse("70000").unwrap_err().contains("a port alone"));
    }

    #[test]
    fn registries_are_completed() {
        for (text, uri) in [
            ("localhost:2181", "zk://localhost:2181"),
            ("h1:2181,h2:2181", "zk://h1:2181,h2:2181"),
            ("zk://h1:2181", "zk://h1:2181"),
            ("embedded", "embedded://"),
            ("file://./conf/registry.yaml", "file://./conf/registry.yaml"),
        ] {
            assert_eq!(registry_uri(text).as_deref(), Ok(uri));
        }
        for text in ["", "zk://", "consul://h:1", "h1", "h1:2181,h2"] {
            assert!(registry_uri(text).unwrap_err().contains("zk://HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn passwords_are_left_out() {
        let uri = "mysql://m:3306,s:3306?db=kite&username=root&password=root&maxConn=20";
        let shown = "mysql://m:3306,s:3306?db=kite&username=root&password=***&maxConn=20";
        assert_eq!(without_password(uri), shown);
        assert_eq!(without_password("mmap://./data"), "mmap://./data");
    }
}
