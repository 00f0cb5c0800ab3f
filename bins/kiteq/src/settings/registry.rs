//! Registries as they stand in flags and files.

use kiteq_settings::address::parse_host_port;

/// The registry that the broker keeps itself.
pub(crate) const EMBEDDED_REGISTRY: &str = "embedded://";

/// Completes a registry: `embedded` becomes a URI, and hosts alone are ZooKeeper's.
pub(crate) fn registry_uri(text: &str) -> Result<String, String> {
    let text = text.trim();
    let expected = "expected embedded, zk://HOST:PORT,..., etcd://HOST:PORT,... or file://FILE";
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
