//! Which sinks are on this host: batches go to them first.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

/// Longest wait for the addresses of a host.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// An address that no host has: it is reserved for documentation.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Knows this host by its names and addresses.
#[derive(Debug, Clone)]
pub struct Locality {
    names: BTreeSet<String>,
    /// Whether an address can be told to be this host's.
    by_address: bool,
}

impl Locality {
    /// This host, which is also known under `names`.
    #[must_use]
    pub fn of_this_host(names: &[String]) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let known = names.iter().map(String::as_str).chain(["localhost", kernel.trim()]);
        // Where any address can be bound, binding tells nothing.
        Self { by_address: !can_bind(NOBODY), ..Self::of_names(known) }
    }

    /// A host that is known under these names only; its addresses do not count.
    #[must_use]
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().filter(|name| !name.is_empty()).map(str::to_ascii_lowercase);
        Self { names: names.collect(), by_address: false }
    }

    /// Whether `host` is this one; asks for the addresses of a name that it does not know.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn contains(&self, host: &str) -> bool {
        if self.names.contains(&host.to_ascii_lowercase()) {
            return true;
        }
        if !self.by_address {
            return false;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return is_own(address);
        }
        match timeout(LOOKUP_TIMEOUT, lookup_host((host, 0))).await {
            Ok(Ok(mut addresses)) => addresses.any(|address| is_own(address.ip())),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || (!address.is_unspecified() && !address.is_multicast() && can_bind(address))
}

/// Only addresses of this host's interfaces can be bound. Nothing is sent.
fn can_bind(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_loopback_are_this_host_and_others_are_not() {
        let here = Locality::of_this_host(&["Log7.Example".to_owned()]);
        for host in ["log7.example", "LOCALHOST", "127.0.0.1", "127.3.2.1", "::1"] {
            assert!(here.contains(host).await, "{host}");
        }
        let mut others = vec!["log8.example.invalid", "0.0.0.0", "224.0.0.1"];
        if here.by_address {
            others.push("192.0.2.1");
        }
        for host in others {
            assert!(!here.contains(host).await, "{host}");
        }
    }

    #[tokio::test]
    async fn where_only_names_count_addresses_do_not() {
        let here = Locality::of_names(["a"]);
        assert!(here.contains("A").await && !here.contains("127.0.0.1").await);
    }
}
