//! What the embedded registry keeps, and the file that holds it.
//!
//! `registry.json` in the broker's data directory: `{"format": 1, "id": "<32 hex digits>", "bindings": [...]}`, bindings in
//! the form that clients publish. It is replaced as a whole: written beside itself, synced, renamed, and the directory
//! synced, so that a crash leaves the old content or the new.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Binding;
use crate::error::RegistryError;

pub(crate) const FILE_NAME: &str = "registry.json";
const FILE_BYTES_MAX: u64 = 64 << 20;
const FORMAT: u32 = 1;

/// Bindings kept at most; a publication that would exceed it is refused.
pub(crate) const BINDINGS_MAX: usize = 20_000;

/// Bindings by topic and group.
type Bindings = BTreeMap<String, BTreeMap<String, Vec<Binding>>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// Tells this registry from one that somebody has started afresh.
    pub(crate) id: String,
    bindings: Bindings,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    format: u32,
    id: String,
    bindings: Vec<Binding>,
}

impl Content {
    /// A registry that knows nothing yet.
    pub(crate) fn fresh() -> Self {
        Self { id: format!("{:032x}", fastrand::u128(..)), bindings: Bindings::new() }
    }

    /// Reads the file; `None` when there is none.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, RegistryError> {
        let place = || path.display().to_string();
        let content = |reason: String| RegistryError::Content {
            place: place(),
            reason: format!("{reason}; mend the file, or move it away to start without bindings"),
        };
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(RegistryError::Unavailable { place: place(), reason: error.to_string() });
            }
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(content(format!("larger than {FILE_BYTES_MAX} bytes")));
        }
        let form: FileForm = serde_json::from_slice(&bytes).map_err(|error| content(error.to_string()))?;
        if form.format != FORMAT {
            return Err(content(format!("format is {}, this version reads {FORMAT}", form.format)));
        }
        let mut loaded = Self { id: form.id, bindings: Bindings::new() };
        for binding in form.bindings {
            binding
                .validate()
                .map_err(|reason| content(format!("binding of {:?}: {reason}", binding.group_id)))?;
            let groups = loaded.bindings.entry(binding.topic.clone()).or_default();
            groups.entry(binding.group_id.clone()).or_default().push(binding);
        }
        Ok(Some(loaded))
    }

    /// Replaces the file. Durable on return.
    pub(crate) fn save(&self, path: &Path) -> Result<(), RegistryError> {
        let form = FileForm { format: FORMAT, id: self.id.clone(), bindings: self.all() };
        serde_json::to_vec_pretty(&form)
            .map_err(io::Error::from)
            .and_then(|bytes| replace_durably(path, &bytes))
            .map_err(|error| RegistryError::Unavailable {
                place: path.display().to_string(),
                reason: format!("cannot be written: {error}"),
            })
    }

    /// The bindings of one topic.
    pub(crate) fn of_topic(&self, topic: &str) -> Vec<Binding> {
        self.bindings
            .get(topic)
            .map(|groups| groups.values().flatten().cloned().collect())
            .unwrap_or_default()
    }

    /// All bindings.
    pub(crate) fn all(&self) -> Vec<Binding> {
        self.bindings.values().flat_map(BTreeMap::values).flatten().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.bindings.values().flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    /// Replaces what `group` has in the topics of `topics`.
    pub(crate) fn publish(&mut self, group: &str, topics: BTreeMap<String, Vec<Binding>>) {
        for (topic, bindings) in topics {
            self.bindings.entry(topic).or_default().insert(group.to_owned(), bindings);
        }
    }

    /// Deletes what `group` has, in one topic or in all. Says how many bindings that were.
    pub(crate) fn delete(&mut self, group: &str, topic: Option<&str>) -> usize {
        let before = self.count();
        for (name, groups) in &mut self.bindings {
            if topic.is_none_or(|topic| topic == name) {
                groups.remove(group);
            }
        }
        self.bindings.retain(|_, groups| !groups.is_empty());
        before - self.count()
    }
}

fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        let mut content = Content::fresh();
        let bindings = vec![Binding::direct("s-pay", "trade", "pay", 10, true)];
        content.publish("s-pay", BTreeMap::from([("trade".to_owned(), bindings)]));
        content
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        assert_eq!(Content::load(&path).unwrap(), None);
        content().save(&path).unwrap();
        let loaded = Content::load(&path).unwrap().unwrap();
        assert_eq!(loaded.all(), content().all());
    }

    #[test]
    fn deleting_leaves_other_groups() {
        let mut content = content();
        let other = vec![Binding::fanout("s-other", "trade", 0, true)];
        content.publish("s-other", BTreeMap::from([("trade".to_owned(), other.clone())]));
        assert_eq!(content.delete("s-pay", Some("feed")), 0);
        assert_eq!(content.delete("s-pay", None), 1);
        assert_eq!(content.of_topic("trade"), other);
    }

    #[test]
    fn a_damaged_file_is_named_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        for (text, part) in [
            ("{\"format\":1,", "EOF"),
            ("{\"format\":2,\"id\":\"a\",\"bindings\":[]}", "format is 2"),
            ("{\"format\":1,\"id\":\"a\",\"bindings\":[],\"x\":1}", "unknown field"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Content::load(&path).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains(FILE_NAME) && error.contains("move it away"),
                "{error}"
            );
        }
    }
}
