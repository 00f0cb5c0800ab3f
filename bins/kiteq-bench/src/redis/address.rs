//! Where a Redis server is.

use std::fmt;
use std::str::FromStr;

const PORT_DEFAULT: u16 = 6379;

/// `host:port`, or `redis://[user][:password@]host[:port][/db]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// A user of Redis's access control lists.
    pub user: Option<String>,
    /// What the server asks for.
    pub password: Option<String>,
    /// The database to select.
    pub database: u32,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            format!("{text:?} is no Redis server: expected HOST:PORT or redis://[:PASSWORD@]HOST:PORT[/DB]")
        };
        if text.starts_with("rediss://") {
            return Err(format!("{text:?}: this tool speaks to Redis without TLS only"));
        }
        let rest = text.strip_prefix("redis://").unwrap_or(text);
        let (credentials, rest) = rest.rsplit_once('@').map_or((None, rest), |(who, rest)| (Some(who), rest));
        let (rest, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| invalid())?),
            None => (rest, PORT_DEFAULT),
        };
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| invalid())? };
        if host.is_empty() {
            return Err(invalid());
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (user, password) = match credentials.map(|who| who.split_once(':').unwrap_or((who, ""))) {
            Some((user, password)) => (some(user), some(password)),
            None => (None, None),
        };
        Ok(Self { host: host.to_owned(), port, user, password, database })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let plain = Address { host: "h".to_owned(), port: 6379, user: None, password: None, database: 0 };
        assert_eq!("h".parse(), Ok(plain.clone()));
        assert_eq!("redis://h:6379".parse(), Ok(plain.clone()));
        let full =
            Address { user: Some("u".to_owned()), password: Some("p@:".to_owned()), database: 3, ..plain };
        assert_eq!("redis://u:p@:@h:6379/3".parse(), Ok(full));
        assert_eq!("redis://:p@h".parse::<Address>().unwrap().password.as_deref(), Some("p"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", ":1", "h:x", "h/x", "rediss://h"] {
            assert!(text.parse::<Address>().unwrap_err().contains(text), "{text}");
        }
    }
}
