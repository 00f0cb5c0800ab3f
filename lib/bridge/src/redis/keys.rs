//! The keys of a queue, all in one place.
//!
//! `TAG` is the queue's name, in braces unless it has a hash tag of its own: in a cluster all keys of a queue are in the slot
//! that the queue itself is in.
//!
//! | key | type | what |
//! |---|---|---|
//! | the queue's name | list | what applications push to, on the right; the head is on the left |
//! | `kiteq:TAG:claims` | hash | claim's name → `{source} {unix ms}`; a claim is held while its name is here |
//! | `kiteq:TAG:claim:NAME` | list | the elements of a claim that are not settled, in their order |
//! | `kiteq:TAG:back:NAME` | list | the same while the claim is being put back, and what came to its source since |
//! | `kiteq:TAG:parked` | hash | business → when its list was added to first, unix ms |
//! | `kiteq:TAG:parked:BUSINESS` | list | elements that wait for a sink of that business |
//! | `kiteq:TAG:dead` | list | dead letters, one JSON object each, oldest first |
//! | `kiteq:TAG:dead:oversize` | list | elements that are too large to be written into their dead letter |
//!
//! A claim's name is `{mark}/{run}/{number}`: the instance's mark in ZooKeeper, a value that no other run of any instance has, and a
//! number that grows. The first two are its owner. `source` is `queue` or `parked:BUSINESS`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Where the elements of a claim came from, and go back to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Queue,
    Parked(String),
}

impl Source {
    /// As it stands in the hash of claims.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Queue => "queue".to_owned(),
            Self::Parked(business) => format!("parked:{business}"),
        }
    }

    /// From the hash of claims.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "queue" => Some(Self::Queue),
            Some(("parked", business)) => Some(Self::Parked(business.to_owned())),
            _ => None,
        }
    }
}

/// The keys of one queue.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) queue: String,
    prefix: String,
}

impl Keys {
    pub(crate) fn new(queue: &str) -> Self {
        let tag = if has_hash_tag(queue) { queue.to_owned() } else { format!("{{{queue}}}") };
        Self { queue: queue.to_owned(), prefix: format!("kiteq:{tag}") }
    }

    pub(crate) fn claims(&self) -> String {
        format!("{}:claims", self.prefix)
    }

    pub(crate) fn claim(&self, name: &str) -> String {
        format!("{}:claim:{name}", self.prefix)
    }

    pub(crate) fn back(&self, name: &str) -> String {
        format!("{}:back:{name}", self.prefix)
    }

    pub(crate) fn parked_businesses(&self) -> String {
        format!("{}:parked", self.prefix)
    }

    pub(crate) fn parked(&self, business: &str) -> String {
        format!("{}:parked:{business}", self.prefix)
    }

    pub(crate) fn dead(&self) -> String {
        format!("{}:dead", self.prefix)
    }

    pub(crate) fn dead_oversize(&self) -> String {
        format!("{}:dead:oversize", self.prefix)
    }

    pub(crate) fn source(&self, source: &Source) -> String {
        match source {
            Source::Queue => self.queue.clone(),
            Source::Parked(business) => self.parked(business),
        }
    }
}

/// Whether a cluster would hash only a part of the name.
fn has_hash_tag(name: &str) -> bool {
    let Some(open) = name.find('{') else { return false };
    name[open + 1..].find('}').is_some_and(|len| len > 0)
}

/// Who holds a claim: an instance, in one run of its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Owner {
    /// `{host}_{instance}:{pid}`.
    pub(crate) mark: String,
    /// Different for each start, and for each task that claims.
    pub(crate) run: String,
}

impl Owner {
    /// A new run of the instance with this mark.
    pub(crate) fn new(mark: &str) -> Self {
        let run = format!("{:x}-{:08x}", unix_ms(), fastrand::u32(..));
        Self { mark: mark.to_owned(), run }
    }

    /// The same run's owner for one of its tasks.
    pub(crate) fn of_task(&self, task: usize) -> Self {
        Self { mark: self.mark.clone(), run: format!("{}.{task}", self.run) }
    }

    /// The name of its claim with this number.
    pub(crate) fn claim(&self, number: u64) -> String {
        format!("{}/{}/{number}", self.mark, self.run)
    }

    /// The owner in a claim's name, and its number.
    pub(crate) fn parse(name: &str) -> Option<(Self, u64)> {
        let mut parts = name.rsplitn(3, '/');
        let number = parts.next()?.parse().ok()?;
        let run = parts.next()?.to_owned();
        let mark = parts.next()?.to_owned();
        Some((Self { mark, run }, number))
    }

    /// Whether the other is another task of the same run.
    pub(crate) fn same_run(&self, other: &Self) -> bool {
        let run = |owner: &Self| owner.run.split('.').next().unwrap_or_default().to_owned();
        self.mark == other.mark && run(self) == run(other)
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_the_slot_of_their_queue() {
        assert_eq!(Keys::new("user-log").claim("n"), "kiteq:{user-log}:claim:n");
        assert_eq!(Keys::new("{a}:log").dead(), "kiteq:{a}:log:dead");
        assert_eq!(Keys::new("{}x").dead(), "kiteq:{{}x}:dead");
    }

    #[test]
    fn a_claims_name_tells_its_owner() {
        let owner = Owner::new("a/b_c:17");
        assert_eq!(Owner::parse(&owner.claim(9)), Some((owner.clone(), 9)));
        let (first, second) = (owner.of_task(1), owner.of_task(2));
        assert!(first.same_run(&second) && first != second);
        assert!(!Owner::new("a/b_c:17").same_run(&owner));
        for name in ["", "a", "a/b", "a/b/c"] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_source_survives_being_written() {
        for source in [Source::Queue, Source::Parked("a:b".to_owned())] {
            assert_eq!(Source::parse(&source.text()), Some(source));
        }
        assert_eq!(Source::parse("elsewhere"), None);
    }
}
