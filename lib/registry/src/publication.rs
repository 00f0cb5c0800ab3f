//! What a client may publish, checked alike for every backend.

use std::collections::BTreeMap;

use crate::binding::{Binding, check_name};
use crate::connect::with_port;
use crate::error::RegistryError;
use crate::nodes::NODE_BYTES_MAX;
use crate::{ANY_TOPIC, BrokerRecord};

/// Bindings that a group may publish at once.
pub const BINDINGS_PER_GROUP_MAX: usize = 1_000;
/// Topics that a producer or a broker may name.
pub(crate) const TOPICS_NAMED_MAX: usize = 10_000;

/// Checks what `group` publishes and sorts it by topic. `place` is for the error.
pub(crate) fn by_topic(
    place: &str,
    group: &str,
    bindings: &[Binding],
) -> Result<BTreeMap<String, Vec<Binding>>, RegistryError> {
    let refused = |reason| RegistryError::Refused { place: place.to_owned(), reason };
    check_name("groupId", group).map_err(refused)?;
    if bindings.len() > BINDINGS_PER_GROUP_MAX {
        return Err(refused(format!(
            "group {group:?} has {} bindings; at most {BINDINGS_PER_GROUP_MAX} are allowed",
            bindings.len()
        )));
    }
    let mut topics: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
    for binding in bindings {
        binding.validate().map_err(|reason| refused(format!("binding of group {group:?}: {reason}")))?;
        if binding.group_id != group {
            return Err(refused(format!(
                "group {group:?} cannot publish a binding of {:?}",
                binding.group_id
            )));
        }
        topics.entry(binding.topic.clone()).or_default().push(binding.clone());
    }
    Ok(topics)
}

/// Checks what a producer or a broker says of its topics. `place` is for the error.
pub(crate) fn check_topics(place: &str, topics: &[String]) -> Result<(), RegistryError> {
    let refused = |reason| RegistryError::Refused { place: place.to_owned(), reason };
    if topics.len() > TOPICS_NAMED_MAX {
        return Err(refused(format!(
            "{} topics are named; at most {TOPICS_NAMED_MAX} are allowed",
            topics.len()
        )));
    }
    topics.iter().try_for_each(|topic| check_name("topic", topic)).map_err(refused)
}

/// Checks what a broker says of itself to a tree, whose nodes are named for addresses and topics.
pub(crate) fn check_registration(place: &str, broker: &BrokerRecord) -> Result<(), RegistryError> {
    let refused = |reason| RegistryError::Refused { place: place.to_owned(), reason };
    if broker.topics.iter().any(|topic| topic == ANY_TOPIC) {
        let words = "clients look for brokers by topic here, so \"all topics\" cannot be registered; name the topics, with \
                     -topics=a,b or in the cluster's configuration";
        return Err(refused(words.to_owned()));
    }
    if !with_port(&broker.address) {
        return Err(refused(format!("address {:?} is not host:port", broker.address)));
    }
    check_topics(place, &broker.topics)
}

/// Checks that a group's bindings in each topic fit a node.
pub(crate) fn check_size(
    place: &str,
    group: &str,
    topics: &BTreeMap<String, Vec<Binding>>,
) -> Result<(), RegistryError> {
    for (topic, bindings) in topics {
        let bytes = serde_json::to_vec(bindings).map_or(usize::MAX, |data| data.len());
        if bytes > NODE_BYTES_MAX {
            let reason = format!(
                "the bindings of group {group:?} in topic {topic:?} take {bytes} bytes; at most {NODE_BYTES_MAX} fit"
            );
            return Err(RegistryError::Refused { place: place.to_owned(), reason });
        }
    }
    Ok(())
}

/// The name of this host, as a producer notes it.
pub(crate) fn local_host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let name = name.trim();
    if check_name("host", name).is_ok() { name.to_owned() } else { "unknown-host".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_sorted_by_topic() {
        let bindings = [Binding::fanout("g", "b", 0, true), Binding::direct("g", "a", "x", 0, true)];
        let topics = by_topic("here", "g", &bindings).unwrap();
        assert_eq!(topics.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_is_not_the_groups_own_or_too_much_is_refused() {
        let reason = |bindings: &[Binding]| by_topic("here", "g", bindings).unwrap_err().to_string();
        assert!(
            reason(&[Binding::fanout("other", "a", 0, true)])
                .contains("cannot publish a binding of \"other\"")
        );
        assert!(reason(&[Binding::fanout("g", "", 0, true)]).contains("topic is empty"));
        assert!(reason(&vec![Binding::fanout("g", "a", 0, true); 1001]).contains("at most 1000"));
        assert!(!local_host().is_empty());
    }
}
