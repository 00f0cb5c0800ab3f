//! Where a Redis server is, and who we are there.

use std::fmt;

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::error::StartError;

/// A server, with credentials that are never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: i64,
}

impl Address {
    /// Reads `host:port`, `host`, or a `redis` or `rediss` URL.
    pub(crate) fn parse(text: &str) -> Result<Self, StartError> {
        let refuse = |reason: String| StartError::RedisHost { host: without_password(text), reason };
        let url = if text.contains("://") { text.to_owned() } else { format!("redis://{text}") };
        if !url.starts_with("redis://") && !url.starts_with("rediss://") {
            return Err(refuse("its scheme is neither redis nor rediss".to_owned()));
        }
        let info = url.as_str().into_connection_info().map_err(|error| refuse(error.to_string()))?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(refuse(
                    "#insecure is not supported: name the authority's file instead".to_owned(),
                ));
            }
            ConnectionAddr::TcpTls { host, port, .. } => (host.clone(), *port, true),
            _ => return Err(refuse("only TCP and TLS are supported".to_owned())),
        };
        if host.is_empty() {
            return Err(refuse("it names no host".to_owned()));
        }
        let settings = info.redis_settings();
        Ok(Self {
            host,
            port,
            tls,
            user: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
        })
    }
}

/// What stands before an `@` is not for logs.
fn without_password(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            format!("{scheme}***@{host}")
        }
        None => text.to_owned(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, Self { host, port, .. }) = (if self.tls { "rediss://" } else { "" }, self);
        let colons = host.contains(':');
        let (open, close) = if colons && !host.starts_with('[') { ("[", "]") } else { ("", "") };
        write!(formatter, "{scheme}{open}{host}{close}:{port}")?;
        if self.database == 0 { Ok(()) } else { write!(formatter, "/{}", self.database) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let plain = Address::parse("cache-1:7000").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.tls), ("cache-1", 7000, false));
        assert_eq!(Address::parse("cache-1").unwrap().port, 6379);
        let full = Address::parse("rediss://bridge:s%40crt@10.0.0.1:6380/3").unwrap();
        assert_eq!((full.user.as_deref(), full.password.as_deref()), (Some("bridge"), Some("s@crt")));
        assert_eq!(
            (full.tls, full.database, full.to_string().as_str()),
            (true, 3, "rediss://10.0.0.1:6380/3")
        );
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for text in
            ["", "http://h:1", "h:port", "redis://:hush@h:99999", "redis://u:hush@h:1/x", "redis://h:70000"]
        {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(
                error.contains("redis://user:password@host:port/db") && !error.contains("hush"),
                "{error}"
            );
        }
    }
}
