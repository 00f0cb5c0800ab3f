//! The names under which sinks present themselves below `/flume/{business}`.
//!
//! | form | example |
//! |---|---|
//! | `host_port` | `flume1_4545` |
//! | `host_port_SEQ` | `flume1_4545_0000000012` |
//! | `host:port` | `flume1:4545` |
//! | `host:port_SEQ` | `flume1:4545_0000000012` |
//!
//! A host may contain `_` itself; an IPv6 address stands in brackets. So in `a_1_2345` the port is either number. This
//! decides: **a last number that is written like a port of a service, 1024 to 65535 without a leading zero, is the port.
//! Any other last number is a sequence number when the number before it is a port (1 to 65535, no leading zero), else it
//! is itself the port.** The sequence numbers that ZooKeeper appends have ten digits and are never mistaken; one written by
//! hand is, when it looks like a service's port.

use std::fmt;
use std::net::Ipv6Addr;

/// The longest name of a host in the DNS.
const HOST_BYTES_MAX: usize = 253;
/// Ports below are the system's: sources of Flume do not listen there.
const SERVICE_PORT_MIN: u16 = 1024;

/// Where a sink listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SinkAddress {
    host: String,
    port: u16,
}

impl SinkAddress {
    /// A name, or an address (an IPv6 one without brackets).
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that a sink's node is named for; `None` when the name has none of the forms.
    #[must_use]
    pub fn from_node(name: &str) -> Option<Self> {
        if let Some((address, rest)) = name.strip_prefix('[').and_then(|name| name.split_once(']')) {
            address.parse::<Ipv6Addr>().ok()?;
            let (host, port) = match rest.strip_prefix(':') {
                Some(rest) => ("", port_and_sequence(rest)?),
                None => last_port(rest)?,
            };
            return host.is_empty().then(|| Self { host: address.to_owned(), port });
        }
        let (host, port) = match name.split_once(':') {
            Some((host, rest)) => (host, port_and_sequence(rest)?),
            None => last_port(name)?,
        };
        is_host(host).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for SinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// `port` or `port_SEQ`.
fn port_and_sequence(text: &str) -> Option<u16> {
    match text.split_once('_') {
        Some((text, sequence)) => is_number(sequence).then(|| port(text)).flatten(),
        None => port(text),
    }
}

/// `host_port` or `host_port_SEQ`, taken apart by the rule above.
fn last_port(name: &str) -> Option<(&str, u16)> {
    let (before, last) = name.rsplit_once('_')?;
    if !is_number(last) {
        return None;
    }
    if let Some(port) = port(last).filter(|&port| port >= SERVICE_PORT_MIN) {
        return Some((before, port));
    }
    let with_sequence = before.rsplit_once('_').and_then(|(host, text)| Some((host, port(text)?)));
    with_sequence.or_else(|| Some((before, port(last)?)))
}

fn port(text: &str) -> Option<u16> {
    let is_plain = is_number(text) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_host(host: &str) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(is_sound)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(name: &str) -> Option<String> {
        SinkAddress::from_node(name).map(|address| address.to_string())
    }

    #[test]
    fn every_form_is_understood() {
        for (name, address) in [
            ("flume1_4545", "flume1:4545"),
            ("flume1_4545_0000000012", "flume1:4545"),
            ("flume1_4545_2147483647", "flume1:4545"),
            ("flume1:4545", "flume1:4545"),
            ("flume1:4545_0000000012", "flume1:4545"),
            ("flume1:4545_7", "flume1:4545"),
            ("10.83.1.7_61111_0000000001", "10.83.1.7:61111"),
            ("log_node_1_4545", "log_node_1:4545"),
            ("log_node_1_4545_0000000012", "log_node_1:4545"),
            ("log_node:4545_0000000012", "log_node:4545"),
            ("[::1]_4545", "[::1]:4545"),
            ("[::1]_4545_0000000012", "[::1]:4545"),
            ("[2001:db8::7]:4545", "[2001:db8::7]:4545"),
            ("[2001:db8::7]:4545_0000000012", "[2001:db8::7]:4545"),
        ] {
            assert_eq!(parsed(name).as_deref(), Some(address), "{name}");
        }
    }

    #[test]
    fn the_rule_decides_what_could_be_either() {
        for (name, address) in [
            // A last number that looks like a service's port is one, whatever stands before it.
            ("web_1_9090", "web_1:9090"),
            ("web_2024_9090", "web_2024:9090"),
            ("flume_4545_1024", "flume_4545:1024"),
            // Others are sequence numbers where a port stands before them,
            ("flume_4545_1023", "flume:4545"),
            ("flume_4545_3", "flume:4545"),
            ("flume_4545_03000", "flume:4545"),
            ("flume_80_70000", "flume:80"),
            // and ports where none does.
            ("flume_80", "flume:80"),
            ("web_x_80", "web_x:80"),
            ("web_007_80", "web_007:80"),
        ] {
            assert_eq!(parsed(name).as_deref(), Some(address), "{name}");
        }
    }

    #[test]
    fn what_names_no_sink_is_refused() {
        for name in [
            "",
            "_",
            "__",
            "flume",
            "flume_",
            "_4545",
            "flume_x",
            "flume_0",
            "flume_070",
            "flume_65536",
            "flume_4545_",
            "flume_4545_x",
            "flume:",
            ":4545",
            "flume:0",
            "flume:x",
            "flume:4545_",
            "flume:4545_x",
            "flume:4545_1_2",
            "flume:65536",
            "a b_4545",
            "::1_4545",
            "::1:4545",
            "[::1]",
            "[::1]4545",
            "[::1]x_4545",
            "[::1_4545",
            "[no]_4545",
            "flüme_4545",
            "flume_\u{661}_4545\u{661}",
            "_4545_0000000001",
            "flume_-1",
        ] {
            assert_eq!(parsed(name), None, "{name}");
        }
        assert_eq!(parsed(&format!("{}_4545", "x".repeat(254))), None);
    }

    proptest! {
        #[test]
        fn what_zookeeper_numbers_is_taken_apart_exactly(
            host in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,40}",
            port in 1u16..,
            sequence in "[0-9]{10}",
        ) {
            let expected = Some(format!("{host}:{port}"));
            prop_assert_eq!(parsed(&format!("{host}_{port}_{sequence}")), expected.clone());
            prop_assert_eq!(parsed(&format!("{host}:{port}_{sequence}")), expected.clone());
            prop_assert_eq!(parsed(&format!("{host}:{port}")), expected);
        }

        #[test]
        fn a_service_port_at_the_end_is_the_port(
            host in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,40}",
            port in SERVICE_PORT_MIN..,
        ) {
            prop_assert_eq!(parsed(&format!("{host}_{port}")), Some(format!("{host}:{port}")));
        }

        #[test]
        fn any_text_is_refused_or_names_a_host_and_a_port(name in "\\PC{0,60}|[a-z0-9_:\\[\\]]{0,30}") {
            if let Some(address) = SinkAddress::from_node(&name) {
                prop_assert!(address.port() > 0 && !address.host().is_empty());
                prop_assert!(name.contains(address.host()));
                prop_assert_eq!(parsed(&address.to_string()), Some(address.to_string()));
            }
        }
    }
}
