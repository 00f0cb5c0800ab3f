//! Which names and addresses are this machine's.

use std::net::{IpAddr, UdpSocket};

/// This machine, as its brokers call it.
#[derive(Debug)]
pub(super) struct Machine {
    /// What a Go broker writes as the owner of its messages.
    host_name: String,
    /// The host of the address that this broker registers.
    advertised_host: String,
}

impl Machine {
    /// The machine that this runs on.
    pub(super) fn this(advertised: &str) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self::named(name.trim(), host_of(advertised))
    }

    pub(super) fn named(host_name: &str, advertised_host: &str) -> Self {
        Self { host_name: host_name.to_owned(), advertised_host: advertised_host.to_owned() }
    }

    /// Whether a bare host name is this machine's.
    pub(super) fn is_named(&self, name: &str) -> bool {
        !name.is_empty() && short(name) == short(&self.host_name)
    }

    /// Whether a `host:port` is, or may well be, on this machine.
    pub(super) fn has(&self, address: &str) -> bool {
        let host = host_of(address);
        match host.parse::<IpAddr>() {
            Ok(ip) => host == self.advertised_host || ip.is_loopback() || is_local(ip),
            Err(_) => {
                host == "localhost"
                    || short(host) == short(&self.host_name)
                    || short(host) == short(&self.advertised_host)
            }
        }
    }
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn short(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
}

/// Only an address of this machine can be bound to.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_recognized() {
        let machine = Machine::named("box.example.com", "10.1.2.3");
        assert!(machine.is_named("box") && machine.is_named("box.example.com"));
        assert!(!machine.is_named("boxer") && !machine.is_named(""));
        assert!(machine.has("10.1.2.3:9") && machine.has("[::1]:9") && machine.has("box:9"));
        // Documentation addresses are nobody's.
        assert!(!machine.has("192.0.2.7:9") && !machine.has("other.example.com:9"));
    }
}
