//! Addresses and URIs as they stand in flags and files.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// Where the HTTP port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpAddress {
    /// On the address where clients are listened for.
    Port(u16),
    /// Anywhere.
    Address(SocketAddr),
}

impl HttpAddress {
    /// Reads a port, alone or after a colon, or a whole address.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix(':').unwrap_or(text);
        if let Ok(port) = bare.parse() {
            return Ok(Self::Port(port));
        }
        let address = parse_address(text).map_err(|reason| format!("{reason}; a port alone is enough"))?;
        Ok(Self::Address(address))
    }

    /// The address to listen on, given the one for clients.
    #[must_use]
    pub fn beside(self, bind: SocketAddr) -> SocketAddr {
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
///
/// # Errors
/// What is expected instead, or why the name has no address.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
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
///
/// # Errors
/// What is expected instead.
pub fn parse_host_port(text: &str) -> Result<String, String> {
    let is_good = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', ' ', ',']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_good {
        Ok(text.to_owned())
    } else {
        Err(format!("expected HOST:PORT, such as broker1:13800, not {text:?}"))
    }
}

/// A text that may be a URI, with its password left out, for logs and printed configurations.
#[must_use]
pub fn without_password(uri: &str) -> String {
    let uri = without_user_password(uri);
    let Some((place, query)) = uri.split_once('?') else { return uri };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if name.eq_ignore_ascii_case("password") => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    format!("{place}?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&"))
}

/// `redis://user:***@host`.
fn without_user_password(uri: &str) -> String {
    let parts = uri.split_once("://").and_then(|(scheme, rest)| {
        // A password may hold an @ of its own, so the last one before the path ends it.
        let authority_end = rest.find('/').unwrap_or(rest.len());
        let at = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@'))?;
        let (user, _) = rest[..at].split_once(':')?;
        Some(format!("{scheme}://{user}:***{}", &rest[at..]))
    });
    parts.unwrap_or_else(|| uri.to_owned())
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
    fn passwords_are_left_out() {
        let uri = "mysql://m:3306,s:3306?db=kite&username=root&password=root&maxConn=20";
        let shown = "mysql://m:3306,s:3306?db=kite&username=root&password=***&maxConn=20";
        assert_eq!(without_password(uri), shown);
        for (uri, shown) in [
            ("mmap://./data", "mmap://./data"),
            ("redis://:p@ss@h:6379/1", "redis://:***@h:6379/1"),
            ("rediss://u:p/q@h:6379", "rediss://u:***@h:6379"),
            ("redis://u@h:6379", "redis://u@h:6379"),
            ("h:6379", "h:6379"),
            ("etcd://kite:secret@h1:2379,h2:2379", "etcd://kite:***@h1:2379,h2:2379"),
            ("etcd://https://kite:secret@h1:2379?ca=/ca.pem", "etcd://https:***@h1:2379?ca=/ca.pem"),
        ] {
            assert_eq!(without_password(uri), shown);
        }
    }
}
