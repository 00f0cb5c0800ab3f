//! What a registry file says.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Deserializer, de};

use super::strict::{Keys, Strict};
use crate::ANY_TOPIC;
use crate::binding::{BindType, Binding, check_name};
use crate::connect::with_port;

/// Largest file that is read.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// Bindings that a file may hold, counted once for each of their groups.
const BINDINGS_MAX: usize = 20_000;

/// The whole file, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Content {
    brokers: Vec<BrokerEntry>,
    bindings: Vec<Binding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct BrokerEntry {
    address: String,
    topics: Vec<String>,
    #[serde(default)]
    env: Option<String>,
}

impl Keys for BrokerEntry {
    const WHAT: &'static str = "a broker";
    const KNOWN: &'static [&'static str] = &["address", "topics", "env"];
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingEntry {
    group_ids: Vec<String>,
    topic: String,
    #[serde(default)]
    message_type: Option<String>,
    #[serde(deserialize_with = "bind_type")]
    bind_type: BindType,
    #[serde(default)]
    watermark: i32,
    #[serde(default)]
    persistent: bool,
}

impl Keys for BindingEntry {
    const WHAT: &'static str = "a binding";
    const KNOWN: &'static [&'static str] =
        &["groupIds", "topic", "messageType", "bindType", "watermark", "persistent"];
}

#[derive(Debug, Deserialize, Default)]
struct FileForm {
    #[serde(default)]
    brokers: Option<Vec<Strict<BrokerEntry>>>,
    #[serde(default)]
    bindings: Option<Vec<Strict<BindingEntry>>>,
}

impl Keys for FileForm {
    const WHAT: &'static str = "a registry file";
    const KNOWN: &'static [&'static str] = &["brokers", "bindings"];
}

fn bind_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BindType, D::Error> {
    deserializer.deserialize_str(BindTypeWord)
}

/// Raises its error while the word is read, so that it carries the word's line.
struct BindTypeWord;

impl de::Visitor<'_> for BindTypeWord {
    type Value = BindType;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bindType, which is direct, regx or fanout")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<BindType, E> {
        match word.to_ascii_lowercase().as_str() {
            "direct" => Ok(BindType::Direct),
            "regx" => Ok(BindType::Regx),
            "fanout" => Ok(BindType::Fanout),
            _ => Err(E::custom(format!("bindType is direct, regx or fanout, not {word:?}"))),
        }
    }
}

impl Content {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong, with the line where YAML can tell it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let form = if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            FileForm::default()
        } else {
            let strict: Strict<FileForm> =
                serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
            strict.0
        };
        let brokers: Vec<_> = form.brokers.unwrap_or_default().into_iter().map(|entry| entry.0).collect();
        check_brokers(&brokers)?;
        let mut bindings = Vec::new();
        for (index, Strict(entry)) in form.bindings.unwrap_or_default().into_iter().enumerate() {
            expand(entry, &mut bindings).map_err(|reason| format!("bindings[{index}]: {reason}"))?;
        }
        Ok(Self { brokers, bindings })
    }

    /// Addresses of the brokers of `topic`, in the order of the file. An entry without `env` is in every one.
    pub(super) fn brokers_of(&self, topic: &str, env: Option<&str>) -> Vec<String> {
        let serves =
            |broker: &&BrokerEntry| broker.topics.iter().any(|name| name == topic || name == ANY_TOPIC);
        self.in_env(env).filter(serves).map(|broker| broker.address.clone()).collect()
    }

    /// The bindings of `topic`, in the order of the file.
    pub(super) fn bindings_of(&self, topic: &str) -> Vec<Binding> {
        self.bindings.iter().filter(|binding| binding.topic == topic).cloned().collect()
    }

    pub(super) fn has_binding(&self, wanted: &Binding) -> bool {
        let same = |known: &Binding| Binding { version: wanted.version.clone(), ..known.clone() } == *wanted;
        self.bindings.iter().any(same)
    }

    /// The topics that the file gives to the broker at `address`; `None` when the file does not list it.
    pub(super) fn topics_of(&self, address: &str, env: Option<&str>) -> Option<&[String]> {
        self.in_env(env).find(|broker| broker.address == address).map(|broker| broker.topics.as_slice())
    }

    fn in_env(&self, env: Option<&str>) -> impl Iterator<Item = &BrokerEntry> {
        self.brokers.iter().filter(move |broker| match (env, &broker.env) {
            (Some(wanted), Some(has)) => wanted == has,
            _ => true,
        })
    }
}

fn check_brokers(brokers: &[BrokerEntry]) -> Result<(), String> {
    let mut seen = HashMap::new();
    for (index, broker) in brokers.iter().enumerate() {
        let BrokerEntry { address, topics, .. } = broker;
        if !with_port(address) {
            return Err(format!("brokers[{index}]: address {address:?} is not host:port"));
        }
        if let Some(first) = seen.insert(address, index) {
            return Err(format!("brokers[{index}]: address {address:?} is that of brokers[{first}] already"));
        }
        for topic in topics {
            check_name("topic", topic).map_err(|reason| format!("brokers[{index}]: {reason}"))?;
        }
    }
    Ok(())
}

fn expand(entry: BindingEntry, bindings: &mut Vec<Binding>) -> Result<(), String> {
    let BindingEntry { group_ids, topic, message_type, bind_type, watermark, persistent } = entry;
    if group_ids.is_empty() {
        return Err("groupIds is empty".to_owned());
    }
    for group in group_ids {
        let binding = match bind_type {
            BindType::Fanout => Binding::fanout(&group, &topic, watermark, persistent),
            other => {
                let message_type = message_type.as_deref().unwrap_or_default();
                Binding {
                    bind_type: other,
                    ..Binding::direct(&group, &topic, message_type, watermark, persistent)
                }
            }
        };
        binding.validate()?;
        if bindings.len() >= BINDINGS_MAX {
            return Err(format!("the file holds more than {BINDINGS_MAX} bindings"));
        }
        bindings.push(binding);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
brokers:
  - address: "localhost:13800"
    topics: ["relation", "user-profile"]
    env: "dev"
  - address: "localhost:13801"
    topics: ["user-profile"]
    env: "pre"
  - address: "localhost:13802"
    topics: ["*"]
# what consumers get
bindings:
  - groupIds: ["s-user-profile", "s-other"]
    topic: "user-profile"
    messageType: "profile-update"
    bindType: "direct"
    watermark: 1000
    persistent: true
  - groupIds: ["s-all"]
    topic: "user-profile"
    bindType: Fanout
"#;

    #[test]
    fn the_documented_form_is_read() {
        let content = Content::parse(SAMPLE).unwrap();
        let brokers = |topic, env| content.brokers_of(topic, env).join(" ");
        assert_eq!(brokers("user-profile", None), "localhost:13800 localhost:13801 localhost:13802");
        assert_eq!(brokers("user-profile", Some("pre")), "localhost:13801 localhost:13802");
        assert_eq!(brokers("unheard-of", None), "localhost:13802");
        assert_eq!(
            content.bindings_of("user-profile"),
            [
                Binding::direct("s-user-profile", "user-profile", "profile-update", 1000, true),
                Binding::direct("s-other", "user-profile", "profile-update", 1000, true),
                Binding::fanout("s-all", "user-profile", 0, false),
            ]
        );
        assert!(content.bindings_of("relation").is_empty());
        assert_eq!(content.topics_of("localhost:13801", Some("dev")), None);
        assert_eq!(content.topics_of("localhost:13801", None).unwrap(), ["user-profile"]);
    }

    #[test]
    fn an_empty_file_is_an_empty_registry() {
        for text in ["", "# nothing yet\n\n", "brokers:\nbindings: []\n"] {
            assert_eq!(Content::parse(text), Ok(Content::default()), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, parts) in [
            ("brokers:\n  - adress: \"a:1\"\n", ["\"adress\"", "\"address\"", "line 2"]),
            ("brokers: []\nbinding: []\n", ["\"binding\"", "\"bindings\"", "line 2"]),
            ("bindings:\n  - groupId: [g]\n    topic: t\n", ["\"groupId\"", "\"groupIds\"", "line 2"]),
            (
                "bindings:\n  - topic: t\n    bindType: topic\n",
                ["direct, regx or fanout", "\"topic\"", "line 3"],
            ),
            ("brokers:\n  - address: a:1\n", ["missing field", "topics", "line 2"]),
            ("brokers: [\n", ["line", "", ""]),
            ("just a text", ["a registry file", "brokers, bindings", ""]),
            ("brokers:\n  - {address: a, topics: []}\n", ["brokers[0]", "\"a\" is not host:port", ""]),
            (
                "brokers:\n  - {address: \"a:1\", topics: []}\n  - {address: \"a:1\", topics: [], env: pre}\n",
                ["brokers[1]", "\"a:1\"", "brokers[0] already"],
            ),
            (
                "bindings:\n  - {groupIds: [g], topic: t, bindType: direct}\n",
                ["bindings[0]", "messageType is empty", ""],
            ),
            (
                "bindings:\n  - {groupIds: [], topic: t, bindType: fanout}\n",
                ["bindings[0]", "groupIds is empty", ""],
            ),
        ] {
            let reason = Content::parse(text).unwrap_err();
            assert!(parts.iter().all(|part| reason.contains(part)), "{text:?}: {reason}");
        }
    }
}
