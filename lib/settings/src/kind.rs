//! What a setting's value looks like, how it is checked, and where in the configuration it goes.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::address::without_password;
use crate::units::{parse_duration, parse_size, show_duration, show_size};

/// Sets a value of one type.
type Set<C, T> = fn(&mut C, T);
/// Sets a text that has a form of its own; the error says what is expected.
type SetText<C> = fn(&mut C, &str) -> Result<(), String>;

/// A setting's type, its range, and its place in the configuration `C`, which `set` writes and `get` reads.
#[allow(missing_docs, reason = "the fields are the same in every kind, and said above")]
pub enum Kind<C> {
    /// Text with a form of its own. Not shown while it is not set.
    Text { set: SetText<C>, get: fn(&C) -> Option<String> },
    /// Text, or a number that is read as one.
    Port { set: SetText<C>, get: fn(&C) -> Option<String> },
    /// A number.
    Count { range: RangeInclusive<u64>, set: Set<C, u64>, get: fn(&C) -> u64 },
    /// A duration; `bare_seconds` when a number without a unit means seconds, as the key's name says.
    Time { bare_seconds: bool, range: (Duration, Duration), set: Set<C, Duration>, get: fn(&C) -> Duration },
    /// A number of bytes.
    Size { range: RangeInclusive<u64>, set: Set<C, u64>, get: fn(&C) -> u64 },
    /// True or false.
    Switch { set: Set<C, bool>, get: fn(&C) -> bool },
    /// Several texts; on the command line separated by commas. `example` shows them as they stand in a file.
    List {
        example: &'static str,
        set: fn(&mut C, Vec<String>) -> Result<(), String>,
        get: fn(&C) -> Vec<String>,
    },
}

impl<C> Kind<C> {
    /// Takes a value from the command line or the environment.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn apply_text(&self, settings: &mut C, text: &str) -> Result<(), String> {
        match self {
            Self::Text { set, .. } | Self::Port { set, .. } => set(settings, text),
            Self::Count { range, set, .. } => {
                let number = text
                    .trim()
                    .parse()
                    .map_err(|_| format!("expected {}, not {text:?}", expected_count(range)))?;
                set(settings, in_range(number, range, u64::to_string)?);
                Ok(())
            }
            Self::Time { bare_seconds, range, set, .. } => {
                let seconds = text.trim().parse().ok().filter(|_| *bare_seconds).map(Duration::from_secs);
                let duration = seconds.map_or_else(|| parse_duration(text), Ok)?;
                set(settings, time_in_range(duration, *range)?);
                Ok(())
            }
            Self::Size { range, set, .. } => {
                set(settings, in_range(parse_size(text)?, range, |bytes| show_size(*bytes))?);
                Ok(())
            }
            Self::Switch { set, .. } => {
                let on = match text.trim() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(format!("expected true or false, not {text:?}")),
                };
                set(settings, on);
                Ok(())
            }
            Self::List { set, .. } => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                set(settings, parts.map(str::to_owned).collect())
            }
        }
    }

    /// Takes a value from a file, where it has a type.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn apply_file(&self, settings: &mut C, value: &DeValue<'_>) -> Result<(), String> {
        let wrong_type =
            |expected: &str| Err(format!("expected {expected}, not {}", article(value.type_str())));
        match (self, value) {
            (Self::Count { .. } | Self::Port { .. }, DeValue::Integer(number)) => {
                // Other radixes and signs are rare enough to be refused with the expected form.
                self.apply_text(settings, &number.to_string())
            }
            (Self::Time { bare_seconds: true, .. }, DeValue::Integer(number)) => {
                self.apply_text(settings, &number.to_string())
            }
            (
                Self::Text { .. } | Self::Port { .. } | Self::Time { .. } | Self::Size { .. },
                DeValue::String(text),
            ) => self.apply_text(settings, text),
            (Self::Switch { set, .. }, DeValue::Boolean(on)) => {
                set(settings, *on);
                Ok(())
            }
            (Self::List { set, .. }, DeValue::Array(items)) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
                match texts {
                    Some(texts) => set(settings, texts),
                    None => wrong_type("an array of strings alone"),
                }
            }
            (Self::Text { .. }, _) => wrong_type("a string in quotes"),
            (Self::Port { .. }, _) => wrong_type("a port, or a string such as \"127.0.0.1:13801\""),
            (Self::Count { range, .. }, _) => wrong_type(&expected_count(range)),
            (Self::Time { bare_seconds: true, .. }, _) => {
                wrong_type("a number of seconds, or a string such as \"500ms\"")
            }
            (Self::Time { .. }, _) => wrong_type("a string with a duration, such as \"5s\" or \"2m\""),
            (Self::Size { .. }, _) => wrong_type("a string with a size, such as \"128MiB\""),
            (Self::Switch { .. }, _) => wrong_type("true or false"),
            (Self::List { example, .. }, _) => wrong_type(&format!("an array of strings, such as {example}")),
        }
    }

    /// The value as it stands in a file, without a password; `None` when it is not set.
    #[must_use]
    pub fn show_toml(&self, settings: &C) -> Option<String> {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        Some(match self {
            Self::Text { get, .. } | Self::Port { get, .. } => quoted(&without_password(&get(settings)?)),
            Self::Count { get, .. } => get(settings).to_string(),
            Self::Time { bare_seconds, get, .. } => match get(settings) {
                whole if *bare_seconds && whole.subsec_nanos() == 0 => whole.as_secs().to_string(),
                other => quoted(&show_duration(other)),
            },
            Self::Size { get, .. } => quoted(&show_size(get(settings))),
            Self::Switch { get, .. } => get(settings).to_string(),
            Self::List { get, .. } => {
                format!(
                    "[{}]",
                    get(settings)
                        .iter()
                        .map(|text| quoted(&without_password(text)))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            }
        })
    }

    /// The value as it stands on the command line and in the log, without a password.
    #[must_use]
    pub fn show_text(&self, settings: &C) -> Option<String> {
        match self {
            Self::Text { get, .. } | Self::Port { get, .. } => {
                get(settings).map(|text| without_password(&text))
            }
            Self::Size { get, .. } => Some(show_size(get(settings))),
            Self::Time { get, .. } => Some(show_duration(get(settings))),
            Self::List { get, .. } => {
                Some(get(settings).iter().map(|text| without_password(text)).collect::<Vec<_>>().join(","))
            }
            Self::Count { .. } | Self::Switch { .. } => self.show_toml(settings),
        }
    }

    /// The allowed range, for the help; empty when there is none.
    #[must_use]
    pub fn show_range(&self) -> String {
        match self {
            Self::Count { range, .. } => format!("{} to {}", range.start(), range.end()),
            Self::Time { range: (least, most), .. } => {
                format!("{} to {}", show_duration(*least), show_duration(*most))
            }
            Self::Size { range, .. } => {
                format!("{} to {}", show_size(*range.start()), show_size(*range.end()))
            }
            Self::Text { .. } | Self::Port { .. } | Self::Switch { .. } | Self::List { .. } => String::new(),
        }
    }
}

fn expected_count(range: &RangeInclusive<u64>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

fn in_range(value: u64, range: &RangeInclusive<u64>, show: fn(&u64) -> String) -> Result<u64, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("must be from {} to {}, not {}", show(range.start()), show(range.end()), show(&value)))
}

fn time_in_range(value: Duration, (least, most): (Duration, Duration)) -> Result<Duration, String> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let show = show_duration;
    Err(format!("must be from {} to {}, not {}", show(least), show(most), show(value)))
}

fn article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {type_name}")
}
