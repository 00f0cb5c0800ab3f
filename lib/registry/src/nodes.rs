//! What the nodes of a tree hold, alike in ZooKeeper and in etcd.

use crate::binding::Binding;
use crate::connect::with_port;
use crate::publication::BINDINGS_PER_GROUP_MAX;

/// Groups of one topic that are read; further ones are logged and ignored.
pub(crate) const GROUPS_MAX: usize = 10_000;
/// Brokers of one topic that are read; further ones are logged and ignored.
const BROKERS_MAX: usize = 1_000;
/// Largest node that is read or written: what ZooKeeper and etcd take by default, less the request around it.
pub(crate) const NODE_BYTES_MAX: usize = 1_000_000;
/// What the names of binding nodes end with.
pub(crate) const BIND_SUFFIX: &str = "-bind";

/// The bindings in a node's data; `None` when it holds no array of them. Elements that are malformed are left out.
pub(crate) fn parse(topic: &str, node: &str, data: &[u8]) -> Option<Vec<Binding>> {
    if data.trim_ascii().is_empty() {
        return Some(Vec::new());
    }
    if data.len() > NODE_BYTES_MAX {
        tracing::warn!(
            topic,
            node,
            bytes = data.len(),
            limit = NODE_BYTES_MAX,
            "binding node is too large; ignored"
        );
        return None;
    }
    let elements = match serde_json::from_slice::<Option<Vec<serde_json::Value>>>(data) {
        Ok(elements) => elements.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(topic, node, %error, "binding node is malformed and is ignored; what it said before stands");
            return None;
        }
    };
    let sound = elements.into_iter().filter_map(|element| match read_element(topic, element) {
        Ok(binding) => Some(binding),
        Err(reason) => {
            tracing::warn!(
                topic,
                node,
                reason,
                "binding is malformed and is ignored; others of its node stay"
            );
            None
        }
    });
    Some(sound.take(BINDINGS_PER_GROUP_MAX).collect())
}

fn read_element(topic: &str, element: serde_json::Value) -> Result<Binding, String> {
    let binding: Binding = serde_json::from_value(element).map_err(|error| error.to_string())?;
    binding.validate()?;
    if binding.topic != topic {
        return Err(format!("it is of topic {:?}", binding.topic));
    }
    Ok(binding)
}

/// The names of broker nodes that are addresses, sorted.
pub(crate) fn addresses(topic: &str, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| {
        let sound = with_port(name);
        if !sound {
            tracing::warn!(topic, node = name, "broker node is not host:port and is ignored");
        }
        sound
    });
    names.sort_unstable();
    if names.len() > BROKERS_MAX {
        tracing::warn!(
            topic,
            brokers = names.len(),
            limit = BROKERS_MAX,
            "too many brokers; the last are ignored"
        );
        names.truncate(BROKERS_MAX);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_existing_clients_are_read() {
        let data = br#"[{"groupId":"s-pay","topic":"trade","messageType":"pay","bindType":0,"version":"1.0.0","watermark":1000,"persistent":true}]"#;
        assert_eq!(
            parse("trade", "s-pay-bind", data),
            Some(vec![Binding::direct("s-pay", "trade", "pay", 1000, true)])
        );
        for nothing in ["", " \n", "null", "[]"] {
            assert_eq!(parse("trade", "s-pay-bind", nothing.as_bytes()), Some(Vec::new()), "{nothing:?}");
        }
    }

    #[test]
    fn a_malformed_node_is_nothing_and_a_malformed_element_costs_only_itself() {
        for garbage in ["{", "{}", "text", "\u{0}", "[{]"] {
            assert_eq!(parse("trade", "s-pay-bind", garbage.as_bytes()), None, "{garbage:?}");
        }
        let data = br#"[7, {"groupId":"s","topic":"feed","messageType":"a","bindType":2},
            {"groupId":"s","topic":"trade","messageType":"a","bindType":9},
            {"groupId":"","topic":"trade","messageType":"a","bindType":2},
            {"groupId":"s","topic":"trade","messageType":"*","bindType":2}]"#;
        assert_eq!(parse("trade", "s-bind", data), Some(vec![Binding::fanout("s", "trade", 0, false)]));
        assert_eq!(parse("trade", "s-bind", &[b' '; 10]), Some(Vec::new()));
        let mut large = b"[]".to_vec();
        large.resize(NODE_BYTES_MAX + 1, b' ');
        assert_eq!(parse("trade", "s-bind", &large), None);
    }

    #[test]
    fn nodes_that_are_no_addresses_are_left_out() {
        let names = ["b:2", "a:1", "nonsense", "c:0"].map(str::to_owned).to_vec();
        assert_eq!(addresses("trade", names), ["a:1", "b:2"]);
    }
}
