//! Bindings: which messages a consumer group wants. The JSON form is what existing clients read and write.

use serde::{Deserialize, Serialize};

/// Longest name of a topic or a group, in bytes: the column width of existing MySQL installations.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest message type or pattern, in bytes.
pub const MESSAGE_TYPE_BYTES_MAX: usize = 1024;
/// Longest version text, in bytes.
const VERSION_BYTES_MAX: usize = 64;

/// How a binding matches a message's type within its topic. An integer in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub enum BindType {
    /// The message type is equal.
    Direct,
    /// The message type contains a match of the pattern (RE2 syntax, unanchored).
    Regx,
    /// Every message of the topic.
    Fanout,
}

impl TryFrom<i64> for BindType {
    type Error = String;

    fn try_from(value: i64) -> Result<Self, Self::Error> {
        match value {
            0 => Ok(Self::Direct),
            1 => Ok(Self::Regx),
            2 => Ok(Self::Fanout),
            _ => Err(format!("bindType is 0 (direct), 1 (regx) or 2 (fanout), not {value}")),
        }
    }
}

impl From<BindType> for i64 {
    fn from(value: BindType) -> Self {
        match value {
            BindType::Direct => 0,
            BindType::Regx => 1,
            BindType::Fanout => 2,
        }
    }
}

/// One subscription of one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// The consumer group.
    pub group_id: String,
    /// The topic.
    pub topic: String,
    /// The message type, the pattern, or `*` for fanout.
    pub message_type: String,
    /// How `message_type` matches.
    pub bind_type: BindType,
    /// Written by clients, read by nobody.
    #[serde(default = "default_version")]
    pub version: String,
    /// Messages a second of this topic that the group takes; zero or less means the broker's default.
    #[serde(default)]
    pub watermark: i32,
    /// Whether messages wait for the group while none of its members is connected.
    #[serde(default)]
    pub persistent: bool,
}

fn default_version() -> String {
    "1.0.0".to_owned()
}

impl Binding {
    fn new(
        group: &str,
        topic: &str,
        message_type: &str,
        bind_type: BindType,
        watermark: i32,
        persistent: bool,
    ) -> Self {
        Self {
            group_id: group.to_owned(),
            topic: topic.to_owned(),
            message_type: message_type.to_owned(),
            bind_type,
            version: default_version(),
            watermark,
            persistent,
        }
    }

    /// Binds `group` to one message type of `topic`.
    #[must_use]
    pub fn direct(group: &str, topic: &str, message_type: &str, watermark: i32, persistent: bool) -> Self {
        Self::new(group, topic, message_type, BindType::Direct, watermark, persistent)
    }

    /// Binds `group` to the message types of `topic` that contain a match of `pattern`.
    #[must_use]
    pub fn regx(group: &str, topic: &str, pattern: &str, watermark: i32, persistent: bool) -> Self {
        Self::new(group, topic, pattern, BindType::Regx, watermark, persistent)
    }

    /// Binds `group` to everything in `topic`.
    #[must_use]
    pub fn fanout(group: &str, topic: &str, watermark: i32, persistent: bool) -> Self {
        Self::new(group, topic, "*", BindType::Fanout, watermark, persistent)
    }

    /// Whether every field is within its bounds. Says nothing about a pattern: who matches with it compiles it.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn validate(&self) -> Result<(), String> {
        check_name("groupId", &self.group_id)?;
        check_name("topic", &self.topic)?;
        if self.bind_type != BindType::Fanout && self.message_type.is_empty() {
            return Err("messageType is empty; only a fanout binding needs none".to_owned());
        }
        check_length("messageType", &self.message_type, MESSAGE_TYPE_BYTES_MAX)?;
        check_length("version", &self.version, VERSION_BYTES_MAX)
    }
}

/// Whether `name` can name a topic or a group in every backend, where it becomes one step of a path.
///
/// # Errors
/// What is wrong with the field called `field`, for people.
pub fn check_name(field: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("{field} is empty"));
    }
    check_length(field, name, NAME_BYTES_MAX)?;
    if name == "." || name == ".." || name.chars().any(|character| character == '/' || character.is_control())
    {
        return Err(format!("{field} {name:?} must not be a path and must hold no control characters"));
    }
    Ok(())
}

fn check_length(field: &str, value: &str, bytes_max: usize) -> Result<(), String> {
    if value.len() > bytes_max {
        return Err(format!("{field} is {} bytes long; at most {bytes_max} are allowed", value.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_is_the_one_in_the_field() {
        let json = r#"{"groupId":"s-mts-test","topic":"trade","messageType":"pay-succ","bindType":0,"version":"1.0.0","watermark":1000,"persistent":true}"#;
        let binding = Binding::direct("s-mts-test", "trade", "pay-succ", 1000, true);
        assert_eq!(serde_json::to_string(&binding).unwrap(), json);
        assert_eq!(serde_json::from_str::<Binding>(json).unwrap(), binding);
    }

    #[test]
    fn an_unknown_bind_type_is_refused() {
        let json = r#"{"groupId":"g","topic":"t","messageType":"m","bindType":3}"#;
        let error = serde_json::from_str::<Binding>(json).unwrap_err();
        assert!(error.to_string().contains("not 3"), "{error}");
    }

    #[test]
    fn a_binding_out_of_bounds_is_refused_with_the_reason() {
        let reason = |group: &str, topic: &str, message_type: &str| {
            Binding::direct(group, topic, message_type, 0, true).validate().unwrap_err()
        };
        assert_eq!(reason("", "trade", "pay"), "groupId is empty");
        assert_eq!(reason("s-pay", "", "pay"), "topic is empty");
        assert!(reason("s-pay", "trade", "").contains("messageType is empty"));
        assert!(reason(&"g".repeat(256), "trade", "pay").contains("256 bytes"));
        assert!(reason("s-pay", "tra/de", "pay").contains("must not be a path"));
        assert!(reason("..", "trade", "pay").contains("must not be a path"));
        assert!(reason("s-pay", "tra\nde", "pay").contains("control characters"));
        assert!(reason("s-pay", "trade", &"m".repeat(1025)).contains("at most 1024"));
    }

    #[test]
    fn a_binding_within_bounds_is_accepted() {
        assert_eq!(Binding::direct("s-pay", "trade", "pay-succ", -1, true).validate(), Ok(()));
        assert_eq!(
            Binding::regx("s-pay", "trade", "pay-(", 0, true).validate(),
            Ok(()),
            "patterns are not judged"
        );
        assert_eq!(Binding::fanout("s-pay", "trade", 0, false).validate(), Ok(()));
    }
}
