//! What has been read, and up to which revision: it outlives connections.

use std::collections::{BTreeMap, HashMap};

use super::api::event::EventType;
use super::api::{Event, KeyValue, ResponseHeader};
use super::tree::{ALIVE_SERVERS, Snapshot, servers, subscribers};
use crate::binding::Binding;
use crate::nodes::{BIND_SUFFIX, GROUPS_MAX, parse};

/// What is read and followed as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The binding nodes of a topic.
    Bindings(String),
    /// The brokers of a topic.
    Brokers(String),
    /// The living brokers.
    Alive,
}

impl Subject {
    /// What its keys begin with.
    pub(super) fn prefix(&self) -> String {
        match self {
            Self::Bindings(topic) => subscribers(topic),
            Self::Brokers(topic) => servers(topic),
            Self::Alive => ALIVE_SERVERS.to_owned(),
        }
    }

    pub(super) fn has_values(&self) -> bool {
        matches!(self, Self::Bindings(_))
    }
}

/// What is known of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The revision of its last change; zero when it is to be read again whatever its revision.
    changed: i64,
    /// The bindings in its value. When that is malformed these are the last well-formed ones.
    bindings: Vec<Binding>,
}

/// Keys without their prefix.
pub(super) type Nodes = BTreeMap<String, Node>;

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) nodes: Nodes,
    /// Every change up to this one is in `nodes`; `None` when that is not known and they are to be read afresh.
    pub(super) revision: Option<i64>,
    /// Whether it has been logged that it cannot be read.
    pub(super) is_refused: bool,
}

/// Everything that is followed.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) entries: HashMap<Subject, Entry>,
    history: Option<ResponseHeader>,
}

impl Known {
    /// Nothing is current any more; what was read stands until it is read again.
    pub(super) fn forget(&mut self) {
        for entry in self.entries.values_mut() {
            entry.revision = None;
        }
    }

    /// Where the cluster stands now. When that cannot follow what is known (another cluster, or one that has lost its data),
    /// nothing is current any more, and the answer is false.
    pub(super) fn continues(&mut self, now: Option<ResponseHeader>) -> bool {
        let last = self.entries.values().filter_map(|entry| entry.revision).max().unwrap_or(0);
        let continues = match (&self.history, &now) {
            (Some(then), Some(now)) => {
                let last = last.max(then.revision);
                now.cluster_id == then.cluster_id && now.raft_term >= then.raft_term && now.revision >= last
            }
            (None, _) => true,
            // Not known, so nothing is taken for granted.
            (Some(_), None) => {
                self.forget();
                true
            }
        };
        if !continues {
            self.forget();
            for node in self.entries.values_mut().flat_map(|entry| entry.nodes.values_mut()) {
                node.changed = 0;
            }
        }
        if now.is_some() {
            self.history = now;
        }
        continues
    }
}

impl Entry {
    /// Takes what has been read as a whole.
    pub(super) fn replace(&mut self, subject: &Subject, prefix: &str, snapshot: &Snapshot) {
        let mut former = std::mem::take(&mut self.nodes);
        for pair in &snapshot.pairs {
            if let Some(name) = name(subject, prefix, &pair.key) {
                let last = former.remove(&name);
                self.take(subject, name, last, pair);
            }
        }
        self.revision = Some(snapshot.revision);
    }

    /// Takes a change.
    pub(super) fn apply(&mut self, subject: &Subject, prefix: &str, event: &Event) {
        let Some(pair) = &event.kv else { return };
        let Some(name) = name(subject, prefix, &pair.key) else { return };
        let last = self.nodes.remove(&name);
        if event.r#type() == EventType::Put {
            self.take(subject, name, last, pair);
        }
    }

    fn take(&mut self, subject: &Subject, name: String, last: Option<Node>, pair: &KeyValue) {
        let node = match (subject, last) {
            (_, Some(last)) if last.changed == pair.mod_revision => last,
            (Subject::Bindings(topic), _) if self.nodes.len() >= GROUPS_MAX => {
                tracing::warn!(
                    topic,
                    node = name,
                    limit = GROUPS_MAX,
                    "too many groups; this one is ignored"
                );
                return;
            }
            (Subject::Bindings(topic), last) => {
                let bindings = parse(topic, &name, &pair.value)
                    .unwrap_or_else(|| last.map(|node| node.bindings).unwrap_or_default());
                Node { changed: pair.mod_revision, bindings }
            }
            _ => Node { changed: pair.mod_revision, bindings: Vec::new() },
        };
        self.nodes.insert(name, node);
    }

    /// The bindings of all nodes, in the order of their names.
    pub(super) fn bindings(&self) -> Vec<Binding> {
        self.nodes.values().flat_map(|node| node.bindings.iter().cloned()).collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }
}

/// The name of a key that belongs to a subject.
fn name(subject: &Subject, prefix: &str, key: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(key.strip_prefix(prefix.as_bytes())?).ok()?;
    let belongs = match subject {
        Subject::Bindings(_) => name.ends_with(BIND_SUFFIX) && !name.contains('/'),
        Subject::Brokers(_) => !name.contains('/'),
        Subject::Alive => true,
    };
    belongs.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/kiteq/sub/trade/";

    fn subject() -> Subject {
        Subject::Bindings("trade".to_owned())
    }

    fn pair(name: &str, revision: i64, bindings: &[Binding]) -> KeyValue {
        let value = serde_json::to_vec(bindings).unwrap();
        KeyValue { key: format!("{PREFIX}{name}").into_bytes(), mod_revision: revision, value }
    }

    fn event(kind: EventType, kv: KeyValue) -> Event {
        Event { r#type: kind.into(), kv: Some(kv) }
    }

    #[test]
    fn a_snapshot_replaces_and_events_change() {
        let [a, b] = ["a", "b"].map(|group| Binding::fanout(group, "trade", 0, true));
        let mut entry = Entry::default();
        let pairs = vec![
            pair("a-bind", 2, std::slice::from_ref(&a)),
            pair("notes", 3, &[]),
            pair("x/y-bind", 3, &[]),
        ];
        entry.replace(&subject(), PREFIX, &Snapshot { pairs, revision: 5 });
        assert_eq!((entry.bindings(), entry.revision), (vec![a.clone()], Some(5)));
        entry.apply(&subject(), PREFIX, &event(EventType::Put, pair("b-bind", 6, std::slice::from_ref(&b))));
        assert_eq!(entry.bindings(), [a, b.clone()]);
        entry.apply(&subject(), PREFIX, &event(EventType::Delete, pair("a-bind", 7, &[])));
        assert_eq!(entry.bindings(), [b]);
        entry.replace(&subject(), PREFIX, &Snapshot { pairs: Vec::new(), revision: 9 });
        assert_eq!(entry.bindings(), []);
    }

    #[test]
    fn a_value_that_becomes_malformed_keeps_its_last_word() {
        let good = [Binding::fanout("a", "trade", 0, true)];
        let mut entry = Entry::default();
        let damaged = KeyValue { value: b"\xff damaged".to_vec(), ..pair("a-bind", 3, &[]) };
        entry.apply(&subject(), PREFIX, &event(EventType::Put, damaged.clone()));
        assert_eq!(entry.bindings(), []);
        entry.apply(&subject(), PREFIX, &event(EventType::Put, pair("a-bind", 4, &good)));
        let damaged = KeyValue { mod_revision: 5, ..damaged };
        entry.apply(&subject(), PREFIX, &event(EventType::Put, damaged.clone()));
        assert_eq!(entry.bindings(), good);
        entry.replace(&subject(), PREFIX, &Snapshot { pairs: vec![damaged], revision: 6 });
        assert_eq!(entry.bindings(), good);
    }

    #[test]
    fn what_cannot_follow_what_is_known_is_read_afresh() {
        let header =
            |cluster_id, revision, raft_term| Some(ResponseHeader { cluster_id, revision, raft_term });
        for (now, continues, is_current) in [
            (header(1, 10, 2), true, true),
            (header(1, 11, 3), true, true),
            (header(1, 9, 3), false, false),
            (header(1, 11, 1), false, false),
            (header(2, 99, 9), false, false),
            (None, true, false),
        ] {
            let mut known = Known::default();
            assert!(known.continues(header(1, 5, 2)), "nothing was known");
            known.entries.insert(subject(), Entry { revision: Some(10), ..Entry::default() });
            assert_eq!(known.continues(now), continues, "{now:?}");
            assert_eq!(known.entries[&subject()].revision.is_some(), is_current, "{now:?}");
        }
    }
}
