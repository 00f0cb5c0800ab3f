//! Which of Thrift's encodings is spoken.

use std::fmt;
use std::str::FromStr;

/// An encoding of Thrift messages. Both sides have to be configured for the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Variable-length integers, short field headers: what a Flume Thrift source speaks by default.
    #[default]
    Compact,
    /// Integers of fixed length; `protocol = binary` in a source's configuration.
    Binary,
}

/// A word that names no protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown Thrift protocol \"{0}\": expected compact or binary")]
pub struct UnknownProtocol(String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "compact" => Ok(Self::Compact),
            "binary" => Ok(Self::Binary),
            other => Err(UnknownProtocol(other.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compact => "compact",
            Self::Binary => "binary",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_read_back_from_its_name() {
        for protocol in [Protocol::Compact, Protocol::Binary] {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
        let error = "json".parse::<Protocol>().unwrap_err().to_string();
        assert!(error.contains("json") && error.contains("compact"), "{error}");
    }
}
